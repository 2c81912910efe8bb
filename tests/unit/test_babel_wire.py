"""Babel packets, octet by octet: what must be understood, what must be ignored, and what must not hurt.

The first part has the parsing mistakes that other implementations made, each as a test; numbers in hex are as in the
figures of RFC 8966 section 4.6.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import babelfile
from via6.babel import wire
from via6.babel.model import INFINITY
from via6.babel.tlv import BAD_ROUTER_IDS
from via6.babel.wire import (
    AE_IPV4,
    AE_IPV6,
    AE_LINK_LOCAL,
    AE_V4_VIA_V6,
    AE_WILDCARD,
    Ack,
    AckRequest,
    ChallengeReply,
    ChallengeRequest,
    Hello,
    Ihu,
    Pc,
    RouteRequest,
    SeqnoRequest,
    Tlv,
    Update,
    Writer,
)
from via6.prefix import mask, parse_address

SOURCE = parse_address("fe80::1")
OTHER = parse_address("fe80::2")
V4 = parse_address("192.0.2.1")
ROUTER = bytes.fromhex("0123456789abcdef")
ANOTHER = bytes.fromhex("02000000fe000001")

ROUTER_ID = "060a 0000 0123456789abcdef"
NEXT_HOP_4 = "0706 0100 c0000201"
NEXT_HOP_LL = "070a 0300 0000000000000002"
HELLO = "0406 0000 0001 0064"
UPDATE = "080d 0400 1800 0640 0007 0060 0a0101"
RETRACTION = "080d 0400 1800 0640 0007 ffff 0a0101"
MANDATORY = "80020000"
UNKNOWN = "7f020000"


def packet(*tlvs: str) -> bytes:
    return wire.encode_packet(bytes.fromhex("".join(tlvs)))


def read(*tlvs: str) -> tuple[list[Tlv], list[str]]:
    decoded = wire.decode(packet(*tlvs), SOURCE)
    return decoded.tlvs, decoded.problems


def updates(*tlvs: str) -> list[Update]:
    """The Updates of a packet in which nothing is wrong."""
    found, problems = read(*tlvs)
    assert problems == []
    return [tlv for tlv in found if isinstance(tlv, Update)]


def with_subs(tlv: str, subs: str) -> str:
    """The TLV with sub-TLVs behind it."""
    octets = bytes.fromhex(tlv)
    more = bytes.fromhex(subs)
    return (bytes((octets[0], octets[1] + len(more))) + octets[2:] + more).hex()


# --- next hops -------------------------------------------------------------------------------------------------------


def test_without_a_next_hop_tlv_it_is_the_source_of_the_packet() -> None:
    (update,) = updates(ROUTER_ID, UPDATE)
    assert update == Update(AE_V4_VIA_V6, 24, parse_address("10.1.1.0"), 7, 96, 1600, ROUTER, SOURCE)


def test_an_ipv4_route_has_no_next_hop_of_its_own() -> None:
    ipv4 = UPDATE.replace("080d 04", "080d 01")
    assert read(ROUTER_ID, ipv4) == ([], ["bad-update"])
    assert read(ROUTER_ID, NEXT_HOP_LL, ipv4) == ([], ["bad-update"])
    (update,) = updates(ROUTER_ID, NEXT_HOP_4, ipv4)
    assert (update.ae, update.next_hop) == (AE_IPV4, V4)


def test_the_ipv4_gateway_is_not_kept_for_routes_via_ipv6() -> None:
    ipv4 = UPDATE.replace("080d 04", "080d 01")
    found = updates(ROUTER_ID, NEXT_HOP_4, ipv4, UPDATE, NEXT_HOP_LL, UPDATE, ipv4)
    assert [(update.ae, update.next_hop) for update in found] == [
        (AE_IPV4, V4),
        (AE_V4_VIA_V6, SOURCE),
        (AE_V4_VIA_V6, OTHER),
        (AE_IPV4, V4),
    ]


def test_ae_2_3_and_4_share_the_next_hop() -> None:
    whole = "0712 0200 20010db8000000000000000000000009"
    ipv6 = "080e 0200 2000 0640 0007 0060 20010db8"
    local = "0812 0300 8000 0640 0007 0060 0000000000000005"
    found = updates(ROUTER_ID, whole, ipv6, local, UPDATE, NEXT_HOP_LL, ipv6, local, UPDATE)
    assert [update.next_hop for update in found] == [parse_address("2001:db8::9")] * 3 + [OTHER] * 3


@pytest.mark.parametrize("ae", ["00", "04", "05", "ff"])
def test_a_next_hop_with_an_ae_that_cannot_be_leaves_the_state_alone(ae: str) -> None:
    found, problems = read(ROUTER_ID, f"0706 {ae}00 c0000201", UPDATE)
    assert [tlv.next_hop for tlv in found if isinstance(tlv, Update)] == [SOURCE]
    assert problems == (["bad-next-hop"] if ae == "00" else [])


@pytest.mark.parametrize(
    "tlv",
    [
        "0702 0300",
        "0709 0300 00000000000000",
        "070a 0200 0000000000000002",
        "0712 0200 ff020000000000000000000000000001",
        "0712 0200 00000000000000000000000000000000",
        "0712 0200 00000000000000000000000000000001",
        "0712 0200 00000000000000000000ffffc0000201",
    ],
)
def test_after_a_broken_next_hop_no_route_is_taken_by_the_old_one(tlv: str) -> None:
    assert read(ROUTER_ID, tlv, UPDATE) == ([], ["bad-next-hop", "bad-update"])


def test_unusable_ipv4_next_hops() -> None:
    for address in ("00000000", "7f000001", "e0000001", "ffffffff"):
        assert read(f"0706 0100 {address}") == ([], ["bad-next-hop"])


# --- router-ids ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("router_id", ["00" * 8, "ff" * 8])
def test_router_ids_that_cannot_be(router_id: str) -> None:
    later = f"060a 0000 {router_id}"
    found, problems = read(ROUTER_ID, UPDATE, later, UPDATE)
    assert len(found) == 1, "what follows is not the first router's"
    assert problems == ["bad-router-id", "bad-update"]
    assert read(f"0a11 0118 0001 4000 {router_id} 0a0101") == ([], ["bad-seqno-request"])


def test_a_cut_router_id_is_not_the_one_before() -> None:
    assert read(ROUTER_ID, "0609 0000 0123456789abcd", UPDATE) == ([], ["bad-router-id", "bad-update"])


def test_without_a_router_id_only_retractions_count() -> None:
    assert read(UPDATE) == ([], ["bad-update"])
    (update,) = updates(RETRACTION)
    assert (update.metric, update.router_id, update.next_hop) == (INFINITY, None, None)


@pytest.mark.parametrize("ae", ["01", "04"])
def test_the_router_id_flag_of_an_ipv4_prefix(ae: str) -> None:
    flagged = f"080e {ae}40 2000 0640 0007 0060 0a010203"
    found = updates(ROUTER_ID, NEXT_HOP_4, flagged, UPDATE)
    assert [update.router_id for update in found] == [bytes.fromhex("000000000a010203")] * 2
    (flagged_one, later) = updates(NEXT_HOP_4, flagged, HELLO, UPDATE)
    assert later.router_id == flagged_one.router_id, "other TLVs in between change nothing"


def test_the_router_id_flag_of_an_ipv6_prefix() -> None:
    flagged = "081a 0240 8000 0640 0007 0060 20010db8000000000123456789abcdef"
    local = "0812 0340 8000 0640 0007 0060 0000000000000005"
    assert [update.router_id for update in updates(flagged, UPDATE, local, UPDATE)] == [
        *[ROUTER] * 2,
        *[bytes.fromhex("0000000000000005")] * 2,
    ]


def test_the_router_id_flag_of_a_prefix_that_gives_none() -> None:
    default = "080a 0440 0000 0640 0007 0060"
    assert read(ROUTER_ID, default, UPDATE) == ([], ["bad-update"] * 2)
    ones = "0812 0340 8000 0640 0007 ffff ffffffffffffffff"
    found, problems = read(ROUTER_ID, ones, UPDATE)
    assert [type(tlv) for tlv in found] == [Update]
    assert problems == ["bad-update"]
    unknown = "080b 0940 0800 0640 0007 0060 0a"
    assert read(ROUTER_ID, unknown, UPDATE) == ([], ["bad-update"])


# --- address encodings and lengths -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ae", [5, 6, 64, 254, 255])
def test_unknown_address_encodings_are_ignored_silently(ae: int) -> None:
    tlvs = [
        f"050a {ae:02x}00 0060 012c 01020304",
        f"0706 {ae:02x}00 c0000201",
        f"080d {ae:02x}80 1800 0640 0007 0060 0a0101",
        f"080d {ae:02x}00 1802 0640 0007 ffff 0a0101",
        f"0905 {ae:02x}18 0a0101",
        f"0a11 {ae:02x}18 0001 4000 0123456789abcdef 0a0101",
    ]
    assert read(*tlvs, HELLO) == ([Hello(1, 100)], [])


def test_ae_4_is_ignored_where_an_address_stands() -> None:
    assert read("050a 0400 0060 012c c0000201", "0706 0400 c0000201") == ([], [])


@pytest.mark.parametrize(("ae", "bits"), [(1, 32), (2, 128), (3, 128), (4, 32)])
def test_prefixes_may_be_as_long_as_the_address(ae: int, bits: int) -> None:
    octets = bits // 8 - (8 if ae == 3 else 0)
    for length, size, good in ((bits, octets, True), (bits + 1, octets + 1, False), (255, 32, False)):
        body = "01" * size
        update = f"08{10 + size:02x} {ae:02x}00 {length:02x}00 0640 0007 ffff {body}"
        route = f"09{2 + size:02x} {ae:02x}{length:02x} {body}"
        seqno = f"0a{14 + size:02x} {ae:02x}{length:02x} 0001 4000 0123456789abcdef {body}"
        found, problems = read(update, route, seqno, HELLO)
        assert len(found) == (4 if good else 1)
        assert problems == ([] if good else ["bad-update", "bad-route-request", "bad-seqno-request"])


@pytest.mark.parametrize(
    "tlv",
    [
        "080c 0400 1800 0640 0007 ffff 0a01",
        "0904 0118 0a01",
        "0a10 0118 0001 4000 0123456789abcdef 0a01",
        "0509 0100 0060 012c 0a0101",
        "0a0d 0000 0001 4000 0123456789abcd",
        "0809 0400 1800 0640 0007 00",
    ],
)
def test_prefixes_and_addresses_that_do_not_fit_into_the_tlv(tlv: str) -> None:
    found, problems = read(tlv, HELLO)
    assert found == [Hello(1, 100)]
    assert len(problems) == 1


def test_bits_behind_the_length_are_cleared() -> None:
    found = updates(ROUTER_ID, "080d 0480 1400 0640 0007 0060 0affff", "080b 0400 2003 0640 0007 0060 01")
    assert [update.prefix for update in found] == [parse_address("10.255.240.0"), parse_address("10.255.240.1")]
    assert read("0905 0114 0affff")[0] == [RouteRequest(AE_IPV4, 20, parse_address("10.255.240.0"))]


def test_link_local_prefixes_have_eight_octets_implied() -> None:
    found = updates(
        ROUTER_ID,
        "0812 0300 8000 0640 0007 0060 0000000000000005",
        "080a 0300 4000 0640 0007 0060",
        "080a 0300 0a00 0640 0007 0060",
    )
    assert [(update.prefix, update.length) for update in found] == [
        (parse_address("fe80::5"), 128),
        (parse_address("fe80::"), 64),
        (parse_address("fe80::"), 10),
    ]
    assert read("0812 0300 8001 0640 0007 ffff 0000000000000005") == ([], ["bad-update"])


def test_a_link_local_prefix_is_never_a_default() -> None:
    first = "080a 0380 0400 0640 0007 0060"
    second = "0812 0380 8000 0640 0007 0060 0000000000000005"
    third = "080a 0300 4000 0640 0007 0060"
    found = updates(ROUTER_ID, first, second, third)
    assert [update.prefix for update in found] == [parse_address(text) for text in ("f000::", "fe80::5", "fe80::")]


# --- the wildcard ----------------------------------------------------------------------------------------------------


def test_a_wildcard_retraction() -> None:
    (update,) = updates("080a 0000 0000 ffff 0007 ffff")
    assert update == Update(AE_WILDCARD, 0, b"", 7, INFINITY, 0xFFFF, None, None)


@pytest.mark.parametrize(
    "tlv",
    ["080a 0000 0800 0640 0007 ffff", "080b 0000 0800 0640 0007 ffff 0a", "080a 0000 0001 0640 0007 ffff",
     "080a 0000 0000 0640 0007 0060"],
)  # fmt: skip
def test_wildcards_with_a_length_or_a_metric(tlv: str) -> None:
    assert read(ROUTER_ID, tlv) == ([], ["bad-update"])


def test_wildcard_requests() -> None:
    assert read("0902 0000") == ([RouteRequest(AE_WILDCARD, 0, b"")], [])
    assert read("0902 0001") == ([], ["bad-route-request"])
    assert read("0a0e 0000 0001 4000 0123456789abcdef") == ([], ["bad-seqno-request"])


# --- fields that are reserved, zero, or both -------------------------------------------------------------------------


def test_reserved_fields_are_ignored() -> None:
    found, problems = read(
        "0206 ffff 1234 0064",
        "0406 7fff 0001 0064",
        "050e 03ff 0060 012c 0000000000000002",
        "060a ffff 0123456789abcdef",
        "070a 03ff 0000000000000002",
        "080d 043f 1800 0640 0007 0060 0a0101",
        "0a11 0118 0001 40ff 0123456789abcdef 0a0101",
    )
    prefix = parse_address("10.1.1.0")
    assert problems == []
    assert found == [
        AckRequest(0x1234, 100),
        Hello(1, 100),
        Ihu(OTHER, 96, 300),
        Update(AE_V4_VIA_V6, 24, prefix, 7, 96, 1600, ROUTER, OTHER),
        SeqnoRequest(AE_IPV4, 24, prefix, 1, 64, ROUTER),
    ]


def test_a_hop_count_of_zero() -> None:
    assert read("0a11 0118 0001 0000 0123456789abcdef 0a0101") == ([], ["bad-seqno-request"])
    assert read("0a11 0118 0001 0100 0123456789abcdef 0a0101")[0][0].hops == 1  # type: ignore[union-attr]


def test_intervals_of_zero() -> None:
    assert read("0406 0000 0001 0000") == ([Hello(1, 0)], []), "an unscheduled Hello"
    assert read("0206 0000 1234 0000") == ([], ["bad-ack-request"])
    assert read("0506 0000 0060 0000") == ([], ["bad-ihu"])
    assert read(ROUTER_ID, "080d 0400 1800 0000 0007 0060 0a0101") == ([], ["bad-update"])
    assert len(updates("080d 0400 1800 0000 0007 ffff 0a0101")) == 1, "a retraction is taken all the same"


def test_ihus() -> None:
    found, problems = read(
        "0506 0000 ffff 012c",
        "050a 0100 0060 012c c0000201",
        "0516 0200 0060 012c fe800000000000000000000000000002",
        "050e 0300 0060 012c 0000000000000002",
    )
    assert problems == []
    assert found == [Ihu(None, INFINITY, 300), Ihu(V4, 96, 300), Ihu(OTHER, 96, 300), Ihu(OTHER, 96, 300)]


# --- compression -----------------------------------------------------------------------------------------------------


def prefixes(*tlvs: str) -> list[bytes]:
    return [update.prefix for update in updates(ROUTER_ID, NEXT_HOP_4, *tlvs)]


def test_each_encoding_has_its_own_default_prefix() -> None:
    assert prefixes(
        "080d 0180 1800 0640 0007 0060 0a0101",
        "080d 0480 1800 0640 0007 0060 0b0101",
        "080b 0100 1802 0640 0007 0060 02",
        "080b 0400 1802 0640 0007 0060 02",
    )[2:] == [parse_address("10.1.2.0"), parse_address("11.1.2.0")]
    for first, second in (("01", "04"), ("04", "01"), ("02", "01")):
        found = read(
            ROUTER_ID,
            NEXT_HOP_4,
            f"080d {first}80 1800 0640 0007 0060 0a0101",
            f"080b {second}00 1802 0640 0007 0060 02",
        )
        assert found[1] == ["bad-update"]


def test_only_the_prefix_flag_sets_the_default() -> None:
    assert prefixes(
        "080d 0480 1800 0640 0007 0060 0a0101",
        "080d 0400 1800 0640 0007 0060 0b0202",
        "080b 0400 1802 0640 0007 0060 03",
    )[2] == parse_address("10.1.3.0")


def test_a_default_that_is_longer_than_the_prefix_or_as_long() -> None:
    assert prefixes(
        "080e 0480 2000 0640 0007 0060 0a0102ff",
        "080a 0400 1002 0640 0007 0060",
        "080a 0400 1803 0640 0007 0060",
        "080a 0400 1f04 0640 0007 0060",
    )[1:] == [parse_address("10.1.0.0"), parse_address("10.1.2.0"), parse_address("10.1.2.254")]


def test_more_omitted_than_the_prefix_has() -> None:
    found, problems = read(ROUTER_ID, "080d 0480 1800 0640 0007 0060 0a0101", "080a 0400 0802 0640 0007 0060")
    assert len(found) == 1
    assert problems == ["bad-update"]


def test_a_broken_update_with_the_prefix_flag_leaves_no_default() -> None:
    good = "080d 0480 1800 0640 0007 0060 0a0101"
    broken = "080e 0480 2100 0640 0007 0060 0a010101"
    _, problems = read(ROUTER_ID, good, broken, "080b 0400 1802 0640 0007 0060 03")
    assert problems == ["bad-update"] * 2


def test_retractions_set_the_default_and_use_it() -> None:
    found = updates(RETRACTION.replace("0400", "0480"), "080b 0400 1802 0640 0007 ffff 09")
    assert [update.prefix for update in found] == [parse_address("10.1.1.0"), parse_address("10.1.9.0")]


# --- sub-TLVs --------------------------------------------------------------------------------------------------------


SOUND = {
    "ack-request": ("0206 0000 1234 0064", AckRequest(0x1234, 100)),
    "ack": ("0302 1234", Ack(0x1234)),
    "hello": (HELLO, Hello(1, 100)),
    "ihu": ("050e 0300 0060 012c 0000000000000002", Ihu(OTHER, 96, 300)),
    "update": (RETRACTION, Update(AE_V4_VIA_V6, 24, parse_address("10.1.1.0"), 7, INFINITY, 1600, None, None)),
    "route-request": ("0905 0118 0a0101", RouteRequest(AE_IPV4, 24, parse_address("10.1.1.0"))),
    "seqno-request": (
        "0a11 0118 0001 4000 0123456789abcdef 0a0101",
        SeqnoRequest(AE_IPV4, 24, parse_address("10.1.1.0"), 1, 64, ROUTER),
    ),
}


@pytest.mark.parametrize("kind", SOUND)
def test_sub_tlvs(kind: str) -> None:
    tlv, value = SOUND[kind]
    assert read(tlv) == ([value], [])
    for subs in ("00", "0100", "0103 000000", UNKNOWN, "00 00 0102 0000 00" + UNKNOWN + "7e00", "0305 0000000000"):
        found, problems = read(with_subs(tlv, subs), HELLO)
        assert problems == []
        if "0305" not in subs:
            assert found == [value, Hello(1, 100)], subs
    for subs in (MANDATORY, "ff00", UNKNOWN + MANDATORY, MANDATORY + UNKNOWN, "00 0101 00" + MANDATORY):
        assert read(with_subs(tlv, subs), HELLO) == ([Hello(1, 100)], []), subs
    for subs in ("01", "0105 00", "7f", UNKNOWN + "80", "0304 000000"):
        assert read(with_subs(tlv, subs), HELLO) == ([Hello(1, 100)], [f"bad-{kind}"]), subs


def test_state_changes_by_tlvs_that_are_ignored() -> None:
    """RFC 8966 section 4.5: else two routers would read the rest of the packet differently."""
    compressed = "080b 0400 1802 0640 0007 0060 09"
    (update,) = updates(
        with_subs(ROUTER_ID, MANDATORY),
        with_subs(NEXT_HOP_LL, MANDATORY),
        with_subs(UPDATE.replace("0400", "0480"), MANDATORY),
        compressed,
    )
    assert update == Update(AE_V4_VIA_V6, 24, parse_address("10.1.9.0"), 7, 96, 1600, ROUTER, OTHER)
    flagged = with_subs("080e 0440 2000 0640 0007 0060 0a010203", MANDATORY)
    (update,) = updates(ROUTER_ID, flagged, UPDATE)
    assert update.router_id == bytes.fromhex("000000000a010203")


def test_timestamps() -> None:
    hello, ihu = "0406 0000 0001 0064", "050e 0300 0060 012c 0000000000000002"
    subs = "00" + UNKNOWN + "0304 fffffffe" + "0304 00000001" + "0102 0000"
    assert read(with_subs(hello, subs)) == ([Hello(1, 100, timestamp=0xFFFFFFFE)], [])
    assert read(with_subs(ihu, "0308 00000001 ffffffff")) == ([Ihu(OTHER, 96, 300, (1, 0xFFFFFFFF))], [])
    assert read(with_subs(hello, "0303 000000")) == ([Hello(1, 100)], []), "too short: as if it were not there"
    assert read(with_subs(ihu, "0304 00000001")) == ([Ihu(OTHER, 96, 300)], [])


def test_authentication_tlvs_have_no_sub_tlvs() -> None:
    assert read("1108 00000001 80020000", "1204 80020000", "1300", "1104 ffffffff") == (
        [Pc(1, bytes.fromhex(MANDATORY)), ChallengeRequest(bytes.fromhex(MANDATORY)), ChallengeReply(b""),
         Pc(0xFFFFFFFF, b"")],
        [],
    )  # fmt: skip


# --- the packet ------------------------------------------------------------------------------------------------------


def test_what_stands_behind_the_body_is_no_part_of_it() -> None:
    trailer = bytes.fromhex("1002 abcd" + ROUTER_ID + UPDATE + "04")
    decoded = wire.decode(packet(HELLO) + trailer, SOURCE)
    assert decoded == ([Hello(1, 100)], trailer, [])


def test_unknown_tlvs_are_skipped() -> None:
    tlvs = ["00", "0100", "0103 ffffff", "0b02 0000", "1002 abcd", "e000", "ff02 0000"]
    assert read(*tlvs, HELLO, "00") == ([Hello(1, 100)], [])


def test_every_cut_of_a_packet_is_survived() -> None:
    for path in sorted(babelfile.FOLDER.glob("*.hex")):
        _, source, _, _, octets = babelfile.read(path)
        for cut in range(len(octets)):
            whole = wire.decode(octets[:cut], source)
            assert whole.problems or cut >= 4 + int.from_bytes(octets[2:4], "big")
            body = wire.decode(wire.encode_packet(octets[4:cut]), source)
            assert len(body.tlvs) + len(body.problems) <= cut


def test_the_body_says_how_long_it_is() -> None:
    assert wire.decode(b"", SOURCE) == ([], b"", ["truncated"])
    assert wire.decode(b"\x2a\x02\x00\x00", SOURCE) == ([], b"", [])
    assert wire.decode(b"\x2a\x02\x00\x01", SOURCE).problems == ["truncated"]
    assert wire.decode(b"\x2a\x03\x00\x00", SOURCE).problems == ["bad-version"]
    assert wire.decode(b"\x00\x02\x00\x00", SOURCE).problems == ["bad-magic"]


def test_a_tlv_beyond_the_body_ends_it() -> None:
    assert read(HELLO, "0406 0000 0001") == ([Hello(1, 100)], ["truncated"])
    assert read(HELLO, "04") == ([Hello(1, 100)], ["truncated"])
    assert read(ROUTER_ID, UPDATE, "080e 0400 1800 0640 0007 0060 0a0101")[1] == ["truncated"]
    assert read(ROUTER_ID, UPDATE, "080a 0000 00")[1] == ["truncated"]


def test_the_values_can_be_had_from_wire_alone() -> None:
    assert not [name for name in wire.__all__ if not hasattr(wire, name)]


# --- the writer ------------------------------------------------------------------------------------------------------


TEN = parse_address("10.1.1.0")


def test_a_writer_takes_all_or_nothing() -> None:
    packets = []
    for limit in range(4, 80):
        writer = Writer(limit)
        took = writer.update(AE_V4_VIA_V6, 24, TEN, 7, 96, 1600, ROUTER, OTHER)
        assert took == (limit >= 4 + 12 + 12 + 15)
        again = writer.update(AE_V4_VIA_V6, 32, parse_address("10.1.1.9"), 7, 96, 1600, ROUTER, OTHER)
        room = limit - writer.size
        assert writer.add(wire.encode_ack(1)) == (room >= 4)
        octets = writer.take()
        assert len(octets) <= limit
        packets.append((took, again))
        decoded = wire.decode(octets, SOURCE)
        assert decoded.problems == []
        assert len([tlv for tlv in decoded.tlvs if isinstance(tlv, Update)]) == took + again
    assert {(False, False), (True, False), (True, True)} <= set(packets)


def test_what_did_not_fit_left_no_state() -> None:
    """Else the next Update would lack the Router-Id, the Next Hop or the octets that were never sent."""
    writer = Writer(4 + 12 + 15 + 14)
    assert writer.update(AE_V4_VIA_V6, 24, TEN, 7, 96, 1600, ROUTER)
    assert not writer.update(AE_V4_VIA_V6, 24, parse_address("10.2.2.0"), 7, 96, 1600, ANOTHER, OTHER)
    assert writer.update(AE_V4_VIA_V6, 24, parse_address("10.2.2.0"), 7, 96, 1600, ROUTER)
    decoded = wire.decode(writer.take(), SOURCE)
    assert [(tlv.prefix, tlv.router_id, tlv.next_hop) for tlv in decoded.tlvs if isinstance(tlv, Update)] == [
        (TEN, ROUTER, SOURCE),
        (parse_address("10.2.2.0"), ROUTER, SOURCE),
    ]


def test_a_taken_packet_leaves_the_writer_as_new() -> None:
    writer = Writer(1400)
    assert writer.empty
    assert writer.size == 4
    first: list[bytes] = []
    for _ in range(2):
        assert writer.update(AE_V4_VIA_V6, 24, TEN, 7, 96, 1600, ROUTER, OTHER)
        assert not writer.empty
        assert writer.size == 4 + 12 + 12 + 15
        first.append(writer.take())
        assert writer.empty
    assert first[0] == first[1]


def test_a_writer_cannot_go_back_to_the_source() -> None:
    """Nothing in a packet says "from here on the source again"."""
    writer = Writer(1400)
    assert writer.update(AE_V4_VIA_V6, 24, TEN, 7, 96, 1600, ROUTER, OTHER)
    assert not writer.update(AE_V4_VIA_V6, 24, TEN, 7, 96, 1600, ROUTER)
    assert writer.update(AE_V4_VIA_V6, 24, TEN, 7, INFINITY, 1600, None), "a retraction has no next hop"
    assert writer.update(AE_IPV4, 24, TEN, 7, 96, 1600, ROUTER, V4), "that is another family's"
    writer.take()
    assert writer.update(AE_V4_VIA_V6, 24, TEN, 7, 96, 1600, ROUTER)


def test_what_a_writer_refuses() -> None:
    writer = Writer(1400)
    for router_id in (None, *BAD_ROUTER_IDS, b"short"):
        with pytest.raises(ValueError, match="router-id"):
            writer.update(AE_V4_VIA_V6, 24, TEN, 7, 96, 1600, router_id)
    with pytest.raises(ValueError, match="next hop"):
        writer.update(AE_IPV4, 24, TEN, 7, 96, 1600, ROUTER)
    assert writer.empty
    for _ in range(2):
        with pytest.raises(ValueError, match="prefix"):
            writer.update(AE_WILDCARD, 0, b"", 7, 96, 1600, ROUTER)
        assert writer.update(AE_V4_VIA_V6, 24, TEN, 7, 96, 1600, ROUTER)
    with pytest.raises(ValueError, match="index of 33"):
        wire.encode_pc(1, bytes(33))
    for encode in (wire.encode_challenge_request, wire.encode_challenge_reply):
        with pytest.raises(ValueError, match="nonce of 193"):
            encode(bytes(193))


def test_sorted_prefixes_cost_one_octet_each() -> None:
    writer = Writer(1400)
    entries = [(AE_V4_VIA_V6, 24, bytes((10, 1, n, 0)), 7, 96, 1600, ROUTER, None) for n in range(200)]
    took = writer.updates(entries)
    assert took == (1400 - 4 - 12 - 2) // 13
    first = wire.decode(writer.take(), SOURCE)
    assert writer.updates(entries, took) == 200
    second = wire.decode(writer.take(), SOURCE)
    assert [tlv.prefix for tlv in (*first.tlvs, *second.tlvs) if isinstance(tlv, Update)] == [e[2] for e in entries]


def test_a_shorter_prefix_after_a_longer_one() -> None:
    writer = Writer(1400)
    ladder = [(24, "10.0.0.0"), (8, "10.0.0.0"), (0, "0.0.0.0"), (32, "0.0.0.1"), (1, "0.0.0.0"), (23, "0.0.0.0")]
    for length, text in ladder:
        assert writer.update(AE_V4_VIA_V6, length, parse_address(text), 7, 96, 1600, ROUTER)
    tlvs, _, problems = wire.decode(writer.take(), SOURCE)
    assert problems == []
    assert [(tlv.length, tlv.prefix) for tlv in tlvs if isinstance(tlv, Update)] == [
        (length, parse_address(text)) for length, text in ladder
    ]


def test_a_body_is_never_longer_than_its_length_can_say() -> None:
    writer = Writer(1 << 20)
    while writer.add(bytes.fromhex("01fe") + bytes(254)):
        pass
    assert writer.size <= 4 + 0xFFFF
    assert wire.decode(writer.take(), SOURCE).problems == []


# --- any octets, any values ------------------------------------------------------------------------------------------


GOLDEN = [babelfile.read(path)[4] for path in sorted(babelfile.FOLDER.glob("*.hex"))]
U16 = st.sampled_from([0, 1, 2, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF]) | st.integers(0, 0xFFFF)
FINITE = st.integers(0, 0xFFFE)
INTERVAL = st.integers(1, 0xFFFF)
SEEN_ROUTERS = st.sampled_from([ROUTER, ANOTHER]) | st.binary(min_size=8, max_size=8).filter(
    lambda octets: octets not in BAD_ROUTER_IDS
)
HOPS6 = st.sampled_from([SOURCE, OTHER, parse_address("2001:db8::1")])
HOPS4 = st.sampled_from([V4, parse_address("10.0.0.1")])


@st.composite
def loose_tlvs(draw: st.DrawFn) -> bytes:
    """A TLV with a known type and fields near what they should be."""
    kind = draw(st.sampled_from([2, 3, 4, 5, 6, 7, 8, 8, 8, 9, 10, 16, 17, 18, 19]))
    field = st.sampled_from([0, 1, 2, 3, 4, 5, 8, 16, 23, 24, 25, 32, 33, 64, 128, 0x80, 0xC0, 0x40, 129, 255])
    body = bytes(draw(st.lists(field, max_size=22)))
    return bytes((kind, draw(st.just(len(body)) | st.integers(0, 30)))) + body


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A golden packet, cut or with octets changed."""
    octets = bytearray(draw(st.sampled_from(GOLDEN)))
    for _ in range(draw(st.integers(0, 4))):
        octets[draw(st.integers(0, len(octets) - 1))] = draw(st.sampled_from([0, 1, 2, 4, 8, 0x40, 0x80, 0xFF]))
    return bytes(octets[: draw(st.integers(0, len(octets)))])


PACKETS = (
    st.binary(max_size=100)
    | st.binary(max_size=100).map(wire.encode_packet)
    | st.lists(loose_tlvs(), max_size=8).map(b"".join).map(wire.encode_packet)
    | damaged()
)


def is_sound(tlv: Tlv) -> bool:
    """What everybody downstream may rely on."""
    match tlv:
        case Update(ae, length, prefix, _, metric, interval_cs, router_id, next_hop):
            if router_id is not None:
                assert len(router_id) == 8
                assert router_id not in BAD_ROUTER_IDS
            if metric == INFINITY:
                return next_hop is None and is_prefix(ae, length, prefix)
            size = 4 if ae == AE_IPV4 else 16
            return (
                ae != AE_WILDCARD
                and router_id is not None
                and interval_cs > 0
                and next_hop is not None
                and len(next_hop) == size
                and is_prefix(ae, length, prefix)
            )
        case RouteRequest(ae, length, prefix):
            return is_prefix(ae, length, prefix)
        case SeqnoRequest(ae, length, prefix, _, hops, router_id):
            return ae != AE_WILDCARD and hops > 0 and router_id not in BAD_ROUTER_IDS and is_prefix(ae, length, prefix)
        case Ihu(address, _, interval_cs):
            return interval_cs > 0 and (address is None or len(address) in (4, 16))
        case Pc(_, index):
            return len(index) <= 32
        case ChallengeRequest(nonce) | ChallengeReply(nonce):
            return len(nonce) <= 192
    return True


def is_prefix(ae: int, length: int, prefix: bytes) -> bool:
    width = {AE_WILDCARD: 0, AE_IPV4: 4, AE_IPV6: 16, AE_LINK_LOCAL: 16, AE_V4_VIA_V6: 4}[ae]
    return len(prefix) == width and length <= width * 8 and (not prefix or mask(prefix, length) == prefix)


def encoded(tlv: Tlv) -> bytes:
    encoders: dict[type, Any] = {
        Ack: wire.encode_ack,
        AckRequest: wire.encode_ack_request,
        Hello: wire.encode_hello,
        Ihu: wire.encode_ihu,
        RouteRequest: wire.encode_route_request,
        SeqnoRequest: wire.encode_seqno_request,
        Pc: wire.encode_pc,
        ChallengeRequest: wire.encode_challenge_request,
        ChallengeReply: wire.encode_challenge_reply,
    }
    octets: bytes = encoders[type(tlv)](*tlv)
    return octets


def written(tlvs: list[Tlv]) -> list[bytes]:
    """The values as packets, however many they take."""
    writer = Writer(300)
    packets = []
    for tlv in tlvs:
        for _ in range(2):
            if writer.update(*tlv) if isinstance(tlv, Update) else writer.add(encoded(tlv)):
                break
            packets.append(writer.take())
        else:
            pytest.fail(f"{tlv} does not fit into an empty packet")
    return [*packets, writer.take()]


def in_retractions_no_router(tlvs: list[Tlv]) -> list[Tlv]:
    """A retraction's router-id is whatever stood in the packet; it means nothing."""
    return [tlv._replace(router_id=None) if isinstance(tlv, Update) and tlv.metric == INFINITY else tlv for tlv in tlvs]


@given(PACKETS)
@example(packet("080c 0400 1800 0640 0007 0060 0a01"))
@example(packet("080a 0480 0004 0640 0007 0060"))
def test_any_octets(octets: bytes) -> None:
    """decode returns, what it returns is sound, and it is what our own packets would say."""
    tlvs, trailer, problems = wire.decode(octets, SOURCE)
    assert len(tlvs) + len(problems) <= max(len(octets), 1)
    assert octets.endswith(trailer)
    assert all(is_sound(tlv) for tlv in tlvs)
    again = [tlv for one in written(tlvs) for tlv in wire.decode(one, SOURCE).tlvs]
    assert in_retractions_no_router(again) == in_retractions_no_router(tlvs)


@st.composite
def prefix_values(draw: st.DrawFn, wildcard: bool) -> tuple[int, int, bytes]:
    ae = draw(st.sampled_from([AE_IPV4, AE_IPV6, AE_LINK_LOCAL, AE_V4_VIA_V6] + [AE_WILDCARD] * wildcard))
    if ae == AE_WILDCARD:
        return ae, 0, b""
    if ae == AE_LINK_LOCAL:
        length = draw(st.integers(0, 128))
        return ae, length, mask(bytes.fromhex("fe80000000000000") + draw(st.binary(min_size=8, max_size=8)), length)
    width = 16 if ae == AE_IPV6 else 4
    length = draw(st.sampled_from([0, 8, 9, 16, 24, 31, 32]) | st.integers(0, width * 8))
    near = st.lists(st.sampled_from([0, 10, 128, 255]), min_size=width, max_size=width).map(bytes)
    return ae, length, mask(draw(near | st.binary(min_size=width, max_size=width)), length)


@st.composite
def update_values(draw: st.DrawFn) -> Update:
    finite = draw(st.booleans())
    ae, length, prefix = draw(prefix_values(not finite))
    if not finite:
        return Update(ae, length, prefix, draw(U16), INFINITY, draw(INTERVAL), None, None)
    hop = draw(HOPS4 if ae == AE_IPV4 else HOPS6)
    return Update(ae, length, prefix, draw(U16), draw(FINITE), draw(INTERVAL), draw(SEEN_ROUTERS), hop)


U32 = st.integers(0, 0xFFFFFFFF)
VALUES: st.SearchStrategy[Tlv] = st.one_of(
    update_values(),
    st.builds(Hello, U16, U16, st.booleans(), st.none() | U32),
    st.builds(Ihu, st.none() | HOPS4 | HOPS6, U16, INTERVAL, st.none() | st.tuples(U32, U32)),
    st.builds(AckRequest, U16, INTERVAL),
    st.builds(Ack, U16),
    prefix_values(True).map(lambda values: RouteRequest(*values)),
    st.builds(lambda p, *rest: SeqnoRequest(*p, *rest), prefix_values(False), U16, st.integers(1, 255), SEEN_ROUTERS),
    st.builds(Pc, U32, st.binary(max_size=32)),
    st.builds(ChallengeRequest, st.binary(max_size=192)),
    st.builds(ChallengeReply, st.binary(max_size=192)),
)


@given(st.lists(VALUES, max_size=20))
def test_values_come_back(tlvs: list[Tlv]) -> None:
    found: list[Tlv] = []
    for octets in written(tlvs):
        assert len(octets) <= 300
        decoded = wire.decode(octets, SOURCE)
        assert decoded.problems == []
        found += decoded.tlvs
    assert in_retractions_no_router(found) == tlvs
