"""The network after a failure: a link without carrier, a node gone, and Babel's routes chosen anew (`after`).

Problems that were there before the failure are not told again. Where nothing stands in the way of Babel no routes need
be computed to see what a failure breaks (`whole`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Final

from via6.errors import Refusal
from via6.observe.node import Node
from via6.observe.verify import report, words
from via6.observe.verify.after import Aftermath
from via6.observe.verify.check import Checker
from via6.observe.verify.expect import Expectations, check, wanted
from via6.observe.verify.links import Port
from via6.observe.verify.network import Network
from via6.observe.verify.problems import Problem
from via6.observe.verify.survey import Survey, among
from via6.observe.verify.whole import Whole
from via6.prefix import Prefix

_SHOWN: Final = 10
_UNKNOWN: Final = words.NAMES[words.UNKNOWN]


@dataclass
class After:
    """What is wrong after one failure and was not before."""

    name: str
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """An element of `failures` in -j."""
        return {
            "failure": self.name,
            "problems": [report.problem_json(one) for one in self.problems],
            "notes": self.notes,
        }


def lines(found: Sequence[After]) -> list[str]:
    """To read."""
    out = []
    notes = dict.fromkeys(note for one in found for note in one.notes)
    out += [f"note: {note}" for note in notes]
    bad = [one for one in found if one.problems]
    for one in bad[:_SHOWN]:
        out.append(f"after {one.name} fails:")
        for problem in one.problems[:_SHOWN]:
            out += [f"  {line}" for line in report.problem_lines(problem)]
        if len(one.problems) > _SHOWN:
            out.append(f"  … and {len(one.problems) - _SHOWN} more")
    if len(bad) > _SHOWN:
        out.append(f"… and {len(bad) - _SHOWN} more failures: " + ", ".join(one.name for one in bad[_SHOWN:]))
    count = f"{len(found)} failure{'' if len(found) == 1 else 's'} looked at"
    unknown = [one for one in bad if all(p.disposition == _UNKNOWN for p in one.problems)]
    told = [f"{len(bad) - len(unknown)} break something"] if len(bad) > len(unknown) else []
    told += [f"of {len(unknown)} nobody can say what follows"] if unknown else []
    out.append(f"{count}, " + (", ".join(told) or "none of them breaks anything"))
    return out


Say = Callable[[int, int, str], None]
"""Told before each failure: how many have been looked at, how many there are, and its name."""


def examine(
    nodes: Sequence[Node], wished: Sequence[tuple[str, str]], rules: Expectations | None, say: Say | None = None
) -> list[After]:
    """All failures that are wished for: (link, A-B), (node, A), (link, ""), (node, ""), (any-1, "")."""
    return _Failures(nodes, rules).all(wished, say)


class _Failures:
    def __init__(self, nodes: Sequence[Node], rules: Expectations | None) -> None:
        self.nodes = list(nodes)
        self.rules = rules
        self.network = Network(self.nodes)
        self.after = Aftermath(self.nodes, self.network)
        self.place = self.network.place
        self.survey = Survey(self.network)
        self.notes = self._notes()

    def _notes(self) -> list[str]:
        mesh, after = self.after.mesh, self.after
        still = [self.nodes[at].name for at in after.silent if at not in after.dynamic]
        dynamic = [self.nodes[at].name for at in after.dynamic]
        found = []
        if still:
            found.append(f"no Babel state of {_some(still)}: routes there stay as they are")
        if dynamic:
            found.append(f"no Babel state of {_some(dynamic)}: nobody can say what would be chosen there")
        found += [f"not known where a Babel neighbour is: {lost}" for lost in mesh.lost[:8]]
        if after.partial:
            found.append("so routes that cross what fails are UNKNOWN, everywhere; the others stay")
        elif mesh.untold:
            found.append(f"import rules of {_some(mesh.untold)} are not in the snapshot: taken to have none")
        return found

    # --- which failures --------------------------------------------------------------------------------------------

    def all(self, wished: Sequence[tuple[str, str]], say: Say | None = None) -> list[After]:
        """All that are wished for, one after the other."""
        todo: list[tuple[str, Callable[[], After]]] = []
        for kind, name in wished:
            if kind == "node" and name:
                todo.append((name, partial(self.node, self._named(name), thorough=True)))
            elif kind == "link" and name:
                todo.append((name, partial(self.link, name, self._between(name), thorough=True)))
            else:
                if kind in ("link", "any-1"):
                    todo += [(one, partial(self.link, one, [pair])) for one, pair in self.links.items()]
                if kind in ("node", "any-1"):
                    todo += [(self.nodes[at].name, partial(self.node, at)) for at in self.after.routers]
        found = []
        for count, (name, look) in enumerate(todo):
            if say is not None:
                say(count, len(todo), name)
            found.append(look())
        return found

    def _named(self, name: str) -> int:
        if name not in self.place:
            raise Refusal(f"--fail: there is no node {name!r} in the snapshots", f"there is {', '.join(self.place)}")
        return self.place[name]

    @cached_property
    def links(self) -> dict[str, frozenset[Port]]:
        """The links between routers by name: A-B, and A-B#2 for a second one."""
        found: dict[str, frozenset[Port]] = {}
        for pair in dict.fromkeys((*self.after.mesh.pairs(), *self._used())):
            one, other = sorted(pair)
            base = name = f"{self.nodes[one[0]].name}-{self.nodes[other[0]].name}"
            count = 1
            while name in found:
                count += 1
                name = f"{base}#{count}"
            found[name] = pair
        return found

    def _used(self) -> Iterator[frozenset[Port]]:
        """Links that next hops of routes cross, between nodes that forward."""
        routers = set(self.after.routers)
        for at in self.after.routers:
            for action in self.network.lookups[at].actions:
                for way in action.ways:
                    edge = self.network.edges(at, way)[0] if way.via is not None else None
                    if edge is not None and edge.node in routers:
                        yield frozenset(((at, way.ifindex), (edge.node, edge.ifindex)))

    def _between(self, name: str) -> list[frozenset[Port]]:
        """The links that A-B means: both orders; all parallel ones unless one is named A-B#2."""
        found = [pair for one, pair in self.links.items() if name in _spellings(one, pair, self.nodes)]
        if not found:
            near = ", ".join(list(self.links)[:12]) or "none"
            raise Refusal(f"--fail link {name}: there is no such link", f"links: {near}")
        return found

    # --- one failure -----------------------------------------------------------------------------------------------

    @cached_property
    def _before(self) -> list[Problem]:
        return self._problems(self.nodes)

    @cached_property
    def _known(self) -> frozenset[tuple[str, str, Prefix, str]]:
        return frozenset(map(_key, self._before))

    @cached_property
    def whole(self) -> Whole:
        """The short way to tell, where it holds."""
        return Whole(self.after, self.survey, list(self.links.values()), not self.rules and not self._before)

    def link(self, name: str, pairs: Sequence[frozenset[Port]], thorough: bool = False) -> After:
        """One link, or parallel ones; `thorough`: never the short way."""
        known = self.whole.link(pairs[0]) if len(pairs) == 1 and not thorough else None
        if known is not None:
            return After(f"link {name}", known, self.notes)
        dead = {port for pair in pairs for port in pair}
        return self._look(f"link {name}", self.after.nodes_after(dead))

    def node(self, at: int, thorough: bool = False) -> After:
        """One node."""
        name = f"node {self.nodes[at].name}"
        known = self.whole.node(at) if not thorough and at in self.after.routers else None
        if known is not None:
            return After(name, known, self.notes)
        dead, gone = self.after.with_node(at)
        found = self._look(name, self.after.nodes_after(dead, gone))
        # What was behind the node alone is gone with it, and nobody is to reach it.
        behind = [prefix for prefix, nodes in self.survey.known.items() if nodes <= gone]
        found.problems = [one for one in found.problems if not any(p.covers(one.prefix) for p in behind)]
        return found

    def _look(self, name: str, nodes: list[Node]) -> After:
        problems = [one for one in self._problems(nodes) if _key(one) not in self._known] if nodes else []
        return After(name, problems, self.notes)

    def _problems(self, nodes: Sequence[Node]) -> list[Problem]:
        names = {node.name for node in nodes}
        rules = self.rules
        if rules:
            kept = tuple(rule for rule in rules.rules if _sides(rule) & set(self.place) <= names)
            rules = replace(rules, rules=kept)
        checker = Checker(Network(nodes, among(rules.prefixes()) if rules else ()))
        found = checker.report(wanted(rules, checker.survey) if rules else None, asymmetry=False)
        if rules:
            check(rules, checker, found)
        return found.problems


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "")


def _spellings(name: str, pair: frozenset[Port], nodes: Sequence[Node]) -> Iterable[str]:
    """The ways to name a link."""
    one, other = (nodes[at].name for at, _ in sorted(pair))
    tail = "#" + name.partition("#")[2] if "#" in name else ""
    return {name, f"{one}-{other}", f"{other}-{one}", f"{other}-{one}{tail}"}


def _sides(rule: Any) -> set[str]:
    return {rule.a.text, rule.b.text, *rule.through}


def _key(problem: Problem) -> tuple[str, str, Prefix, str]:
    return problem.disposition, problem.node, problem.prefix, problem.kind
