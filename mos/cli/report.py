"""What the user is told on stderr: one line, and for an exception in the user's own code the frames of that code."""
import os
import sys
import traceback

from mos.errors import MosError, UsageError

LIBRARY = os.path.dirname(os.__file__) + os.sep
OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class UserCodeError(MosError):
    """A user's code raised. The text names where; `__cause__` is the exception, `replay` a command that raises it again."""

    def __init__(self, message, cause, status=1, replay=None):
        super().__init__(message)
        self.__cause__ = cause
        self.status = status
        self.replay = replay


def complain(error):
    """Print an error as `complaint` words it."""
    print(complaint(error), file=sys.stderr)


def complaint(error):
    """An error as `mos: …`; of a UserCodeError also the frames and the replay line."""
    text = " ".join(str(error).split("\n")) or type(error).__name__
    lines = [f"mos: {text}"]
    if isinstance(error, UserCodeError):
        lines += frames(error.__cause__) if error.__cause__ is not None else []
        if error.replay:
            lines.append(f"replay: {error.replay}")
    return "\n".join(lines)


def is_users(filename):
    """Whether a frame is code somebody runs with us: not this package's, not of Python's library.

    Compiled modules name their source relative to wherever they were built.
    """
    if filename.startswith((OURS, "mos/", "<")):
        return False
    return not filename.startswith(LIBRARY) or "site-packages" in filename


def has_user_frames(error):
    """Whether the exception came through code of the user's."""
    return any(is_users(frame.filename) for frame in traceback.extract_tb(error.__traceback__))


def frames(error):
    """The traceback as lines with the user's frames alone, its causes included."""
    found = traceback.TracebackException.from_exception(error)
    strip(found, set())
    return "".join(found.format()).rstrip("\n").split("\n")


def strip(found, seen):
    if found is None or id(found) in seen:
        return
    seen.add(id(found))
    found.stack = traceback.StackSummary.from_list([f for f in found.stack if is_users(f.filename)])
    strip(found.__cause__, seen)
    strip(found.__context__, seen)


def user_line(error, path):
    """`path:line` of the last frame of the exception in that file."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    return f"{path}:{lines[-1]}" if lines else path


def guard(error, what, status=1, replay=None):
    """What to raise for an exception that came out of user code: `what` names the code. Errors of ours stay as they are."""
    if isinstance(error, MosError):
        return error
    if isinstance(error, OSError) and error.filename is not None:
        return UsageError(f"{what}: cannot open {error.filename}: {error.strerror}")
    return UserCodeError(f"{what} raised {type(error).__name__}: {error}", error, status, replay)
