"""From the octets of a configuration file to tables of the right shape, with the place of every mistake.

tomllib stops at the first fault and tells no lines for values; msgspec tells one fault per table. A person who mends
a file wants all of them at once, so both are asked piecewise, and only where it is needed:

- a file with a syntax error is cut at its `[[route]]` headers and each piece is parsed alone; the pieces that
  parse go on to the later checks, the others tell one syntax error each;
- tables are converted in one go, which is quick; when that fails, key by key;
- lines are found by a light scan for the n-th `[[route]]` header and for `key =` behind it. The scan is fooled by a
  header inside a multi-line string and knows nothing of `route = [{...}]`; then a place has no line, or a near one.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Final

import msgspec

MAX_OCTETS: Final = 64 << 20
"""Larger files are refused: a table of a million routes is about as large."""

# tomllib takes time with the square of the parts of a dotted key: 16 KB of `a.a.a...` cost a second.
_ENDLESS_KEY: Final = re.compile(r"""\.[ \t]*(?:[\w"'-]+[ \t]*\.[ \t]*){100}""")
_HEADER: Final = re.compile(r"""^[ \t]*\[\[[ \t]*["']?route["']?[ \t]*\]\]""", re.MULTILINE)
_SYNTAX: Final = re.compile(r"(.*?) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: `place` is a path such as `route[3].via` ('' for the whole file), counted from 0 as in JSON;
    `line` counts from 1 (0: not known). A warning does not keep the file from being used."""

    place: str
    message: str
    remedy: str
    line: int = 0
    severity: str = "error"
    file: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(filter(None, (where, self.place, self.message)))


class HopTable(msgspec.Struct, forbid_unknown_fields=True):
    """`{via=, dev=, weight=}` inside a list of next hops."""

    via: str | None = None
    dev: str | None = None
    weight: int = 1


class RouteTable(msgspec.Struct, forbid_unknown_fields=True):
    """One `[[route]]` as written."""

    to: str | list[str]
    via: str | HopTable | list[str | HopTable | None] | None = None  # None inside: an element of bad shape
    dev: str | None = None
    src: str | None = None
    metric: int | None = None
    table: int | str | None = None
    type: str = "unicast"
    mtu: int | None = None


@dataclass(frozen=True, slots=True)
class RawRoute:
    """A route table of good shape; `bad` names the keys that were left out because their shape was wrong."""

    index: int
    table: RouteTable
    bad: frozenset[str]


@dataclass(frozen=True)
class Document:
    """What could be read, and what could not."""

    routes: tuple[RawRoute, ...]
    problems: tuple[Problem, ...]
    lines: Lines


class Lines:
    """Where things stand in the text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.headers: list[int] = [match.start() for match in _HEADER.finditer(text)]

    @cached_property
    def _newlines(self) -> list[int]:
        return [match.start() for match in re.finditer("\n", self._text)]

    def at(self, offset: int) -> int:
        """The line of an offset, from 1."""
        return bisect_right(self._newlines, offset - 1) + 1

    def header(self, index: int) -> int:
        """The line of the n-th `[[route]]`, 0 if there is none."""
        return self.at(self.headers[index]) if index < len(self.headers) else 0

    def key(self, index: int, key: str) -> int:
        """The line of a key of the n-th route, else that of its header."""
        if index >= len(self.headers):
            return 0
        end = self.headers[index + 1] if index + 1 < len(self.headers) else len(self._text)
        pattern = re.compile(rf"""^[ \t]*(["']?){re.escape(key)}\1[ \t]*[.=]""", re.MULTILINE)
        found = pattern.search(self._text, self.headers[index], end)
        return self.at(found.start()) if found else self.header(index)

    def top(self, key: str) -> int:
        """The line of a key or table header at the top level, 0 if there is none."""
        pattern = rf"""^[ \t]*\[{{0,2}}[ \t]*(["']?){re.escape(key)}\1[ \t]*[\].=]"""
        found = re.search(pattern, self._text, re.MULTILINE)
        return self.at(found.start()) if found else 0


_FIELDS: Final[dict[str, Any]] = {f.name: f.type for f in msgspec.structs.fields(RouteTable)}
_HOP_FIELDS: Final[dict[str, Any]] = {f.name: f.type for f in msgspec.structs.fields(HopTable)}
_WANTED: Final = {
    "to": 'a prefix in quotes, or a list of them: to = "10.0.0.0/8"',
    "via": 'an address in quotes, or a list: via = "fe80::1%eth1"',
    "dev": 'the name of a device in quotes: dev = "eth1"',
    "src": 'an address in quotes: src = "10.0.8.42"',
    "metric": "a number without quotes: metric = 100",
    "table": "a number without quotes: table = 100",
    "type": 'a word in quotes: type = "blackhole"',
    "mtu": "a number without quotes: mtu = 1400",
    "weight": "a number without quotes: weight = 2",
}
_ALIASES: Final = {
    "gateway": "via", "gw": "via", "nexthop": "via", "next_hop": "via", "destination": "to", "prefix": "to",
    "dst": "to", "device": "dev", "interface": "dev", "oif": "dev", "source": "src", "priority": "metric",
}  # fmt: skip
_NOUNS: Final = ((bool, "true or false"), (int, "a number"), (float, "a decimal number"), (str, "a text"),
                 (list, "a list"), (dict, "a table"))  # fmt: skip


def _noun(value: object) -> str:
    return next((noun for kind, noun in _NOUNS if isinstance(value, kind)), "a date or time")


def _unknown(key: str, known: Mapping[str, Any]) -> tuple[str, str]:
    """Message and remedy."""
    if key == "weight":
        remedy = 'a weight belongs to one of several next hops: via = [{via = "fe80::1%eth1", weight = 2}, ...]'
    else:
        near = [_ALIASES[key]] if _ALIASES.get(key) in known else get_close_matches(key[:64], known, 1)
        remedy = f"did you mean {near[0]!r}?" if near else "known keys: " + ", ".join(known)
    return f"unknown key {key!r}", remedy


def _fits(value: object, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError):
        return False
    return True


def _hop_faults(place: str, hops: object) -> list[tuple[str, str, str, str]]:
    """Faults inside the value of `via`, element by element."""
    found: list[tuple[str, str, str, str]] = []
    elements = [(f"{place}[{i}]", hop) for i, hop in enumerate(hops)] if isinstance(hops, list) else [(place, hops)]
    for at, hop in elements:
        if isinstance(hop, dict):
            for key, value in hop.items():
                if key not in _HOP_FIELDS:
                    found.append((f"{at}.{key}", "via", *_unknown(key, _HOP_FIELDS)))
                elif not _fits(value, _HOP_FIELDS[key]):
                    found.append((f"{at}.{key}", "via", f"is {_noun(value)}", f"wanted: {_WANTED[key]}"))
        elif not isinstance(hop, str):
            found.append((at, "via", f"is {_noun(hop)}", f"wanted: {_WANTED['via']}"))
    return found


def _faults(index: int, table: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(place, key to find the line by, message, remedy) of each fault of shape in one route."""
    place = f"route[{index}]"
    found: list[tuple[str, str, str, str]] = []
    for key, value in table.items():
        if key not in _FIELDS:
            found.append((f"{place}.{key}", key, *_unknown(key, _FIELDS)))
        elif not _fits(value, _FIELDS[key]):
            inner = _hop_faults(f"{place}.via", value) if key == "via" else []
            found += inner or [(f"{place}.{key}", key, f"is {_noun(value)}", f"wanted: {_WANTED[key]}")]
    if "to" not in table:
        found.append((place, "", "has no `to`", f"say where the route leads: {_WANTED['to'].rpartition(': ')[2]}"))
    return found


def _shape_one(index: int, table: object, lines: Lines, problems: list[Problem]) -> RawRoute | None:
    """A route key by key: its faults are told, the rest of it is kept for the checks of meaning."""
    if not isinstance(table, dict):
        problems.append(
            Problem(f"route[{index}]", f"is {_noun(table)}, not a table", "write [[route]]", lines.header(index))
        )
        return None
    try:
        return RawRoute(index, msgspec.convert(table, RouteTable), frozenset())
    except (msgspec.ValidationError, RecursionError):
        pass
    faults = _faults(index, table)
    for place, key, message, remedy in faults:
        problems.append(Problem(place, message, remedy, lines.key(index, key) if key else lines.header(index)))
    good = {k: v for k, v in table.items() if k in _FIELDS and _fits(v, _FIELDS[k])}
    if isinstance(table.get("via"), list) and table["via"]:
        good["via"] = [hop if _fits(hop, str | HopTable) else None for hop in table["via"]]
    bad = frozenset(_FIELDS) & frozenset(k for k in table if k not in good) | ({"to"} - good.keys())
    return RawRoute(index, msgspec.convert({"to": []} | good, RouteTable), bad)


def _shapes(tables: list[Any], lines: Lines, problems: list[Problem]) -> tuple[RawRoute, ...]:
    try:
        shaped = msgspec.convert(tables, list[RouteTable])
    except (msgspec.ValidationError, RecursionError):
        found = (_shape_one(i, table, lines, problems) for i, table in enumerate(tables))
        return tuple(route for route in found if route)
    none: frozenset[str] = frozenset()
    return tuple(RawRoute(i, table, none) for i, table in enumerate(shaped))


def _syntax(error: Exception, lines: Lines, first_line: int, last_offset: int) -> Problem:
    """A tomllib error of a piece that starts at `first_line` and ends at `last_offset`."""
    if isinstance(error, RecursionError):
        return Problem("", "lists or tables are nested too deep", "a route needs one level: [[route]]", first_line)
    found = _SYNTAX.match(str(error))
    message = f"TOML: {found[1] if found else error}"
    line = lines.at(last_offset)
    if found and found[2]:
        line = first_line + int(found[2]) - 1
        message += f" (column {found[3]})"
    elif not found:
        line = first_line
    return Problem("", message, _syntax_remedy(message), line)


def _syntax_remedy(message: str) -> str:
    if "overwrite" in message.lower():
        return "a key or table stands twice: keep one; a further route begins with its own [[route]]"
    if "Invalid value" in message or "Expected newline" in message:
        return 'texts stand in quotes: via = "fe80::1%eth1"'
    return 'a line is a header [[route]], a pair key = "text" or key = number, or a # comment'


def _load(text: str) -> dict[str, Any] | RecursionError | ValueError:
    """tomllib raises ValueError itself for numbers of thousands of digits, RecursionError for deep nesting."""
    try:
        return tomllib.loads(text)
    except (RecursionError, ValueError) as error:
        return error.with_traceback(None)


def _piecewise(text: str, whole: Exception, lines: Lines, problems: list[Problem]) -> dict[str, Any]:
    """What can be saved of a file with syntax errors. `problems` gets one per bad piece; the routes keep their place
    in the order of headers (a bad piece leaves a hole: None)."""
    top: dict[str, Any] = {}
    routes: list[Any] = []
    cuts = [*lines.headers, len(text)]
    for number, (start, end) in enumerate(zip([0, *lines.headers], cuts, strict=True)):
        loaded = _load(text[start:end])
        if isinstance(loaded, Exception):
            problems.append(_syntax(loaded, lines, lines.at(start), max(end - 1, 0)))
            loaded = {"route": [None]} if number else {}
        if number == 0:
            top = loaded
        else:
            # Sub-tables behind the route ([node] ...) come back in the piece of the route they follow.
            routes.append(loaded.pop("route")[0])
            top = loaded | top
    if not problems:  # the pieces agree with TOML, the whole does not: a table defined twice, for one
        problems.append(_syntax(whole, lines, 1, max(len(text) - 1, 0)))
    if routes:
        top["route"] = routes
    return top


def _tables(top: dict[str, Any], lines: Lines, problems: list[Problem]) -> list[Any]:
    """The value of `route`; everything else at the top is unknown."""
    for key in top:
        if key != "route":
            near = key == "routes" or get_close_matches(key[:64], ["route"], 1)
            remedy = "did you mean [[route]]?" if near or key in _FIELDS else "known tables: [[route]]"
            problems.append(Problem(key, f"unknown table or key {key!r}", remedy, lines.top(key)))
    tables = top.get("route", [])
    if isinstance(tables, list):
        return tables
    remedy = "write [[route]] with two brackets: there may be several"
    problems.append(Problem("route", f"is {_noun(tables)}, not a list of tables", remedy, lines.top("route")))
    return []


def _decode(data: bytes) -> str | Problem:
    if len(data) > MAX_OCTETS:
        return Problem("", f"is larger than {MAX_OCTETS >> 20} MB", "is it a configuration? else split it")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return Problem("", "is UTF-16", "save it as UTF-8: iconv -f UTF-16 -t UTF-8", 1)
    if data[:3] == b"\xef\xbb\xbf":
        return Problem("", "begins with a byte order mark", "save it as UTF-8 without BOM", 1)
    try:
        text = data.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"is not UTF-8: octet 0x{data[error.start]:02x} at offset {error.start}"
        return Problem("", message, "save it as UTF-8: iconv -f ISO-8859-1 -t UTF-8", line)
    endless = _ENDLESS_KEY.search(text)
    if endless:
        line = text.count("\n", 0, endless.start()) + 1
        return Problem("", "a dotted key has more than 100 parts", "keys of via6 have one part", line)
    return text


def read(data: bytes) -> Document:
    """Never raises: what is wrong is in `problems` (without the file's name)."""
    text = _decode(data)
    if isinstance(text, Problem):
        return Document((), (text,), Lines(""))
    lines = Lines(text)
    problems: list[Problem] = []
    loaded = _load(text)
    if isinstance(loaded, Exception):
        loaded = _piecewise(text, loaded, lines, problems)
    tables = _tables(loaded, lines, problems)
    if len(tables) != len(lines.headers):
        lines.headers = []  # route = [{...}], or a header in a string: better no line than a wrong one
    if None in tables:
        holes = {i for i, table in enumerate(tables) if table is None}
        found = (_shape_one(i, t, lines, problems) for i, t in enumerate(tables) if i not in holes)
        return Document(tuple(r for r in found if r), tuple(problems), lines)
    return Document(_shapes(tables, lines, problems), tuple(problems), lines)
