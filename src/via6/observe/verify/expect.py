"""What is expected of a network, a rule per line:

    reach A B [via NODE]…      packets from A arrive at B, and B's at A; with `via` all of them pass NODE
    isolate A B                nothing from A arrives at B, nor from B at A
    waypoint A B NODE          what arrives from A at B has passed NODE
    default reach|isolate      what holds for islands that no rule names; without it nothing is demanded of them

A and B are names of nodes (that is what they send from their own addresses, or what is sent to these), prefixes or
addresses. `#` begins a comment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from via6.observe.verify import words
from via6.observe.verify.check import Checker
from via6.observe.verify.pairs import Pairs
from via6.observe.verify.problems import Problem, Report
from via6.observe.verify.survey import Endpoint, Survey, number, octets
from via6.observe.verify.trace import Trail
from via6.prefix import AF_INET, Prefix, PrefixError, format_address, parse_prefix

REACH: Final = "reach"
ISOLATE: Final = "isolate"
WAYPOINT: Final = "waypoint"
DEFAULT: Final = "default"
_FORMS: Final = {
    REACH: "reach A B [via NODE]", ISOLATE: "isolate A B", WAYPOINT: "waypoint A B NODE",
    DEFAULT: "default reach|isolate",
}  # fmt: skip
_ARRIVES: Final = words.GOOD | 1 << words.EXITS_NETWORK


@dataclass(frozen=True, slots=True)
class Side:
    """A or B: the name of a node, or else a prefix."""

    text: str
    prefix: Prefix | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One line; `through` are the nodes to be passed."""

    line: int
    kind: str
    a: Side
    b: Side
    through: tuple[str, ...] = ()

    def __str__(self) -> str:
        tail = "".join(f" via {name}" for name in self.through) if self.kind == REACH else "".join(
            f" {name}" for name in self.through
        )  # fmt: skip
        return f"{self.kind} {self.a.text} {self.b.text}{tail}"


@dataclass(frozen=True, slots=True)
class Expectations:
    """All rules of a file; `default` is empty, `reach` or `isolate`."""

    name: str = ""
    rules: tuple[Rule, ...] = ()
    default: str = ""

    def prefixes(self) -> Iterable[Prefix]:
        """The prefixes that are named."""
        return (side.prefix for rule in self.rules for side in (rule.a, rule.b) if side.prefix is not None)


def parse(text: str, name: str, nodes: Sequence[str]) -> tuple[Expectations, list[str]]:
    """The rules of a file, and what is wrong in it, as `FILE:LINE: what`."""
    rules: list[Rule] = []
    problems: list[str] = []
    default = ""
    for line, raw in enumerate(text.splitlines(), 1):
        parts = raw.partition("#")[0].split()
        if not parts:
            continue
        try:
            if parts[0] == DEFAULT:
                default = _default(parts, default)
            else:
                rules.append(_rule(line, parts, nodes))
        except ValueError as error:
            problems.append(f"{name}:{line}: {error}")
    return Expectations(name, tuple(rules), default), problems


def _default(parts: list[str], before: str) -> str:
    if len(parts) != 2 or parts[1] not in (REACH, ISOLATE):
        raise ValueError(f"write {_FORMS[DEFAULT]}")
    if before:
        raise ValueError("a second default")
    return parts[1]


def _rule(line: int, parts: list[str], nodes: Sequence[str]) -> Rule:
    kind = parts[0]
    if kind not in (REACH, ISOLATE, WAYPOINT):
        near = get_close_matches(kind, _FORMS, 1)
        raise ValueError(f"{kind!r} is no rule: " + (f"{near[0]!r}?" if near else ", ".join(_FORMS.values())))
    if len(parts) < 3:
        raise ValueError(f"write {_FORMS[kind]}")
    rest = parts[3:]
    if kind == REACH:
        if len(rest) % 2 or any(word not in ("via", WAYPOINT) for word in rest[::2]):
            raise ValueError(f"write {_FORMS[kind]}")
        rest = rest[1::2]
    elif (kind == WAYPOINT) != (len(rest) == 1):
        raise ValueError(f"write {_FORMS[kind]}")
    through = tuple(_node(word, nodes) for word in rest)
    return Rule(line, kind, _side(parts[1], nodes), _side(parts[2], nodes), through)


def _node(word: str, nodes: Sequence[str]) -> str:
    if word in nodes:
        return word
    near = get_close_matches(word, nodes, 3, 0.5) or list(nodes)[:8]
    raise ValueError(f"there is no node {word!r} in the snapshots; there is {', '.join(near)}")


def _side(word: str, nodes: Sequence[str]) -> Side:
    if word in nodes:
        return Side(word)
    if not word[:1].isdigit():
        _node(word, nodes)
    try:
        prefix = parse_prefix(word)
    except PrefixError as error:
        raise ValueError(str(error)) from None
    if prefix.family != AF_INET:
        raise ValueError(f"{word!r}: verify is about IPv4")
    return Side(word, prefix)


# --- what a side means in a network --------------------------------------------------------------------------------


def sources(survey: Survey, side: Side) -> list[Endpoint]:
    """Where packets of a side begin."""
    own = [one for one in survey.endpoints if not one.ifindex]
    if side.prefix is None:
        at = survey.network.place[side.text]
        return [one for one in own if one.node == at]
    found = [one for one in own if one.address in side.prefix]
    for one in survey.endpoints:
        if one.ifindex and (one.prefix.covers(side.prefix) or side.prefix.covers(one.prefix)):
            inner = max(one.prefix, side.prefix, key=lambda prefix: prefix.length)
            address = inner.packed if inner.is_host else survey.somebody(inner)
            if address is not None and address not in survey.owners:
                found.append(Endpoint(one.node, one.ifindex, inner, address))
    return found


def targets(survey: Survey, side: Side) -> list[Prefix]:
    """Where packets to a side go."""
    if side.prefix is not None:
        return [side.prefix]
    return [one.prefix for one in sources(survey, side)]


def check(expectations: Expectations, checker: Checker, report: Report) -> None:
    """Adds to a report what is against the rules."""
    for rule in expectations.rules:
        report.problems += _Check(rule, checker).problems()
    if expectations.default == ISOLATE:
        report.problems += _unexpected(expectations, checker)
    elif not expectations.default:
        report.unnamed = sum(1 for _ in _unnamed(expectations, checker))


class _Check:
    """One rule in a network."""

    def __init__(self, rule: Rule, checker: Checker) -> None:
        self.rule = rule
        self.checker = checker
        self.survey = checker.survey
        self.kind = f"line {rule.line}: {rule}"

    def problems(self) -> list[Problem]:
        """What is against the rule: the first of each cause."""
        found = list(self._one_way(self.rule.a, self.rule.b, ""))
        if self.rule.kind != WAYPOINT:
            found += self._one_way(self.rule.b, self.rule.a, "no way back" if self.rule.kind == REACH else "")
        kept: dict[tuple[str, str], Problem] = {}
        for problem in found:
            kept.setdefault((problem.disposition, problem.node), problem)
        return list(kept.values())

    def _one_way(self, a: Side, b: Side, note: str) -> Iterable[Problem]:
        begin, to = sources(self.survey, a), targets(self.survey, b)
        if not begin or not to:
            yield from self._nobody(a if not begin else b, note)
            return
        pairs = Pairs(self.checker)
        pairs.endpoints = begin
        for prefix in to:
            rows = self.checker.network.classes.rows(number(prefix.packed), _last(prefix))
            if not len(rows):
                continue
            bits = pairs.fates(rows, list(range(len(begin))))
            yield from self._judge(prefix, rows, bits, pairs, note)

    def _nobody(self, side: Side, note: str) -> Iterable[Problem]:
        """A side that no snapshot knows: nothing can be said of it, and no way back is asked of the world outside."""
        if self.rule.kind == ISOLATE or (note and side.prefix is not None):
            return
        why = f"{side.text} has no IPv4 address" if side.prefix is None else f"no snapshot is where {side.text} is"
        other = self.rule.b if side is self.rule.a else self.rule.a
        prefix = side.prefix or other.prefix or Prefix(bytes(4), 0)
        node = side.text if side.prefix is None else ""
        yield Problem(words.NAMES[words.UNKNOWN], node, prefix, None, prefix.packed, (), why, self.kind)

    def _judge(self, prefix: Prefix, rows: Any, bits: Any, pairs: Pairs, note: str) -> Iterable[Problem]:
        known = any(one.covers(prefix) or prefix.covers(one) for one in self.survey.known)
        fine = words.GOOD if known else _ARRIVES
        for at, row in enumerate(rows.tolist()):
            for turn, one in enumerate(pairs.endpoints):
                fates = int(bits[at, turn])
                if self.rule.kind == REACH and fates & ~fine:
                    yield from self._witness(pairs, prefix, row, one, fates & ~fine, note)
                elif self.rule.kind == ISOLATE and fates & _ARRIVES:
                    yield from self._witness(pairs, prefix, row, one, fates & _ARRIVES, note)
                elif self.rule.through and fates & fine:
                    yield from self._passes(pairs, prefix, row, one, note)

    def _trails(self, pairs: Pairs, prefix: Prefix, row: int, one: Endpoint) -> tuple[bytes, list[Trail]]:
        to = octets(pairs.example(row, prefix))
        return to, self.checker.tracer.trails(to, one.node, one.ifindex, one.address)

    def _witness(
        self, pairs: Pairs, prefix: Prefix, row: int, one: Endpoint, bits: int, note: str
    ) -> Iterable[Problem]:
        to, trails = self._trails(pairs, prefix, row, one)
        for trail in trails:
            if bits >> trail.code & 1:
                yield self._made(prefix, one, to, trail, trail.why or note)
                return

    def _passes(self, pairs: Pairs, prefix: Prefix, row: int, one: Endpoint, note: str) -> Iterable[Problem]:
        to, trails = self._trails(pairs, prefix, row, one)
        for trail in trails:
            if not _ARRIVES >> trail.code & 1:
                continue
            missed = [name for name in self.rule.through if name not in trail.nodes]
            if missed and (self.rule.kind == WAYPOINT or not note):
                yield self._made(prefix, one, to, trail, f"it does not pass {', '.join(missed)}")
                return

    def _made(self, prefix: Prefix, one: Endpoint, to: bytes, trail: Trail, why: str) -> Problem:
        name = words.NAMES[trail.code]
        return Problem(name, trail.node, prefix, one.address, to, trail.steps, why, self.kind)


def _last(prefix: Prefix) -> int:
    return number(prefix.packed) + (1 << (32 - prefix.length)) - 1


# --- what no rule names --------------------------------------------------------------------------------------------


def names(rule: Rule, survey: Survey, one: Endpoint, prefix: Prefix) -> bool:
    """A rule speaks of packets from an endpoint to a destination, in one direction or the other."""

    def is_source(side: Side) -> bool:
        if side.prefix is None:
            return survey.network.nodes[one.node].name == side.text and not one.ifindex
        return one.address in side.prefix or one.prefix.covers(side.prefix)

    def is_target(side: Side) -> bool:
        return any(to.covers(prefix) or prefix.covers(to) for to in targets(survey, side))

    return (is_source(rule.a) and is_target(rule.b)) or (is_source(rule.b) and is_target(rule.a))


def wanted(expectations: Expectations, survey: Survey) -> Any:
    """For `Checker.report`: whether an endpoint is to reach a known destination because of the default."""
    isolated = [rule for rule in expectations.rules if rule.kind == ISOLATE]

    def judge(one: Endpoint, prefix: Prefix) -> bool:
        if expectations.default != REACH or one.node in survey.known[prefix]:
            return False
        return not any(names(rule, survey, one, prefix) for rule in isolated)

    return judge


def _unnamed(expectations: Expectations, checker: Checker) -> Iterable[tuple[Endpoint, Prefix, int, int, Pairs]]:
    """(endpoint, destination, row, fates) of islands that reach another one although no `reach` names them."""
    survey = checker.survey
    pairs = Pairs(checker)
    reach = [rule for rule in expectations.rules if rule.kind == REACH]
    other = [rule for rule in expectations.rules if rule.kind != REACH]
    for prefix, nodes in survey.known.items():
        asked = [
            place
            for place, one in enumerate(pairs.endpoints)
            if one.node not in nodes and one.prefix != prefix
            and not any(names(rule, survey, one, prefix) for rule in (*reach, *other))
        ]  # fmt: skip
        rows = survey.rows_of(prefix)
        if not asked or not len(rows):
            continue
        bits = pairs.fates(rows, asked)
        for turn, place in enumerate(asked):
            hit = [at for at in range(len(rows)) if int(bits[at, turn]) & words.GOOD]
            if hit:
                yield pairs.endpoints[place], prefix, int(rows[hit[0]]), int(bits[hit[0], turn]), pairs


def _unexpected(expectations: Expectations, checker: Checker) -> list[Problem]:
    found = []
    for one, prefix, row, _, pairs in _unnamed(expectations, checker):
        to = octets(pairs.example(row, prefix))
        for trail in checker.tracer.trails(to, one.node, one.ifindex, one.address):
            if words.GOOD >> trail.code & 1:
                why = f"{format_address(one.address)} reaches {prefix}, and no rule allows it"
                name = words.NAMES[trail.code]
                kind = "default isolate"
                found.append(Problem(name, trail.node, prefix, one.address, to, trail.steps, why, kind))
                break
    return found
