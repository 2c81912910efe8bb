"""The edge of a trace: the sockets of the questions (`trace_socket`), the kernel that is asked, and who waits for an
answer here."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from math import inf
from typing import Any, Final

from via6.collect.wireguard import allowed_ips
from via6.daemon.trace_kernel import Node, Oracle
from via6.daemon.trace_socket import Sockets
from via6.errors import FAILED, Refusal
from via6.observe.trace.model import Flow, Hop
from via6.observe.trace.node import Glance, Lookup, Responder, TraceLink
from via6.observe.trace.trail import Trail
from via6.observe.trace.wire import NONCE_OCTETS, PORT, Answer
from via6.prefix import Address, format_address

DEADLINE_S: Final = 1.2

_LINKS_S: Final = 0.25
"""The links may have changed after so long."""

Links = Callable[[], Mapping[int, TraceLink]]
Taker = Callable[[Answer], None]


class Tracer:
    """`links` says where questions are asked and answered, and is asked again every now and then. `port` 0 is any: who
    only asks. Raises Refusal when the port cannot be had."""

    def __init__(self, name: str, node: Node, links: Links, *, port: int = PORT, answering: bool = True) -> None:
        self._oracle = Oracle(node)
        try:
            self._sockets = Sockets(port)
        except Refusal:
            self._oracle.close()
            raise
        self._links = links
        self._links_at = -inf
        self._learning: dict[str, list[Lookup]] = {}
        self._takers: dict[bytes, Taker] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.responder = Responder(name, port=self._sockets.port, answering=answering)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is not None and not self._loop.is_closed():
            for number in self._sockets.filenos():
                self._loop.remove_reader(number)
        self._sockets.close()
        self._oracle.close()

    def filenos(self) -> list[int]:
        """To be polled: when one is readable, `read` is due. None when it is closed."""
        return self._sockets.filenos()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on the loop calls `read` and `tick`."""
        self._loop = loop
        for number in self._sockets.filenos():
            loop.add_reader(number, self.read)

    def deadline(self) -> float:
        """When `tick` is due."""
        return self.responder.deadline()

    # --- asking ----------------------------------------------------------------------------------------------------

    def start(self, flow: Flow, want_back: bool, taker: Taker) -> bytes:
        """Asks where a packet of this node goes, or one of a stranger, as it would come in here. `taker` gets the
        answers until `forget`; if b"" is returned it has got the only one. Raises Refusal."""
        if flow.source is None:
            source = self._oracle.source_for(flow)
            if source is None:
                return self._without_source(flow, taker)
            flow = Flow(flow.destination, source, flow.proto, flow.sport, flow.dport)
        assert flow.source is not None
        iif = 0 if self._oracle.node.is_own(flow.source) else self._oracle.comes_in(flow.source)
        nonce = os.urandom(NONCE_OCTETS)
        now = time.monotonic()
        self._refresh(now)
        if not self.responder.start(nonce, flow, want_back, now, iif):
            raise Refusal("too many traces are under way", "try again in some seconds", FAILED)
        self._takers[nonce] = taker
        self._work(now)
        return nonce

    def forget(self, nonce: bytes) -> None:
        """Nobody waits for these answers any more."""
        self._takers.pop(nonce, None)

    def _without_source(self, flow: Flow, taker: Taker) -> bytes:
        """The packet cannot be sent, but where it would go is worth knowing."""
        found = self._oracle.look(Lookup(b"", False, flow, 0)).hop
        good = found.ends in ("DELIVERED_TO_SUBNET", "EXITS_NETWORK")
        why = "this node has no IPv4 address of its own to send from: say `--from ADDRESS`"
        hop = Hop(
            self.responder.name, "", found.route, found.next_hop, found.out_device, mtu=found.mtu,
            ends="UNKNOWN" if good else found.ends, why=why if good else found.why,
        )  # fmt: skip
        taker(Answer(b"", hop, end=True))
        return b""

    async def trace(self, flow: Flow, want_back: bool) -> AsyncIterator[dict[str, Any]]:
        """A JSON object for each hop, as they come; a later one for the same place is better informed. Raises
        Refusal."""
        queue: asyncio.Queue[Answer] = asyncio.Queue()
        trail = Trail(want_back)
        begin = time.monotonic()
        nonce = self.start(flow, want_back, queue.put_nowait)
        trail.want_back = want_back and bool(nonce)
        try:
            while not trail.complete and (left := begin + DEADLINE_S - time.monotonic()) > 0:
                try:
                    answer = await asyncio.wait_for(queue.get(), left)
                except TimeoutError:
                    break
                trail.put(answer.back, answer.index, answer.hop, answer.end)
                yield hop_json(answer, (time.monotonic() - begin) * 1000)
        finally:
            self.forget(nonce)

    # --- inputs ----------------------------------------------------------------------------------------------------

    def read(self) -> None:
        """A socket is readable."""
        now = time.monotonic()
        self._refresh(now)
        arrivals, refused = self._sockets.read()
        for arrival in arrivals:
            self.responder.receive(arrival, now)
        self._refused(refused)
        self._work(now)

    def tick(self) -> None:
        """Time has passed."""
        self._work(time.monotonic())

    def _refused(self, refused: list[tuple[int, Address]]) -> None:
        for ifindex, address in refused:
            # Of a global address, and of IPv4, the kernel does not say which link.
            for index in [ifindex] if ifindex else list(self.responder.links):
                self.responder.refused(index, address)

    # --- outputs ---------------------------------------------------------------------------------------------------

    def _refresh(self, now: float) -> None:
        if now >= self._links_at:
            self._links_at = now + _LINKS_S
            self.responder.links = dict(self._links())

    def _work(self, now: float) -> None:
        """Everything that follows, and the timer for what is to come."""
        self.responder.tick(now)
        while True:
            sends, lookups, found = self.responder.take()
            if not sends and not lookups and not found:
                break
            for send in sends:
                self._refused(self._sockets.send(send))
            for lookup in lookups:
                self._look_up(lookup)
            for answer in found:
                taker = self._takers.get(answer.nonce)
                if taker is not None:
                    taker(answer)
        if self._loop is not None:
            if self._timer is not None:
                self._timer.cancel()
            at = self.responder.deadline()
            wait = max(at - time.monotonic(), 0.001)
            self._timer = self._loop.call_later(wait, self.tick) if at < inf else None

    def _look_up(self, lookup: Lookup | Glance) -> None:
        if isinstance(lookup, Glance):
            self.responder.seen(lookup, self._oracle.glance(lookup), time.monotonic())
            return
        now = time.monotonic()
        verdict = self._oracle.look(lookup)
        device = self._oracle.wants(lookup, verdict, now)
        if not device:
            self.responder.answered(lookup, verdict, now)
        elif self._loop is None:
            self._learned(device, [lookup], allowed_ips(device)[0])
        elif device in self._learning:
            self._learning[device].append(lookup)
        else:
            waiting = self._learning[device] = [lookup]
            future = self._loop.run_in_executor(None, allowed_ips, device)
            future.add_done_callback(lambda done: self._learned(device, waiting, done.result()[0]))

    def _learned(self, device: str, waiting: list[Lookup], listed: str) -> None:
        """`wg` has answered; only then is it known whether the device lets the packets through."""
        self._learning.pop(device, None)
        self._oracle.learn(device, listed, time.monotonic())
        for lookup in waiting:  # it may come in by one tunnel and leave by another
            self._look_up(lookup)
        if self._loop is not None and self._sockets.filenos():
            self._work(time.monotonic())


def hop_json(answer: Answer, ms: float) -> dict[str, Any]:
    """A hop as the control socket tells it. `daemon_ms` is how long the answer took, not the packet."""
    hop = answer.hop
    return {
        "direction": "back" if answer.back else "there",
        "index": answer.index,
        "node": hop.node,
        "in": hop.in_device,
        "route": hop.route,
        "next_hop": format_address(hop.next_hop) if hop.next_hop else "",
        "out": hop.out_device,
        "mtu": hop.mtu,
        "ends": hop.ends,
        "why": hop.why,
        "last": answer.end,
        "daemon_ms": round(ms, 2),
    }
