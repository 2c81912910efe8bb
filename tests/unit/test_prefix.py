"""Addresses, prefixes and longest match, against ipaddress."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from via6.prefix import (
    AF_INET,
    AF_INET6,
    Prefix,
    PrefixError,
    PrefixMap,
    family_of,
    format_address,
    is_link_local,
    is_multicast,
    is_v4_mapped,
    mask,
    parse_address,
    parse_prefix,
    parse_scoped,
)

addresses = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)


@st.composite
def prefixes(draw: st.DrawFn) -> Prefix:
    # Few distinct bits, so that prefixes nest.
    size = draw(st.sampled_from([4, 16]))
    packed = bytes(draw(st.lists(st.sampled_from([0, 128, 255]), min_size=size, max_size=size)))
    length = draw(st.integers(0, size * 8) | st.integers(0, 12))
    return Prefix(mask(packed, length), length)


def network(prefix: Prefix) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network((prefix.packed, prefix.length))


@given(addresses)
def test_text_of_an_address_and_back(address: bytes) -> None:
    text = format_address(address)
    assert parse_address(text) == address
    if not is_v4_mapped(address):  # Python 3.13 writes these as we do, 3.11 does not
        assert text == str(ipaddress.ip_address(address))
    assert family_of(address) == (AF_INET if len(address) == 4 else AF_INET6)


@given(addresses)
def test_kinds_of_addresses(address: bytes) -> None:
    theirs = ipaddress.ip_address(address)
    assert is_link_local(address) == theirs.is_link_local
    assert is_multicast(address) == theirs.is_multicast
    assert is_v4_mapped(address) == (isinstance(theirs, ipaddress.IPv6Address) and theirs.ipv4_mapped is not None)


@given(addresses, st.data())
def test_mask(address: bytes, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(address) * 8))
    assert mask(address, length) == ipaddress.ip_network((address, length), strict=False).network_address.packed


@given(prefixes())
def test_text_of_a_prefix_and_back(prefix: Prefix) -> None:
    assert parse_prefix(str(prefix)) == prefix
    assert ipaddress.ip_network(str(prefix)) == network(prefix)
    assert prefix.is_host == (prefix.length == len(prefix.packed) * 8)


@given(prefixes(), prefixes(), addresses)
def test_containment(one: Prefix, other: Prefix, address: bytes) -> None:
    assert (address in one) == (ipaddress.ip_address(address) in network(one))
    same = len(one.packed) == len(other.packed)
    assert one.covers(other) == (same and network(other).subnet_of(network(one)))  # type: ignore[arg-type]


@given(st.dictionaries(prefixes(), st.integers(), max_size=30), st.lists(prefixes(), max_size=5), addresses)
def test_longest_match(entries: dict[Prefix, int], removed: list[Prefix], address: bytes) -> None:
    table = PrefixMap(entries)
    for prefix in removed:
        if prefix in entries:
            del entries[prefix]
            del table[prefix]
    assert len(table) == len(entries)
    assert dict(table.items()) == entries
    assert all(p in table and table[p] == table.get(p) == v for p, v in entries.items())
    hits = sorted((p for p in entries if ipaddress.ip_address(address) in network(p)), key=lambda p: -p.length)
    assert list(table.matches(address)) == [(p, entries[p]) for p in hits]
    assert table.lookup(address) == ((hits[0], entries[hits[0]]) if hits else None)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"), ("10/8", "10.0.0.0/8"), ("192.168/16", "192.168.0.0/16"), ("0/0", "0.0.0.0/0"),
        ("default", "0.0.0.0/0"), ("10.1.2.3", "10.1.2.3/32"), ("2001:db8::/32", "2001:db8::/32"), ("::1", "::1/128"),
    ],
)  # fmt: skip
def test_spellings_of_ip(text: str, meant: str) -> None:
    assert str(parse_prefix(text)) == meant


def test_default_of_a_family() -> None:
    assert str(parse_prefix("default", AF_INET6)) == "::/0"


@pytest.mark.parametrize("text", ["", "10.0.0", "10.0.0.256", "010.0.0.1", "1.2.3.4.5", "::g", "10.0.0.0/33",
                                  "10.0.0.0/", "10.0.0.0/-1", "2001:db8::/129", "fe80::1%eth0", "١.2.3.4", "/8",
                                  "10.0.0.0/" + "9" * 5000])  # fmt: skip
def test_what_is_no_prefix(text: str) -> None:
    with pytest.raises(PrefixError):
        parse_prefix(text)


def test_host_bits_name_what_was_meant() -> None:
    with pytest.raises(PrefixError, match=r"write 10\.0\.0\.0/8 for the network or 10\.1\.2\.3/32 for the one"):
        parse_prefix("10.1.2.3/8")


def test_scoped_addresses() -> None:
    assert parse_scoped("fe80::1%eth1") == (parse_address("fe80::1"), "eth1")
    assert parse_scoped("192.0.2.1") == (parse_address("192.0.2.1"), "")
    with pytest.raises(PrefixError, match="no device"):
        parse_scoped("fe80::1%")
