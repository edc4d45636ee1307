"""mos/doctor.py: each finding is provoked, and gone when the command that it names was run."""
import json
import os
import sys

import namespaces
import pytest
from namespaces import HERE, MOS, Bed, Running

from mos import doctor
from mos.io.netlink import Link

with open("/proc/self/uid_map") as f:
    OUTER = f.read().split() == ["0", "0", "4294967295"]
ENV = {"PYTHONPATH": str(HERE.parent)}


@pytest.fixture(scope="module")
def bed():
    """Ports in good order: nothing of this kernel's own shows."""
    namespaces.need()
    bed = Bed()
    bed.box.run("sh", "-c", "for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $f ] || echo 0 >$f; done")
    yield bed
    bed.close()


def examined(bed, ports="m0:m1"):
    """(exit status, what is not in order)"""
    ran = bed.box.run(*MOS, "doctor", ports, "--json", check=False, env=os.environ | ENV)
    assert not ran.stderr
    told = json.loads(ran.stdout)
    assert told["status"] == ran.returncode
    found = [f for f in told["findings"] if f["level"] != "ok"]
    if os.geteuid() == 0 and OUTER:
        return ran.returncode, found
    # in a user namespace buffers keep to the system's limit, which nobody can change from there
    found = [f for f in found if f["check"] != "buffers"]
    return doctor.status([doctor.Finding(**f) for f in found]), found


def test_nothing_to_change(bed):
    assert examined(bed) == (0, []) and examined(bed, "m1") == (0, [])


@pytest.mark.parametrize("provoke, status, check, text", [
    ("ip link set m1 down", 2, "link", "m1 is down"),
    ("ip link set m1 mtu 1400", 1, "mtu", "frames longer than 1400 that come in at m0 do not leave at m1"),
    ("ip address add 10.9.0.1/24 dev m0", 1, "addresses", "m0 has the address 10.9.0.1/24"),
    ("ip link add br9 type bridge; ip link set m0 master br9", 2, "users", "m0 belongs to br9 (bridge)"),
    ("ip link add link m1 name v5 type macvlan", 1, "users", "v5 (macvlan) lies on m1"),
    ("echo 0 >/proc/sys/net/ipv6/conf/m0/disable_ipv6; ip address add fe80::1/64 dev m0", 1, "addresses",
     "m0 speaks IPv6 by itself (fe80::"),
    ("echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables", 1, "bridge", "this host's iptables rules hold"),
])
def test_what_is_provoked_is_found_and_its_command_mends_it(bed, provoke, status, check, text):
    tried = bed.box.run("sh", "-ec", provoke, check=False)
    if tried.returncode:
        pytest.skip(f"`{provoke}` was NOT tried: {tried.stderr}")
    got, found = examined(bed)
    assert got == status and {f["check"] for f in found} == {check} and text in found[0]["text"]
    for finding in found:
        bed.box.run("sh", "-ec", finding["fix"])
    assert examined(bed) == (0, [])
    bed.box.run("ip", "link", "del", "br9", check=False)


def test_a_link_without_a_cable(bed):
    bed.client.run("ip", "link", "set", "c0", "down")
    status, found = examined(bed)
    assert status == 1 and found[0]["text"].startswith("m0 has no link")
    bed.client.run("ip", "link", "set", "c0", "up")


def test_ports_that_cannot_be(bed):
    bed.box.run("ip", "link", "add", "link", "m1", "name", "v7", "up", "type", "macvlan")
    assert "there is no interface called m9; there are " in examined(bed, "m0:m9")[1][0]["text"]
    status, found = examined(bed, "m0:v7")
    assert status == 2 and "v7 is a macvlan: it gets no frames for others" in [f["text"].partition(";")[0] for f in found]
    bed.box.run("ip", "link", "del", "v7")


def test_a_run_on_the_ports_is_no_stranger(bed):
    with Running(bed, "--on-failure", "closed") as running:
        status, found = examined(bed)
        running.stop()
    assert status == 1 and {f["check"] for f in found} == {"users"} and "mos runs on it with --on-failure" in found[0]["text"]


def test_without_privileges(bed):
    program = ("import sys; from mos import privileges; privileges.limit(); "
               "from mos.cli.main import main; sys.exit(main(sys.argv[1:]))")
    ran = bed.box.run(sys.executable, "-c", program, "doctor", "m0:m1", check=False, env=os.environ | ENV)
    assert ran.returncode == 2 and "STOP    no permission to open interfaces (cap_net_raw)" in ran.stdout
    assert "setcap cap_net_raw,cap_net_admin+ep /" in ran.stdout and "was not tried: no permission" in ran.stdout
    assert "net.core.rmem_max=8388608" in ran.stdout or "net.core.rmem_max" not in ran.stdout


def test_what_no_interface_here_has(monkeypatch):
    """Cards that merge for good, programs before us, wireless, a kernel that lacks something."""
    monkeypatch.setattr(doctor, "told_by", lambda name, command: doctor.ETH_FLAG_LRO if command == doctor.ETHTOOL_GFLAGS else 0)
    lro, rest = doctor.offloads("x0")
    assert lro.fix == "ethtool -K x0 lro off" and rest.text.startswith("x0 offloads nothing")
    link = Link(1, "x0", 1, 1500, xdp=True)
    found = list(doctor.users("x0", link, {"x0": link}, {}))
    assert found[0].fix == "ip link set x0 xdp off" and found[0].level == doctor.CHANGE
    monkeypatch.setattr(doctor.fcntl, "ioctl", lambda *args: b"")
    assert "wireless" in next(doctor.promiscuity("x0", link, pair=True)).text
    monkeypatch.setattr(doctor, "FEATURES", {"PACKET_NEVER": (9999, 1, doctor.STOP, "another kernel")})
    found = list(doctor.kernel())
    assert found[0].text in ("no PACKET_NEVER: it takes another kernel", "what packet sockets can do was not tried: no permission")
