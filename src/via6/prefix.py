"""Addresses and prefixes.

An address is its octets in network order: 4 of them for IPv4, 16 for IPv6 (`Address`). Octets are what the wire and
the kernel speak, they sort, hash and mask cheaply, and the length tells the family. A prefix adds a length in bits.
`PrefixMap` is the one longest-prefix match of the program.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from typing import Final, Generic, NamedTuple, TypeVar

Address = bytes

AF_INET: Final = 2
AF_INET6: Final = 10

V = TypeVar("V")


class PrefixError(ValueError):
    """A text that is no address or no prefix; the message says why and, where there is one, gives the remedy."""


def family_of(address: Address) -> int:
    """AF_INET for 4 octets, AF_INET6 for 16."""
    return AF_INET if len(address) == 4 else AF_INET6


def _parse_v4(text: str) -> Address:
    parts = text.split(".")
    # isdecimal alone admits other scripts' digits; a leading zero is octal to some readers and decimal to others.
    if len(parts) != 4 or not all(
        p.isascii() and p.isdecimal() and len(p) <= 3 and (p[0] != "0" or len(p) == 1) and int(p) < 256 for p in parts
    ):
        raise PrefixError(f"{text!r} is not an IPv4 address")
    return bytes(map(int, parts))


def parse_address(text: str) -> Address:
    """Octets of an IPv4 or IPv6 address. No zone, no length. Raises PrefixError."""
    if ":" not in text:
        return _parse_v4(text)
    if "%" in text:
        raise PrefixError(f"{text!r}: a device does not belong here")
    try:
        return IPv6Address(text).packed
    except AddressValueError:
        raise PrefixError(f"{text!r} is not an IPv6 address") from None


def parse_scoped(text: str) -> tuple[Address, str]:
    """`fe80::1%eth1` -> (octets, "eth1"); without a zone the device is the empty string."""
    address, _, device = text.partition("%")
    if "%" in text and not device:
        raise PrefixError(f"{text!r}: no device after '%'")
    return parse_address(address), device


@lru_cache(maxsize=65536)
def format_address(address: Address) -> str:
    """Text of 4 or 16 octets, IPv6 as in RFC 5952."""
    if len(address) == 4:
        return "%d.%d.%d.%d" % tuple(address)
    if address[:12] == b"\0" * 10 + b"\xff\xff":
        return "::ffff:%d.%d.%d.%d" % tuple(address[12:])
    return str(IPv6Address(address))


def mask(address: Address, length: int) -> Address:
    """The address with all bits behind the first `length` cleared."""
    bits = len(address) * 8
    value = int.from_bytes(address, "big") >> (bits - length) << (bits - length)
    return value.to_bytes(len(address), "big")


def is_link_local(address: Address) -> bool:
    """fe80::/10 (RFC 4291) or 169.254.0.0/16 (RFC 3927)."""
    if len(address) == 16:
        return address[0] == 0xFE and address[1] & 0xC0 == 0x80
    return address[:2] == b"\xa9\xfe"


def is_multicast(address: Address) -> bool:
    """ff00::/8 or 224.0.0.0/4."""
    return address[0] == 0xFF if len(address) == 16 else address[0] & 0xF0 == 0xE0


def is_v4_mapped(address: Address) -> bool:
    """::ffff:0:0/96 (RFC 4291): an IPv4 address in IPv6 clothes, never a next hop."""
    return len(address) == 16 and address[:12] == b"\0" * 10 + b"\xff\xff"


class Prefix(NamedTuple):
    """`length` leading bits of `packed` (4 or 16 octets); bits behind them are zero. A tuple, because large tables
    hash, compare and sort them by the hundred thousand."""

    packed: Address
    length: int

    @property
    def family(self) -> int:
        """AF_INET or AF_INET6."""
        return AF_INET if len(self.packed) == 4 else AF_INET6

    @property
    def is_host(self) -> bool:
        """True for a /32 or a /128."""
        return self.length == len(self.packed) * 8

    def __str__(self) -> str:
        return f"{format_address(self.packed)}/{self.length}"

    def __contains__(self, address: Address) -> bool:  # type: ignore[override]
        return len(address) == len(self.packed) and mask(address, self.length) == self.packed

    def covers(self, other: Prefix) -> bool:
        """True if every address of `other` is in this prefix."""
        return self.length <= other.length and other.packed in self


def parse_prefix(text: str, family: int = AF_INET) -> Prefix:
    """A prefix as `ip` reads it: `10.0.0.0/8`, `10/8`, `0/0`, a bare address (host), `default` (of `family`).

    Raises PrefixError; for host bits that are set the message names the prefix that was probably meant.
    """
    if text in ("default", "any", "all"):
        return Prefix(bytes(4 if family == AF_INET else 16), 0)
    head, slash, tail = text.partition("/")
    if ":" not in head and slash and head.count(".") < 3 and head:
        head += ".0" * (3 - head.count("."))
    address = parse_address(head)
    bits = len(address) * 8
    if not slash:
        return Prefix(address, bits)
    if not (tail.isascii() and tail.isdecimal()) or int(tail[:4]) > bits:
        raise PrefixError(f"{text!r}: the length must be a number from 0 to {bits}")
    length = int(tail)
    network = mask(address, length)
    if network != address:
        raise PrefixError(
            f"{text!r} has host bits set: write {Prefix(network, length)} for the network"
            f" or {format_address(address)}/{bits} for the one address"
        )
    return Prefix(network, length)


class PrefixMap(Generic[V]):
    """Values by prefix, both families, with longest-prefix match: one dict per length, longest first."""

    __slots__ = ("_lengths", "_maps")

    def __init__(self, items: Mapping[Prefix, V] | None = None) -> None:
        self._maps: dict[tuple[int, int], dict[Address, V]] = {}
        self._lengths: dict[int, list[int]] = {4: [], 16: []}
        for prefix, value in (items or {}).items():
            self[prefix] = value

    def __setitem__(self, prefix: Prefix, value: V) -> None:
        self.cell(len(prefix.packed), prefix.length)[prefix.packed] = value

    def cell(self, size: int, length: int) -> dict[Address, V]:
        """The values of all prefixes of this length, to be added to; one that is left empty costs time."""
        cell = self._maps.get((size, length))
        if cell is None:
            cell = self._maps[size, length] = {}
            self._lengths[size] = sorted([*self._lengths[size], length], reverse=True)
        return cell

    def cells(self, size: int) -> Iterator[tuple[int, Mapping[Address, V]]]:
        """(length, values) of the addresses of `size` octets, longer prefixes first."""
        for length in self._lengths[size]:
            yield length, self._maps[size, length]

    def __getitem__(self, prefix: Prefix) -> V:
        return self._maps[len(prefix.packed), prefix.length][prefix.packed]

    def __delitem__(self, prefix: Prefix) -> None:
        size = len(prefix.packed)
        cell = self._maps[size, prefix.length]
        del cell[prefix.packed]
        if not cell:
            del self._maps[size, prefix.length]
            self._lengths[size].remove(prefix.length)

    def __contains__(self, prefix: Prefix) -> bool:
        return prefix.packed in self._maps.get((len(prefix.packed), prefix.length), ())

    def __len__(self) -> int:
        return sum(map(len, self._maps.values()))

    def get(self, prefix: Prefix) -> V | None:
        """The value at exactly this prefix."""
        return self._maps.get((len(prefix.packed), prefix.length), {}).get(prefix.packed)

    def items(self) -> Iterator[tuple[Prefix, V]]:
        """All (prefix, value), IPv4 first, longer prefixes first."""
        for size, lengths in self._lengths.items():
            for length in lengths:
                for packed, value in self._maps[size, length].items():
                    yield Prefix(packed, length), value

    def keys(self) -> Iterator[Prefix]:
        """All prefixes, in the order of `items`."""
        return (prefix for prefix, _ in self.items())

    def absorb(self, other: PrefixMap[V]) -> None:
        """Takes over what is in another."""
        for (size, length), cell in other._maps.items():
            self.cell(size, length).update(cell)

    def take(self, most: int) -> PrefixMap[V]:
        """At most so many, which are not here any more."""
        taken: PrefixMap[V] = PrefixMap()
        for size, length in list(self._maps):
            cell = self._maps[size, length]
            if len(cell) > most:
                taken.cell(size, length).update(cell.popitem() for _ in range(most))
                break
            most -= len(cell)
            taken.cell(size, length).update(cell)
            del self._maps[size, length]
            self._lengths[size].remove(length)
        return taken

    def matches(self, address: Address) -> Iterator[tuple[Prefix, V]]:
        """Every (prefix, value) that contains the address, longest first."""
        size = len(address)
        for length in self._lengths[size]:
            packed = mask(address, length)
            cell = self._maps[size, length]
            if packed in cell:
                yield Prefix(packed, length), cell[packed]

    def lookup(self, address: Address) -> tuple[Prefix, V] | None:
        """The longest match, or None."""
        return next(self.matches(address), None)
