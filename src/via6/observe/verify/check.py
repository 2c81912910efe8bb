"""What is wrong in a network: every class of packets from every node, and every pair of islands.

A fate is wrong wherever it is met: a loop, a next hop that does not answer, forwarding off, a filter, a snapshot that
does not say. Having no route, or discarding, is wrong where another node has sent the packet there by a route that is
more than a default route; and everywhere for a destination that is known to be in the network.

Cells (class, source) that end in the same way at the same action are one finding, told once for each known destination
that it hits and with one packet as its witness.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final

from via6.observe.verify import words
from via6.observe.verify.classes import distinct
from via6.observe.verify.fates import Fates, Walker
from via6.observe.verify.network import Network
from via6.observe.verify.pairs import Pairs, Wanted
from via6.observe.verify.problems import Problem, Report
from via6.observe.verify.survey import Survey, merged, number, octets, plainest, summary
from via6.observe.verify.threads import at_once
from via6.observe.verify.trace import Tracer, Trail
from via6.prefix import Address, Prefix

_WRONG: Final = (
    words.NEIGHBOR_UNREACHABLE, words.FORWARDING_OFF, words.DENIED_FIREWALL, words.DENIED_RP_FILTER,
    words.DENIED_ALLOWED_IPS, words.LOOP, words.UNKNOWN,
)  # fmt: skip
_DROPPED: Final = (words.NO_ROUTE, words.NULL_ROUTED)
_WRONG_BITS: Final = sum(1 << code for code in _WRONG)
_DROPPED_BITS: Final = sum(1 << code for code in _DROPPED)
_MOST_PREFIXES: Final = 64  # told one by one for one cause
_MOST_TRACED: Final = 20_000
_FEW_ROWS: Final = 4096


@dataclass
class _Finding:
    """Cells with one cause: their rows and their nodes."""

    rows: list[Any] = field(default_factory=list)
    nodes: set[int] = field(default_factory=set)


Single = dict[tuple[int, int], tuple[Any, list[int]]]
"""(fate, number of an action): rows, and nodes from which packets end there like that."""


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

        count = len(self.network.classes.example)
        room = self.walker.room
        parts = [np.arange(begin, min(begin + room, count)) for begin in range(0, count, room)]
        findings: dict[tuple[int, int], _Finding] = {}
        for rows, fates, bad, single in at_once(self._walk, parts):
            for key, (those, nodes) in single.items():
                finding = findings.setdefault(key, _Finding())
                finding.rows.append(those)
                finding.nodes.update(nodes)
            self._several(rows, fates, bad, findings)
        for (code, _), finding in sorted(findings.items(), key=lambda item: item[0]):
            self._tell(code, finding)

    def _walk(self, rows: Any) -> tuple[Any, Fates, Any, Single]:
        fates = self.walker.walk(rows)
        bad = self.bad(fates)
        return rows, fates, bad, self._single(rows, fates, bad)

    def bad(self, fates: Fates) -> Any:
        """[row, node] of the bits of fates that are wrong."""
        import numpy as np

        here = np.arange(fates.gids.shape[1], dtype=np.int32)
        sent = (fates.end != here) & self.walker.chosen.take(fates.gids)
        return fates.fates & np.where(sent, np.uint16(_WRONG_BITS | _DROPPED_BITS), np.uint16(_WRONG_BITS))

    def _single(self, rows: Any, fates: Fates, bad: Any) -> Single:
        """What is wrong in rows without multipath, by the fate and the action with which packets end."""
        import numpy as np

        alone = np.where(fates.many[:, None], np.uint16(0), bad) if fates.many.any() else bad
        row, node = np.divmod(np.flatnonzero(alone), bad.shape[1])
        end = _on_cycle(fates, row, fates.end[row, node])
        gid = fates.gids[row, end]
        if len(self.network.actions) <= 1 << 16:
            gid = gid.astype(np.uint16)  # numbers of 16 bits are sorted in one pass
        bits = bad[row, node]
        found: Single = {}
        for code in range(len(words.NAMES)):
            at = np.flatnonzero(bits & (1 << code))
            at = at[gid[at].argsort(kind="stable")]  # rows stay in their order
            begins = np.flatnonzero(np.diff(gid[at].astype(np.int64), prepend=-1)).tolist()
            for begin, end in pairwise([*begins, len(at)]):
                those = at[begin:end]
                nodes = np.flatnonzero(np.bincount(node[those])).tolist()
                found[code, int(gid[those[0]])] = distinct(rows[row[those]].astype(np.int32)), nodes
        return found

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

        rows = distinct(np.concatenate(finding.rows))
        known = list(self.survey.known)
        starts, place = self.survey.known_starts(rows)
        hit = [(known[at], plainest(starts[place == at], known[at])) for at in np.unique(place)]
        hit += [(p, number(p.packed)) for p in summary(*self._elsewhere(rows), _MOST_PREFIXES + 1)]
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

    def _elsewhere(self, rows: Any) -> tuple[Any, Any]:
        """(first, last) addresses of the ranges that are of some rows and outside of all known destinations: the first
        _MOST_PREFIXES + 1 of them. Rows are in the order of their first address, so the first rows have the first
        ranges."""
        import numpy as np

        classes = self.network.classes
        some = _FEW_ROWS
        while True:
            at = classes.members_of(rows[:some])
            if some < len(rows):  # behind this one there may be classes of the rows left out
                at = at[: at.searchsorted(classes.members[classes.begins[rows[some]]])]
            at = at[self.survey.place_of(classes.starts[at]) < 0]
            first, last = merged(classes.starts[at].astype(np.int64), classes.ends(at))
            if len(first) > _MOST_PREFIXES + 1 or some >= len(rows):
                return first[: _MOST_PREFIXES + 1], last[: _MOST_PREFIXES + 1]
            some *= 8

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
