"""Record the captures of pcaps/ again: `python tests/record/record.py [name ...]`, as root, on Linux.

Real programs talk to each other in network namespaces made for the purpose; nothing leaves the machine, and only what
was started here is ended. Afterwards pcaps/index.toml and pcaps/README.md are brought up to date.
Debian: nginx-light curl socat openssh-server dnsmasq-base bind9-dnsutils iputils-ping openssl ethtool iproute2 tcpdump tshark
"""
import os
import shutil
import sys
import tempfile
from pathlib import Path

import index
from net import Network
from scenes import SCENES

PCAPS = Path(__file__).parent.parent.parent / "pcaps"
TOOLS = ("ip", "ss", "ethtool", "tcpdump", "dumpcap", "tshark", "nginx", "curl", "dnsmasq", "dig", "/usr/sbin/sshd", "ssh",
         "ssh-keygen", "socat", "ping", "openssl")


def record(scene):
    """Record one scene into a temporary directory; the capture is put in place only if all went well."""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / scene.file
        net = Network(scratch, target, scene.dump)
        try:
            scene.make(net)
        finally:
            net.close()
        if scene.dump == "dumpcap":
            target.write_bytes(index.scrubbed(target.read_bytes()))
        shutil.copyfile(target, PCAPS / scene.file)


def main(names):
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if os.geteuid() != 0:
        sys.exit("record: root is needed to make network namespaces and to capture")
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        sys.exit(f"record: {', '.join(missing)} not found; {__doc__.strip().splitlines()[-1]}")
    if unknown := [name for name in names if name not in SCENES]:
        sys.exit(f"record: {', '.join(unknown)}: no such scene; there are {', '.join(SCENES)}")
    for name in names or SCENES:
        record(SCENES[name])
        index.update(PCAPS, SCENES, [name])
        print(f"{name}: {(PCAPS / SCENES[name].file).stat().st_size} bytes", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
