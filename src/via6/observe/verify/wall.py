"""The packet filter of a node, asked about one packet that is forwarded: by its addresses and the two devices.

Destinations are told apart like everything else in a lookup (`table`): an Action has the place of its part of the
addresses, and each part is answered for by one address in it. A source is not always known. Where it matters, packets
of an unknown source pass: those of the known ones, from island to island, are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from via6.model import Link
from via6.observe.node import ACCEPT, DROP, Firewall
from via6.observe.snapshot.firewall import CLASSES, Packets, Test, of_packet
from via6.observe.verify import words
from via6.observe.verify.table import Action, paint
from via6.prefix import AF_INET, Address, Prefix, format_address

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_HOOKS: Final = CLASSES["forward4"][0].hooks
_CODES: Final = {ACCEPT: 0, DROP: words.DENIED_FIREWALL}
_PASSES: Final = (0, "")


@dataclass(frozen=True, eq=False)
class Parts:
    """Where the destinations that a filter tells apart begin, which part each is, and an address of each part."""

    starts: NDArray[np.uint32]
    part: NDArray[np.int32]
    example: tuple[Address, ...]


def parts(firewall: Firewall) -> Parts:
    """The parts of the addresses that a filter treats alike."""
    import numpy as np

    tests = [test for test in _tests(firewall) if test.key == "daddr"]
    prefixes = {v for test in tests for v in test.values if isinstance(v, Prefix)}
    keys = {int.from_bytes(p.packed, "big") << 6 | p.length for p in prefixes if p.family == AF_INET}
    starts: Any = np.zeros(1, np.uint32)
    if keys:
        starts, _ = paint(np.array(sorted(keys), np.uint64))
    found: dict[tuple[bool, ...], int] = {}
    example: list[Address] = []
    numbers = []
    for start in starts.tolist():
        address = start.to_bytes(4, "big")
        kind = tuple(any(isinstance(v, Prefix) and address in v for v in test.values) for test in tests)
        if kind not in found:
            found[kind] = len(found)
            example.append(address)
        numbers.append(found[kind])
    return Parts(starts, np.array(numbers, np.int32), tuple(example))


def _tests(firewall: Firewall) -> list[Test]:
    chains = (chain for table in firewall.filter for chain in table.values())
    return list(dict.fromkeys(test for chain in chains for rule in chain.rules for test in rule.tests))


def device_names(links: Iterable[Link]) -> dict[int, str]:
    """The interfaces as the hooks of a packet filter name them: none that is in a VRF, which some name by that."""
    links = list(links)
    apart = {link.ifindex for link in links if link.kind == "vrf"}
    return {link.ifindex: "" if link.master in apart else link.name for link in links}


def beneath(links: Iterable[Link]) -> dict[str, frozenset[str]]:
    """The interfaces below one that have its packets as well: members of a bridge, the parent of a VLAN."""
    links = list(links)
    lower: dict[int, set[int]] = {}
    for link in links:
        if link.master:
            lower.setdefault(link.master, set()).add(link.ifindex)
        if link.peer and link.kind != "veth":
            lower.setdefault(link.ifindex, set()).add(link.peer)
    found = {}
    for link in links:
        all_, todo = set(), list(lower.get(link.ifindex, ()))
        while todo:
            one = todo.pop()
            if one not in all_:
                all_.add(one)
                todo += lower.get(one, ())
        if all_:
            found[link.name] = frozenset(other.name for other in links if other.ifindex in all_)
    return found


@dataclass
class Wall:
    """A filter with more to say than one word for all. `dev` names its node's interfaces ("": it cannot be said as
    what the filter sees one), `beneath` those below each."""

    firewall: Firewall
    dev: Callable[[int], str]
    parts: Parts
    beneath: Mapping[str, Collection[str]]
    by_source: bool = False
    """Its verdict may depend on the source."""
    _nobody: Address = b""
    _known: dict[tuple[int, int, int, Address | None], tuple[int, str]] = field(default_factory=dict)

    @staticmethod
    def of(firewall: Firewall, links: Iterable[Link]) -> Wall:
        """The wall of a node with these interfaces."""
        links = list(links)
        names, under = device_names(links), beneath(links)
        named = [v for t in _tests(firewall) if t.key == "saddr" for v in t.values if isinstance(v, Prefix)]
        some = (bytes((203, 0, 113, last)) for last in range(1, 255))
        nobody = next((one for one in some if not any(one in p for p in named if p.length)), bytes((203, 0, 113, 1)))
        return Wall(firewall, lambda index: names.get(index, ""), parts(firewall), under, bool(named), nobody)

    def judge(self, action: Action, into: int, source: Address | None) -> tuple[int, str]:
        """(code, why) of a packet that came in by an interface and goes the ways of an action; (0, "") if it passes."""
        told = {self._of_way(action.wall, into, way.ifindex, source) for way in action.ways}
        codes = {code for code, _ in told}
        if len(codes) < 2:
            return min(told, default=_PASSES)
        return words.UNKNOWN, "whether the packet filter passes it depends on which way it takes"

    def _of_way(self, part: int, into: int, out: int, source: Address | None) -> tuple[int, str]:
        key = part, into, out, source
        if key not in self._known:
            self._known[key] = self._ask(part, into, out, source)
        return self._known[key]

    def _ask(self, part: int, into: int, out: int, source: Address | None) -> tuple[int, str]:
        def packets(source: Address | None) -> Packets:
            to, ways = self.parts.example[part], (self.dev(into), self.dev(out))
            return Packets(AF_INET, _HOOKS, -1, source, to, *ways, beneath=self.beneath)

        verdict, why = of_packet(self.firewall.filter, packets(source))
        if source is None and self.by_source and verdict not in _CODES:
            ordinary, _ = of_packet(self.firewall.filter, packets(self._nobody))
            if ordinary in _CODES:
                return _PASSES
        code = _CODES.get(verdict, words.UNKNOWN)
        if code == words.UNKNOWN:
            of = f" from {format_address(source)}" if source is not None else ""
            return code, f"whether the packet filter passes it{of}: {why or 'not known'}"
        return code, why if code else ""
