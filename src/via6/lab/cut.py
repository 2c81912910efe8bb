"""A link of the demonstration is cut under a stream of packets, and heals.

A link is cut as a cable is: the far end goes down, and the near one loses its carrier. With the carrier the kernel
deletes what hangs on this link, and the standing backup of each route is what it finds next. Nothing has to be told to
anybody for that, so a stream should lose a packet or two, or none.

Whether Linux says at once that the carrier is lost depends on the numbers of the interfaces: a veth pair whose ends
have the same one it takes for a device without a lower one, and does not hurry (linkwatch, up to a second when there
was another such event shortly before, anywhere on the machine). `lab.namespaces` numbers them apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from via6.kernel.linux import LinuxKernel
from via6.lab.namespaces import ip_batch
from via6.lab.stream import RATE_HZ, Stream
from via6.lab.topology import HOST_DEVICE, LAN, Host, Topology
from via6.model import Route
from via6.prefix import Address, Prefix, format_address

if TYPE_CHECKING:
    from via6.lab.demo import Scene

Facts = dict[str, Any]

READY_S: Final = 20.0  # a slow machine needs some seconds to start six programs
LOST_MOST: Final = 0.1  # of the stream: beyond, something is broken
_PAUSE_S: Final = 0.5
_CUT_S: Final = 1.0
_POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Cut:
    """A link that was cut: `near` has lost its carrier on `device` because `far` set `far_device` down; `via` was the
    next hop there."""

    near: str
    device: str
    far: str
    far_device: str
    via: Address


def cut(scene: Scene) -> Facts:
    """A stream, and the first link between routers on its way cut: the table before and after, and what was lost."""
    source, target = scene.ends
    inner = scene.topology.router
    links = [(step, step.via) for step in scene.way if step.node in inner and step.next in inner and step.via]
    if not scene.check(bool(links), "no link on the way to cut"):
        return {"cut": None}
    step, via = links[0]
    gone = Cut(step.node, step.device, step.next, device_towards(scene.topology, step.next, step.node), via)
    before = _routes_to(scene, gone.near, target)
    scene.broken, scene.stream = gone, Stream(scene.lab, source, target)
    scene.check(scene.stream.flows(_CUT_S), f"no packet of the stream came from {source.name} to {target.name}")
    time.sleep(_PAUSE_S)
    at = time.monotonic()
    ip_batch([f"link set {gone.far_device} down"], scene.lab.namespace(gone.far))
    time.sleep(_CUT_S)
    passage = scene.stream.passage(at)
    after = _routes_to(scene, gone.near, target)
    return {
        "cut": {
            "node": gone.near, "dev": gone.device, "next": gone.far, "next_dev": gone.far_device,
            "from": source.name, "to": target.name, "rate_hz": RATE_HZ,
            "prefix": str(scene.topology.router[target.router].lan),
            "sent": passage.sent, "lost": passage.lost, "outage_ms": round(1000 * passage.outage_s, 1),
            "before": before, "after": after,
        }
    }  # fmt: skip


def heal(scene: Scene) -> Facts:
    """The link comes back: how long until there is a route by it again, and what the stream lost in that; then what it
    lost in all."""
    gone, stream = scene.broken, scene.stream
    if gone is None or stream is None:
        return {"heal": None, "stream": None}
    lan = scene.topology.router[scene.ends[1].router].lan
    at = time.monotonic()
    # Linux forgets the IPv6 addresses of an interface that goes down; those of a lab are given, not made by the kernel.
    address = format_address(scene.topology.router[gone.far].link_local)
    lines = [f"link set {gone.far_device} up", f"address replace {address}/64 dev {gone.far_device} nodad"]
    ip_batch(lines, scene.lab.namespace(gone.far))

    def back(routes: list[Route]) -> bool:
        return any(hop.via == gone.via for route in unicast(routes, lan) for hop in route.next_hops)

    found = until_routes(scene, gone.near, back) is not None
    healed_s = round(time.monotonic() - at, 3) if found else None
    scene.check(found, f"{gone.near} has no route by {gone.far} again")
    time.sleep(_PAUSE_S)
    passage, whole = stream.passage(at), stream.passage()
    stream.stop()
    after = _routes_to(scene, gone.near, scene.ends[1])
    scene.check(
        whole.lost <= LOST_MOST * whole.sent,
        f"the stream lost {whole.lost} of {whole.sent} packets when a link was cut",
    )
    return {
        "heal": {
            "healed_s": healed_s, "sent": passage.sent, "lost": passage.lost, "after": after,
        },
        "stream": {"rate_hz": RATE_HZ, "sent": whole.sent, "lost": whole.lost},
    }  # fmt: skip


def _routes_to(scene: Scene, node: str, target: Host) -> list[str]:
    """The routes of a node to the island of a host, as `via6 route` prints them there."""
    return (scene.via6(node, "route", str(scene.topology.router[target.router].lan)) or "").splitlines()


def device_towards(topology: Topology, node: str, other: str) -> str:
    """The device of a node behind which there is the other one."""
    if node in topology.host:
        return HOST_DEVICE
    return next((device for device, port, _ in topology.ports[node] if port.router == other), LAN)


def until_routes(
    scene: Scene, node: str, good: Callable[[list[Route]], bool], timeout_s: float = READY_S
) -> float | None:
    """Seconds until the IPv4 routes in the kernel of a node are so; None if they are not within the time."""
    began = time.monotonic()
    with scene.lab.inside(node), LinuxKernel(receive_buffer=1 << 18) as kernel:
        while not good(list(kernel.dump(frozenset({"routes4"})).routes)):
            if time.monotonic() > began + timeout_s:
                return None
            time.sleep(_POLL_S)
    return time.monotonic() - began


def unicast(routes: list[Route], prefix: Prefix | None) -> list[Route]:
    """The routes to a prefix that lead somewhere."""
    return [route for route in routes if route.prefix == prefix and route.type == "unicast"]
