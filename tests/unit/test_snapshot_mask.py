"""The mask: equal stays equal, what held still holds, the kinds of addresses stay, nothing leaks."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from via6.observe import snapshot
from via6.observe.allowedips import Peer
from via6.observe.node import BabelNeighbour, BabelRoute, BabelState, Firewall
from via6.observe.snapshot.mask import Mask
from via6.prefix import Address, Prefix, format_address, mask, parse_address, parse_prefix

GOLDEN = Path(__file__).resolve().parents[1] / "golden/snapshot/iproute2-6.1.json"
KEY = b"k" * 32
addresses = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
HIDDEN = Mask(KEY)


def common(a: Address, b: Address) -> int:
    """How many leading bits two addresses share."""
    return len(a) * 8 - (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).bit_length()


@given(addresses, st.integers(0, 128), st.binary(min_size=16, max_size=16))
def test_shared_bits_stay_shared(a: Address, length: int, tail: bytes) -> None:
    bits = min(length, len(a) * 8)
    head = int.from_bytes(mask(a, bits), "big")
    rest = int.from_bytes(tail[: len(a)], "big") & ((1 << (len(a) * 8 - bits)) - 1)
    b = (head | rest).to_bytes(len(a), "big")
    if any(x[:2] in (b"\xff\x02",) for x in (a, b)):
        return  # well-known groups stay, those made of addresses do not
    assert common(HIDDEN.address(a), HIDDEN.address(b)) == common(a, b)


@given(addresses, st.integers(0, 128))
def test_a_prefix_holds_what_it_held(a: Address, length: int) -> None:
    bits = min(length, len(a) * 8)
    prefix = Prefix(mask(a, bits), bits)
    assert HIDDEN.address(a) in HIDDEN.prefix(prefix)
    assert HIDDEN.prefix(prefix) == Mask(KEY).prefix(prefix)


def test_kinds_of_addresses_stay() -> None:
    for kept in ("0.0.0.0", "127.0.0.1", "192.0.0.8", "192.0.0.11", "224.0.0.251", "255.255.255.255", "169.254.0.1",
                 "254.128.0.0", "::", "::1", "ff02::1:6"):  # fmt: skip
        assert HIDDEN.address(parse_address(kept)) == parse_address(kept)
    for text, inside in (
        ("10.1.2.3", "10.0.0.0/8"), ("192.168.7.9", "192.168.0.0/16"), ("172.20.1.1", "172.16.0.0/12"),
        ("fe80::1234:5678:9abc:def0", "fe80::/64"), ("fd00:1:2::3", "fc00::/7"), ("2001:db8::1", "2000::/3"),
        ("169.254.7.7", "169.254.0.0/16"), ("ff02::1:ff12:3456", "ff02::1:ff00:0/104"),
    ):  # fmt: skip
        hidden = HIDDEN.address(parse_address(text))
        assert hidden != parse_address(text)
        assert hidden in parse_prefix(inside)
    assert HIDDEN.prefix(parse_prefix("0.0.0.0/0")) == parse_prefix("0.0.0.0/0")
    assert HIDDEN.prefix(parse_prefix("::/0")) == parse_prefix("::/0")


def test_another_key_hides_otherwise() -> None:
    public = parse_address("203.0.113.7")
    assert len({Mask(bytes([n]) * 32).address(public) for n in range(8)}) > 6


def test_texts_hide_what_the_rest_hides() -> None:
    shown = {text: format_address(HIDDEN.address(parse_address(text))) for text in ("203.0.113.7", "2001:db8::7")}
    four, six = shown["203.0.113.7"], shown["2001:db8::7"]
    assert HIDDEN.text("nft: ip saddr 203.0.113.7 drop, 2001:db8::7.") == f"nft: ip saddr {four} drop, {six}."
    assert HIDDEN.text("ssh [2001:db8::7]:22") == f"ssh [{six}]:22"
    net = HIDDEN.prefix(parse_prefix("203.0.113.0/24"))
    assert HIDDEN.text("{ 203.0.113.0/24, 192.0.0.0/24 }") == f"{{ {net}, 192.0.0.0/24 }}"
    assert "02:11:22:33:44:55" not in HIDDEN.text("lladdr 02:11:22:33:44:55 x")
    for plain in (
        "r1",
        "eth0.7",
        "net/ipv4/conf/eth0.7/rp_filter",
        "6.1.0-40-amd64",
        "at 12:30:15",
        "a::b::c",
        "v1.8.9",
    ):
        assert HIDDEN.text(plain) == plain


def test_a_masked_node_leaks_no_address() -> None:
    (node,) = snapshot.load([GOLDEN])
    via = parse_address("2001:db8:77::1")
    node = replace(
        node,
        name="192.0.2.77",
        wireguard={"wg0": (Peer("cHVibGljIGtleSBvZiBhIHBlZXIsIDMyIG9jdGV0cyE=", (parse_prefix("198.51.100.0/24"),)),)},
        firewall=Firewall(evidence=("nft ip t f: ip saddr 198.51.100.9 drop",)),
        babel=BabelState(
            "02:fc:00:ff:fe:00:00:01", (BabelNeighbour(via, 2, 96),),
            (BabelRoute(parse_prefix("198.51.100.0/24"), via, 2, "02:fc:00:ff:fe:00:00:02", 96, 0, True, True),),
            ((parse_prefix("203.0.113.0/24"), 0),),
        ),
        unread={"sysctls": "198.51.100.9 said no"},
    )  # fmt: skip
    hidden = Mask(KEY).node(node)
    before, after = snapshot.encode(node).decode(), snapshot.encode(hidden).decode()
    words = re.compile(r"[0-9A-Fa-f:.]{7,}")
    kept = {"127.0.0.1", "127.0.0.0", "127.255.255.255", "00:00:00:00:00:00", "10.0.0.0"}  # that of 10.0.0.0/8
    leaked = set()
    for word in words.findall(before):
        try:
            packed = parse_address(word.strip("."))
        except ValueError:
            packed = b""
        mac = re.fullmatch(r"(?:[0-9a-f]{2}:){5,7}[0-9a-f]{2}", word)
        if ((packed and HIDDEN.address(packed) != packed) or mac) and word not in kept and word in words.findall(after):
            leaked.add(word)
    assert leaked == set()
    assert "cHVibGljIGtleSBvZiBhIHBlZXIsIDMyIG9jdGV0cyE=" not in after
    assert snapshot.decode(after.encode()) == hidden
    assert hidden == Mask(KEY).node(node)
    # What is equal in two places still is, and the longest match of each address is that of before.
    for table in (254, 255):
        for route in node.kernel.routes:
            found = node.kernel.routes.lookup(route.prefix.packed, table)
            masked = hidden.kernel.routes.lookup(HIDDEN.address(route.prefix.packed), table)
            assert (found and HIDDEN.prefix(found.prefix)) == (masked and masked.prefix)
