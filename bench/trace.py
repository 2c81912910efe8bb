# ruff: noqa: A005 - a program, imported by nobody
"""How long a trace over ten hops takes, both ways, beside what traceroute, mtr and tracepath take for one way.

    python bench/trace.py [--rounds N]

A lab of eleven via6 routers in a line, of which the ends alone have IPv4 addresses. Times are those of whole commands,
the start of the interpreter included; `nothing` is `via6 --version`, for comparison. Rounds are far enough apart for
the routers to have ICMP errors to give again (net.ipv4.icmp_ratelimit). The other programs run with the options that
make them quickest: no names, one probe per hop, and all hops at once where they can.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import Row, median, print_table
from via6.lab import state

HOPS = 10
LAB = f"bench-trace-{os.getpid()}"
TARGET = f"10.250.{HOPS}.1"
PAUSE_S = 1.3

OTHERS = {
    "traceroute": ("traceroute", "-n", "-q", "1", "-N", "30", TARGET),
    "traceroute -I": ("traceroute", "-n", "-I", "-q", "1", "-N", "30", TARGET),
    "mtr": ("mtr", "-n", "-c", "1", "-i", "0.1", "-G", "0.5", "--report", TARGET),
    "tracepath": ("tracepath", "-n", TARGET),
}


def topology() -> str:
    """The lab. A cost other than 1 has it write files for the routers, with their names."""
    lines = [f'[lab]\nname = "{LAB}"\nsoftware = "via6"']
    for number in range(HOPS + 1):
        lines.append(f"[router.r{number}]")
        if number in (0, HOPS):
            lines.append(f'address = "10.250.{number}.1"')
    lines += [f'[[link]]\nends = ["r{number}", "r{number + 1}"]\ncost = 2' for number in range(HOPS)]
    return "\n".join(lines) + "\n"


def via6(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "via6", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def timed(words: tuple[str, ...]) -> tuple[float, str]:
    """Seconds of a command, and what it said."""
    began = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return time.perf_counter() - began, done.stdout


def settled() -> None:
    """Waits until the trace knows each node, there and back."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        made = json.loads(via6("-n", f"{LAB}/r0", "trace", "-j", TARGET).stdout or "{}")
        back = made.get("back") or {"hops": ()}
        if made.get("disposition") == "ACCEPTED" and len(made["hops"]) == len(back["hops"]) == HOPS + 1:
            time.sleep(7)  # a full ration of ICMP errors again
            return
        time.sleep(0.5)
    raise SystemExit("bench: the lab did not come to be")


def measure(rounds: int) -> list[Row]:
    rows: list[Row] = []
    place = state.node_netns(f"{LAB}/r0") or ""
    prefix = ("nsenter", f"--net={place}")
    ours = (sys.executable, "-m", "via6", "-n", f"{LAB}/r0", "trace", TARGET)
    for _ in range(rounds):
        rows.append(Row("start", "nothing", 1, timed((sys.executable, "-m", "via6", "--version"))[0]))
        for method, more in (("via6", ("-j",)), ("via6 --proto udp", ("-j", "--proto", "udp"))):
            seconds, out = timed((*ours, *more))
            made = json.loads(out)
            there = sum(hop["rtt_ms"] is not None for hop in made["hops"])
            named = sum(bool(hop["node"]) for way in (made, made["back"]) for hop in way["hops"])
            rows.append(Row("trace", method, HOPS, seconds, extra={"answers": there, "named": named}))
            time.sleep(PAUSE_S)
        for method, words in OTHERS.items():
            if shutil.which(words[0]):
                rows.append(Row("trace", method, HOPS, timed((*prefix, *words))[0]))
                time.sleep(PAUSE_S)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (the median counts)")
    rounds = parser.parse_args().rounds
    missing = [words[0] for words in OTHERS.values() if not shutil.which(words[0])]
    if missing:
        print(f"bench: not installed: {', '.join(dict.fromkeys(missing))}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "line.toml"
        file.write_text(topology())
        up = via6("lab", "up", str(file))
        if up.returncode:
            raise SystemExit(up.stderr)
        try:
            settled()
            rows = measure(rounds)
        finally:
            via6("lab", "down", LAB)
    print_table(median(rows))
    least = min((row.extra["answers"], row.extra["named"]) for row in rows if row.extra)
    print(f"\nvia6: in the worst round {least[0]} of {HOPS} hops answered, {least[1]} of {2 * HOPS + 2} were named")
    return 0


if __name__ == "__main__":
    sys.exit(main())
