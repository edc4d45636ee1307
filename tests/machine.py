"""A machine of its own in namespaces: systemd as its first process, our unit, and for a network the box's of `namespaces`.

Its files are this system's, read-only; what it writes is in memory. Nothing of it outlives us.
"""
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from contextlib import suppress
from pathlib import Path

import mos

SYSTEMD = "/lib/systemd/systemd"
UNSHARE = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--cgroup", "--uts", "--ipc"]
# A system that only boots as far as services run and are logged
UNITS = ("basic.target sysinit.target shutdown.target sockets.target paths.target timers.target slices.target multi-user.target "
         "network.target network-pre.target local-fs.target local-fs-pre.target umount.target final.target "
         "systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket").split()
BOOT = r"""
set -e
root=$1 tree=$2 base=$3 site=$4 unit=$5
mount --make-rprivate /
mount -t tmpfs -o mode=755 none "$root"
cd "$root"
mkdir -p usr etc/systemd/system dev proc sys run tmp var/lib var/log var/tmp mos/tree mos/python mos/site old root home units
mount --bind /usr usr
for d in bin sbin lib lib32 lib64 libx32; do
    if [ -L /$d ]; then ln -s "$(readlink /$d)" $d
    elif [ -d /$d ]; then mkdir $d; mount --bind /$d $d; mount -o remount,bind,ro $d; fi
done
mount --bind "$tree" mos/tree
mount --bind "$base" mos/python
mount --bind "$site" mos/site
for d in usr mos/tree mos/python mos/site; do mount -o remount,bind,ro $d; done
cp /etc/passwd /etc/group etc/
echo "passwd: files systemd" >etc/nsswitch.conf
cp /etc/ld.so.cache etc/
: >etc/machine-id
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 none sys/fs/cgroup
mount -t tmpfs -o mode=755 none dev
for n in null zero full random urandom tty; do : >dev/$n; mount --bind /dev/$n dev/$n; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 none dev/pts
mount -t tmpfs none dev/shm
mount -t tmpfs -o mode=755 none run
mount -t tmpfs -o mode=1777 none tmp
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for u in UNITS; do cp /usr/lib/systemd/system/$u units/; done
mount --bind units usr/lib/systemd/system
for u in systemd-journald.socket systemd-journald-dev-log.socket; do
    mkdir -p etc/systemd/system/sockets.target.wants
    ln -s /lib/systemd/system/$u etc/systemd/system/sockets.target.wants/
done
mount -t tmpfs -o mode=755 none usr/local
mkdir usr/local/bin
cat >usr/local/bin/mos <<'X'
#!/bin/sh
export LD_LIBRARY_PATH=/mos/python/lib PYTHONHOME=/mos/python PYTHONPATH=/mos/tree:/mos/site
exec /mos/python/bin/VERSION -m mos "$@"
X
chmod 755 usr/local/bin/mos
cp "$unit" etc/systemd/system/mos.service
pivot_root . old
umount -l old
exec env -i container=mos PATH=/usr/bin:/usr/sbin SYSTEMD_LOG_TARGET=console /lib/systemd/systemd --system --show-status=no \
    --unit=multi-user.target </dev/null
"""


def why_not():
    """Why there can be no such machine here; "" if there can."""
    if os.geteuid():
        return "only root can boot systemd"
    if not os.path.exists(SYSTEMD) or not shutil.which("systemctl"):
        return "apt-get install systemd"
    if cgroups() is None:
        return "no cgroup2 hierarchy is mounted"
    group = Path(cgroups()) / f"mos-test-{os.getpid()}"
    try:
        group.mkdir()
        group.rmdir()
    except OSError as e:
        return f"no control group can be made: {e}"
    tried = subprocess.run([*UNSHARE, "mount", "-t", "cgroup2", "none", "/mnt"], capture_output=True, text=True)
    return tried.stderr.strip()


def cgroups():
    """Where control groups of the second version are; None: nowhere."""
    with open("/proc/mounts") as f:
        return next((line.split()[1] for line in f if line.split()[2] == "cgroup2"), None)


class Machine:
    """Booted in the network namespace of `host`; `unit` is its mos.service."""

    def __init__(self, host, unit, folder):
        self.group = Path(cgroups()) / f"mos-test-{os.getpid()}"
        self.group.mkdir()
        root = folder / "root"
        root.mkdir()
        script = BOOT.replace("UNITS", " ".join(UNITS)).replace("VERSION", f"python3.{sys.version_info[1]}")
        into = f'echo $$ >"{self.group}/cgroup.procs"; exec "$@"'
        self.console = open(folder / "console", "w+")
        self.process = subprocess.Popen(
            ["sh", "-c", into, "-", *host.enter, *UNSHARE, "sh", "-c", script, "-", root, Path(mos.__file__).parents[1],
             sys.base_prefix, sysconfig.get_path("purelib"), unit],
            stdout=self.console, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            self.wait(lambda: self.first and self.run("systemctl", "is-system-running", check=False).stdout == "running\n")
        except BaseException:
            self.close()
            raise

    @property
    def first(self):
        """The number, as we see it, of its process 1."""
        with suppress(OSError), open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as f:
            return next(iter(f.read().split()), None)

    def wait(self, what, seconds=30):
        """Until it is so; an error with what the console says if it never is."""
        end = time.monotonic() + seconds
        while not what():
            if time.monotonic() > end or self.process.poll() is not None:
                self.console.seek(0)
                raise AssertionError(f"it did not come to that:\n{self.console.read()}{self.journal() if self.first else ''}")
            time.sleep(0.05)

    def run(self, *words, **kwargs):
        """A command within it."""
        return subprocess.run(["nsenter", "-t", self.first, "-m", "-p", "-n", "-C", "-u", "-i", "--", *map(str, words)],
                              **{"capture_output": True, "text": True, "timeout": 60, "check": True} | kwargs)

    def write(self, path, text):
        """A file of its own."""
        self.run("sh", "-c", 'mkdir -p "$(dirname "$1")"; cat >"$1"', "-", path, input=text)

    def unit(self):
        """What systemd says of the service."""
        said = self.run("systemctl", "show", "mos", "-p", "MainPID,NRestarts,ActiveState,StatusText,Result").stdout
        return dict(line.split("=", 1) for line in said.splitlines())

    def journal(self):
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", "mos", check=False).stdout

    def close(self):
        self.process.kill()
        self.process.wait()
        self.console.close()
        for _ in range(100):        # its processes are gone with the first one, but not at once
            try:
                for folder, *_ in os.walk(self.group, topdown=False):
                    os.rmdir(folder)
                return
            except OSError:
                time.sleep(0.05)
