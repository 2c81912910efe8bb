"""What is wrong in a network: every class of packets from every node, and every pair of islands.

A fate is wrong wherever it is met: a loop, a next hop that does not answer, forwarding off, a filter, a snapshot that
does not say. Having no route, or discarding, is wrong where another node has sent the packet there by a route that is
more than a default route; and everywhere for a destination that is known to be in the network.

Cells (class, source) that end in the same way at the same action are one finding, told once for each known destination
that it hits and with one packet as its witness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

from via6.observe.verify import words
from via6.observe.verify.fates import Fates, Walker
from via6.observe.verify.network import Network, at_once
from via6.observe.verify.survey import Endpoint, Survey, last, number, octets
from via6.observe.verify.trace import Step, Tracer, Trail
from via6.prefix import Address, Prefix, format_address

_WRONG: Final = (
    words.NEIGHBOR_UNREACHABLE, words.FORWARDING_OFF, words.DENIED_FIREWALL, words.DENIED_RP_FILTER,
    words.DENIED_ALLOWED_IPS, words.LOOP, words.UNKNOWN,
)  # fmt: skip
_DROPPED: Final = (words.NO_ROUTE, words.NULL_ROUTED)
_WRONG_BITS: Final = sum(1 << code for code in _WRONG)
_MOST_PREFIXES: Final = 64  # told one by one for one cause
_MOST_TRACED: Final = 20_000
NO_WAY_BACK: Final = "no way back"
"""The kind of a problem whose packets do not arrive though those in the other direction do."""

Wanted = Callable[[Endpoint, Prefix], bool]
"""Whether packets from an endpoint are to arrive at a known destination."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `node` is where the fate is decided; `source` and `destination` are those of a packet
    that meets it, which begins at the first step (`into`: comes in there). `prefix` is the destination that is hit, and
    `more` how many others are by the same cause. `sources` counts where such packets begin. `kind` is empty, or what
    else is to be said: `no way back`, or the rule of an expectation that is broken."""

    disposition: str
    node: str
    prefix: Prefix
    source: Address | None
    destination: Address
    steps: tuple[Step, ...]
    why: str = ""
    kind: str = ""
    sources: int = 1
    more: int = 0

    @property
    def path(self) -> tuple[str, ...]:
        """The nodes that the packet passes."""
        return tuple(step.node for step in self.steps)


@dataclass
class Report:
    """All that was found, and how much was looked at."""

    problems: list[Problem] = field(default_factory=list)
    nodes: int = 0
    classes: int = 0
    rows: int = 0
    pairs: int = 0
    arriving: int = 0
    asymmetric: int = 0
    examples: list[tuple[str, str, tuple[str, ...], tuple[str, ...]]] = field(default_factory=list)
    unnamed: int = 0
    """Pairs that reach each other and that no rule of the expectations names."""


@dataclass
class _Finding:
    """Cells with one cause: their rows and their nodes."""

    rows: list[Any] = field(default_factory=list)
    nodes: set[int] = field(default_factory=set)


class Checker:
    """Looks a network through."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.walker = Walker(network)
        self.tracer = Tracer(network)
        self.survey = Survey(network)
        self._found: dict[tuple[str, str, Prefix], Problem] = {}
        self._traced = 0

    def report(self, wanted: Wanted | None = None, asymmetry: bool = True) -> Report:
        """Everything. `wanted` None: all islands are to reach each other. Pairs with another way back are counted
        unless `asymmetry` is false."""
        self._classes()
        report = Report(nodes=len(self.network.nodes), classes=len(self.network.classes.starts))
        report.rows = len(self.network.classes.example)
        Pairs(self).look(report, wanted, asymmetry)
        report.problems = sorted(self._found.values(), key=lambda p: (p.disposition, p.node, p.prefix))
        return report

    # --- classes ---------------------------------------------------------------------------------------------------

    def _classes(self) -> None:
        import numpy as np

        findings: dict[tuple[int, int], _Finding] = {}
        count = len(self.network.classes.example)
        room = self.walker.room
        parts = [np.arange(begin, min(begin + room, count)) for begin in range(0, count, room)]

        def walk(rows: Any) -> tuple[Any, Fates, Any]:
            fates = self.walker.walk(rows)
            return rows, fates, self.bad(fates)

        for rows, fates, bad in at_once(walk, parts):
            self._single(rows, fates, bad, findings)
            self._several(rows, fates, bad, findings)
        for (code, _), finding in sorted(findings.items()):
            self._tell(code, finding)

    def bad(self, fates: Fates) -> Any:
        """[row, node] of the bits of fates that are wrong."""
        import numpy as np

        here = np.arange(fates.gids.shape[1], dtype=np.int32)
        wrong = fates.fates & np.uint16(_WRONG_BITS)
        dropped = fates.fates & np.uint16(sum(1 << code for code in _DROPPED))
        sent = (fates.end != here) & ~self.walker.default[fates.gids] & (self.walker.stop[fates.gids] == 0)
        return wrong | np.where(sent, dropped, np.uint16(0))

    def _single(self, rows: Any, fates: Fates, bad: Any, findings: dict[tuple[int, int], _Finding]) -> None:
        import numpy as np

        row, node = np.nonzero((bad > 0) & ~fates.many[:, None])
        if not len(row):
            return
        end = _on_cycle(fates, row, fates.end[row, node])
        code = np.log2(bad[row, node].astype(np.float64)).astype(np.int64)
        gid = fates.gids[row, end].astype(np.int64)
        key = gid << 5 | code
        order = np.argsort(key, kind="stable")
        kinds, begins = np.unique(key[order], return_index=True)
        for one, chosen in zip(kinds.tolist(), np.split(order, begins[1:]), strict=True):
            finding = findings.setdefault((one & 31, one >> 5), _Finding())
            finding.rows.append(rows[np.unique(row[chosen])])
            finding.nodes.update(np.unique(node[chosen]).tolist())

    def _several(self, rows: Any, fates: Fates, bad: Any, findings: dict[tuple[int, int], _Finding]) -> None:
        """Rows with multipath: a witness of each fate tells where it is met."""
        import numpy as np

        for at in np.flatnonzero(fates.many):
            for bits in np.unique(bad[at]):
                nodes: list[int] = np.flatnonzero(bad[at] == bits).tolist() if bits else []
                for code in [c for c in range(len(words.NAMES)) if int(bits) >> c & 1]:
                    if self._traced > _MOST_TRACED:
                        break
                    self._traced += 1
                    trail = self._witness(octets(self.network.classes.example[rows[at]]), nodes[0], code)
                    if trail is None:
                        continue
                    finding = findings.setdefault((code, -1 - self.network.place[trail.node]), _Finding())
                    finding.rows.append(rows[at : at + 1])
                    finding.nodes.update(nodes)

    def _witness(self, to: Address, node: int, code: int, end: str = "", **named: Any) -> Trail | None:
        trails = self.tracer.trails(to, node, **named)
        return next((t for t in trails if t.code == code and end in ("", t.node)), None)

    def _tell(self, code: int, finding: _Finding) -> None:
        """The problems that a finding makes: one for each known destination, and for each other prefix."""
        import numpy as np

        known = list(self.survey.known)
        starts, ends = self._intervals(np.unique(np.concatenate(finding.rows)))
        place = self.survey.place_of(starts)
        hit = [(known[at], _plainest(starts[place == at], known[at])) for at in np.unique(place) if at >= 0]
        hit += [(p, number(p.packed)) for p in _summary(starts[place < 0], ends[place < 0], _MOST_PREFIXES)]
        told = hit[:_MOST_PREFIXES]
        for at, (prefix, address) in enumerate(told):
            more = len(hit) - len(told) if at == len(told) - 1 else 0
            for node in sorted(finding.nodes):
                trail = self._witness(octets(address), node, code)
                if trail is not None:
                    source = self.survey.own_address(node)
                    problem = Problem(
                        words.NAMES[code], trail.node, prefix, source, octets(address), trail.steps, trail.why,
                        sources=len(finding.nodes), more=more,
                    )  # fmt: skip
                    self.note(problem)
                    break

    @cached_property
    def _by_row(self) -> tuple[Any, Any]:
        """(classes in the order of their rows, where each row begins in that order)."""
        import numpy as np

        row = self.network.classes.row
        order = np.argsort(row, kind="stable")
        return order, row[order].searchsorted(np.arange(len(self.network.classes.example) + 1))

    def _intervals(self, rows: Any) -> tuple[Any, Any]:
        """(first, last) address of all classes of some rows."""
        import numpy as np

        order, begins = self._by_row
        size = begins[rows + 1] - begins[rows]
        first = np.repeat(begins[rows] - (np.cumsum(size) - size), size)
        at = np.sort(order[first + np.arange(len(first))])
        starts = self.network.classes.starts
        ends = np.full(len(at), 0xFFFFFFFF, np.int64)
        inner = at + 1 < len(starts)
        ends[inner] = starts[at[inner] + 1].astype(np.int64) - 1
        return starts[at].astype(np.int64), ends

    def note(self, problem: Problem) -> None:
        """Keeps a problem, or counts it to the same one."""
        place = problem.node
        if problem.disposition == words.NAMES[words.LOOP]:  # the same one, wherever it was entered
            place = " ".join(sorted(set(problem.path[problem.path.index(problem.node) :])))
        key = problem.disposition, place, problem.prefix
        known = self._found.get(key)
        if known is None:
            self._found[key] = problem
        else:
            sources = max(known.sources, problem.sources)
            self._found[key] = replace(known, sources=sources, kind=known.kind or problem.kind)


def _on_cycle(fates: Fates, row: Any, end: Any) -> Any:
    """For ends that lie on a loop the first node of the loop, the others as they are."""
    import numpy as np

    loop = np.flatnonzero(fates.stop[row, end] == 0)
    if not len(loop):
        return end
    pairs, back = np.unique(row[loop].astype(np.int64) << 32 | end[loop], return_inverse=True)
    where, least = pairs >> 32, (pairs & 0xFFFFFFFF).astype(np.int32)
    at = least
    for _ in range(fates.next.shape[1]):
        at = fates.next[where, at]
        least = np.minimum(least, at)
    end = end.copy()
    end[loop] = least[back]
    return end


def _plainest(starts: Any, prefix: Prefix) -> int:
    """Of some addresses in a prefix one that is neither its first nor its last, if there is one."""
    inside = [max(number(prefix.packed), int(one)) for one in starts[:8]]
    plain = [one for one in inside if one not in (number(prefix.packed), last(prefix))]
    return plain[0] if plain else inside[0]


def _summary(starts: Any, ends: Any, most: int) -> list[Prefix]:
    """The prefixes that make up some ranges; `most` and one ranges are looked at."""
    from ipaddress import IPv4Address, summarize_address_range

    found: list[Prefix] = []
    merged: list[list[int]] = []
    for first, final in zip(starts.tolist(), ends.tolist(), strict=True):
        if merged and merged[-1][1] + 1 == first:
            merged[-1][1] = final
        else:
            if len(merged) > most:
                break
            merged.append([first, final])
    for first, final in merged:
        nets = summarize_address_range(IPv4Address(first), IPv4Address(final))
        found += [Prefix(net.network_address.packed, net.prefixlen) for net in nets]
    return sorted(found, key=lambda prefix: (prefix.length, prefix.packed))[: most + 1]


# --- pairs of islands ----------------------------------------------------------------------------------------------


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
            if key not in told and len(told) < _MOST_PREFIXES:
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
        return _plainest([int(classes.starts[at]) for at in range(low, high) if classes.row[at] == row], prefix)

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
            code = self.network.links.block(self.endpoints[place].port)[0] if self.endpoints[place].ifindex else 0
            if code:
                taken = self.checker.walker.taken[fates.gids[:, node[turn]]]
                bits[:, turn] = np.where(taken, bits[:, turn], np.uint16(1 << code))
                shut[:, turn] = ~taken & (code == words.FORWARDING_OFF)
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

        from via6.observe.verify.network import _scatter

        rows = np.array([self.network.classes.row_of(number(one.address)) for one in self.endpoints])
        used = np.flatnonzero(rows >= 0)
        begins = np.array([one.node for one in self.endpoints])
        mark = _scatter(np.arange(1, len(self.network.nodes) + 1))
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


def among(prefixes: Iterable[Prefix]) -> Iterator[int]:
    """The addresses at which a set of prefixes cuts the address space."""
    for prefix in prefixes:
        yield number(prefix.packed)
        yield last(prefix) + 1
