"""The JSON values of `observe.babel` as lines of text. Pure, and it imports nothing: the command line shall be quick.

One object, one line, words as `ip` has them. The head of a route's line pastes behind `ip route add`; what only Babel
knows of it follows `#`, which a shell passes over. An IPv4 default route is 0.0.0.0/0, because `ip` reads
`default via inet6 …` as an IPv6 route. Columns are aligned within the first some thousand lines, and those are sorted:
a table of a million routes must not be held for its looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, zip_longest
from typing import Any, Final

Json = Mapping[str, Any]
Colour = Callable[[str, str], str]
Cell = tuple[str, str]
"""(what kind of thing it is, for colours: inet, inet6, dev, good, bad or nothing; text)"""

ALIGNED: Final = 4096
_INFINITY: Final = 0xFFFF
_MARKS: Final = {"add": "+", "change": "~", "remove": "-"}
_ORDER: Final = {"own": 0, "selected": 1, "backup": 2, "feasible": 3, "unfeasible": 4, "retracted": 5}


def cost_text(cost: int) -> str:
    """A cost or metric; `inf` for Babel's infinity."""
    return "inf" if cost >= _INFINITY else str(cost)


def time_text(seconds: float) -> str:
    """`12s`, `3m05s`, `2h07m`, `4d03h`."""
    whole = max(int(seconds), 0)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole // 60 % 60:02}m"
    return f"{whole // 86400}d{whole // 3600 % 24:02}h"


def _family(address: str) -> str:
    return "inet6" if ":" in address else "inet"


def _address(address: str) -> Cell:
    return _family(address), address


# --- one object ----------------------------------------------------------------------------------------------------


def _neighbour(row: Json, brief: bool) -> list[Cell]:
    dead = "bad" if row["cost"] >= _INFINITY else ""
    if brief:
        return [("dev", row["interface"]), _address(row["address"]), (dead, cost_text(row["cost"])), ("", row["reach"])]
    return [
        _address(row["address"]),
        ("dev", f"dev {row['interface']}"),
        ("", f"reach {row['reach'] or '-'}"),
        ("", f"rxcost {cost_text(row['rxcost'])}"),
        ("", f"txcost {cost_text(row['txcost'])}"),
        (dead, f"cost {cost_text(row['cost'])}"),
        ("", f"hello {row['hello_interval_ms']} ms"),
        ("", f"routes {row['routes']}"),
        ("good", "authenticated" if row["authenticated"] else ""),
    ]


def _interface(row: Json, brief: bool) -> list[Cell]:
    state = ("good", "up") if row["up"] else ("bad", "down")
    address = _address(row["address"]) if row["address"] != _NONE else ("bad", "no link-local address")
    if brief:
        return [("dev", row["interface"]), state, address, ("", str(row["neighbours"]))]
    return [
        ("dev", row["interface"]),
        state,
        address,
        ("", f"cost {row['cost']}"),
        ("", f"hello {row['hello_interval_ms']} ms"),
        ("", f"neighbours {row['neighbours']}"),
        ("", f"in {row['packets_in']}"),
        ("", f"out {row['packets_out']}"),
        ("bad" if row["packets_bad"] else "", f"bad {row['packets_bad']}"),
        ("", f"keys {','.join(row['keys'])}" if row["keys"] else "no key"),
        *(("bad", f"rejects {one['address']} ({one['reason']})") for one in row.get("rejected", ())),
    ]


def _route(row: Json, brief: bool) -> list[Cell]:
    prefix, hop, state = row["prefix"], row["next_hop"], row["state"]
    look = {"own": "good", "selected": "good", "unfeasible": "bad", "retracted": "bad"}.get(state, "")
    if brief:
        return [
            _address(prefix),
            _address(hop or "-"),
            ("dev", row["interface"] or "-"),
            (look, state),
            ("", cost_text(row["metric"])),
        ]
    via = "" if hop is None else f"via {hop}" if _family(hop) == _family(prefix) else f"via {_family(hop)} {hop}"
    behind = row["neighbour"]
    return [
        _address(prefix),
        (_family(hop or ""), via),
        ("dev", f"dev {row['interface']}" if row["interface"] else ""),
        (look, f"# {state}"),
        ("", f"metric {cost_text(row['metric'])}"),
        ("", f"advertised {cost_text(row['advertised'])}" if behind is not None else ""),
        ("", f"seqno {row['seqno']}"),
        ("", f"router-id {row['router_id'] or '-'}"),
        ("", f"age {time_text(row['age_s'])}"),
        ("", f"from {behind}" if behind not in (None, hop) else ""),
    ]


def _source(row: Json, brief: bool) -> list[Cell]:
    cells = [_address(row["prefix"])]
    if brief:
        return [*cells, ("", row["router_id"]), ("", str(row["seqno"])), ("", cost_text(row["metric"]))]
    return [
        *cells,
        ("", f"router-id {row['router_id']}"),
        ("", f"seqno {row['seqno']}"),
        ("", f"metric {cost_text(row['metric'])}"),
        ("", f"age {time_text(row['age_s'])}"),
    ]


_NONE: Final = "::"
_CELLS: Final = {"neighbour": _neighbour, "interface": _interface, "route": _route, "source": _source}


def cells(kind: str, row: Json, brief: bool = False) -> list[Cell]:
    """The columns of one object; an empty text where it has nothing to say."""
    return _CELLS[kind](row, brief)


# --- many ----------------------------------------------------------------------------------------------------------


def _by_prefix(row: Json) -> tuple[Any, ...]:
    from via6.prefix import parse_address

    address, _, length = row["prefix"].partition("/")
    packed = parse_address(address)
    rest = (_ORDER.get(row["state"], 9), row["metric"]) if "state" in row else ()
    return len(packed), packed, -int(length), *rest, row.get("interface") or "", row["router_id"]


def in_order(kind: str, rows: list[Json]) -> list[Json]:
    """Sorted as a reader looks for them: by interface, or by prefix with what is in use first."""
    if kind in ("route", "source"):
        return sorted(rows, key=_by_prefix)
    return sorted(rows, key=lambda row: (row["interface"], row.get("address", "")))


def _join(row: Sequence[Cell], widths: Sequence[int], colour: Colour | None) -> str:
    last = max((at for at, (_, text) in enumerate(row) if text), default=0)
    made = []
    for at, (kind, text) in enumerate(row[: last + 1]):
        gap = "" if at == last else " " * (widths[at] - len(text))
        made.append((colour(kind, text) if colour and text else text) + gap)
    # A column that is empty in every line takes no room.
    return "  ".join(text for at, text in enumerate(made) if widths[at])


def table(kind: str, rows: Iterable[Json], brief: bool = False, colour: Colour | None = None) -> Iterator[str]:
    """Lines. Holds ALIGNED objects at most."""
    rest = iter(rows)
    chunk = list(islice(rest, ALIGNED))
    if len(chunk) < ALIGNED:
        chunk = in_order(kind, chunk)
    widths: list[int] = []
    while chunk:
        made = [cells(kind, row, brief) for row in chunk]
        wide = (max(len(text) for _, text in column) for column in zip(*made, strict=True))
        widths = [max(pair) for pair in zip_longest(widths, wide, fillvalue=0)]
        yield from (_join(row, widths, colour) for row in made)
        chunk = list(islice(rest, ALIGNED))


def change_line(change: Json, colour: Colour | None = None) -> str:
    """A line of the monitor: `+ neighbour fe80::2  dev eth1 …`; `~` for a change, `-` for what is gone."""
    kind = change["kind"]
    row = [cell for cell in cells(kind, change[kind]) if cell[1]]
    text = "  ".join(colour(look, text) if colour else text for look, text in row)
    mark = _MARKS[change["action"]]
    if colour:
        mark = colour({"+": "good", "-": "bad"}.get(mark, ""), mark)
    return f"{mark} {kind:<9} {text}"


# --- status --------------------------------------------------------------------------------------------------------


def _counts(counted: Mapping[str, int], none: str) -> str:
    return ", ".join(f"{number} {word}" for word, number in counted.items() if number) or none


def status_lines(row: Json, colour: Colour | None = None) -> Iterator[str]:
    """One screen."""
    paint: Colour = colour or (lambda _kind, text: text)
    memory = f", memory {row['memory_kib'] / 1024:.1f} MiB" if row["memory_kib"] else ""
    yield f"version     {row['version']}, pid {row['pid']}, up {time_text(row['uptime_s'])}{memory}"
    if row["file"]:
        yield f"file        {row['file']}"
    if row["router_id"]:
        yield f"router-id   {row['router_id']}, seqno {row['seqno']}"
        up, all_of_them = row["interfaces_up"], row["interfaces"]
        yield f"interfaces  {paint('good' if up == all_of_them else 'bad', f'{up} of {all_of_them} up')}"
        yield f"neighbours  {row['neighbours_up']} of {row['neighbours']} reachable"
        yield f"routes      {_counts(row['routes'], 'none')}"
    else:
        yield "babel       not spoken"
    yield f"fib         {_counts(row['fib'], 'nothing of ours')}"
    if row["waiting"]:
        yield f"waiting     {row['waiting']} declared routes for their next hop"
    for number, sysctl in enumerate(row["sysctls"]):
        yield f"{'' if number else 'sysctls':<11} {sysctl['name']} was {sysctl['before']}, is {sysctl['now']}"
    if any(row["counters"].values()):
        yield f"counted     {_counts(row['counters'], 'nothing')}"
    for warning in row["warnings"]:
        yield f"{paint('bad', 'warning')}     {warning}"


def sections(parts: Iterable[tuple[str, Iterable[str]]]) -> Iterator[str]:
    """Several tables, each under its name."""
    for number, (name, lines) in enumerate(parts):
        head = [""] if number else []
        yield from chain(head, [f"{name}:"], lines)
