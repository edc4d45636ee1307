"""Community ID, version 1: a flow's name as Zeek, Suricata and Wireshark write it (github.com/corelight/community-id-spec)."""
import base64
import hashlib

ICMP, ICMPV6 = 1, 58
# The message type that answers another. The rest is one-way: its halves are never swapped.
ICMP_PAIRS = {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17, 10: 9, 9: 10}
ICMPV6_PAIRS = {128: 129, 129: 128, 133: 134, 134: 133, 135: 136, 136: 135, 130: 131, 131: 130, 144: 145, 145: 144,
                139: 140, 140: 139}


def ports(proto, lo_port, hi_port, client_hi):
    """The numbers that it takes for ports, client's first, and whether the flow is one-way; `lo_port` and `hi_port` of the key.

    The key of an ICMP flow does not say echo: equal halves are an identifier, unequal ones type and code. IPv4's type 3
    code 3 (port unreachable) is the one pair common enough to be taken for what it says.
    """
    if proto not in (ICMP, ICMPV6):
        return (hi_port, lo_port, False) if client_hi else (lo_port, hi_port, False)
    pairs = ICMP_PAIRS if proto == ICMP else ICMPV6_PAIRS
    if lo_port == hi_port and not (proto == ICMP and lo_port == 3):
        request = 8 if proto == ICMP else 128
        return request, pairs[request], False
    if lo_port in pairs:
        return lo_port, pairs[lo_port], False
    return lo_port, hi_port, True


def community_id(proto, src, dst, src_port, dst_port, one_way=False, seed=0):
    """Of packed addresses and ports: `1:` and the base64 of a SHA-1."""
    if not one_way and (dst, dst_port) < (src, src_port):
        src, dst, src_port, dst_port = dst, src, dst_port, src_port
    text = (seed.to_bytes(2, "big") + src + dst + bytes((proto, 0)) + src_port.to_bytes(2, "big")
            + dst_port.to_bytes(2, "big"))
    return "1:" + base64.b64encode(hashlib.sha1(text).digest()).decode("ascii")
