"""The fate of every class of packets from every node, all at once.

For a row each node points to the next one, or to itself where the packet ends. Where every node has one way, jumping
from pointer to pointer of pointer finds every end in log2(nodes) rounds; who has not come to an end is in a loop. Where
some node has several ways the fates of all are gathered, round by round: a node is done when all that it sends to are
done, and who is never done can come into a loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from via6.observe.verify import words
from via6.observe.verify.links import Edge
from via6.observe.verify.network import CONNECTED, Network
from via6.observe.verify.table import BROADCAST, LOCAL, UNKNOWN

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Reached = tuple[tuple[Edge, ...], NDArray[np.int64]]
    """(whom a connected way leads to, the nodes that may be on the link as well)."""

CELLS: Final = 1 << 20  # of rows times nodes worked on at once


@dataclass(frozen=True, eq=False)
class Fates:
    """Arrays [row, node]. `fates` is a set of fates as bits; `end` the node where a packet stops (-1: several, or a
    loop among several ways), `next` the next node (itself where it stops), `port` the number of the interface by which
    the packet comes in there, `stop` the fate at a node itself (0: sent on). Rows with several ways have `many` set;
    there `next`, `port` and `stop` are those of the first way."""

    gids: NDArray[np.int32]
    fates: NDArray[np.uint16]
    end: NDArray[np.int32]
    next: NDArray[np.int32]
    port: NDArray[np.int32]
    stop: NDArray[np.uint8]
    many: NDArray[np.bool_]


class Walker:
    """Walks rows of a network. Holds, per action and way, where it leads."""

    def __init__(self, network: Network) -> None:
        import numpy as np

        self.network = network
        actions = network.actions
        self.most = max(1, max((len(action.ways) for action in actions), default=1))
        shape = (len(actions), self.most)
        self.target = np.full(shape, -1, np.int32)
        self.code = np.zeros(shape, np.uint8)
        self.block = np.zeros(shape, np.uint8)
        self.inport = np.zeros(shape, np.int32)
        self.ways = np.zeros(len(actions), np.int32)
        self.stop = np.array([network.stop(action) for action in actions], np.uint8)
        self.own = np.array(network.node_of, np.int32)
        self.local = np.array([action.kind == LOCAL for action in actions])
        self.unknown = np.array([action.kind == UNKNOWN for action in actions])
        self.taken = np.array([action.kind in (LOCAL, BROADCAST) for action in actions])
        self.chosen = np.array([not action.default for action in actions]) & (self.stop == 0)
        self.port_of = dict(zip(network.ports.values(), network.ports, strict=True))
        takes = network.links.takes
        self.refusing = np.array([0, *(takes(port)[0] for port in network.ports)], np.uint8)
        # Per way and node the connected actions for which there may be somebody on the link.
        self.reached: list[dict[int, dict[int, Reached]]] = [{} for _ in range(self.most)]
        for gid in range(len(actions)):
            self._enter(gid, network.node_of[gid])

    def _enter(self, gid: int, node: int) -> None:
        import numpy as np

        action = self.network.actions[gid]
        self.ways[gid] = len(action.ways)
        for turn, way in enumerate(action.ways):
            edges = self.network.edges(node, way)
            if self.network.on_link(node, way):
                self.target[gid, turn] = CONNECTED
                self.code[gid, turn] = words.DELIVERED_TO_SUBNET
                perhaps = np.array(sorted(self.network.links.perhaps((node, way.ifindex))), np.int64)
                if edges or len(perhaps):
                    self.reached[turn].setdefault(node, {})[gid] = edges, perhaps
                continue
            edge = edges[0]
            self.code[gid, turn] = edge.code
            if not edge.code:
                self.target[gid, turn] = edge.node
                self.block[gid, turn] = edge.block
                self.inport[gid, turn] = self.network.ports[edge.node, edge.ifindex]

    def walk(self, rows: Any) -> Fates:
        """The fates of some rows; give no more than `room` at once."""
        import numpy as np

        gids = self.network.gids(rows)
        index = gids.astype(np.intp)  # what numpy looks up by: else it converts for each table
        ways = self.ways.take(index) if self.most > 1 else None
        many = (ways > 1).any(axis=1) if ways is not None else np.zeros(len(gids), bool)
        first = [self._step(index, turn) for turn in range(self.most if many.any() else 1)]
        after, port, stop = first[0]
        if ways is None or not many.any():
            fates, end = _jump(after, stop)
            return Fates(gids, fates, end, after, port, stop, many)
        fates = np.zeros(gids.shape, np.uint16)
        end = np.full(gids.shape, -1, np.int32)
        fates[~many], end[~many] = _jump(after[~many], stop[~many])
        fates[many] = _gather([tuple(part[many] for part in step) for step in first], ways[many])
        return Fates(gids, fates, end, after, port, stop, many)

    @property
    def room(self) -> int:
        """How many rows to walk at once."""
        return max(1, CELLS // max(1, len(self.network.nodes)))

    def _step(self, gids: Any, turn: int) -> tuple[Any, Any, Any]:
        """(next node, its interface, fate here) when every node takes the way of this turn. A node that stops points
        to itself."""
        import numpy as np

        sends = self.ways > 0
        stops = np.where(sends, self.code[:, turn], self.stop)
        after = np.where(stops > 0, self.own, self.target[:, turn]).take(gids)
        port = self.inport[:, turn].take(gids)
        stop = stops.take(gids)
        stopping = self.block[:, turn].any() or self.refusing.any() or self.network.walls
        if self.reached[turn]:
            self._find_hosts(gids, turn, after, port, stop)
        here = np.broadcast_to(np.arange(gids.shape[1], dtype=np.int32), gids.shape)
        if stopping:
            self._drop(gids, self.block[:, turn].take(gids), here, (after, port, stop))
        if self.reached[turn] or stopping:
            np.copyto(after, here, where=stop > 0)
        return after, port, stop

    def _drop(self, gids: Any, block: Any, here: Any, step: tuple[Any, Any, Any]) -> None:
        """What the next node does not let in."""
        import numpy as np

        after, port, stop = step
        refusing = self.refusing.take(port)
        if block.any() or refusing.any():
            there = np.take_along_axis(gids, np.where(stop == 0, after, here), axis=1)
            own = (stop == 0) & (refusing > 0) & self.taken[there]
            # Who does not forward drops what is not its own; a filter sees what would be sent on.
            passed = self.taken[there] | ((block != words.FORWARDING_OFF) & (self.stop[there] > 0))
            refused = (stop == 0) & (block > 0) & ~passed
            stop[refused], stop[own] = block[refused], refusing[own]
        for node in self.network.walls:
            row, sender = np.nonzero((after == node) & (stop == 0) & (here != node))
            if len(row):
                stop[row, sender] = self.walled(port[row, sender], gids[row, node])

    def walled(self, ports: Any, gids: Any) -> Any:
        """What the packet filter of a node makes of packets that come in by these interfaces (their numbers) and meet
        these actions, whoever sent them."""
        import numpy as np

        count = len(self.network.actions)
        pairs, back = np.unique(ports.astype(np.int64) * count + gids, return_inverse=True)
        codes = []
        for pair in pairs.tolist():
            place = self.port_of[pair // count]
            codes.append(self.network.wall(place, self.network.actions[pair % count])[0])
        return np.array(codes, np.uint8)[back.reshape(ports.shape)]

    def _find_hosts(self, gids: Any, turn: int, after: Any, port: Any, stop: Any) -> None:
        """Connected ways: a node on the link that has the destination takes it; else one of which nobody knows."""
        import numpy as np

        for node, ways in self.reached[turn].items():
            column = np.ascontiguousarray(gids[:, node])
            for gid, found in ways.items():
                chosen = np.flatnonzero(column == gid)
                if len(chosen):
                    self._find_host(chosen, node, found, gids, after, port, stop)

    def _find_host(self, chosen: Any, node: int, found: Reached, gids: Any, after: Any, port: Any, stop: Any) -> None:
        """The same for the rows in which one node takes one connected way."""
        edges, perhaps = found

        def enter(there: Any, edge: Edge) -> None:
            after[there, node] = edge.node
            port[there, node] = self.network.ports[edge.node, edge.ifindex]
            stop[there, node] = 0

        living = [edge for edge in edges if not edge.code]
        for edge in living:
            there = chosen[self.local[gids[chosen, edge.node]]]
            twice = there[(stop[there, node] == 0) & (after[there, node] != edge.node)]
            enter(there, edge)
            stop[twice, node] = words.UNKNOWN
        for kind, those in ((self.unknown, living), (self.local, [edge for edge in edges if edge.code])):
            for edge in those:
                there = chosen[kind[gids[chosen, edge.node]]]
                there = there[stop[there, node] == words.DELIVERED_TO_SUBNET]
                if edge.code:
                    stop[there, node] = edge.code
                else:
                    enter(there, edge)
        left = chosen[stop[chosen, node] == words.DELIVERED_TO_SUBNET] if len(perhaps) else chosen[:0]
        if len(left):
            stop[left[self.local[gids[left[:, None], perhaps]].any(axis=1)], node] = words.UNKNOWN


def _jump(after: Any, stop: Any) -> tuple[Any, Any]:
    """(fates as bits, end node) of rows in which each node has one way."""
    import numpy as np

    rows, nodes = after.shape
    base = np.arange(rows, dtype=np.intp)[:, None] * nodes
    pointer = (after + base).ravel()
    for _ in range(max(1, nodes - 1).bit_length() + 1):
        jumped = pointer.take(pointer)
        if np.array_equal(jumped, pointer):
            break
        pointer = jumped
    bits = (np.uint16(1) << np.arange(256, dtype=np.uint16) % np.uint16(16)).astype(np.uint16)
    bits[0] = 1 << words.LOOP  # who has not come to an end
    end = (pointer.reshape(rows, nodes) - base).astype(np.int32)
    return bits.take(stop.ravel().take(pointer)).reshape(rows, nodes), end


def _gather(steps: list[tuple[Any, Any, Any]], ways: Any) -> Any:
    """Fates as bits of rows in which some nodes have several ways: all that may happen."""
    import numpy as np

    own = np.zeros(ways.shape, np.uint16)
    used = []
    for turn, (after, _, stop) in enumerate(steps):
        active = (ways > turn) if turn else np.ones(ways.shape, bool)
        ends = active & (stop > 0)
        own |= np.where(ends, np.uint16(1) << stop.astype(np.uint16), np.uint16(0)).astype(np.uint16)
        used.append((active & (stop == 0), after))
    fates = own
    done = np.zeros(ways.shape, bool)
    for _ in range(ways.shape[1] + 1):
        gathered, ready = own.copy(), np.ones(ways.shape, bool)
        for sends, after in used:
            gathered |= np.where(sends, np.take_along_axis(fates, after, axis=1), np.uint16(0)).astype(np.uint16)
            ready &= ~sends | np.take_along_axis(done, after, axis=1)
        if np.array_equal(gathered, fates) and np.array_equal(ready, done):
            break
        fates, done = gathered, ready
    return np.where(done, fates, fates | np.uint16(1 << words.LOOP)).astype(np.uint16)
