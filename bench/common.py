"""What every bench shares: children in fresh network namespaces, rows, tables with ratios.

A measurement runs in a process of its own which unshares its network namespace: nothing is left behind, and peak
memory is that process's. Methods alternate within a round, so that a slow spell of the machine meets them all.
"""

from __future__ import annotations

import ctypes
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "bench"


@dataclass
class Row:
    """One measurement: `seconds` is what counts, `extra` whatever else was seen."""

    bench: str
    method: str
    n: int
    seconds: float
    memory_mb: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        values = asdict(self)
        return json.dumps(values | values.pop("extra"))


def unshare_network() -> None:
    """A fresh network namespace for this process and its children; needs root."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x40000000) != 0:
        raise SystemExit(f"bench: unshare(CLONE_NEWNET): {os.strerror(ctypes.get_errno())}; run it as root")


def ip(*words: str, program: str = "ip") -> str:
    return subprocess.run([program, *words], check=True, capture_output=True, text=True).stdout


def child(script: str, *words: str, timeout: float = 600) -> list[Row]:
    """Runs `script --child words…` and reads the rows it prints; none, with a line on stderr, if it could not."""
    done = subprocess.run(
        [sys.executable, script, "--child", *words], capture_output=True, text=True, timeout=timeout, check=False
    )
    if done.returncode:
        print(f"bench: {' '.join(words)}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return []
    rows = []
    for line in done.stdout.splitlines():
        values = json.loads(line)
        known = {key: values.pop(key) for key in ("bench", "method", "n", "seconds", "memory_mb")}
        rows.append(Row(**known, extra=values))
    return rows


def median(rows: Iterable[Row]) -> list[Row]:
    """One row per (bench, method, n) with the median of the seconds and the largest memory."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.bench, row.method, row.n), []).append(row)
    return [
        Row(
            *key,
            statistics.median(r.seconds for r in group),
            max(r.memory_mb for r in group),
            {**group[0].extra, "repeats": len(group)},
        )
        for key, group in groups.items()
    ]


def print_table(rows: list[Row], ours: str = "via6") -> None:
    """Per bench and n: seconds, rate, and how many times as long as via6 each took."""
    reference = {(r.bench, r.n): r.seconds for r in rows if r.method == ours}
    print(f"{'bench':<12}{'n':>10}  {'method':<26}{'seconds':>9}{'per second':>12}{'x via6':>8}{'MB':>8}")
    previous = ("", 0)
    for row in sorted(rows, key=lambda r: (r.bench, r.n, r.seconds)):
        if (row.bench, row.n) != previous:
            print()
            previous = (row.bench, row.n)
        base = reference.get((row.bench, row.n))
        ratio = f"{row.seconds / base:.2f}" if base else "-"
        memory = f"{row.memory_mb:.0f}" if row.memory_mb else "-"
        rate = f"{row.n / row.seconds:,.0f}"
        print(f"{row.bench:<12}{row.n:>10}  {row.method:<26}{row.seconds:>9.3f}{rate:>12}{ratio:>8}{memory:>8}")
