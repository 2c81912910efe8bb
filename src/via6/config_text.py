"""From the octets of a configuration file to tables of the right shape, with the place of every mistake.

tomllib stops at the first fault and tells no lines for values; msgspec tells one fault per table. A person who mends
a file wants all of them at once, so both are asked piecewise, and only where it is needed:

- a file with a syntax error is cut at its headers and each piece is parsed alone; the pieces that parse go on to the
  later checks, the others tell one syntax error each;
- tables are converted in one go, which is quick; when that fails, key by key;
- lines are found by a light scan for the n-th `[[route]]` (or other) header and for `key =` behind it. The scan is
  fooled by a header inside a multi-line string and knows nothing of `route = [{...}]`; then a place has no line, or a
  near one.

The other tables (`TABLES`) are few: they are handed on as they are, for `config_tables`.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property, lru_cache
from typing import Any, Final

import msgspec

MAX_OCTETS: Final = 64 << 20
"""Larger files are refused: a table of a million routes is about as large."""

# tomllib takes time with the square of the parts of a dotted key: 16 KB of `a.a.a...` cost a second.
_ENDLESS_KEY: Final = re.compile(r"""\.[ \t]*(?:[\w"'-]+[ \t]*\.[ \t]*){100}""")
_HEADER: Final = re.compile(r"""^[ \t]*\[\[[ \t]*["']?route["']?[ \t]*\]\]""", re.MULTILINE)
_ANY_HEADER: Final = re.compile(
    r"""^[ \t]*(\[\[?)((?:"[^"\n]*"|'[^'\n]*'|[^\n\[\]"'#])+)\]\]?[ \t]*(?:#.*)?$""", re.MULTILINE
)
_PART: Final = re.compile(r"""["']([^"'\n]*)["']|([^\s."']+)""")
_SYNTAX: Final = re.compile(r"(.*?) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)


TABLES: Final = {
    "route": "[[route]]", "node": "[node]", "babel": "[babel]", "gateway": "[gateway]", "host": "[[host]]",
    "trace": "[trace]",
}  # fmt: skip
"""What may stand at the top of a file, and how it is written."""


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
    """What could be read, and what could not. `tables` are those but `route`, `spoiled` the headers (their parts)
    behind which stands a syntax error."""

    routes: tuple[RawRoute, ...]
    problems: tuple[Problem, ...]
    lines: Lines
    tables: Mapping[str, Any] = field(default_factory=dict)
    spoiled: frozenset[tuple[str, ...]] = frozenset()


class Lines:
    """Where things stand in the text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._found: dict[tuple[tuple[str, ...], int, str], int] = {}
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
        return self._key(self.headers[index], end, key) or self.header(index)

    def _key(self, start: int, end: int, key: str) -> int:
        pattern = re.compile(rf"""^[ \t]*(["']?){re.escape(key)}\1[ \t]*[.=]""", re.MULTILINE)
        found = pattern.search(self._text, start, end)
        return self.at(found.start()) if found else 0

    def top(self, key: str) -> int:
        """The line of a key or table header at the top level, 0 if there is none."""
        pattern = rf"""^[ \t]*\[{{0,2}}[ \t]*(["']?){re.escape(key)}\1[ \t]*[\].=]"""
        found = re.search(pattern, self._text, re.MULTILINE)
        return self.at(found.start()) if found else 0

    @cached_property
    def every(self) -> list[tuple[int, bool, tuple[str, ...]]]:
        """All headers: offset, whether it has two brackets, its parts."""
        return [(m.start(), m[1] == "[[", header_parts(m[2])) for m in _ANY_HEADER.finditer(self._text)]

    @cached_property
    def _by_parts(self) -> dict[tuple[str, ...], list[int]]:
        found: dict[tuple[str, ...], list[int]] = {}
        for at, (_, _, parts) in enumerate(self.every):
            found.setdefault(parts, []).append(at)
        return found

    def find(self, parts: tuple[str, ...], index: int, key: str = "") -> int:
        """The line of a key below the n-th header of these parts, else that of the header, else of the table that the
        table is in; 0 if none is found."""
        known = self._found.get((parts, index, key))
        if known is None:
            known = self._found[parts, index, key] = self._find(parts, index, key)
        return known

    def _find(self, parts: tuple[str, ...], index: int, key: str) -> int:
        if not parts:
            return self.top(key)
        places = self._by_parts.get(parts, [])
        if index >= len(places):
            return self.find(parts[:-1], 0, parts[-1])
        start = self.every[places[index]][0]
        end = self.every[places[index] + 1][0] if places[index] + 1 < len(self.every) else len(self._text)
        return (self._key(start, end, key) if key else 0) or self.at(start)


def header_parts(text: str) -> tuple[str, ...]:
    """`babel.interface."eth*"` -> its three parts."""
    return tuple(quoted or bare for quoted, bare in _PART.findall(text))


@lru_cache(4096)
def device_fault(name: str) -> str:
    """Why the kernel could have no device of this name (dev_valid_name, net/core/dev.c); '' if it could."""
    if not name:
        return "the device name is empty"
    if len(name.encode(errors="surrogateescape")) > 15:
        return f"{name!r} is no device name: longer than 15 octets"
    if name in (".", "..") or any(c in "/:" or c.isspace() or not c.isprintable() for c in name):
        return f"{name!r} is no device name: '/', ':', blanks and control characters cannot be in one"
    return ""


def short(value: int) -> str:
    """Python refuses to write numbers of thousands of digits, which TOML can give in hexadecimal."""
    return str(value) if abs(value) < 10**20 else "of many digits"


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


def noun(value: object) -> str:
    """What a value of a TOML file is, in a word."""
    return next((noun for kind, noun in _NOUNS if isinstance(value, kind)), "a date or time")


def unknown(key: str, known: Mapping[str, Any], aliases: Mapping[str, str] = _ALIASES) -> tuple[str, str]:
    """Message and remedy for a key that is not among those `known`."""
    if key == "weight" and aliases is _ALIASES:
        remedy = 'a weight belongs to one of several next hops: via = [{via = "fe80::1%eth1", weight = 2}, ...]'
    else:
        near = [aliases[key]] if aliases.get(key) in known else get_close_matches(key[:64], known, 1)
        remedy = f"did you mean {near[0]!r}?" if near else "known keys: " + ", ".join(known)
    return f"unknown key {key!r}", remedy


def fits(value: object, kind: Any) -> bool:
    """It has the type."""
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
                    found.append((f"{at}.{key}", "via", *unknown(key, _HOP_FIELDS)))
                elif not fits(value, _HOP_FIELDS[key]):
                    found.append((f"{at}.{key}", "via", f"is {noun(value)}", f"wanted: {_WANTED[key]}"))
        elif not isinstance(hop, str):
            found.append((at, "via", f"is {noun(hop)}", f"wanted: {_WANTED['via']}"))
    return found


def _faults(index: int, table: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(place, key to find the line by, message, remedy) of each fault of shape in one route."""
    place = f"route[{index}]"
    found: list[tuple[str, str, str, str]] = []
    for key, value in table.items():
        if key not in _FIELDS:
            found.append((f"{place}.{key}", key, *unknown(key, _FIELDS)))
        elif not fits(value, _FIELDS[key]):
            inner = _hop_faults(f"{place}.via", value) if key == "via" else []
            found += inner or [(f"{place}.{key}", key, f"is {noun(value)}", f"wanted: {_WANTED[key]}")]
    if "to" not in table:
        found.append((place, "", "has no `to`", f"say where the route leads: {_WANTED['to'].rpartition(': ')[2]}"))
    return found


def _shape_one(index: int, table: object, lines: Lines, problems: list[Problem]) -> RawRoute | None:
    """A route key by key: its faults are told, the rest of it is kept for the checks of meaning."""
    if not isinstance(table, dict):
        problems.append(
            Problem(f"route[{index}]", f"is {noun(table)}, not a table", "write [[route]]", lines.header(index))
        )
        return None
    try:
        return RawRoute(index, msgspec.convert(table, RouteTable), frozenset())
    except (msgspec.ValidationError, RecursionError):
        pass
    faults = _faults(index, table)
    for place, key, message, remedy in faults:
        problems.append(Problem(place, message, remedy, lines.key(index, key) if key else lines.header(index)))
    good = {k: v for k, v in table.items() if k in _FIELDS and fits(v, _FIELDS[k])}
    if isinstance(table.get("via"), list) and table["via"]:
        good["via"] = [hop if fits(hop, str | HopTable) else None for hop in table["via"]]
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
    if "table declaration" in message:
        return 'a name with other characters than letters, digits, - and _ stands in quotes: [babel.interface."eth*"]'
    if "Invalid value" in message or "Expected newline" in message:
        return 'texts stand in quotes: via = "fe80::1%eth1"'
    return 'a line is a header [[route]], a pair key = "text" or key = number, or a # comment'


def _load(text: str) -> dict[str, Any] | RecursionError | ValueError:
    """tomllib raises ValueError itself for numbers of thousands of digits, RecursionError for deep nesting."""
    try:
        return tomllib.loads(text)
    except (RecursionError, ValueError) as error:
        return error.with_traceback(None)


def _merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    """Adds what a later piece of the file says, as TOML would: tables flow together, [[tables]] line up, and a table
    below a [[table]] belongs to the last of these."""
    for key, value in more.items():
        old = into.get(key)
        if isinstance(old, list) and isinstance(value, list):
            old += value
        elif isinstance(old, list) and old and isinstance(old[-1], dict) and isinstance(value, dict):
            _merge(old[-1], value)
        elif isinstance(old, dict) and isinstance(value, dict):
            _merge(old, value)
        else:
            into.setdefault(key, value)


def _hole(parts: tuple[str, ...]) -> dict[str, Any]:
    """Keeps the place of a [[table]] that could not be read."""
    made: Any = [None]
    for part in reversed(parts):
        made = {part: made}
    return dict(made)


def _piecewise(
    text: str, whole: Exception, lines: Lines, problems: list[Problem]
) -> tuple[dict[str, Any], frozenset[tuple[str, ...]]]:
    """What can be saved of a file with syntax errors, and the headers of what could not be. `problems`
    gets one per bad piece; [[tables]] keep their place (a bad piece leaves a hole: None)."""
    top: dict[str, Any] = {}
    spoiled: set[tuple[str, ...]] = set()
    headers = [(0, False, ()), *lines.every]
    ends = [*(start for start, _, _ in lines.every), len(text)]
    for (start, double, parts), end in zip(headers, ends, strict=True):
        loaded = _load(text[start:end])
        if not isinstance(loaded, Exception):
            _merge(top, loaded)
            continue
        problems.append(_syntax(loaded, lines, lines.at(start), max(end - 1, 0)))
        if double and parts:
            _merge(top, _hole(parts))
        if parts:
            spoiled.add(parts)
    if not problems:  # the pieces agree with TOML, the whole does not: a table defined twice, for one
        problems.append(_syntax(whole, lines, 1, max(len(text) - 1, 0)))
    return top, frozenset(spoiled)


def _tables(top: dict[str, Any], lines: Lines, problems: list[Problem]) -> list[Any]:
    """The value of `route`; what is not in TABLES is unknown."""
    for key in top:
        if key not in TABLES:
            near = get_close_matches(key[:64], TABLES, 1) or (["route"] if key in _FIELDS else [])
            remedy = f"did you mean {TABLES[near[0]]}?" if near else "known tables: " + ", ".join(TABLES.values())
            problems.append(Problem(key, f"unknown table or key {key!r}", remedy, lines.top(key)))
    tables = top.get("route", [])
    if isinstance(tables, list):
        return tables
    remedy = "write [[route]] with two brackets: there may be several"
    problems.append(Problem("route", f"is {noun(tables)}, not a list of tables", remedy, lines.top("route")))
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
        return Problem("", "a dotted key has more than 100 parts", "keys of via6 have one part, or three", line)
    return text


def read(data: bytes) -> Document:
    """Never raises: what is wrong is in `problems` (without the file's name)."""
    text = _decode(data)
    if isinstance(text, Problem):
        return Document((), (text,), Lines(""))
    lines = Lines(text)
    problems: list[Problem] = []
    loaded = _load(text)
    spoiled: frozenset[tuple[str, ...]] = frozenset()
    if isinstance(loaded, Exception):
        loaded, spoiled = _piecewise(text, loaded, lines, problems)
    tables = _tables(loaded, lines, problems)
    others = {key: value for key, value in loaded.items() if key in TABLES and key != "route"}
    if len(tables) != len(lines.headers):
        lines.headers = []  # route = [{...}], or a header in a string: better no line than a wrong one
    if None in tables:
        holes = {i for i, table in enumerate(tables) if table is None}
        found = (_shape_one(i, t, lines, problems) for i, t in enumerate(tables) if i not in holes)
        return Document(tuple(r for r in found if r), tuple(problems), lines, others, spoiled)
    return Document(_shapes(tables, lines, problems), tuple(problems), lines, others, spoiled)
