"""How fast verify is: synthetic nodes with full tables, and the Topology Zoo's Kdl with any single link or node down.

    python bench/verify.py [--quick] [--full]

The nodes are values, no namespaces: a random tree with chords, a link-local address per interface, a block of routes
per next hop. Each row runs in a process of its own, so that its memory is its own. `same`: every node has the same
prefixes. `other`: every node has prefixes of its own choice. --full adds 100 nodes x 1,000,000 routes.
"""

from __future__ import annotations

import random
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import ROOT, Row, child
from via6.model import (
    IFF_LOOPBACK,
    IFF_LOWER_UP,
    IFF_UP,
    PARTS,
    PROTO_KERNEL,
    TABLE_LOCAL,
    InterfaceAddress,
    Link,
    NextHop,
    Route,
    RouteBlock,
    RouteTable,
    Rule,
    Snapshot,
)
from via6.observe.node import BabelNeighbour, BabelPolicy, BabelRoute, BabelState, Firewall, Node
from via6.prefix import AF_INET, Address, Prefix

if TYPE_CHECKING:
    from numpy.typing import NDArray

_UP = IFF_UP | IFF_LOWER_UP
_RULES = (Rule(AF_INET, 0, 255), Rule(AF_INET, 32766, 254), Rule(AF_INET, 32767, 253))


class Packed(Sequence[Address]):
    """Destinations in one piece of octets: a hundred million of them as objects would need 5 GB."""

    def __init__(self, octets: bytes) -> None:
        self.octets = octets

    def __len__(self) -> int:
        return len(self.octets) // 4

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        return self.octets[at * 4 : at * 4 + 4]

    def __iter__(self) -> Iterator[Address]:
        return (self.octets[at : at + 4] for at in range(0, len(self.octets), 4))


def link_local(node: int) -> Address:
    return b"\xfe\x80" + bytes(10) + (node + 1).to_bytes(4, "big")


class Graph:
    """Nodes with numbered interfaces; interface numbers are unique, so that the pairs of veth are found."""

    def __init__(self, count: int, links: Sequence[tuple[int, int]]) -> None:
        self.count = count
        self.ports: list[list[tuple[int, int, int]]] = [[] for _ in range(count)]  # (far node, ifindex, far ifindex)
        for number, (a, b) in enumerate(links):
            one, other = 10 + 2 * number, 11 + 2 * number
            self.ports[a].append((b, one, other))
            self.ports[b].append((a, other, one))

    def ways(self) -> NDArray[Any]:
        """[destination, node] -> the ifindex by which a shortest path leaves."""
        import numpy as np

        out = np.zeros((self.count, self.count), np.int32)
        for start in range(self.count):
            seen, queue = {start}, [start]
            for at in queue:
                for far, _, ifindex in self.ports[at]:
                    if far not in seen:
                        seen.add(far)
                        queue.append(far)
                        out[start, far] = ifindex
        return out

    def far(self, node: int, ifindex: int) -> int:
        return next(far for far, one, _ in self.ports[node] if one == ifindex)


def random_graph(count: int, seed: int = 1) -> Graph:
    chance = random.Random(seed)
    links = [(chance.randrange(at), at) for at in range(1, count)]
    links += [(a, b) for a, b in (chance.sample(range(count), 2) for _ in range(count // 2))]
    return Graph(count, links)


def node(graph: Graph, at: int, blocks: Sequence[RouteBlock], babel: BabelState | None = None) -> Node:
    """A router with an island 10.H.L.0/24 on `lan`, and its routes."""
    island = bytes((10, at >> 8, at & 255, 0))
    own = island[:3] + b"\1"
    links = [Link(1, "lo", 65536, _UP | IFF_LOOPBACK), Link(2, "lan", 1500, _UP, "UP", kind="dummy")]
    addresses = [InterfaceAddress(2, own, 24)]
    for _, ifindex, peer in graph.ports[at]:
        links.append(Link(ifindex, f"eth{ifindex}", 1500, _UP, "UP", kind="veth", peer=peer))
        addresses.append(InterfaceAddress(ifindex, link_local(at), 64, scope=253))
    lan = (NextHop(None, 2),)
    connected = [
        Route(Prefix(island, 24), lan, protocol=PROTO_KERNEL),
        Route(Prefix(own, 32), lan, "local", TABLE_LOCAL, protocol=PROTO_KERNEL),
    ]
    names = ["all", *(link.name for link in links)]
    sysctls = {f"net/ipv4/conf/{name}/forwarding": 1 for name in names}
    sysctls |= {f"net/ipv4/conf/{name}/rp_filter": 0 for name in names}
    table = RouteTable((*RouteTable.of(connected).blocks, *blocks))
    kernel = Snapshot(tuple(links), tuple(addresses), table, _RULES, parts=PARTS)
    return Node(f"r{at}", kernel, sysctls, firewall=Firewall(), babel=babel)


def blocks_of(graph: Graph, at: int, prefixes: Any, owners: Any, ways: Any, metric: int = 0) -> list[RouteBlock]:
    """One block per next hop; what the node owns itself is left out."""
    out = []
    leaves = ways[owners, at]
    for _, ifindex, _ in graph.ports[at]:
        chosen = prefixes[leaves == ifindex]
        if len(chosen):
            hop = NextHop(link_local(graph.far(at, ifindex)), ifindex)
            template = Route(Prefix(bytes(4), 24), (hop,), metric=metric)
            out.append(RouteBlock(template, Packed(chosen.astype(">u4").tobytes())))
    discard = prefixes[leaves == 0]
    if len(discard):  # its own: somebody's network behind it
        out.append(
            RouteBlock(Route(Prefix(bytes(4), 24), (NextHop(None, 2),)), Packed(discard.astype(">u4").tobytes()))
        )
    return out


def synthetic(count: int, routes: int, other: bool) -> list[Node]:
    """Nodes with `routes` routes each, to /24 of owners by chance, on shortest paths."""
    import numpy as np

    graph = random_graph(count)
    ways = graph.ways()
    chance = np.random.default_rng(1)
    space = np.arange(11 << 16, 127 << 16, dtype=np.uint32)
    chance.shuffle(space)
    owner_of = chance.integers(0, count, 1 << 24).astype(np.int32)
    nodes = []
    mine = np.sort(space[:routes])
    for at in range(count):
        if other:
            mine = np.sort(chance.choice(space, routes, replace=False))
        blocks = blocks_of(graph, at, mine << 8, owner_of[mine], ways)
        islands = np.array([10 << 24 | i << 8 for i in range(count) if i != at], np.uint32)
        owners = np.array([i for i in range(count) if i != at])
        nodes.append(node(graph, at, [*blocks, *blocks_of(graph, at, islands, owners, ways)]))
    return nodes


def _island(at: int) -> Prefix:
    return Prefix(bytes((10, at >> 8, at & 255, 0)), 24)


def _id(at: int) -> str:
    return f"00:00:00:00:00:00:{at >> 8:02x}:{at & 255:02x}"


def kdl() -> list[Node]:
    """The Topology Zoo's largest network, with the routes and the state of Babel."""
    from via6.lab.topology import load

    files = (ROOT.parent / "shared/topologies/Kdl.graphml", ROOT / ".cache/Kdl.graphml")
    file = next((str(one) for one in files if one.exists()), "")
    if not file:
        raise SystemExit(f"there is no {files[1]}: get Kdl.graphml of the Topology Zoo")
    topology = load(file)
    place = {router.name: at for at, router in enumerate(topology.routers)}
    graph = Graph(len(place), [(place[c.a.router], place[c.b.router]) for c in topology.cables])
    ways = graph.ways()
    import numpy as np

    nodes = []
    for at in range(graph.count):
        reached = np.array([i for i in range(graph.count) if i != at and ways[i, at]])
        islands = (10 << 24 | (reached >> 8) << 16 | (reached & 255) << 8).astype(np.uint32)
        heard = tuple(BabelNeighbour(link_local(far), ifindex, 96) for far, ifindex, _ in graph.ports[at])
        own = _island(at)
        routes = [(i, int(ways[i, at])) for i in reached.tolist()]
        selected = tuple(
            BabelRoute(_island(i), link_local(graph.far(at, out)), out, _id(i), 192, 96, True, True)
            for i, out in routes
        )
        state = BabelState(_id(at), heard, selected, ((own, 0),), policy=BabelPolicy())
        nodes.append(node(graph, at, blocks_of(graph, at, islands, reached, ways, 460), state))
    return nodes


def measure(name: str, nodes: list[Node], routes: int) -> Row:
    """Everything that `via6 verify` does with the nodes."""
    from via6.observe.verify.check import Checker
    from via6.observe.verify.network import Network

    before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    begun = time.perf_counter()
    network = Network(nodes)
    classed = time.perf_counter()
    report = Checker(network).report()
    done = time.perf_counter()
    extra = {
        "classes": report.classes, "rows": report.rows, "pairs": report.pairs, "arriving": report.arriving,
        "problems": len(report.problems), "classes_s": round(classed - begun, 2), "input_mb": round(before_mb),
    }  # fmt: skip
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Row("verify", name, routes, done - begun, peak_mb, extra)


def measure_kdl(kind: str) -> Row:
    names = {"link": "any link", "node": "any node", "any-1": "any link or node"}
    from via6.observe.verify.failure import examine

    nodes = kdl()
    begun = time.perf_counter()
    found = examine(nodes, [(kind, "")], None)
    done = time.perf_counter()
    extra = {"failures": len(found), "broken": sum(bool(one.problems) for one in found)}
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Row("verify", f"kdl {names[kind]}", len(nodes), done - begun, peak_mb, extra)


def measure_general() -> Row:
    """Some failures of that network whose routes are computed anew, as where anything stands in the way."""
    from via6.observe.verify.failure import _Failures

    failures = _Failures(kdl(), None)
    some = random.Random(1).sample(sorted(failures.links), 5)
    failures.link(some[0], [failures.links[some[0]]])  # what is wrong before is looked at once, for all of them
    begun = time.perf_counter()
    for name in some:
        failures.link(name, [failures.links[name]], thorough=True)
    done = time.perf_counter()
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Row("verify", "kdl computed anew, each", len(failures.nodes), (done - begun) / len(some), peak_mb, {})


def run_child(words: list[str]) -> None:
    if words[0] == "kdl":
        print((measure_kdl(words[1]) if len(words) > 1 else measure_general()).line())
        return
    kind, count, routes = words[0], int(words[1]), int(words[2])
    nodes = synthetic(count, routes, kind == "other")
    print(measure(f"{count} nodes, {kind}", nodes, routes).line())


def main() -> None:
    if "--child" in sys.argv:
        run_child(sys.argv[sys.argv.index("--child") + 1 :])
        return
    script = str(Path(__file__).resolve())
    wanted: list[tuple[str, ...]] = [("same", "100", "10000"), ("other", "100", "10000")]
    if "--quick" not in sys.argv:
        wanted += [("same", "100", "100000"), ("other", "100", "100000"), ("kdl", "link"), ("kdl", "any-1"), ("kdl",)]
    if "--full" in sys.argv:
        wanted += [("same", "100", "1000000"), ("other", "100", "1000000")]
    for words in wanted:
        for row in child(script, *words, timeout=3600):
            print(row.line(), flush=True)


if __name__ == "__main__":
    main()
