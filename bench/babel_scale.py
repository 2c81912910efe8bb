"""Many prefixes from one neighbour: two routers and one link, the same program on both.

The neighbours know each other already when the prefixes come: a burst of ordinary static routes in the sender's
kernel, as a BGP daemon beside it makes them, and each program is told to redistribute those. The clock runs from before
the burst (100,000 routes take the kernel some 0.15 s) until the receiver's kernel has a unicast route to each.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from socket import if_nametoindex
from typing import Final

from babel_lab import (
    OURS,
    Reader,
    cpu_s,
    extra,
    listens,
    memory_mb,
    raised_buffers,
    stop_all,
    title,
    topology,
    via6_words,
    wait_for,
)
from common import Row
from via6.kernel.linux import LinuxKernel
from via6.lab import speakers
from via6.lab.namespaces import Lab, ip_batch
from via6.lab.software import Daemon, control_socket, spawn
from via6.model import PROTO_STATIC, Burst, NextHop, Plan, Route, RouteBlock
from via6.prefix import Prefix

SOURCE: Final = "src0"
LENGTH: Final = 24
_MEET_S: Final = 40.0
_STEADY_S: Final = 60.0


@dataclass(frozen=True)
class Case:
    """`limit_s`: how long to wait at most; it is given up before if nothing was gained for `patience_s`."""

    kind: str
    n: int
    raised: bool = False
    steady_s: float = 0.0
    limit_s: float = 120.0
    patience_s: float = 40.0


def _config(kind: str, sends: bool) -> str:
    if kind == OURS:
        return f'[babel]\ninterfaces = ["eth*"]\nexport = [{chr(34) + "static" + chr(34) if sends else ""}]\n'
    if kind.startswith("babeld"):
        given = f"redistribute ip 0.0.0.0/0 proto {PROTO_STATIC} allow\n" if sends else ""
        return f"interface eth1 type wired\n{given}redistribute local deny\nredistribute deny\n"
    learn = "learn; " if sends else ""
    imported = "all" if sends else "none"
    return (
        "log stderr all;\n"
        f"router id 192.0.2.{1 if sends else 2};\n"
        "protocol device { }\n"
        f"protocol kernel {{ {learn}ipv4 {{ import {imported}; export where source = RTS_BABEL; }}; }}\n"
        "protocol babel { randomize router id yes;\n"
        "  ipv4 { import all; export where source ~ [RTS_INHERIT, RTS_BABEL]; };\n"
        '  interface "eth1" { type wired; };\n}\n'
    )


def _start(lab: Lab, node: str, kind: str, sends: bool) -> Daemon:
    config = lab.folder / f"{node}.conf"
    config.write_text(_config(kind, sends))
    socket = str(control_socket(lab.folder, node))
    log = lab.folder / f"{node}.log"
    environment: dict[str, str] = {}
    if kind == OURS:
        words = via6_words("run", str(config))
        environment = {"VIA6_SOCKET": socket, "VIA6_STATE": str(lab.folder / f"{node}.state")}
    elif kind.startswith("babeld"):
        stem = lab.folder / node
        words = [speakers.program(kind), "-c", str(config), "-I", f"{stem}.pid", "-S", f"{stem}.state"]
    else:
        words = [speakers.program(kind), "-f", "-c", str(config), "-s", socket]
    with lab.inside(node):
        daemon = lab.daemons[node] = spawn(words, log, environment)
    return daemon


def _burst(lab: Lab, n: int) -> float:
    """The routes in the sender's kernel; returns when it began."""
    with lab.inside("a"), LinuxKernel() as kernel:
        out = NextHop(None, if_nametoindex(SOURCE))
        template = Route(Prefix(bytes(4), LENGTH), (out,), protocol=PROTO_STATIC)
        destinations = [i.to_bytes(4, "big") for i in range(0x01000000, 0x01000000 + (n << 8), 256)]
        plan = Plan((Burst("add", RouteBlock(template, destinations)),))
        start = time.monotonic()
        outcome = kernel.apply(plan)
    if outcome.failures or outcome.overrun:
        raise SystemExit(f"the routes of the sender: {outcome.failures[:1]}")
    return start


def _wait(reader: Reader, case: Case, start: float, base: int) -> tuple[float, int]:
    """(seconds, prefixes) when all are there, or when it is given up."""
    most, gained = 0, start
    while True:
        before = time.monotonic()
        leaves = reader.leaves() - base
        now = time.monotonic()
        if leaves >= case.n and (found := reader.usable(LENGTH)) >= case.n:
            return now - start, found
        if leaves > most:
            most, gained = leaves, now
        if now > start + case.limit_s or now > gained + case.patience_s:
            return gained - start, reader.usable(LENGTH)
        time.sleep(max(0.005, 4 * (now - before)))


def measure(case: Case) -> list[Row]:
    """In a sandbox: one program, one number of prefixes."""
    lab = Lab(topology(["a", "b"], [("a", "b")], lans=False))
    lab.build()
    ip_batch([f"link add {SOURCE} type veth peer name src1", f"link set {SOURCE} up", "link set src1 up"], "a")
    ip_batch([f"route add 192.0.2.77/32 dev {SOURCE} proto static"], "a")
    reader = Reader(lab, "b")
    with raised_buffers(case.raised):
        sender, receiver = _start(lab, "a", case.kind, True), _start(lab, "b", case.kind, False)
        if not wait_for(lambda: listens(lab, "a") and listens(lab, "b"), 20):
            raise SystemExit(f"no daemon: {lab.troubles()} {(lab.folder / 'a.log').read_text()[-300:]}")
        time.sleep(0.3)
    if not wait_for(lambda: reader.usable(32), _MEET_S, 0.05):
        raise SystemExit(f"{case.kind}: the neighbours do not meet {(lab.folder / 'a.log').read_text()[-300:]}")
    time.sleep(2.0)
    base = reader.leaves()
    before = cpu_s(sender), cpu_s(receiver)
    start = _burst(lab, case.n)
    seconds, found = _wait(reader, case, start, base)
    more = extra(
        found=found, sender_s=cpu_s(sender) - before[0], receiver_s=cpu_s(receiver) - before[1],
        sender_mb=memory_mb(sender), receiver_mb=memory_mb(receiver), raised=case.raised,
    )  # fmt: skip
    name = title(case.kind) + (" (raised buffers)" if case.raised else "")
    rows = [Row("scale", name, case.n, seconds, memory_mb(receiver), more)]
    if case.steady_s and found >= case.n:
        rows += _steady(case, name, sender, receiver, reader)
    if any(d.poll() is not None for d in (sender, receiver)):
        raise SystemExit(f"{case.kind} ended: {lab.troubles()}")
    sender.stop(signal.SIGTERM)
    receiver.stop(signal.SIGTERM)
    stop_all(lab)
    return rows


def _steady(case: Case, name: str, sender: Daemon, receiver: Daemon, reader: Reader) -> list[Row]:
    """Share of one processor while nothing changes, and whether the routes last."""
    time.sleep(10.0)
    before, start = (cpu_s(sender), cpu_s(receiver)), time.monotonic()
    time.sleep(case.steady_s)
    seconds = time.monotonic() - start
    shares = [100 * (cpu_s(d) - b) / seconds for d, b in zip((sender, receiver), before, strict=True)]
    found = reader.usable(LENGTH)
    return [
        Row("steady", f"{name}, {who}", case.n, share, memory_mb(daemon, "VmRSS"), extra(found=found))
        for who, share, daemon in zip(("sender", "receiver"), shares, (sender, receiver), strict=True)
    ]
