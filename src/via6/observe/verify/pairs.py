"""Every pair of places where packets begin and known destinations: what does not arrive, and who has another way back.

Here sources count: a node may not believe that a packet with such a source comes in where it does."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from via6.observe.verify import words
from via6.observe.verify.classes import scatter
from via6.observe.verify.fates import Fates
from via6.observe.verify.problems import NO_WAY_BACK, Problem, Report
from via6.observe.verify.survey import Endpoint, last, number, octets, plainest
from via6.prefix import Prefix, format_address

if TYPE_CHECKING:
    from via6.observe.verify.check import Checker

_MOST_TOLD: Final = 64  # of one destination

Wanted = Callable[[Endpoint, Prefix], bool]
"""Whether packets from an endpoint are to arrive at a known destination."""


class Pairs:
    """Every endpoint to every known destination, sources believed or not."""

    def __init__(self, checker: Checker) -> None:
        self.checker = checker
        self.network = checker.network
        self.survey = checker.survey
        self.endpoints = checker.survey.endpoints

    def look(self, report: Report, wanted: Wanted | None, asymmetry: bool = True) -> None:
        """Notes what does not arrive, and counts."""
        if not self.endpoints:
            return
        for prefix, nodes in self.survey.known.items():
            rows = self.survey.rows_of(prefix)
            asked = [
                place
                for place, one in enumerate(self.endpoints)
                if one.prefix != prefix and (wanted(one, prefix) if wanted else one.node not in nodes)
            ]
            if asked and len(rows):
                self._destination(prefix, rows, asked, report)
        if asymmetry and len(self.endpoints) <= 3000:
            self._asymmetry(report)

    def _destination(self, prefix: Prefix, rows: Any, asked: list[int], report: Report) -> None:
        import numpy as np

        bits = np.zeros((len(rows), len(asked)), np.uint16)
        for begin in range(0, len(rows), self.checker.walker.room):
            part = rows[begin : begin + self.checker.walker.room]
            bits[begin : begin + len(part)] = self.fates(part, asked)
        wrong = bits & ~np.uint16(words.GOOD)
        if prefix in self.survey.exports:
            wrong = self._leaving(rows, asked, wrong, self.survey.exports[prefix])
        report.pairs += len(asked)
        report.arriving += int((wrong == 0).all(axis=0).sum())
        row, place = np.nonzero(wrong)
        told: set[tuple[int, int]] = set()
        for at, turn in zip(row.tolist(), place.tolist(), strict=True):
            key = int(wrong[at, turn]), self.endpoints[asked[turn]].node
            if key not in told and len(told) < _MOST_TOLD:
                told.add(key)
                self._tell(prefix, int(rows[at]), self.endpoints[asked[turn]], int(wrong[at, turn]), len(place))

    def _leaving(self, rows: Any, asked: list[int], wrong: Any, origins: list[int]) -> Any:
        """Packets may leave the network where their destination is announced, and nowhere else."""
        import numpy as np

        exits = np.uint16(1 << words.EXITS_NETWORK)
        known: dict[tuple[int, int], bool] = {}
        wrong = wrong.copy()
        for at, turn in zip(*(places.tolist() for places in np.nonzero(wrong & exits)), strict=True):
            key = int(rows[at]), self.endpoints[asked[turn]].node
            if key not in known:
                to = octets(self.network.classes.example[key[0]])
                ends = {t.node for t in self.checker.tracer.trails(to, key[1]) if t.code == words.EXITS_NETWORK}
                known[key] = ends <= {self.network.nodes[origin].name for origin in origins}
            if known[key]:
                wrong[at, turn] &= ~exits
        return wrong

    def _tell(self, prefix: Prefix, row: int, source: Endpoint, bits: int, count: int) -> None:
        to = self.example(row, prefix)
        # A loop that passes its origin ends there, as nobody believes his own address: it is a loop all the same.
        believed = None if bits >> words.LOOP & 1 else source.address
        for trail in self.checker.tracer.trails(octets(to), source.node, source.ifindex, believed):
            if bits >> trail.code & 1:
                kind = NO_WAY_BACK if self._other_way(source, prefix) else ""
                problem = Problem(
                    words.NAMES[trail.code], trail.node, prefix, source.address, octets(to), trail.steps, trail.why,
                    kind, count,
                )  # fmt: skip
                self.checker.note(problem)
                return

    def example(self, row: int, prefix: Prefix) -> int:
        """An address of a row that is in the prefix."""
        classes = self.network.classes
        low, high = classes.span(number(prefix.packed), last(prefix))
        return plainest([int(classes.starts[at]) for at in range(low, high) if classes.row[at] == row], prefix)

    def _other_way(self, source: Endpoint, prefix: Prefix) -> bool:
        """Somebody in the destination reaches the source."""
        for other in self.endpoints:
            if prefix.covers(other.prefix) or other.prefix == prefix:
                fates = self.checker.tracer.codes(source.address, other.node, other.ifindex, other.address)
                return not fates & ~words.GOOD
        return False

    @cached_property
    def _refused(self) -> Any:
        return self.checker.tracer.sources.table([one.address for one in self.endpoints])

    @cached_property
    def _calm(self) -> Any:
        """Per endpoint: its source is believed everywhere, but for its own node, where packets do not come by again
        unless they loop."""
        import numpy as np

        node_of = np.array([-1, *(at for at, _ in self.network.ports)])
        calm = np.zeros(len(self.endpoints), bool)
        for place, one in enumerate(self.endpoints):
            refusing = self._refused[:, place] > 0
            entry = self.network.ports.get(one.port, 0)
            quiet = not self._tunnels and not self._sourced
            calm[place] = quiet and not refusing[entry] and (node_of[refusing] == one.node).all()
        return calm

    @cached_property
    def _tunnels(self) -> bool:
        return any(self.network.links.tunnel(port) for port in self.network.ports)

    @cached_property
    def _sourced(self) -> set[int]:
        """Nodes whose packet filter looks at sources."""
        return {at for at, wall in self.network.walls.items() if wall.by_source}

    def fates(self, rows: Any, asked: list[int]) -> Any:
        """[row, endpoint] of bits: the fates of packets from endpoints, their sources looked at."""
        import numpy as np

        fates = self.checker.walker.walk(rows)
        node = np.array([self.endpoints[place].node for place in asked])
        bits = fates.fates[:, node].copy()
        shut = np.zeros(bits.shape, bool)  # where nobody asks for the source: the node does not forward
        for turn, place in enumerate(asked):
            own = self.checker.walker.refusing[self.network.ports.get(self.endpoints[place].port, 0)]
            if own:
                taken = self.checker.walker.taken[fates.gids[:, node[turn]]]
                bits[:, turn] = np.where(taken, np.uint16(1 << own), bits[:, turn])
                shut[:, turn] = taken
            code = self.network.links.block(self.endpoints[place].port)[0] if self.endpoints[place].ifindex else 0
            if code:
                taken = self.checker.walker.taken[fates.gids[:, node[turn]]]
                bits[:, turn] = np.where(taken, bits[:, turn], np.uint16(1 << code))
                shut[:, turn] |= ~taken & (code == words.FORWARDING_OFF)
            elif self.endpoints[place].ifindex and self.endpoints[place].node in self.network.walls:
                port = np.full(len(rows), self.network.ports[self.endpoints[place].port])
                codes = self.checker.walker.walled(port, fates.gids[:, node[turn]])
                bits[:, turn] = np.where(codes > 0, np.uint16(1) << codes.astype(np.uint16), bits[:, turn])
        self._believed(rows, fates, asked, bits, shut)
        return bits

    def _believed(self, rows: Any, fates: Fates, asked: list[int], bits: Any, shut: Any) -> None:
        """Puts down what is dropped on the way for its source."""
        import numpy as np

        for at in range(len(rows)):
            if fates.many[at] or self._tunnels:
                for column, place in enumerate(asked):
                    if self._calm[place] and not int(bits[at, column]) >> words.LOOP & 1:
                        continue
                    one = self.endpoints[place]
                    to = octets(self.network.classes.example[rows[at]])
                    loops = int(bits[at, column]) & 1 << words.LOOP
                    told = self.checker.tracer.codes(to, one.node, one.ifindex, one.address)
                    bits[at, column] = loops | (told & ~(1 << words.DENIED_RP_FILTER) if loops else told)
        loop = np.uint16(1 << words.LOOP)
        row, turn = np.nonzero((bits != loop) & ~shut & ~fates.many[:, None] & (not self._tunnels))
        ports = np.array([self.network.ports.get(self.endpoints[place].port, 0) for place in asked])
        source = np.array(asked)[turn]
        now = np.array([self.endpoints[place].node for place in asked])[turn]
        port = ports[turn]
        for _ in range(fates.next.shape[1] + 1):
            if not len(row):
                return
            refused = self._refused[port, source]
            if self._sourced:
                refused = np.where(refused > 0, refused, self._walled(fates, row, now, port, source))
            here = fates.gids[row, now]  # without a route nobody asks for the source
            hit = (refused > 0) & ((self.checker.walker.stop[here] == 0) | self.checker.walker.taken[here])
            bits[row[hit], turn[hit]] = np.uint16(1) << refused[hit].astype(np.uint16)
            on = ~hit & (fates.stop[row, now] == 0)
            row, turn, source, now = row[on], turn[on], source[on], now[on]
            port = fates.port[row, now]
            now = fates.next[row, now]

    def _walled(self, fates: Fates, row: Any, now: Any, port: Any, source: Any) -> Any:
        """What the packet filters that look at sources make of packets where they are now."""
        import numpy as np

        codes = np.zeros(len(row), np.uint8)
        for at in np.flatnonzero(np.isin(now, list(self._sourced)) & (port > 0)).tolist():
            here = self.checker.walker.port_of[int(port[at])]
            action = self.network.actions[int(fates.gids[row[at], now[at]])]
            codes[at] = self.network.wall(here, action, self.endpoints[int(source[at])].address)[0]
        return codes

    # --- asymmetry -------------------------------------------------------------------------------------------------

    def _asymmetry(self, report: Report) -> None:
        """Pairs of endpoints whose packets pass other nodes there than back."""
        import numpy as np

        rows = np.array([self.network.classes.row_of(number(one.address)) for one in self.endpoints])
        used = np.flatnonzero(rows >= 0)
        begins = np.array([one.node for one in self.endpoints])
        mark = scatter(np.arange(1, len(self.network.nodes) + 1))
        trace = np.zeros((len(rows), len(rows)), np.uint64)  # [to, from]: the nodes, in any order
        for at in range(0, len(used), self.checker.walker.room):
            part = used[at : at + self.checker.walker.room]
            fates = self.checker.walker.walk(rows[part])
            now: Any = np.broadcast_to(begins, (len(part), len(begins))).copy()
            trace[part] = mark[now]
            for _ in range(fates.next.shape[1]):
                on = np.take_along_axis(fates.stop, now, axis=1) == 0
                if not on.any():
                    break
                now = np.take_along_axis(fates.next, now, axis=1)
                trace[part] += np.where(on, mark[now], np.uint64(0))
            end = np.take_along_axis(fates.stop, now, axis=1)
            lost = (end == 0) | (end > words.DELIVERED_TO_SUBNET)
            trace[part] = np.where(lost | fates.many[:, None], np.uint64(0), trace[part])
        home = self.survey.place_of(np.array([number(one.address) for one in self.endpoints]))
        differs = (home[:, None] != home) & (trace != trace.T) & (trace > 0) & (trace.T > 0)
        ends, starts = np.nonzero(np.triu(differs))
        report.asymmetric = len(ends)
        for a, b in list(zip(starts.tolist(), ends.tolist(), strict=True))[:5]:
            report.examples.append(self._example_ways(self.endpoints[a], self.endpoints[b]))

    def _example_ways(self, one: Endpoint, other: Endpoint) -> tuple[str, str, tuple[str, ...], tuple[str, ...]]:
        there = self.checker.tracer.trails(other.address, one.node, one.ifindex)
        back = self.checker.tracer.trails(one.address, other.node, other.ifindex)
        ways = [trails[0].nodes if trails else () for trails in (there, back)]
        return format_address(one.address), format_address(other.address), ways[0], ways[1]
