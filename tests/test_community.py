"""mos/flow/community.py: names of flows as other programs write them."""
import ipaddress

import driver
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mos.flow.community import community_id

cy = driver.load("views_driver")


def packed(text):
    return ipaddress.ip_address(text).packed


# The reference baseline of github.com/corelight/community-id-spec, and its unit tests' one-way messages.
# client, server, and the key's two numbers: ports, an echo identifier twice, or type and code.
BASELINE = [
    (6, "128.232.110.120", "66.35.250.204", 34855, 80, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
    (6, "66.35.250.204", "128.232.110.120", 80, 34855, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
    (6, "10.0.0.1", "10.0.0.2", 10, 11569, "1:SXBGMX1lBOwhhoDrZynfROxnhnM="),
    (6, "2607:f8b0:400c:c03::1a", "2001:470:e5bf:dead:4957:2174:e82c:4887", 25, 63943, "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4="),
    (17, "192.168.1.52", "8.8.8.8", 54585, 53, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
    (1, "192.168.0.89", "192.168.0.1", 4711, 4711, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
    (1, "192.168.0.89", "192.168.0.1", 20, 0, "1:3o2RFccXzUgjl7zDpqmY7yJi8rI="),
    (1, "192.168.0.89", "192.168.0.1", 20, 1, "1:tz/fHIDUHs19NkixVVoOZywde+I="),
    (1, "10.0.0.1", "10.0.0.2", 11, 0, "1:YHxtAirCG//0OzkcVAukqKQN9xM="),
    (58, "3ffe:507:0:1:200:86ff:fe05:80da", "3ffe:501:0:1001::2", 99, 99, "1:+TW+HtLHvV1xnGhV1lv7XoJrqQg="),
    (58, "fe80::200:86ff:fe05:80da", "fe80::260:97ff:fe07:69ea", 135, 0, "1:dGHyGvjMfljg6Bppwm3bg0LO8TY="),
    (58, "fe80::260:97ff:fe07:69ea", "fe80::200:86ff:fe05:80da", 136, 0, "1:dGHyGvjMfljg6Bppwm3bg0LO8TY="),
    (58, "fe80::200:86ff:fe05:80da", "ff02::2", 133, 0, "1:hO+sN4H+MG5MY/8hIrXPqc4ZQz0="),
    (58, "3ffe:501:410:0:2c0:dfff:fe47:33e", "3ffe:507:0:1:200:86ff:fe05:80da", 1, 4, "1:hLZd0XGWojozrvxqE0dWB1iM6R0="),
    (58, "3ffe:507:0:1:260:97ff:fe07:69ea", "3ffe:507:0:1:200:86ff:fe05:80da", 3, 0, "1:NdobDX8PQNJbAyfkWxhtL2Pqp5w="),
    (58, "3ffe:507:0:1:200:86ff:fe05:80da", "3ffe:507:0:1:260:97ff:fe07:69ea", 3, 0, "1:/OGBt9BN1ofenrmSPWYicpij2Vc="),
]


@pytest.mark.parametrize("proto, client, server, first, second, expected", BASELINE)
def test_community_id_is_the_published_one(proto, client, server, first, second, expected):
    rig = cy.Rig()
    client, server = packed(client), packed(server)
    swap = proto in (6, 17) and (server, second) < (client, first) or proto in (1, 58) and server < client
    lo, hi = ((server, client) if swap else (client, server))
    numbers = (second, first) if swap and proto in (6, 17) else (first, second)
    rig.flow(proto, lo, numbers[0], hi, numbers[1], client_hi=swap)
    flow = rig.get_flow()
    rig.end_flow()
    assert flow.community_id == expected


def test_community_id_takes_a_seed():
    assert community_id(6, packed("128.232.110.120"), packed("66.35.250.204"), 34855, 80,
                             seed=1) == "1:3V71V58M3Ksw/yuFALMcW0LAHvc="


@given(st.tuples(st.binary(min_size=4, max_size=4), st.integers(0, 65535)), st.tuples(st.binary(min_size=4, max_size=4),
       st.integers(0, 65535)), st.booleans())
def test_both_directions_have_one_community_id(one, other, same_host):
    if same_host:
        other = (one[0], other[1])
    there = community_id(17, one[0], other[0], one[1], other[1])
    assert there == community_id(17, other[0], one[0], other[1], one[1])
    assert there != community_id(6, one[0], other[0], one[1], other[1])
