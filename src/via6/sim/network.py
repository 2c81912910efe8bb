"""Networks for the simulator: routers, wires between them, and what is announced where. Values only.

A wire has two ends or more (a LAN). Its ends are numbered by router; router `i` has the link-local address fe80::i+1 on
every wire, so that two wires between the same two routers differ by the interface alone, as in real life. Interfaces
are numbered from 2 in the order of the wires.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from via6.babel.model import COST
from via6.prefix import Address, Prefix

if TYPE_CHECKING:
    from random import Random

FIRST_IFINDEX: Final = 2
KINDS: Final = ("line", "ring", "grid", "random", "dual", "lan", "star", "mixed")


@dataclass(frozen=True, slots=True)
class Wire:
    """`ends` are routers, `costs` what each end has configured (the price of sending *to* it). A packet takes `delay_s`
    plus up to `jitter_s`. `ipv4`: the ends have IPv4 addresses here, too, so that AE 1 is used."""

    ends: tuple[int, ...]
    costs: tuple[int, ...]
    delay_s: float = 0.001
    jitter_s: float = 0.001
    ipv4: bool = False


@dataclass(frozen=True, slots=True)
class Network:
    """`origins` says who announces what at the start, with which metric; `names` are for people."""

    kind: str
    size: int
    wires: tuple[Wire, ...]
    origins: tuple[tuple[int, Prefix, int], ...]
    names: tuple[str, ...] = ()

    def interfaces(self) -> Iterator[tuple[int, int, int]]:
        """(router, ifindex, wire) of every end."""
        used = [FIRST_IFINDEX] * self.size
        for number, wire in enumerate(self.wires):
            for router in wire.ends:
                yield router, used[router], number
                used[router] += 1

    def prefixes(self) -> list[Prefix]:
        """What is announced, sorted."""
        return sorted({prefix for _, prefix, _ in self.origins})


def link_local(router: int) -> Address:
    """fe80::router+1."""
    return b"\xfe\x80" + bytes(10) + (router + 1).to_bytes(4, "big")


def ipv4_of(wire: int, router: int) -> Address:
    """An address out of 172.16.0.0/12 for the end of a wire."""
    return bytes((172, 16 + (wire >> 8 & 15), wire & 0xFF, router % 254 + 1))


def island(router: int) -> Prefix:
    """The /24 behind a router."""
    return Prefix(bytes((10, router >> 8, router & 0xFF, 0)), 24)


def island6(router: int) -> Prefix:
    """The /64 behind a router."""
    return Prefix(bytes.fromhex("20010db8") + router.to_bytes(4, "big") + bytes(8), 64)


DEFAULT: Final = Prefix(bytes(4), 0)


# --- shapes -----------------------------------------------------------------------------------------------------------


def shape(kind: str, size: int, chance: Random) -> list[tuple[int, ...]]:
    """Ends of the wires of a network of `size` routers; it is connected. Raises KeyError for an unknown kind."""
    line: list[tuple[int, ...]] = [(i, i + 1) for i in range(size - 1)]
    tree: list[tuple[int, ...]] = [(chance.randrange(i), i) for i in range(1, size)]
    pairs = [*line]
    if kind == "ring":
        pairs.append((0, size - 1))
    elif kind == "grid":
        width = max(2, int(size**0.5))
        pairs = [(i, i + 1) for i in range(size - 1) if (i + 1) % width]
        pairs += [(i, i + width) for i in range(size - width)]
    elif kind == "random":
        pairs = tree
        for _ in range(chance.randint(1, size)):
            a, b = sorted(chance.sample(range(size), 2))
            if (a, b) not in pairs:
                pairs.append((a, b))
    elif kind == "dual":
        pairs = tree
        pairs += [chance.choice(pairs) for _ in range(chance.randint(1, size))]
    elif kind == "lan":
        middle = chance.randint(2, size - 1) if size > 2 else size
        pairs = [tuple(range(middle))]
        pairs += tree[middle - 1 :]
        if size > 3 and chance.random() < 0.7:
            pairs.append(tuple(sorted(chance.sample(range(size), chance.randint(2, min(4, size))))))
    elif kind == "star":
        pairs = [(0, i) for i in range(1, size)]
        pairs += [(i, i + 1) for i in range(1, size - 1, 2)]
    elif kind == "mixed":
        pairs = [*line, (0, size - 1), *shape("lan", size, chance)]
    elif kind != "line":
        raise KeyError(kind)
    return pairs


def origins_for(size: int, chance: Random) -> list[tuple[int, Prefix, int]]:
    """One island per router, for most; sometimes a second network, a covering prefix, gateways, IPv6."""
    found = [(i, island(i), 0) for i in range(size) if size < 4 or chance.random() < 0.8]
    found = found or [(0, island(0), 0)]
    if chance.random() < 0.3:
        found.append((chance.randrange(size), Prefix(bytes((10, 0, 0, 0)), 16), chance.choice((0, 10, 500))))
    if chance.random() < 0.3:
        found.append((chance.randrange(size), DEFAULT, chance.choice((0, 128))))
    if chance.random() < 0.3:
        shared = Prefix(bytes((192, 0, 2, 0)), 24)
        found += [(i, shared, chance.choice((0, 0, 96))) for i in chance.sample(range(size), min(size, 2))]
    if chance.random() < 0.15:
        found += [(i, island6(i), 0) for i in range(size)]
    return found


def draw(chance: Random, kind: str = "", most: int = 12) -> Network:
    """A network by chance, of 2 to `most` routers."""
    kind = kind or chance.choice(KINDS)
    size = chance.randint(2 if kind == "line" else 3, most)
    costs = chance.choice(("equal", "equal", "per wire", "per end", "huge"))
    ipv4 = chance.random() < 0.15
    wires: list[Wire] = []
    for ends in shape(kind, size, chance):
        delay = chance.choice((0.0002, 0.001, 0.01, 0.05))
        wire = Wire(ends, (COST,) * len(ends), delay, delay * chance.choice((0, 0.5, 3)))
        if costs == "huge":
            wire = replace(wire, costs=(chance.choice((96, 15_000, 30_000, 65_534)),) * len(ends))
        elif costs == "per wire":
            wire = replace(wire, costs=(chance.randint(1, 1000),) * len(ends))
        elif costs == "per end":
            wire = replace(wire, costs=tuple(chance.randint(1, 1000) for _ in ends))
        wires.append(replace(wire, ipv4=ipv4 and chance.random() < 0.5))
    return Network(f"{kind}/{costs}", size, tuple(wires), tuple(origins_for(size, chance)))


def of_pairs(kind: str, pairs: list[tuple[int, int]], size: int, names: Mapping[int, str] = {}) -> Network:
    """Wires of cost 96 between pairs, and an island behind every router."""
    wires = tuple(Wire(pair, (COST, COST)) for pair in pairs)
    origins = tuple((i, island(i), 0) for i in range(size))
    return Network(kind, size, wires, origins, tuple(names.get(i, f"r{i}") for i in range(size)))
