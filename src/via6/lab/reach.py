"""Who reaches whom in a lab, since when, and where the rest stops.

First the routers' kernels are watched until each has a route to every island, which costs less than pinging in vain
would cost the programs that are starting. Then every host pings every other, all at once, from a child process in
its namespace, again and again until nothing is missing, or nothing has been gained for two seconds. Where routers find
their routes by themselves, these may still change, and only the deadline ends it. Hosts of different connected parts of
the network are pinged once, at the end.

Where a pair stops is asked of the kernels: each router on the way is asked for its route (RTM_GETROUTE) to the
destination as a packet that comes in at this interface, which tells the next router. If the way there is whole, the way
back is walked.
"""

from __future__ import annotations

import contextlib
import errno
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from via6.collect.probe import ping_many
from via6.lab.topology import LAN, SPEAKERS, Host, Topology
from via6.prefix import Address, format_address

if TYPE_CHECKING:
    from via6.kernel.linux import LinuxKernel
    from via6.lab.namespaces import Lab

_ROUND_S: Final = 0.3
_PATIENCE_S: Final = 2.0
_MAX_HOPS: Final = 255


@dataclass(frozen=True, slots=True)
class Trail:
    """The nodes that a packet passes, source first. `why` is empty if it arrives, else why it ends at the last."""

    nodes: tuple[str, ...]
    why: str = ""

    def __str__(self) -> str:
        return " ".join(self.nodes) + (f": {self.why}" if self.why else "")


@dataclass(frozen=True, slots=True)
class Missing:
    """A pair of hosts without an answer: where packets (or the answers, `back`) stop, and why."""

    source: str
    destination: str
    stops_at: str
    why: str
    back: bool = False

    def __str__(self) -> str:
        where = f"the answer stops at {self.stops_at}" if self.back else f"stops at {self.stops_at}"
        return f"{self.source} -> {self.destination}: {where} ({self.why})"


@dataclass(frozen=True, slots=True)
class Reach:
    """`seconds` from the start of the routers' software to the answer of the last pair, None if one is missing."""

    pairs: int
    reachable: int
    seconds: float | None
    missing: tuple[Missing, ...]


def measure(lab: Lab, timeout_s: float) -> Reach:
    """Waits for the routes for up to `timeout_s` since the routers' software was started, then pings all pairs."""
    topology = lab.topology
    part = topology.component
    patience_s = timeout_s if any(router.software in SPEAKERS for router in topology.routers) else _PATIENCE_S
    lab.wait_routes(timeout_s)
    deadline = max(time.monotonic() + _PATIENCE_S, lab.started_s + timeout_s)

    def work(node: str) -> tuple[set[Address], float]:
        near: list[Address] = []
        far: list[Address] = []
        for other in topology.hosts:
            if other.name != node:
                same = part[other.router] == part[topology.host[node].router]
                (near if same else far).append(other.address)
        return _ping_until(near, far, deadline, patience_s)

    found = lab.each(topology.host, work)
    open_pairs = [(a, b) for a, b in topology.pairs() if b.address not in found[a.name][0]]
    pairs = len(topology.hosts) * (len(topology.hosts) - 1)
    last = max((at for _, at in found.values()), default=lab.started_s)
    with _Walker(lab) as walker:
        missing = tuple(walker.explain(a, b) for a, b in open_pairs)
    seconds = None if missing else max(0.0, last - lab.started_s)
    return Reach(pairs, pairs - len(missing), seconds, missing)


def _ping_until(
    near: list[Address], far: list[Address], deadline: float, patience_s: float
) -> tuple[set[Address], float]:
    """In a child: (who has answered, monotonic time at which the last answer was in)."""
    todo = near
    answered: set[Address] = set()
    last = 0.0
    gained = time.monotonic()
    while todo:
        began = time.monotonic()
        came = {ping.target for ping in ping_many(todo, timeout_s=_ROUND_S) if ping.rtts_s}
        now = time.monotonic()
        if came:
            last = gained = now
            answered |= came
            todo = [target for target in todo if target not in came]
        if now >= min(deadline, gained + patience_s):
            break
        if todo:  # refusals come at once
            time.sleep(max(0.0, began + _ROUND_S - now))
    if far:
        answered |= {ping.target for ping in ping_many(far, timeout_s=_ROUND_S) if ping.rtts_s}
    return answered, last


def link_addresses(lab: Lab) -> int:
    """How many IPv4 addresses the interfaces of the links between routers have, read from the kernel: 0 is right."""
    from via6.kernel.linux import LinuxKernel

    def count(devices: set[str]) -> int:
        with LinuxKernel() as kernel:
            snapshot = kernel.dump(frozenset({"links", "addresses"}))
        return sum(len(entry.address) == 4 and snapshot.dev(entry.ifindex) in devices for entry in snapshot.addresses)

    topology = lab.topology
    return sum(lab.call(name, count, {device for device, _, _ in ports}) for name, ports in topology.ports.items())


# --- the way of a packet -------------------------------------------------------------------------------------------


def trail(lab: Lab, source: str, destination: str) -> Trail:
    """The nodes that a packet from one host to another passes, as the kernels decide it."""
    with _Walker(lab) as walker:
        return walker.walk(lab.topology.host[source], lab.topology.host[destination])


class _Walker:
    """Asks kernels for routes; keeps one socket per router, which stays in the router's namespace."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.topology: Topology = lab.topology
        self.far = {(name, device): port for name, ports in self.topology.ports.items() for device, port, _ in ports}
        self._kernels: dict[str, tuple[LinuxKernel, dict[str, int], dict[int, str]]] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> _Walker:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _kernel(self, router: str) -> tuple[LinuxKernel, dict[str, int], dict[int, str]]:
        from via6.kernel.linux import LinuxKernel

        if router not in self._kernels:
            kernel = self._stack.enter_context(self.lab.call(router, LinuxKernel, receive_buffer=1 << 18))
            links = kernel.dump(frozenset({"links"})).links
            self._kernels[router] = kernel, {x.name: x.ifindex for x in links}, {x.ifindex: x.name for x in links}
        return self._kernels[router]

    def walk(self, source: Host, destination: Host) -> Trail:
        """Follows the routes from the source's router on."""
        nodes = [source.name]
        router, device = source.router, LAN
        for _ in range(_MAX_HOPS):
            if router in nodes:
                return Trail((*nodes, router), "a loop")
            nodes.append(router)
            step = self._step(router, device, source.address, destination.address)
            if isinstance(step, str):
                return Trail(tuple(nodes), step)
            if step[1] == LAN:
                arrived = destination.router == router
                return Trail((*nodes, destination.name) if arrived else tuple(nodes), "" if arrived else "wrong LAN")
            port = self.far.get(step)
            if port is None:
                return Trail(tuple(nodes), f"it leaves by {step[1]}, which is no link of the lab")
            router, device = port.router, port.device
        return Trail(tuple(nodes), f"more than {_MAX_HOPS} routers")

    def _step(self, router: str, device: str, source: Address, destination: Address) -> tuple[str, str] | str:
        """(router, the device by which it sends the packet on), or why it does not."""
        from via6.model import Failure

        kernel, index, names = self._kernel(router)
        if device not in index:
            return f"it has no interface {device}"
        route = kernel.lookup(destination, source=source, iif=index[device])
        if isinstance(route, Failure):
            return f"no route to {format_address(destination)}" if route.errno == errno.ENETUNREACH else route.text
        if route.type != "unicast" or not route.next_hops:
            return f"its route is of type {route.type}"
        return router, names.get(route.next_hops[0].ifindex, "?")

    def explain(self, source: Host, destination: Host) -> Missing:
        """Why a pair that did not answer did not."""
        part = self.topology.component
        if part[source.router] != part[destination.router]:
            return Missing(source.name, destination.name, source.router, "no path in the topology")
        there = self.walk(source, destination)
        if there.why:
            return Missing(source.name, destination.name, there.nodes[-1], there.why)
        back = self.walk(destination, source)
        if back.why:
            return Missing(source.name, destination.name, back.nodes[-1], back.why, back=True)
        return Missing(source.name, destination.name, there.nodes[-2], "the routes are whole, but no answer came")
