"""A ring of four routers, a link of it dies under a stream of 1,000 packets a second: how many are lost.

    h1 - r1 ----- r2 - h2    The stream goes from h1 to the island behind r3, which has a feasible successor at r1, or
         |         |         to that behind r2, which has none: r4's way there is longer than r1's own. The link that
    h4 - r4 ----- r3 - h3    the stream uses at r1 is cut (r1 loses its carrier) or made to drop what it is given.

The stream is that of `via6.lab.stream`. With many routes the same router announces them beside its island.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from socket import if_nametoindex
from typing import Final

from babel_lab import (
    OURS,
    Paths,
    Reader,
    Wire,
    cable_between,
    cpu_s,
    extra,
    memory_mb,
    silence,
    start_all,
    stop_all,
    title,
    topology,
    unsilence,
    wait_for,
)
from common import Row
from via6.kernel.linux import LinuxKernel
from via6.lab.namespaces import Lab, ip_batch
from via6.lab.stream import Stream
from via6.lab.topology import Topology
from via6.model import PROTO_STATIC, Burst, NextHop, Plan, Route, RouteBlock
from via6.prefix import Prefix

_STEADY_S: Final = 2.0
_RING: Final = [("r1", "r2"), ("r2", "r3"), ("r3", "r4"), ("r4", "r1")]


@dataclass(frozen=True)
class Case:
    """`how`: carrier or silent. `successor`: the stream goes to r3's island, else to r2's. `hello_ms` 0: as the
    program does by itself. `longest_s`: a try ends when the stream is whole again, and after so long at the latest."""

    kind: str
    how: str = "carrier"
    successor: bool = True
    routes: int = 0
    hello_ms: int = 0
    tries: int = 3
    longest_s: float = 10.0
    link_detect: bool = False


def ring(kind: str, hello_ms: int = 0) -> Topology:
    """The lab."""
    made = topology(["r1", "r2", "r3", "r4"], _RING, lans=True, kind=kind)
    return replace(made, routers=tuple(replace(r, hello_interval_ms=hello_ms) for r in made.routers))


# --- one measurement -----------------------------------------------------------------------------------------------


def _announce_many(lab: Lab, node: str, n: int) -> None:
    """Static routes at a router, which its program redistributes."""
    with lab.inside(node), LinuxKernel() as kernel:
        way = NextHop(None, if_nametoindex("src0"))
        template = Route(Prefix(bytes(4), 24), (way,), protocol=PROTO_STATIC)
        destinations = [i.to_bytes(4, "big") for i in range(0x14000000, 0x14000000 + (n << 8), 256)]
        kernel.apply(Plan((Burst("add", RouteBlock(template, destinations)),)))


def _towards(lab: Lab, target: str) -> str:
    """The router to which r1 sends what is for this host."""
    return lab.trail("r1-h", target).nodes[2]


def _whole(paths: Paths, readers: list[Reader], case: Case) -> bool:
    return not paths.missing() and all(reader.usable(24) >= case.routes + 3 for reader in readers)


def measure(case: Case) -> list[Row]:
    """In a sandbox: one ring, several cuts."""
    lab = Lab(ring(case.kind, case.hello_ms))
    lab.build()
    target = "r3-h" if case.successor else "r2-h"
    owner = target[:2]
    if case.routes:
        ip_batch(["link add src0 type veth peer name src1", "link set src0 up", "link set src1 up"], owner)
    wires = {far: Wire(lab, cable_between(lab, "r1", far)) for far in ("r2", "r4")}
    start_all(lab, static_at=owner if case.routes else "", link_detect=case.link_detect)
    paths = Paths(lab)
    readers = [Reader(lab, node) for node in lab.topology.router if node != owner] if case.routes else []
    if not wait_for(lambda: not paths.missing(), 60, 0.05):
        raise SystemExit(f"{case.kind}: no network: {paths.missing()} pairs, {lab.troubles()}")
    if case.routes:
        _announce_many(lab, owner, case.routes)
        if not wait_for(lambda: _whole(paths, readers, case), 240, 1.0):
            raise SystemExit(f"{case.kind}: routes are missing: {[reader.usable(24) for reader in readers]}")
    time.sleep(3 if case.kind == OURS else 8)
    outages, counts, spoilt, endless = [], [], 0, 0
    for _ in range(case.tries):
        seconds, lost, back = _try(lab, case, target, wires)
        outages.append(seconds)
        counts.append(lost)
        endless += not back
        time.sleep(1.0)
        if not wait_for(lambda: _whole(paths, readers, case), 120, 0.5):
            spoilt += 1
            break
        time.sleep(2.0 if case.kind == OURS else 6.0)
    more = extra(
        lost=statistics.median(counts), worst_ms=1000 * max(outages), all_lost=counts, tries=len(counts),
        unhealed=spoilt, endless=endless, r1_cpu_s=cpu_s(lab.daemons["r1"]),
    )  # fmt: skip
    mb = memory_mb(lab.daemons["r1"])
    if any(daemon.poll() is not None for daemon in lab.daemons.values()):
        raise SystemExit(f"{case.kind} ended: {lab.troubles()}")
    stop_all(lab)
    name = title(case.kind) + (" (link-detect)" if case.link_detect else "")
    what = ("failover" if case.how == "carrier" else "silent") + ("" if case.successor else "-ask")
    what += f"-{case.hello_ms}ms" if case.hello_ms else ""
    return [Row(what, name, case.routes or 10, statistics.median(outages), mb, more)]


def _try(lab: Lab, case: Case, target: str, wires: dict[str, Wire]) -> tuple[float, int, bool]:
    """(seconds of outage, packets lost, whether the stream came back before the link did) of one cut."""
    near = "r1"
    far = _towards(lab, target)
    cable = cable_between(lab, near, far)
    silent = case.how == "silent"
    hosts = lab.topology.host
    stream = Stream(lab, hosts["r1-h"], hosts[target])
    time.sleep(1.0)
    cut_at = time.monotonic()
    silence(lab, cable) if silent else wires[far].cut(near, far)
    _wait_steady(stream, case.longest_s)
    seen = stream.passage(cut_at)
    back = not stream.passage(time.monotonic() - _STEADY_S / 2).lost
    stream.stop()
    unsilence(lab, cable) if silent else wires[far].heal(near, far)
    return seen.outage_s, seen.lost, back


def _wait_steady(stream: Stream, longest_s: float) -> None:
    """Waits until the stream came whole for `_STEADY_S`, which begin now at the soonest."""
    end = time.monotonic() + longest_s
    since = time.monotonic()
    while time.monotonic() < min(end, since + _STEADY_S):
        time.sleep(0.05)
        if stream.passage(since).lost:
            since = time.monotonic()


def idle(kind: str, seconds: float) -> list[Row]:
    """In a sandbox: memory and processor share of a daemon with two neighbours and three routes."""
    lab = Lab(ring(kind))
    lab.build()
    start_all(lab)
    paths = Paths(lab)
    if not wait_for(lambda: not paths.missing(), 60, 0.05):
        raise SystemExit(f"{kind}: no network")
    time.sleep(10.0)
    before = {name: cpu_s(daemon) for name, daemon in lab.daemons.items()}
    time.sleep(seconds)
    shares = [100 * (cpu_s(daemon) - before[name]) / seconds for name, daemon in lab.daemons.items()]
    memory = max(memory_mb(daemon, "VmRSS") for daemon in lab.daemons.values())
    stop_all(lab)
    return [Row("idle", title(kind), 2, statistics.mean(shares), memory, extra(shares=shares))]
