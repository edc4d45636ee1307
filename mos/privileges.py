"""What this process may do (capabilities(7)): less from the moment on that it needs no more, and never again more.

Capabilities belong to threads: what is given up here, threads that run already keep.
"""
import contextlib
import ctypes
import os
import pwd

from mos.errors import UsageError

BITS = {"cap_dac_override": 1, "cap_setpcap": 8, "cap_net_admin": 12, "cap_net_raw": 13}
PORTS = ("cap_net_raw", "cap_net_admin")    # packets of a port; larger buffers than the system's limit, a bridge
LAST = 63                                   # capabilities are numbered within 64 bits; the kernel refuses those it does not know

PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 4, 8, 24, 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
VERSION_3 = 0x20080522


def libc():
    return ctypes.CDLL(None, use_errno=True)


def prctl(*numbers):
    if libc().prctl(*(ctypes.c_ulong(n) for n in (*numbers, 0, 0, 0, 0)[:5])) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def held(which="CapEff", pid="self"):
    """The capabilities of a process as a mask: CapEff, CapPrm, CapInh, CapBnd or CapAmb of /proc/PID/status."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as f:
        return next(int(line.split()[1], 16) for line in f if line.startswith(which + ":"))


def has(name):
    """Whether this process may do now what the capability stands for."""
    return bool(held() >> BITS[name] & 1)


def limit(names=()):
    """Give up every capability but those named, for this process and all it will start. Never fails for having had fewer.

    Further programs get no more either, set-user-ID ones included (PR_SET_NO_NEW_PRIVS).
    """
    keep = sum(1 << BITS[name] for name in names)
    for bit in range(LAST):
        if not keep >> bit & 1:
            with contextlib.suppress(OSError):      # without CAP_SETPCAP, or above the last one there is
                prctl(PR_CAPBSET_DROP, bit)
    with contextlib.suppress(OSError):              # before Linux 4.3
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    put(keep & held("CapPrm"))
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def put(mask):
    """Make `mask` the permitted and effective capabilities, none of them inherited."""
    low, high = mask & 0xffffffff, mask >> 32
    header = (ctypes.c_uint32 * 2)(VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    if libc().capset(header, data) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def become(user):
    """Be that user, with the user's groups, keeping what ports take. Raises UsageError: no such user, not root, no way in."""
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        raise UsageError(f"--user {user}: there is no such user") from None
    if entry.pw_uid == os.getuid() == os.geteuid():
        return
    mask = held("CapPrm")
    try:
        prctl(PR_SET_KEEPCAPS, 1)
        os.initgroups(entry.pw_name, entry.pw_gid)
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    except OSError:
        raise UsageError(f"--user {user}: only root can become somebody else; start it as {user}, or as root") from None
    put(mask & (sum(1 << BITS[name] for name in (*PORTS, "cap_setpcap"))))
    for path in (os.__file__, __file__):
        if not os.access(path, os.R_OK):
            raise UsageError(f"--user {user}: {user} may not read {os.path.dirname(path)}; install mos where everybody may")
    prctl(PR_SET_DUMPABLE, 1)       # else what is in /proc/PID belongs to root


def holders():
    """How many threads of this process hold a capability."""
    return sum(held("CapPrm", f"self/task/{thread}") != 0 for thread in os.listdir("/proc/self/task"))
