"""mos/cli/report.py: what of a traceback is the user's."""
import json
import os

from mos.cli import report
from mos.errors import UsageError


def raised(code, filename, **names):
    try:
        exec(compile(code, filename, "exec"), names)
    except BaseException as e:
        return e
    raise AssertionError("nothing was raised")


def test_whose_a_frame_is():
    assert report.is_users("/srv/me/rules.py") and report.is_users("rules.py")
    assert report.is_users(report.LIBRARY + "site-packages/them/x.py")
    assert not report.is_users(report.__file__) and not report.is_users("mos/events/bus.pyx")
    assert not report.is_users(json.__file__) and not report.is_users("<string>")


def test_frames_of_the_user_alone():
    error = raised("import json\ndef f(): json.loads('x')\nf()", "/srv/me/rules.py")
    lines = report.frames(error)
    assert [line.strip() for line in lines if "/srv/me" in line] == ['File "/srv/me/rules.py", line 3, in <module>',
                                                                  'File "/srv/me/rules.py", line 2, in f']
    assert lines[-1].startswith("json.decoder.JSONDecodeError")


def test_causes_are_cut_too():
    error = raised("import json\ntry: json.loads('x')\nexcept ValueError as e: raise KeyError('k') from e", "/srv/me/rules.py")
    text = "\n".join(report.frames(error))
    assert "direct cause" in text and os.path.basename(json.__file__) not in text.replace("json.decoder", "")


def test_a_missing_file_is_the_users_to_mend():
    error = raised("open('/nonexistent/x')", "/srv/me/rules.py")
    found = report.guard(error, "edge")
    assert isinstance(found, UsageError) and str(found) == "edge: cannot open /nonexistent/x: No such file or directory"


def test_errors_of_ours_stay_what_they_are():
    error = UsageError("x")
    assert report.guard(error, "edge") is error


def test_a_message_of_several_lines_is_one(capsys):
    report.complain(UsageError("a\nb"))
    assert capsys.readouterr().err == "mos: a b\n"


def test_replay_comes_last(capsys):
    report.complain(report.UserCodeError("r.f raised ValueError", ValueError("x"), replay="mos run r"))
    assert capsys.readouterr().err == "mos: r.f raised ValueError\nValueError: x\nreplay: mos run r\n"
