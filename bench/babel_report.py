"""Medians of the Babel bench, and its two tables: every program, and what was to be reached.

In a row `seconds` is what counts: seconds, or per cent of a core (steady, idle).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from babel_lab import OURS
from common import Row

_WORST: Final = ("short", "unanswered", "worst_ms", "unhealed", "endless", "sender_mb", "receiver_mb", "all_mb")
_LEAST: Final = ("found",)
_SHARES: Final = ("steady", "idle")
_OUTAGES: Final = ("failover", "silent")


def medians(rows: Iterable[Row]) -> list[Row]:
    """One row per (bench, method, n): the median of the seconds, the largest memory, of faults the worst."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.bench, row.method, row.n), []).append(row)
    found = []
    for (bench, method, n), group in groups.items():
        more: dict[str, Any] = {**group[0].extra, "repeats": len(group), "each": [row.seconds for row in group]}
        for keys, choose in ((_WORST, max), (_LEAST, min)):
            more.update({key: choose(row.extra[key] for row in group) for key in keys if key in more})
        middle = statistics.median(row.seconds for row in group)
        found.append(Row(bench, method, n, middle, max(row.memory_mb for row in group), more))
    return found


# --- one row -------------------------------------------------------------------------------------------------------


def complete(row: Row) -> bool:
    """All prefixes, all pairs, and the stream came back."""
    more = row.extra
    return (
        more.get("found", row.n) >= row.n
        and not more.get("short")
        and not more.get("unanswered")
        and not more.get("endless")
    )


def figure(row: Row) -> str:
    """What counts, in its unit, with what was lost or short."""
    more = row.extra
    if row.bench in _SHARES:
        return f"{row.seconds:.2f} %"
    if row.bench.startswith(_OUTAGES):
        least = "at least " if more.get("endless") else ""
        return f"{least}{1000 * row.seconds:.0f} ms, {more.get('lost', 0):.0f} lost"
    if not complete(row):
        return f"{more['found']:,} came" if "found" in more else f"{more.get('short') or more.get('unanswered')} short"
    return f"{row.seconds:.2f} s"


def line(row: Row) -> str:
    """A row in one line, for who waits."""
    return f"{row.bench} {row.n:,} {row.method}: {figure(row)}, {row.memory_mb:.0f} MB"


def _details(row: Row) -> str:
    more = row.extra
    words = []
    if "listen_s" in more:
        words.append(f"listens after {more['listen_s']:.1f} s")
    if "all_lost" in more:
        words.append(f"{more['tries']} tries, worst {more['worst_ms']:.0f} ms, not healed {more['unhealed']}")
    if "sender_mb" in more:
        words.append(f"sender {more['sender_mb']:.0f} MB, processor {more['sender_s']:.1f}+{more['receiver_s']:.1f} s")
    if "simulated_s" in more:
        words += more["said"][:1]
    if row.extra.get("repeats", 1) > 1:
        words.append(f"median of {row.extra['repeats']}")
    return "; ".join(words)


# --- every program -------------------------------------------------------------------------------------------------


def is_ours(row: Row) -> bool:
    return row.method.split(",")[0] == OURS


def ratio(row: Row, ours: float | None) -> str:
    """How many times our figure."""
    if ours is None or not complete(row):
        return "-"
    return f"{row.seconds / ours:.2f}" if ours else ("1.00" if not row.seconds else "∞")


def _print_programs(rows: list[Row]) -> None:
    print("Every program. `x via6` is how many times via6's figure; steady and idle are per cent of one core.\n")
    print(f"{'bench':<18}{'n':>9}  {'program':<36}{'figure':>26}{'x via6':>9}{'MB':>6}  what else")
    order = {key: place for place, key in enumerate(dict.fromkeys((row.bench, row.n) for row in rows))}
    reference: dict[tuple[str, int], float] = {}
    for row in rows:
        if is_ours(row) and complete(row):
            key = row.bench, row.n
            reference[key] = max(reference.get(key, 0.0), row.seconds)
    previous = None
    for row in sorted(rows, key=lambda r: (order[r.bench, r.n], not is_ours(r), r.seconds)):
        key = row.bench, row.n
        if previous not in (None, key):
            print()
        previous = key
        times = ratio(row, reference.get(key))
        print(
            f"{row.bench:<18}{row.n:>9,}  {row.method:<36}{figure(row):>26}{times:>9}{row.memory_mb:>6.0f}"
            f"  {_details(row)}".rstrip()
        )


# --- what was to be reached ----------------------------------------------------------------------------------------

Judge = Callable[[Row, list[Row]], bool]


@dataclass(frozen=True)
class Goal:
    """A line of the issue's table: the benches it means, and whether a row of ours, beside the peers', reaches it.
    `beside`: it is a goal beside peers whose name begins so; without their figure there is nothing to judge."""

    benches: tuple[str, ...]
    text: str
    good: Judge
    beside: str | None = None


def _fastest(rows: list[Row], name: str = "") -> Row | None:
    """The best of the peers that did finish."""
    done = [row for row in rows if complete(row) and row.method.startswith(name)]
    return min(done, key=lambda row: row.seconds, default=None)


def _no_slower(name: str) -> Judge:
    def good(row: Row, peers: list[Row]) -> bool:
        best = _fastest(peers, name)
        return complete(row) and (best is None or row.seconds <= best.seconds)

    return good


def _below(limit: float) -> Judge:
    return lambda row, _: complete(row) and row.seconds < limit


GOALS: Final = (
    Goal(("scale",), "complete, no slower than the faster peer", _no_slower(""), ""),
    Goal(("steady",), "under 5 % of a core", _below(5)),
    Goal(("line", "ring", "grid"), "no later than babeld, no pair short", _no_slower("babeld"), "babeld"),
    Goal(("geant2012", "sim-cogentco"), "all pairs", lambda row, _: complete(row)),
    Goal(("failover",), "0 packets lost", lambda row, _: complete(row) and not row.extra["lost"]),
    Goal(("failover-ask",), "under 50 ms", _below(0.05)),
    Goal(("silent-100ms",), "under 350 ms", _below(0.35)),
    Goal(("silent",), "under 3 s", _below(3)),
    Goal(("idle",), "under 0.5 % of a core and 40 MB", lambda row, _: row.seconds < 0.5 and row.memory_mb < 40),
)
_WORDS: Final = {
    "scale": "prefixes from one neighbour",
    "steady": "steady, with prefixes",
    "line": "line, routers",
    "ring": "ring, routers",
    "grid": "grid, routers",
    "geant2012": "Geant2012 live, routers",
    "sim-cogentco": "Cogentco simulated, routers",
    "failover": "carrier lost, successor, routes",
    "failover-ask": "carrier lost, none, routes",
    "silent-100ms": "silent, Hello 100 ms, routes",
    "silent": "silent, by default, routes",
    "idle": "idle, neighbours",
}


def _print_goals(rows: list[Row]) -> None:
    print("\nWhat was to be reached. The peer is the best that finished; the ratio is the peer's figure to ours.\n")
    print(f"{'':<34}{'n':>9}  {'via6':>20}{'MB':>6}  {'best peer':<48}{'ratio':>7}  goal")
    for goal in GOALS:
        for bench in goal.benches:
            for n in sorted({row.n for row in rows if row.bench == bench}):
                _print_goal(goal, [row for row in rows if (row.bench, row.n) == (bench, n)])


def _print_goal(goal: Goal, rows: list[Row]) -> None:
    ours = max((row for row in rows if is_ours(row)), key=lambda row: row.seconds, default=None)
    peers = [row for row in rows if not is_ours(row)]
    best = _fastest(peers, goal.beside or "")
    beside = f"{figure(best)}, {best.method}" if best else ("none finished" if peers else "-")
    mine, memory, times = ("-", "-", "-") if ours is None else (figure(ours), f"{ours.memory_mb:.0f}", "-")
    if ours is not None and best is not None:
        times = ratio(best, ours.seconds)
    words = f"{_WORDS[rows[0].bench]:<34}{rows[0].n:>9,}"
    verdict = _verdict(goal, ours, peers)
    print(f"{words}  {mine:>20}{memory:>6}  {beside:<48}{times:>7}  {verdict}")


def _verdict(goal: Goal, ours: Row | None, peers: list[Row]) -> str:
    if ours is None:
        return f"not measured: {goal.text}"
    if ours.bench == "scale" and ours.n >= 1_000_000:
        return f"{'reached' if complete(ours) else 'MISSED'}: works"
    if not goal.good(ours, peers):
        return f"MISSED: {goal.text}"
    if goal.beside is not None and not any(row.method.startswith(goal.beside) for row in peers):
        return f"no peer measured: {goal.text}"
    return f"reached: {goal.text}"


def print_all(rows: list[Row]) -> None:
    """Both tables."""
    if not rows:
        print("nothing was measured")
        return
    _print_programs(rows)
    _print_goals(rows)
