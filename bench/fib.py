"""Speed of the way to the FIB: via6 against `ip -batch`, pyroute2, BIRD and a bare sender, side by side in one run.

    python bench/fib.py [--quick] [--json] [--repeats N] [--only BENCH]

install      values in the Rib to the kernel and back to the Fib: every route acknowledged. One next hop
install16    the same, dealt out over 16 next hops
text         a whole process that reads one text file: `via6 route -batch` against `ip -batch`
read         the kernel's table into a Snapshot
move         all routes to another next hop
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import Row, child, ip, median, print_table, unshare_network
from peers import new_iproute2, version

DEV = "b0"
HOPS = [f"fe80::22:{i:x}" for i in range(1, 17)]


def destinations(n: int) -> list[bytes]:
    """n different /24 from 1.0.0.0 on: what a full table looks like."""
    return [i.to_bytes(4, "big") for i in range(0x01000000, 0x01000000 + (n << 8), 256)]


def text(octets: bytes) -> str:
    return "%d.%d.%d.%d/24" % tuple(octets)


def prepare() -> int:
    """A veth pair in a fresh namespace; returns the device's ifindex."""
    unshare_network()
    ip("link", "add", DEV, "type", "veth", "peer", "name", "b1")
    for dev in (DEV, "b1", "lo"):
        ip("link", "set", dev, "up")
    for _ in range(100):
        if "tentative" not in ip("-6", "address", "show", "dev", DEV):
            break
        time.sleep(0.05)
    return socket.if_nametoindex(DEV)


def count() -> int:
    """Prefixes in the main trie, as the kernel counts them itself."""
    found = 0
    for line in Path("/proc/net/fib_triestat").read_text().splitlines():
        if line.strip().startswith("Prefixes:"):
            found += int(line.split()[1])
    return found


def memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def finish(*rows: Row) -> None:
    print("\n".join(row.line() for row in rows), flush=True)
    # With the link the routes go at once; else the kernel would still clean up during the next measurement.
    with contextlib.suppress(subprocess.CalledProcessError):
        ip("link", "del", DEV)


# --- children ------------------------------------------------------------------------------------------------------


def run_floor(n: int) -> None:
    """Constant messages and nothing else: RTA_NH_ID, no table, no answer read but the last."""
    prepare()
    ip("nexthop", "add", "id", "7", "via", HOPS[0], "dev", DEV)
    dst = destinations(n)
    body = struct.pack("=BBBBBBBBI", 2, 24, 0, 0, 254, 46, 0, 1, 0)
    tail = struct.pack("=HHI", 8, 30, 7)
    length = 16 + len(body) + 8 + len(tail)
    head = struct.pack("=IHHII", length, 24, 0x601, 1, 0) + body + struct.pack("=HH", 8, 1)
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    netlink.setsockopt(socket.SOL_SOCKET, 32, 1 << 20)
    netlink.bind((0, 0))
    start = time.perf_counter()
    for at in range(0, n, 4096):
        netlink.send(head + (tail + head).join(dst[at : at + 4096]) + tail)
    seconds = time.perf_counter() - start
    if count() < n:
        raise SystemExit(f"{count()} of {n} routes")
    finish(Row("install", "bare sender (floor)", n, seconds, memory()))


def _batch_file(n: int, hops: int, form: str) -> Path:
    path = Path(tempfile.mkdtemp(prefix="via6-bench-")) / "batch"
    ways = [f"via inet6 {h} dev {DEV}" if form == "via" else f"nhid {i}" for i, h in enumerate(HOPS[:hops], 1)]
    with path.open("w") as out:
        out.writelines(f"route add {text(d)} {ways[i % hops]}\n" for i, d in enumerate(destinations(n)))
    return path


def run_ip_batch(n: int, hops: int, form: str, program: str, bench: str) -> None:
    prepare()
    path = _batch_file(n, hops, form)
    try:
        if form == "nhid":
            for i, hop in enumerate(HOPS[:hops], 1):
                ip("nexthop", "add", "id", str(i), "via", hop, "dev", DEV)
        command = [sys.executable, "-m", "via6", "route", "-batch"] if program == "via6" else [program, "-batch"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        start = time.perf_counter()
        done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
    finally:
        shutil.rmtree(path.parent)
    if done.returncode or count() < n:
        raise SystemExit(f"{count()} of {n} routes: {done.stderr[:200]}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    name = "via6" if program == "via6" else f"ip -batch {version(program)}" + (" (nhid)" if form == "nhid" else "")
    finish(Row(bench, name, n, seconds, max(peak, before) / 1024))


def run_pyroute2(n: int) -> None:
    index = prepare()
    ipr: Any = importlib.import_module("pyroute2").IPRoute()  # its types do not say what it exports
    via = {"family": socket.AF_INET6, "addr": HOPS[0]}
    start = time.perf_counter()
    for d in destinations(n):
        ipr.route("add", dst=text(d), via=via, oif=index)
    seconds = time.perf_counter() - start
    ipr.close()
    finish(Row("install", "pyroute2", n, seconds, memory()))


def run_bird(n: int, hops: int, bench: str) -> None:
    """Static routes that are there and disabled: from `enable` to the last one in the FIB."""
    prepare()
    folder = Path(tempfile.mkdtemp(prefix="via6-bench-"))
    with (folder / "bird.conf").open("w") as out:
        out.write("router id 1.2.3.4;\nprotocol device { scan time 3600; }\n")
        out.write("protocol kernel { ipv4 { export all; import none; }; scan time 3600; }\n")
        out.write("protocol static s1 { disabled; ipv4;\n")
        out.writelines(
            f"route {text(d)} via {HOPS[i % hops]}%{DEV};\n" for i, d in enumerate(destinations(n))
        )  # fmt: skip
        out.write("}\n")
    ctl = str(folder / "ctl")
    daemon = subprocess.Popen(["bird", "-f", "-c", str(folder / "bird.conf"), "-s", ctl], stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 120
        while subprocess.run(["birdc", "-s", ctl, "show", "status"], capture_output=True, check=False).returncode:
            if time.monotonic() > deadline:
                raise SystemExit("BIRD did not start")
            time.sleep(0.05)
        start = time.perf_counter()
        subprocess.run(["birdc", "-s", ctl, "enable", "s1"], check=True, capture_output=True)
        while (found := count()) < n:
            if time.perf_counter() - start > 300:
                raise SystemExit(f"{found} of {n} routes")
            time.sleep(0.02)
        seconds = time.perf_counter() - start
        status = Path(f"/proc/{daemon.pid}/status").read_text()
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    finally:
        daemon.terminate()
        daemon.communicate()
        shutil.rmtree(folder)
    finish(Row(bench, "BIRD " + _bird_version(), n, seconds, peak / 1024))


def _bird_version() -> str:
    done = subprocess.run(["bird", "--version"], capture_output=True, text=True, check=False)
    return (done.stderr + done.stdout).split()[-1]


def _loaded(n: int, hops: int, index: int):  # type: ignore[no-untyped-def]
    """A Rib that holds n routes of one static source, and the Fib of a freshly dumped kernel."""
    from via6.fib import NEEDED_PARTS, Fib
    from via6.kernel.linux import LinuxKernel
    from via6.model import NextHop, Route, RouteBlock
    from via6.prefix import Prefix, parse_address
    from via6.rib import Rib

    rib, fib, kernel = Rib(["static"]), Fib(), LinuxKernel()
    fib.synchronise(kernel.dump(NEEDED_PARTS))
    dst = destinations(n)
    for i in range(hops):
        hop = NextHop(parse_address(HOPS[i]), index)
        block = RouteBlock(Route(Prefix(bytes(4), 24), (hop,)), dst[i::hops])
        rib.update("static", 10, 0, block, unit=i)
    rib.complete("static")
    return rib, fib, kernel


def run_via6(n: int, hops: int, bench: str) -> None:
    index = prepare()
    from via6.kernel.pump import pump

    rib, fib, kernel = _loaded(n, hops, index)
    gc.collect()
    start = time.perf_counter()
    fib.desire(rib.drain())
    pump(fib, kernel, time.monotonic)
    seconds = time.perf_counter() - start
    counts = fib.counts()
    if counts != {"installed": n} or count() < n:
        raise SystemExit(f"{counts}, {count()} of {n} routes")
    finish(Row(bench, "via6", n, seconds, memory()))


def run_read(n: int) -> None:
    """Fills the table, then reads it back in this process."""
    index = prepare()
    from via6.kernel.pump import pump

    rib, fib, kernel = _loaded(n, 1, index)
    fib.desire(rib.drain())
    pump(fib, kernel, time.monotonic)
    start = time.perf_counter()
    snapshot = kernel.dump(frozenset({"routes4"}))
    seconds = time.perf_counter() - start
    if len(snapshot.routes) < n:
        raise SystemExit(f"{len(snapshot.routes)} of {n} routes read")
    rows = [Row("read", "via6", n, seconds, memory())]
    for program in filter(None, ("ip", new_iproute2())):
        start = time.perf_counter()
        with open(os.devnull, "w") as null:
            subprocess.run([program, "-j", "route"], stdout=null, check=True)
        rows.append(Row("read", f"ip -j route {version(program)}", n, time.perf_counter() - start))
    finish(*rows)


def run_move(n: int, mode: int) -> None:
    """Installs n routes on one next hop, then moves all of them, in nexthop_compat_mode 1 (the default) or 0."""
    index = prepare()
    Path("/proc/sys/net/ipv4/nexthop_compat_mode").write_text(str(mode))
    from via6.kernel.pump import pump
    from via6.model import NextHop
    from via6.prefix import parse_address

    rib, fib, kernel = _loaded(n, 1, index)
    fib.desire(rib.drain())
    pump(fib, kernel, time.monotonic)
    start = time.perf_counter()
    rib.move("static", 0, (NextHop(parse_address(HOPS[1]), index),))
    fib.desire(rib.drain())
    messages = pump(fib, kernel, time.monotonic)
    seconds = time.perf_counter() - start
    if messages != 1:
        raise SystemExit(f"{messages} messages")
    finish(Row("move", "via6" + ("" if mode else " (compat mode 0)"), n, seconds, memory(), {"messages": messages}))


def run_kernel_move(n: int, mode: int) -> None:
    """The kernel alone: the same replace, typed with `ip`."""
    prepare()
    Path("/proc/sys/net/ipv4/nexthop_compat_mode").write_text(str(mode))
    ip("nexthop", "add", "id", "1", "via", HOPS[0], "dev", DEV)
    path = _batch_file(n, 1, "nhid")
    try:
        ip("-batch", str(path))
    finally:
        shutil.rmtree(path.parent)
    start = time.perf_counter()
    ip("nexthop", "replace", "id", "1", "via", HOPS[1], "dev", DEV)
    seconds = time.perf_counter() - start
    finish(Row("move", "ip nexthop replace" + ("" if mode else " (compat mode 0)"), n, seconds))


# --- parent --------------------------------------------------------------------------------------------------------


def measurements(quick: bool) -> list[tuple[str, list[str]]]:
    """(bench, words of a child) in the order of one round."""
    small, large = ("10000", "100000") if quick else ("100000", "1000000")
    new = new_iproute2()
    if new is None:
        print("bench: iproute2 of bookworm-backports cannot be had here: left out", file=sys.stderr)
    programs = ["ip", *([new] if new else [])]
    found: list[tuple[str, list[str]]] = []
    for n, hops, bench in ((small, "1", "install"), (small, "16", "install16"), (large, "1", "install")):
        found.append((bench, ["via6", n, hops, bench]))
        if bench == "install":
            found.append((bench, ["floor", n]))
        found += [(bench, ["ip", n, hops, form, p, bench]) for p in programs for form in ("via", "nhid")]
        found.append((bench, ["bird", n, hops, bench]))
    found.append(("install", ["pyroute2", str(int(small) // 10)]))
    found += [("text", ["ip", small, "1", "via", program, "text"]) for program in ("via6", *programs)]
    found.append(("read", ["read", large]))
    found += [("move", [kind, large, mode]) for mode in ("1", "0") for kind in ("move", "kernel-move")]
    return found


def run_child(words: list[str]) -> None:
    kind, *rest = words
    if kind == "via6":
        run_via6(int(rest[0]), int(rest[1]), rest[2])
    elif kind == "ip":
        run_ip_batch(int(rest[0]), int(rest[1]), rest[2], rest[3], rest[4])
    elif kind == "bird":
        run_bird(int(rest[0]), int(rest[1]), rest[2])
    elif kind == "move":
        run_move(int(rest[0]), int(rest[1]))
    elif kind == "kernel-move":
        run_kernel_move(int(rest[0]), int(rest[1]))
    else:
        {"floor": run_floor, "pyroute2": run_pyroute2, "read": run_read}[kind](int(rest[0]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the routes, once")
    parser.add_argument("--json", action="store_true", help="one object per line instead of the table")
    parser.add_argument("--repeats", type=int, default=0, help="rounds (3, with --quick 1); the median is shown")
    parser.add_argument("--only", action="append", default=[], help="this bench alone (may be repeated)")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        run_child(args.child)
        return 0
    if os.geteuid() != 0:
        print("bench: needs root (it makes network namespaces)", file=sys.stderr)
        return 1
    rounds = args.repeats or (1 if args.quick else 3)
    rows: list[Row] = []
    for _ in range(rounds):
        for bench, words in measurements(args.quick):
            if not args.only or bench in args.only:
                rows += child(__file__, *words)
    found = median(rows)
    if args.json:
        print("\n".join(row.line() for row in found))
    else:
        print(f"median of {rounds}; `x via6` is how many times as long as via6 it took\n")
        print_table(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
