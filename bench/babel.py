"""Speed and scale of the Babel speaker, babeld and BIRD beside it in one run.

    python bench/babel.py [--quick] [--only NAME…] [--repeats N] [--zoo FOLDER] [--json [FILE]]

scale        prefixes from one neighbour until all are in the FIB, with the system's socket limits; the peers with
             raised buffers as well, for with the system's they lose packets and stall from 10,000 on
steady       processor time of sender and receiver with 50,000 prefixes, when nothing changes
million      1,000,000 prefixes
mesh         line of 10, ring of 10, grid 5 x 5, a process per router, until all pairs are there
zoo          Geant2012 live and Cogentco in the simulator, from the Internet Topology Zoo's FOLDER (or VIA6_ZOO)
failover     a link of a ring of 4 loses carrier or falls silent under 1,000 packets a second; 10 and 100,000 routes
idle         memory and processor of a daemon that has nothing to do

Every measurement is a process of its own in a sandbox of namespaces. In a round the programs take turns; a case is
measured in as many rounds as its worth and its time allow, and the median is shown. A whole run takes some 40 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import babel_mesh
import babel_report
import babel_ring
import babel_scale
from babel_lab import OURS, PEERS, inside
from common import Row, child
from via6.errors import Refusal
from via6.lab import speakers

ONLY: Final = ("scale", "steady", "million", "mesh", "zoo", "failover", "idle")
_LIVE: Final = "Geant2012.graphml"
_SIMULATED: Final = "Cogentco.graphml"
_SIZES: Final = (1_000, 10_000, 50_000, 100_000)
_TIMEOUT_S: Final = 600.0

_WORK: Final[dict[str, Callable[[dict[str, Any]], list[Row]]]] = {
    "scale": lambda v: babel_scale.measure(babel_scale.Case(**v)),
    "mesh": lambda v: babel_mesh.measure(babel_mesh.Case(**v)),
    "simulate": lambda v: babel_mesh.simulate(**v),
    "ring": lambda v: babel_ring.measure(babel_ring.Case(**v)),
    "idle": lambda v: babel_ring.idle(**v),
}


@dataclass(frozen=True)
class Task:
    """One measurement: what `--only` calls it, a key of _WORK with its values, the program; in the first `rounds`
    rounds."""

    name: str
    work: str
    kind: str
    values: dict[str, Any]
    rounds: int = 1


# --- what is measured ----------------------------------------------------------------------------------------------


def _scale(kind: str, rounds: int, n: int, **values: Any) -> Task:
    name = "steady" if values.get("steady_s") else "scale"
    return Task(name, "scale", kind, asdict(babel_scale.Case(kind, n, **values)), rounds)


def _mesh(kind: str, shape: str, size: int, rounds: int, name: str = "mesh") -> Task:
    return Task(name, "mesh", kind, asdict(babel_mesh.Case(kind, shape, size)), rounds)


def _ring(kind: str, **values: Any) -> Task:
    return Task("failover", "ring", kind, asdict(babel_ring.Case(kind, **values)))


def _idle(kind: str, seconds: float) -> Task:
    return Task("idle", "idle", kind, {"kind": kind, "seconds": seconds})


def _zoo(folder: Path | None, live: bool) -> Iterator[Task]:
    for file in (_LIVE, _SIMULATED) if folder else ():
        path = Path(folder or "") / file
        if not path.exists():
            print(f"bench: there is no {path}: left out", file=sys.stderr)
        elif file == _SIMULATED:
            yield Task("zoo", "simulate", OURS, {"path": str(path)})
        elif live:
            yield _mesh(OURS, str(path), 0, 1, "zoo")


def quick_tasks(zoo: Path | None) -> Iterator[Task]:
    """A short look: below four minutes, each case once."""
    yield _scale(OURS, 1, 1_000)
    yield _scale("babeld", 1, 1_000)
    yield _scale(OURS, 1, 10_000, steady_s=10.0)
    yield _scale("babeld", 1, 10_000, raised=True)
    for kind in (OURS, "babeld", "bird"):
        yield _mesh(kind, "line", 10, 1)
    for kind in (OURS, "babeld"):
        yield _mesh(kind, "grid", 25, 1)
    yield from _zoo(zoo, live=False)
    yield _ring(OURS, routes=10, tries=2)
    yield _ring(OURS, routes=10, tries=2, successor=False)
    yield _ring("bird", routes=10, tries=1)
    yield _ring(OURS, routes=10, tries=2, how="silent", hello_ms=100)
    yield _ring(OURS, routes=10, tries=2, how="silent")
    yield _idle(OURS, 10.0)


def full_tasks(zoo: Path | None) -> Iterator[Task]:
    """All of the table in the order of one round."""
    for n in _SIZES:
        yield _scale(OURS, 3, n)
        for kind in ("babeld", "bird"):
            yield _scale(kind, 1 if n > _SIZES[0] else 3, n, patience_s=20.0)
            if n > _SIZES[0]:
                yield _scale(kind, 3 if kind == "babeld" else 1, n, raised=True)
    for kind in ("babeld-13", "bird3"):
        yield _scale(kind, 1, 50_000, raised=True)
    for kind in (OURS, "babeld", "bird"):
        yield _scale(kind, 1, 50_000, raised=kind != OURS, steady_s=60.0)
    million = babel_scale.Case(OURS, 1_000_000, limit_s=400.0, patience_s=60.0)
    yield Task("million", "scale", OURS, asdict(million))
    for shape, size in (("line", 10), ("ring", 10), ("grid", 25)):
        for kind in (OURS, *PEERS):
            yield _mesh(kind, shape, size, 3 if kind in (OURS, "babeld") else 1)
    yield from _zoo(zoo, live=True)
    yield from _failovers()
    for kind in (OURS, "babeld", "bird"):
        yield _idle(kind, 30.0)


def _failovers() -> Iterator[Task]:
    """Ten tries for us, two for peers, with as many routes as they are sure to take with the system's socket limits."""
    ways: list[dict[str, Any]] = [
        {"how": "carrier", "successor": True},
        {"how": "carrier", "successor": False},
        {"how": "silent", "hello_ms": 100},
        {"how": "silent"},
    ]
    for way in ways:
        yield _ring(OURS, routes=10, tries=10, **way)
        for kind in ("babeld", "bird"):
            yield _ring(kind, routes=10, tries=2, longest_s=30.0, **way)
        if way["how"] == "carrier":
            yield _ring("babeld", routes=10, tries=2, longest_s=30.0, link_detect=True, **way)
        yield _ring(OURS, routes=100_000, tries=10, **way)


# --- doing it ------------------------------------------------------------------------------------------------------


def _missing() -> set[str]:
    """Peers that are not on this machine, each with a line that says so."""
    found = set()
    for kind in PEERS:
        try:
            speakers.program(kind)
        except Refusal as refusal:
            print(f"bench: {kind} is left out: {refusal.message}", file=sys.stderr)
            found.add(kind)
    return found


def _measure(task: Task) -> list[Row]:
    try:
        return child(__file__, task.work, json.dumps(task.values), timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        print(f"bench: {task.work} {task.values}: not done after {_TIMEOUT_S:.0f} s", file=sys.stderr)
        return []


def run_all(tasks: list[Task], repeats: int) -> tuple[list[Row], list[Task]]:
    """(rows, what could not be measured); `repeats` 0: as many rounds as each task says."""
    rows: list[Row] = []
    failed: list[Task] = []
    for number in range(repeats or max((task.rounds for task in tasks), default=0)):
        for task in tasks:
            if number and not repeats and number >= task.rounds:
                continue
            start = time.monotonic()
            found = _measure(task)
            if not found:
                failed.append(task)
            for row in found:
                line = f"round {number + 1}: {babel_report.line(row)}  [{time.monotonic() - start:.0f} s]"
                print(line, file=sys.stderr, flush=True)
            rows += found
    return rows, failed


def _child(words: list[str]) -> int:
    work, values = words[0], json.loads(words[1])
    inside(lambda: _WORK[work](values))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller numbers, each once: below four minutes")
    parser.add_argument("--only", nargs="+", action="extend", default=[], metavar="NAME", help=", ".join(ONLY))
    parser.add_argument("--repeats", type=int, default=0, help="rounds for every case (default: 1 to 3, by case)")
    parser.add_argument("--program", action="append", default=[], choices=(OURS, *PEERS), help="this program alone")
    parser.add_argument(
        "--zoo", type=Path, metavar="FOLDER", default=os.environ.get("VIA6_ZOO"), help="of .graphml files (or VIA6_ZOO)"
    )
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="the rows as one object per line; without FILE: no tables"
    )
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser


def main() -> int:
    args = _parser().parse_args()
    if args.child:
        return _child(args.child)
    if os.geteuid() != 0:
        print("bench: needs root (it makes network namespaces)", file=sys.stderr)
        return 1
    unknown = [name for name in args.only if name not in ONLY]
    if unknown:  # `make bench` hands the same words to every bench
        print(f"bench: babel.py has no {', '.join(unknown)}; it has {', '.join(ONLY)}", file=sys.stderr)
    missing = _missing()
    zoo = Path(args.zoo) if args.zoo else None
    if zoo is None and (not args.only or "zoo" in args.only):
        print("bench: no --zoo FOLDER (or VIA6_ZOO) with files of the Internet Topology Zoo: left out", file=sys.stderr)
    tasks = [
        task
        for task in (quick_tasks(zoo) if args.quick else full_tasks(zoo))
        if task.kind not in missing
        and (not args.only or task.name in args.only)
        and (not args.program or task.kind in args.program)
    ]
    start = time.monotonic()
    rows, failed = run_all(tasks, args.repeats or (1 if args.quick else 0))
    found = babel_report.medians(rows)
    if args.json:
        lines = "".join(row.line() + "\n" for row in found)
        if args.json == "-":
            print(lines, end="")
        else:
            Path(args.json).write_text(lines)
    if args.json != "-":
        babel_report.print_all(found)
        print(f"\n{len(rows)} rows in {(time.monotonic() - start) / 60:.1f} minutes; not measured: {len(failed)}")
        for task in failed:
            print(f"  {task.work} {json.dumps(task.values)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
