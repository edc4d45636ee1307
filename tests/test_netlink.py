"""mos/io/netlink.py: what it says of interfaces is what `ip` says; refusals are the kernel's."""
import json
import os
import subprocess
import sys

import namespaces
import pytest
from namespaces import HERE, Bed

from mos.io.netlink import Netlink, attribute, attributes

ASK = """
import dataclasses, json
from mos.io.netlink import Netlink
n = Netlink()
print(json.dumps([[dataclasses.asdict(link) for link in n.links().values()], n.addresses()]))
"""


def test_links_and_addresses():
    namespaces.need()
    bed = Bed()
    try:
        for words in ("link add br9 type bridge", "link set m0 master br9", "link add link m1 name v5 type macvlan",
                      "address add 10.9.0.1/24 dev m1", "link set m1 mtu 1400", "link set v5 alias spare"):
            bed.box.run("ip", *words.split())
        ran = bed.box.run(sys.executable, "-c", ASK, env=os.environ | {"PYTHONPATH": str(HERE.parent)})
        links, addresses = json.loads(ran.stdout)
        told = {link["ifname"]: link for link in json.loads(bed.box.run("ip", "-j", "-d", "link").stdout)}
        assert len(links) == len(told)
        index = {link["name"]: link["index"] for link in links}
        for link in links:
            theirs = told[link["name"]]
            assert (link["index"], link["mtu"], link["alias"]) == (theirs["ifindex"], theirs["mtu"], theirs.get("ifalias", ""))
            assert link["kind"] == theirs.get("linkinfo", {}).get("info_kind", "")
            assert link["master"] == (index[theirs["master"]] if "master" in theirs else 0)
            assert bool(link["flags"] & 1) == ("UP" in theirs["flags"])
        assert next(link["lower"] for link in links if link["name"] == "v5") == index["m1"]
        assert addresses[str(index["m1"])] == ["10.9.0.1/24"]
    finally:
        bed.close()


def test_the_kernels_refusal_is_raised():
    namespaces.need()
    program = "from mos.io.netlink import Netlink; n = Netlink(); n.add_bridge('br7', 'x'); n.add_bridge('br7', 'x')"
    ran = subprocess.run([*namespaces.unshare(), sys.executable, "-c", program], capture_output=True, text=True,
                         env=os.environ | {"PYTHONPATH": str(HERE.parent)})
    assert "FileExistsError: [Errno 17]" in ran.stderr


def test_a_request_without_permission_leaves_the_socket_usable():
    netlink = Netlink()
    with pytest.raises(OSError):
        netlink.delete(1 << 30)
    assert netlink.links()["lo"].index == 1
    netlink.close()


def test_attributes_nest_and_are_padded():
    packed = attribute(3, "eth0") + attribute(18, [(1, "bridge"), (2, [(5, ("I", 0))])]) + attribute(4, ("I", 1500))
    found = attributes(packed)
    assert len(packed) % 4 == 0 and found[3] == b"eth0\0" and found[4] == (1500).to_bytes(4, sys.byteorder)
    assert attributes(found[18])[1] == b"bridge\0" and attributes(attributes(found[18])[2])[5] == bytes(4)
