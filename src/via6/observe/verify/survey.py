"""Who talks in a network: where packets begin, and which addresses are known to be somewhere in it.

An *island* is the IPv4 network of an interface. Its hosts need not be in the snapshots: their packets come in by that
interface at every node there that forwards. Besides, every node sends from its own addresses. *Known* are the islands,
the addresses of nodes outside of them, and what Babel announces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from via6.observe.verify.links import Port
from via6.observe.verify.network import Network
from via6.observe.verify.table import paint
from via6.prefix import AF_INET, Address, Prefix, mask

_NOBODYS: Final = tuple(
    Prefix(bytes(octets), length)
    for octets, length in (((127, 0, 0, 0), 8), ((169, 254, 0, 0), 16), ((192, 0, 0, 0), 24))
)
"""Loopback, link-local, and the addresses of RFC 6890 that any node may use: not the network's."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where packets begin: at a node itself (`ifindex` 0), with its own address, or at a host of an island whose
    packets come in by an interface. `address` is a source, `prefix` what it stands for."""

    node: int
    ifindex: int
    prefix: Prefix
    address: Address

    @property
    def port(self) -> Port:
        return self.node, self.ifindex


def number(address: Address) -> int:
    """An address as a number."""
    return int.from_bytes(address, "big")


def octets(address: int) -> Address:
    """A number as an address."""
    return int(address).to_bytes(4, "big")


def last(prefix: Prefix) -> int:
    """The last address of a prefix, as a number."""
    return number(prefix.packed) + (1 << (32 - prefix.length)) - 1


def somewhere(prefix: Prefix) -> Address:
    """An address in a prefix, not the first one if there are hosts in it."""
    return octets(number(prefix.packed) + (prefix.length < 31))


def plainest(starts: Any, prefix: Prefix) -> int:
    """Of some addresses in a prefix one that is neither its first nor its last, if there is one."""
    inside = [max(number(prefix.packed), int(one)) for one in starts[:8]]
    plain = [one for one in inside if one not in (number(prefix.packed), last(prefix))]
    return plain[0] if plain else inside[0]


def merged(firsts: Any, lasts: Any) -> tuple[Any, Any]:
    """Ranges of addresses in their order, those that touch each other as one: (first, last) addresses."""
    import numpy as np

    gap = firsts[1:] != lasts[:-1] + 1
    edge = np.ones(min(1, len(firsts)), bool)
    return firsts[np.concatenate((edge, gap))], lasts[np.concatenate((gap, edge))]


def summary(firsts: Any, lasts: Any, most: int) -> list[Prefix]:
    """The prefixes that make up some ranges, the shortest first, and no more than `most`."""
    from ipaddress import IPv4Address, summarize_address_range

    found: list[Prefix] = []
    for first, final in zip(firsts.tolist(), lasts.tolist(), strict=True):
        nets = summarize_address_range(IPv4Address(first), IPv4Address(final))
        found += [Prefix(net.network_address.packed, net.prefixlen) for net in nets]
    return sorted(found, key=lambda prefix: (prefix.length, prefix.packed))[:most]


class Survey:
    """What is known of a network by its addresses."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.owners = {a for a in network.links.owners if len(a) == 4}

    def _addresses(self) -> Iterator[tuple[int, Any]]:
        for at, node in enumerate(self.network.nodes):
            for entry in node.kernel.addresses:
                usual = len(entry.address) == 4 and not entry.scope
                if usual and not any(entry.address in nobody for nobody in _NOBODYS):
                    yield at, entry

    @cached_property
    def islands(self) -> dict[Prefix, list[Port]]:
        """The networks of interfaces that are up, and where they are connected."""
        found: dict[Prefix, list[Port]] = {}
        for at, entry in self._addresses():
            link = self.network.links.link((at, entry.ifindex))
            if link is None or link.loopback or not link.up or entry.length > 30 or entry.peer is not None:
                continue
            if link.kind == "bridge" and not link.carrier:
                continue
            prefix = Prefix(mask(entry.address, entry.length), entry.length)
            found.setdefault(prefix, []).append((at, entry.ifindex))
        return found

    @cached_property
    def exports(self) -> dict[Prefix, list[int]]:
        """What Babel announces, and which nodes announce it."""
        found: dict[Prefix, list[int]] = {}
        for at, node in enumerate(self.network.nodes):
            for prefix, _ in node.babel.exports if node.babel is not None else ():
                if prefix.family == AF_INET:
                    found.setdefault(prefix, []).append(at)
        return found

    @cached_property
    def known(self) -> dict[Prefix, frozenset[int]]:
        """All known destinations, and the nodes that are there."""
        found: dict[Prefix, set[int]] = {}
        for prefix, ports in self.islands.items():
            found.setdefault(prefix, set()).update(at for at, _ in ports)
        for prefix, nodes in self.exports.items():
            if prefix.length:
                found.setdefault(prefix, set()).update(nodes)
        for at, entry in self._addresses():
            if not any(entry.address in island and at in nodes for island, nodes in list(found.items())):
                found.setdefault(Prefix(entry.address, 32), set()).add(at)
        return {prefix: frozenset(found[prefix]) for prefix in sorted(found)}

    @cached_property
    def _painted(self) -> tuple[Any, Any]:
        import numpy as np

        keys = [number(prefix.packed) << 6 | prefix.length for prefix in self.known]  # sorted as prefixes are
        return paint(np.array(keys, np.uint64)) if keys else (np.zeros(1, np.uint32), np.full(1, -1, np.int32))

    def place_of(self, starts: Any) -> Any:
        """For addresses the place of the longest known destination in `known`, or -1."""
        cuts, winner = self._painted
        return winner[cuts.searchsorted(starts, side="right") - 1]

    @cached_property
    def _classes(self) -> tuple[Any, Any]:
        """(classes that begin in a known destination, its place in `known`); without what is never routed."""
        import numpy as np

        classes = self.network.classes
        cuts, winner = self._painted
        bounds = np.append(classes.starts.searchsorted(cuts), len(classes.starts))
        low, high = bounds[:-1][winner >= 0].tolist(), bounds[1:][winner >= 0].tolist()
        at = np.concatenate([np.arange(0), *map(np.arange, low, high)])
        place = np.repeat(winner, np.diff(bounds) * (winner >= 0))
        routed = classes.row[at] >= 0
        return at[routed], place[routed]

    def known_starts(self, rows: Any) -> tuple[Any, Any]:
        """(first address, its place in `known`) of the classes of some sorted rows that begin in known destinations."""
        import numpy as np

        classes = self.network.classes
        at, place = self._classes
        row = classes.row[at]
        found = rows[np.minimum(rows.searchsorted(row), len(rows) - 1)] == row
        return classes.starts[at[found]].astype(np.int64), place[found]

    def rows_of(self, prefix: Prefix) -> Any:
        """The rows of a known destination, without what is in a longer one."""
        import numpy as np

        classes = self.network.classes
        low, high = classes.span(number(prefix.packed), last(prefix))
        own = self.place_of(classes.starts[low:high]) == list(self.known).index(prefix)
        found = np.unique(classes.row[low:high][own])
        return found[found >= 0]

    @cached_property
    def endpoints(self) -> list[Endpoint]:
        """All places where packets begin."""
        found = [
            Endpoint(at, 0, Prefix(entry.address, 32), entry.address) for at, entry in self._addresses()
        ]  # fmt: skip
        for prefix, ports in self.islands.items():
            address = self.somebody(prefix)
            if address is not None:
                found += [Endpoint(at, i, prefix, address) for at, i in ports if self._gateway(at)]
        return found

    def _gateway(self, at: int) -> bool:
        """The node forwards, at least what comes in by some interface."""
        node = self.network.nodes[at]
        names = [link.name for link in node.kernel.links if not link.loopback]
        return any(node.sysctls.get(f"net/ipv4/conf/{name}/forwarding") for name in names)

    def somebody(self, prefix: Prefix) -> Address | None:
        """An address that a host of the island may have and no node of the snapshots has."""
        first = number(prefix.packed)
        for place in range(2, min(1 << (32 - prefix.length), 300) - 1):
            address = octets(first + place)
            if address not in self.owners:
                return address
        return None

    def own_address(self, at: int) -> Address | None:
        """An address that a node may send from."""
        return self._own.get(at)

    @cached_property
    def _own(self) -> dict[int, Address]:
        found: dict[int, Address] = {}
        for at, entry in self._addresses():
            found.setdefault(at, entry.address)
        return found


def among(prefixes: Iterable[Prefix]) -> Iterator[int]:
    """The addresses at which a set of prefixes cuts the address space."""
    for prefix in prefixes:
        yield number(prefix.packed)
        yield last(prefix) + 1
