"""`via6 route -batch FILE`: many routes from the lines of a file, as `ip -batch` reads them.

A file of 100,000 routes says few different things: the same words around another prefix. So a line is cut into
(op, prefix, rest); what (op, length, rest) means is parsed once and remembered, and a line costs one split, one look
into a dictionary and one `inet_pton`. Lines of equal meaning become one burst (`model.Burst`).

A burst gathers lines that did not stand together, and so changes their order. That is done only where nobody can
tell: within one piece of the file, for lines that all add (or all replace), whose destinations are distinct, and
whose next hops do not hang on what other lines of the piece did. Everything else leaves in the order of the file. A
piece in which something is wrong (host bits, a route that the daemon holds) is read again line by line, so that the
lines before the wrong one are carried out and the message names the place.

The first lines of a file go to the kernel one by one, so that a file written by hand stops at the line that is
refused, as with `ip -batch`. Of a large file the kernel gets a piece in one go; when it refuses a line, later lines of
the same piece may have been carried out, and the message says so.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from socket import inet_pton
from typing import Final

from via6.cli.words import OPS, TYPES
from via6.errors import FAILED, OK, Refusal
from via6.model import Burst, Failure, Kernel, Plan, Route, RouteBlock
from via6.prefix import AF_INET, AF_INET6, Address, Prefix

CHUNK: Final = 1 << 20  # octets of the file that are worked on at a time, about 20,000 lines
ONE_BY_ONE: Final = 256  # lines at the beginning of a file; each costs a system call of its own
_SHOWN: Final = 20  # refusals that are printed of one piece when the first one ends the run

_Key = tuple[str, str, str, bool]  # op, length as written, the words around, IPv6


@dataclass(slots=True)
class _Group:
    """Lines of one meaning, in the order of the file."""

    op: str
    template: Route
    destinations: list[Address]
    numbers: list[int]


class _Bad(Exception):  # noqa: N818 - a line of the fast path that must be read again, slowly
    pass


@dataclass(frozen=True, slots=True)
class Helpers:
    """What the lines need besides the kernel: `parse(op, words, family)` makes a route or raises Refusal, `guard(op,
    route)` raises Refusal for a route that must not be touched, `held` are the destinations for which it might,
    `explain(op, route, failure)` finds better words for a refusal, `sent(op, template, destinations)` hears of what
    went out."""

    parse: Callable[[str, Sequence[str], int], Route]
    guard: Callable[[str, Route], None]
    held: frozenset[Address]
    explain: Callable[[str, Route, Failure], str]
    sent: Callable[[str, Route, Sequence[Address]], None]


class Batch:
    """One run over a file. `family` is what -4 or -6 before the verb said, 0 if nothing."""

    def __init__(self, name: str, kernel: Kernel, helpers: Helpers, family: int = 0, force: bool = False) -> None:
        self._name = name
        self._kernel = kernel
        self._helpers = helpers
        self._family = family
        self._force = force
        self._templates: dict[_Key, tuple[str, Route]] = {}
        self._cells: dict[_Key, _Group] = {}  # of this piece; one group may be found under two spellings
        self._groups: list[_Group] = []
        self.failed = 0

    def run(self, pieces: Iterable[tuple[int, list[str]]]) -> int:
        """Carries out the lines; `pieces` are (number of the first line, lines). Returns the exit code."""
        for first, lines in pieces if self._force else graded(pieces):
            try:
                self._read(lines, first)
                self._check()
            except _Bad:
                self._cells, self._groups = {}, []
                self._read_slowly(lines, first)
            self._flush()
        return FAILED if self.failed else OK

    # --- reading ---------------------------------------------------------------------------------------------------

    def _read(self, lines: list[str], first: int) -> None:
        """The fast path. Raises _Bad for anything that is not plainly right."""
        cells = self._cells
        for number, line in enumerate(lines, first):
            try:
                word, op, prefix, rest = line.split(None, 3)
                address, _, length = prefix.partition("/")
                six = ":" in address
                group = cells[op, length, rest, six]
                packed = inet_pton(AF_INET6 if six else AF_INET, address)
            except (ValueError, KeyError, OSError):
                self._other(line, number)
                continue
            if word != "route":
                self._other(line, number)
                continue
            group.destinations.append(packed)
            group.numbers.append(number)

    def _other(self, line: str, number: int) -> None:
        """A line that is not `route OP PREFIX WORDS` with words seen before in this piece."""
        try:
            words = split_line(line)
            if not words:
                return
            op, words, family = heading(words, self._family)
        except Refusal:
            raise _Bad from None
        at = 1 if words[:1] == ["to"] else 0
        kind = words[at : at + 1] if words[at : at + 1] and words[at] in TYPES else []
        at += len(kind)
        if at >= len(words):
            raise _Bad
        address, _, length = words[at].partition("/")
        six = ":" in address
        key = (op, length, " ".join([*kind, *words[at + 1 :]]), six)
        try:
            packed = inet_pton(AF_INET6 if six else AF_INET, address)
            meaning = self._templates.get(key)
            if meaning is None:
                route = self._helpers.parse(OPS[op], words, family)
                if route.prefix.packed != packed:
                    raise _Bad
                meaning = self._templates[key] = (OPS[op], route.as_template())
        except (ValueError, OSError, Refusal):
            # `default`, `10/8`, a prefix behind the other words, or a mistake.
            self._one(op, words, family, number)
            return
        if family and six != (family == AF_INET6):
            raise _Bad
        group = self._cells.get(key)
        if group is None:
            group = self._cells[key] = _Group(*meaning, [], [])
            self._groups.append(group)
        raw = line.split(None, 3)
        if len(raw) == 4 and raw[0] == "route" and raw[2] == words[at]:
            self._cells[raw[1], length, raw[3], six] = group  # the next line spelled like this goes the fast way
        group.destinations.append(packed)
        group.numbers.append(number)

    def _one(self, op: str, words: list[str], family: int, number: int) -> None:
        """A line whose meaning is not remembered."""
        try:
            route = self._helpers.parse(OPS[op], words, family)
        except Refusal:
            raise _Bad from None
        self._groups.append(_Group(OPS[op], route.as_template(), [route.prefix.packed], [number]))

    def _check(self) -> None:
        """Host bits in any destination, or one that the daemon may hold: for all of a group at once."""
        held = self._helpers.held
        for group in self._groups:
            bits, length = len(group.template.prefix.packed) * 8, group.template.prefix.length
            if length < bits:
                rest = ((1 << (bits - length)) - 1).to_bytes(bits // 8, "big") * len(group.destinations)
                if int.from_bytes(b"".join(group.destinations), "big") & int.from_bytes(rest, "big"):
                    raise _Bad
            if held and group.op != "add" and not held.isdisjoint(group.destinations):
                raise _Bad

    def _read_slowly(self, lines: list[str], first: int) -> None:
        """Line by line; a wrong line ends the run unless -force was given, after those before it were carried out."""
        for number, line in enumerate(lines, first):
            try:
                words = split_line(line)
                if not words:
                    continue
                op, words, family = heading(words, self._family)
                route = self._helpers.parse(OPS[op], words, family)
            except Refusal as refusal:
                self._refuse(number, refusal)
                continue
            if op != "add" and route.prefix.packed in self._helpers.held:
                self._flush()  # the guard must see what the lines before did
                try:
                    self._helpers.guard(OPS[op], route)
                except Refusal as refusal:
                    self._refuse(number, refusal)
                    continue
            self._groups.append(_Group(OPS[op], route.as_template(), [route.prefix.packed], [number]))

    def _refuse(self, number: int, refusal: Refusal) -> None:
        """A line that cannot be carried out, found before the kernel saw it."""
        if self._force:
            self._complain(number, str(refusal))
            return
        self._flush()
        raise Refusal(f"{self._name}:{number}: {refusal.message}", refusal.remedy, refusal.code) from None

    # --- writing ---------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        groups, self._groups, self._cells = self._groups, [], {}
        if not groups:
            return
        groups = arranged(groups)
        plan = Plan(tuple(Burst(g.op, RouteBlock(g.template, g.destinations)) for g in groups))
        outcome = self._kernel.apply(plan)
        refused = self._refusals(groups, outcome.failures)
        for group in groups:
            self._helpers.sent(group.op, group.template, group.destinations)
        if outcome.overrun:
            raise Refusal(
                f"{self._name}: the kernel's answers were lost near line {groups[0].numbers[0]}",
                "`via6 route` shows what is there; `via6 route -force -batch` may be run again",
            )
        for number, text in refused[: None if self._force else _SHOWN]:
            self._complain(number, text)
        if refused and not self._force:
            last, count = max(g.numbers[-1] for g in groups), len(refused)
            shown = f" (the first {_SHOWN} are shown)" if count > _SHOWN else ""
            if sum(len(g.numbers) for g in groups) == 1:
                raise Refusal(
                    f"{self._name}: stopped at line {last}: those before were carried out, those behind were not",
                    "-force goes on after a refusal",
                )
            raise Refusal(
                f"{self._name}: the kernel refused {count} of the lines up to {last}{shown}; the others up to there "
                "were carried out, those behind were not",
                "-force goes on after a refusal",
            )

    def _complain(self, number: int, text: str) -> None:
        self.failed += 1
        print(f"via6: {self._name}:{number}: {text}", file=sys.stderr)

    def _refusals(self, groups: list[_Group], failures: Sequence[Failure]) -> list[tuple[int, str]]:
        """(line, what the kernel said), in the order of the file."""
        places: dict[int, dict[Address, list[int]]] = {}
        said: dict[tuple[int, int, str], str] = {}
        found = []
        for failure in failures:
            group = groups[failure.step]
            known = (failure.step, failure.errno, failure.text)
            destination = failure.destination or group.destinations[0]
            if known not in said:
                said[known] = self._helpers.explain(group.op, group.template.at(destination), failure)
            if failure.step not in places:
                at: dict[Address, list[int]] = {}
                for place, number in zip(group.destinations, group.numbers, strict=True):
                    at.setdefault(place, []).append(number)
                places[failure.step] = at
            # The same route twice: the first try went well, a later one was refused.
            numbers = places[failure.step].get(destination) or [group.numbers[0]]
            where = Prefix(destination, group.template.prefix.length)
            found.append((numbers.pop() if len(numbers) > 1 else numbers[0], f"{where}: {said[known]}"))
        return sorted(found)


def may_reorder(groups: Sequence[_Group]) -> bool:
    """True if the groups may leave one after the other though their lines were mixed (see the module's text)."""
    if len(groups) == 1:
        return True
    if len({g.op for g in groups}) > 1 or groups[0].op == "delete":
        return False
    hops = [hop for g in groups for hop in g.template.next_hops]
    if not all(hop.ifindex for hop in hops) and any(hop.via is None for hop in hops):
        return False  # a route to a link may be what the next hop of another line is reached by
    slots: dict[tuple[int, int, int], list[list[Address]]] = {}
    for group in groups:
        prefix = group.template.prefix
        slots.setdefault((prefix.family, prefix.length, group.template.table), []).append(group.destinations)
    return all(len(set().union(*cells)) == sum(map(len, map(set, cells))) for cells in slots.values() if len(cells) > 1)


def arranged(groups: Sequence[_Group]) -> list[_Group]:
    """The same lines in an order that leaves what the order of the file leaves, in as few runs as can be."""
    if may_reorder(groups):
        return list(groups)
    rows = sorted((n, i, d) for i, g in enumerate(groups) for n, d in zip(g.numbers, g.destinations, strict=True))
    out: list[_Group] = []
    for _op, stretch in groupby(rows, key=lambda row: groups[row[1]].op):
        rows = list(stretch)
        mixed = _gathered(groups, rows, apart=False)
        out += mixed if may_reorder(mixed) else _gathered(groups, rows, apart=True)
    return out


def _gathered(groups: Sequence[_Group], rows: Sequence[tuple[int, int, Address]], apart: bool) -> list[_Group]:
    """(line, group, destination) rows as groups again; `apart`: only those that stand together."""
    made: list[_Group] = []
    open_: dict[int, _Group] = {}
    for number, index, destination in rows:
        if index not in open_:
            if apart:
                open_.clear()
            open_[index] = _Group(groups[index].op, groups[index].template, [], [])
            made.append(open_[index])
        open_[index].destinations.append(destination)
        open_[index].numbers.append(number)
    return made


def split_line(line: str) -> list[str]:
    """Words of a line; quotes hold blanks together, as in `ip -batch`."""
    if '"' in line or "'" in line:
        import shlex

        try:
            return shlex.split(line)
        except ValueError as error:
            raise Refusal(f"{error} in {line.strip()!r}") from None
    return line.split()


def heading(words: list[str], family: int) -> tuple[str, list[str], int]:
    """(op, the words behind it, family) of `[-4|-6] route add …`; raises Refusal for any other command."""
    at = 0
    while at < len(words) and words[at] in ("-4", "-6"):
        family = AF_INET if words[at] == "-4" else AF_INET6
        at += 1
    if at >= len(words) or not "route".startswith(words[at]):
        raise Refusal(f"{' '.join(words[:2])!r} is no route command", "`ip -batch` carries out other lines than routes")
    op = words[at + 1] if at + 1 < len(words) else ""
    found = [name for name in ("add", "replace", "delete") if op and name.startswith(op)]
    if len(found) != 1:
        raise Refusal(f"'route {op}' is not for a batch", "lines say route add, route replace or route del")
    return found[0], words[at + 2 :], family


def pieces(descriptor: int, size: int = CHUNK) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, lines) as they arrive on a descriptor: whole lines, comments cut off, a line that
    goes on behind a backslash put together (and empty lines in the place of the others, so that numbers stay true)."""
    number, rest = 1, b""
    while True:
        data = os.read(descriptor, size)
        block = rest + data
        end = len(block) if not data else block.rfind(b"\n") + 1
        while data and block[:end].endswith(b"\\\n"):
            end = block.rfind(b"\n", 0, end - 1) + 1
        text, rest = block[:end].decode("utf-8", "surrogateescape"), block[end:]
        lines = text.split("\n")
        if not lines[-1]:
            lines.pop()
        if "#" in text:
            lines = [line.partition("#")[0] for line in lines]
        if "\\\n" in text:
            _join(lines)
        if lines:
            yield number, lines
            number += len(lines)
        if not data:
            return


def graded(found: Iterable[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    """The pieces with the first ONE_BY_ONE lines each on its own."""
    for first, lines in found:
        single = max(0, min(len(lines), ONE_BY_ONE + 1 - first))
        for number, line in enumerate(lines[:single], first):
            yield number, [line]
        if lines[single:]:
            yield first + single, lines[single:]


def _join(lines: list[str]) -> None:
    for at in range(len(lines) - 1, 0, -1):
        if lines[at - 1].endswith("\\"):
            lines[at - 1] = f"{lines[at - 1][:-1]} {lines[at]}"
            lines[at] = ""
