"""What via6 daemons say of the way of a packet, for `via6 trace`: asks the daemon of this network namespace, or where
none runs, this node's kernel and the daemon of the first hop.

The second is as good as the first, unless Babel's keys are set: then neighbours answer only who has them, and a
command has none.
"""

from __future__ import annotations

import json
import select
import socket
import time
from typing import Any, Final

from via6.daemon import client
from via6.daemon.trace import Tracer
from via6.daemon.trace_kernel import Node
from via6.errors import NO_DAEMON, Refusal
from via6.kernel.linux import LinuxKernel
from via6.observe.trace.model import DAEMON, Flow, Hop
from via6.observe.trace.node import TraceLink, links_of
from via6.observe.trace.trail import Trail
from via6.observe.trace.wire import Answer
from via6.prefix import format_address, parse_address

_ALONE: Final = (
    "no via6 daemon runs here: the next hop was asked without keys (a router answers where it speaks Babel, and where"
    " its `[trace] interfaces` says so)"
)


def ask(flow: Flow, back: bool, deadline_s: float = 1.2, name: str = "") -> tuple[list[Hop], list[Hop], list[str]]:
    """(hops there, hops back, remarks). The first hop there is this node; `name` is its name if no daemon tells it. A
    hop whose answer was lost is an empty one; no hops back: nobody knows. Raises Refusal when nothing can be asked."""
    try:
        return _of_daemon(flow, back)
    except Refusal as refusal:
        if refusal.code != NO_DAEMON:
            return [], [], [f"the via6 daemon here does not say: {refusal.message}"]
    trail, tracer = Trail(back), _tracer(name or socket.gethostname())
    try:
        _collect(tracer, trail, flow, deadline_s)
    finally:
        tracer.close()
    remarks = [_ALONE] if len(trail.hops(False)) == 1 else []
    return trail.hops(False), trail.hops(True), remarks


# --- the daemon here -----------------------------------------------------------------------------------------------


def _of_daemon(flow: Flow, back: bool) -> tuple[list[Hop], list[Hop], list[str]]:
    question = {
        "to": format_address(flow.destination),
        "from": format_address(flow.source) if flow.source else None,
        "proto": flow.proto,
        "sport": flow.sport,
        "dport": flow.dport,
        "back": back,
    }
    trail = Trail(back)
    for lines in client.ask({"trace": question}):
        for line in lines:
            said = json.loads(line)
            trail.put(said["direction"] == "back", said["index"], _hop(said), said["last"])
    return trail.hops(False), trail.hops(True), []


def _hop(said: dict[str, Any]) -> Hop:
    return Hop(
        node=said["node"], in_device=said["in"], route=said["route"],
        next_hop=parse_address(said["next_hop"]) if said["next_hop"] else None, out_device=said["out"],
        mtu=said["mtu"], ends=said["ends"], why=said["why"], seen=frozenset({DAEMON}),
    )  # fmt: skip


# --- without one ---------------------------------------------------------------------------------------------------


def _tracer(name: str) -> Tracer:
    with LinuxKernel() as kernel:
        snapshot = kernel.dump(frozenset({"links", "addresses"}))
    links: dict[int, TraceLink] = links_of(snapshot.by_index, snapshot.addresses)
    return Tracer(
        name, Node(lambda: snapshot.by_index, lambda: snapshot.addresses), lambda: links, port=0, answering=False
    )  # fmt: skip


def _collect(tracer: Tracer, trail: Trail, flow: Flow, deadline_s: float) -> None:
    def take(answer: Answer) -> None:
        trail.put(answer.back, answer.index, answer.hop, answer.end)

    end = time.monotonic() + deadline_s
    trail.want_back = bool(tracer.start(flow, trail.want_back, take)) and trail.want_back
    poll = select.poll()
    for number in tracer.filenos():
        poll.register(number, select.POLLIN)
    while not trail.complete and (now := time.monotonic()) < end:
        if poll.poll(max(0.0, min(end, tracer.deadline()) - now) * 1000 + 1):
            tracer.read()
        else:
            tracer.tick()
