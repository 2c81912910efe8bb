"""Sources, Rib and Fib together, driven by a simulated kernel that forgets, fails and keeps silent."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from via6.config import RouteSpec, ViaSpec
from via6.engine import NEEDED_PARTS, Engine
from via6.kernel.pump import pump
from via6.model import Burst, DropNexthop, NextHop, Plan, Route, RouteBlock
from via6.prefix import Prefix, parse_address, parse_prefix
from via6.sim.kernel import SimKernel, SimWatch


class Node:
    """A simulated node with eth0 (2001:db8:1::1/64) and eth1 (2001:db8:2::1/64), and an engine that keeps it."""

    def __init__(self, *specs: RouteSpec, objects: bool = True, kernel: SimKernel | None = None) -> None:
        self.now = 0.0
        self.objects = objects
        self.kernel = kernel or SimKernel()
        if kernel is None:
            self.eth0, self.eth1 = (self.link(n) for n in (1, 2))
        self.watch: SimWatch = self.kernel.watch()
        self.engine = Engine(specs, self.kernel.dump(NEEDED_PARTS), objects=objects)
        self.work()

    def link(self, number: int) -> int:
        node = self.kernel.node
        index = node.add_link(f"eth{number - 1}", lladdr=bytes((2, 0, 0, 0, 0, number)))
        node.set_up(index, True)
        node.add_address(index, parse_address(f"2001:db8:{number}::1"), 64)
        return index

    def work(self, seconds: float = 0.0) -> None:
        """What the daemon does after an event, and again whenever the Fib asks for it during `seconds`."""
        end = self.now + seconds
        while True:
            self.engine.observe(self.watch.read(), self.now)
            if self.engine.stale:
                self.engine.synchronise(self.kernel.dump(NEEDED_PARTS))
            pump(self.engine.fib, self.kernel, lambda: self.now)
            fib = self.engine.fib
            at = self.now + 1.0 if fib.needs_dump else fib.next_at(self.now)
            if at > end:
                self.now = end
                return
            self.now = max(at, self.now + 0.01)

    def by_hand(self, op: str, prefix: str, via: str = "", index: int = 0, protocol: int = 3, metric: int = 0) -> None:
        to = parse_prefix(prefix)
        hops = (NextHop(parse_address(via), index),) if via else ()
        metric = metric or (1024 if to.family == 10 else 0)
        one = Route(Prefix(bytes(len(to.packed)), to.length), hops, protocol=protocol, metric=metric)
        assert not self.kernel.by_hand(Plan((Burst(op, RouteBlock(one, [to.packed])),))).failures

    def way(self, prefix: str) -> str:
        """`fe80::9 2, …` of our route to it, '' if there is none."""
        to = parse_prefix(prefix)
        found = [r for r in self.kernel.dump(NEEDED_PARTS).routes if r.prefix == to and r.protocol == 46]
        return ", ".join(f"{h.via.hex(':', 2) if h.via else '-'} {h.ifindex}" for r in found for h in r.next_hops)


def spec(to: str, *vias: str, **more: object) -> RouteSpec:
    pairs = [(via + "%").split("%")[:2] for via in vias]
    return RouteSpec(parse_prefix(to), tuple(ViaSpec(parse_address(a), d) for a, d in pairs), **more)  # type: ignore[arg-type]


V4 = "10.0.0.0/8"


@pytest.mark.parametrize("objects", [True, False])
def test_follows_ipv6(objects: bool) -> None:
    node = Node(spec(V4, "2001:db8:77::9"), objects=objects)
    assert not node.way(V4)
    assert [u.reason.kind for u in node.engine.unmet] == ["no-route"]
    node.by_hand("add", "2001:db8:77::/48", "2001:db8:1::2", node.eth0)
    node.work()
    assert node.way(V4).endswith(f":0002 {node.eth0}")
    assert not node.engine.unmet
    node.by_hand("replace", "2001:db8:77::/48", "2001:db8:2::2", node.eth1)
    node.work()
    assert node.way(V4).endswith(f":0002 {node.eth1}")
    node.by_hand("delete", "2001:db8:77::/48", "2001:db8:2::2", node.eth1)
    node.work()
    assert not node.way(V4)


@pytest.mark.parametrize("objects", [True, False])
def test_a_next_hop_behind_an_ipv6_route_of_our_own(objects: bool) -> None:
    far = "2001:db8:77::/48"
    node = Node(spec(V4, "2001:db8:77::9"), spec(far, "2001:db8:1::2"), objects=objects)
    assert node.way(V4) == node.way(far) != ""
    first = node.way(V4)
    node.engine.reload((spec(V4, "2001:db8:77::9"), spec(far, "2001:db8:2::2")))
    node.work()
    assert node.way(V4) == node.way(far) not in ("", first)
    # Another hand deletes it: it comes back, and what rests on it never moves.
    node.by_hand("delete", far, "2001:db8:2::2", node.eth1, protocol=46)
    node.work(1.0)
    assert node.way(V4) == node.way(far) != ""
    node.kernel.node.set_up(node.eth1, False)
    node.work()
    assert node.way(V4) == node.way(far) == ""
    node.kernel.node.set_up(node.eth1, True)
    node.kernel.node.add_address(node.eth1, parse_address("2001:db8:2::1"), 64)
    node.work(2.0)
    assert node.way(V4) == node.way(far) != ""
    node.engine.reload((spec(V4, "2001:db8:77::9"),))
    node.work()
    assert node.way(V4) == node.way(far) == ""


def test_what_an_earlier_run_left_is_no_way_to_a_next_hop() -> None:
    """It goes, and with it what would have rested on it."""
    first = Node(spec("2001:db8:77::/48", "2001:db8:1::2"))
    second = Node(spec(V4, "2001:db8:77::9"), kernel=first.kernel)
    assert second.way("2001:db8:77::/48") == ""
    assert second.way(V4) == ""
    assert [u.reason.kind for u in second.engine.unmet] == ["no-route"]


def test_adopts_without_a_message() -> None:
    specs = (
        spec(V4, "2001:db8:77::9"), spec("2001:db8:77::/48", "2001:db8:1::2"),
        spec("10.1.0.0/16", "fe80::1%eth0", "fe80::2%eth1"),
        spec("10.2.0.0/16", type="blackhole"),
    )  # fmt: skip
    first = Node(*specs)
    engine = Engine(specs, first.kernel.dump(NEEDED_PARTS))
    assert not engine.fib.plan(0.0)
    assert engine.fib.counts() == {"installed": 4}


def test_leaves_nothing() -> None:
    node = Node(spec(V4, "fe80::1%eth0", "fe80::2%eth1"), spec("10.1.0.0/16", type="unreachable"))
    node.by_hand("add", "10.9.0.0/16", "fe80::1", node.eth0)
    node.engine.leave()
    node.work()
    found = node.kernel.dump()
    assert not [r for r in found.routes if r.protocol == 46]
    assert not found.nexthops
    assert found.routes.at(parse_prefix("10.9.0.0/16"))


def test_lost_notifications() -> None:
    node = Node(spec(V4, "2001:db8:77::9"), spec("10.1.0.0/16", "fe80::1%eth0"))
    node.by_hand("add", "2001:db8:77::/48", "2001:db8:1::2", node.eth0)
    node.work()
    node.by_hand("delete", "10.1.0.0/16", protocol=46)
    node.by_hand("replace", "2001:db8:77::/48", "2001:db8:2::2", node.eth1)
    node.watch.read()
    node.watch.miss()
    node.work(1.0)
    assert node.way("10.1.0.0/16")
    assert node.way(V4).endswith(f" {node.eth1}")


def test_reload_while_a_dump_is_due() -> None:
    node = Node(spec(V4, "fe80::1%eth0"))
    node.watch.miss()
    node.engine.observe(node.watch.read(), node.now)
    assert node.engine.stale
    node.engine.reload((spec(V4, "fe80::1%eth1"),))
    node.work()
    assert node.way(V4).endswith(f" {node.eth1}")


@pytest.mark.parametrize("objects", [True, False])
@pytest.mark.parametrize("seed", [*range(25), 186, 242])
def test_ends_right_whatever_happens(seed: int, objects: bool) -> None:
    """Random misfortunes; when they are over and a few seconds have passed, the kernel holds just what is declared."""
    chance = random.Random(seed)
    specs = [
        spec(V4, "2001:db8:77::9"), spec("2001:db8:77::/48", "2001:db8:1::2"),
        spec("10.1.0.0/16", "fe80::1%eth0", "fe80::2%eth1"),
        spec("10.2.0.0/16", "fe80::1%eth0"), spec("10.3.0.0/16", "2001:db8:2::2"),
        spec("10.4.0.0/16", type="blackhole"),
    ]  # fmt: skip
    node = Node(*specs, objects=objects)
    kernel, links = node.kernel, [node.eth0, node.eth1]

    def delete() -> None:
        to = chance.choice(specs).to
        found = [r for r in kernel.dump(NEEDED_PARTS).routes if r.prefix == to and r.protocol == 46]
        for one in found:
            plain = Route(one.as_template().prefix, type=one.type, protocol=46, metric=one.metric)
            kernel.by_hand(Plan((Burst("delete", RouteBlock(plain, [to.packed])),)))

    def drop() -> None:
        objects_ = kernel.dump(NEEDED_PARTS).nexthops
        if objects_:
            kernel.by_hand(Plan((DropNexthop(chance.choice(objects_).nhid),)))

    deeds: list[Callable[[], object]] = [
        delete, drop, node.watch.miss, kernel.lose_ack, node.work,
        lambda: kernel.node.set_carrier(chance.choice(links), chance.random() < 0.5),
        lambda: kernel.node.set_up(chance.choice(links), chance.random() < 0.5),
        lambda: node.work(chance.random() * 3),
        lambda: node.engine.reload(chance.sample(specs, 4)),
    ]  # fmt: skip
    for _ in range(60):
        chance.choice(deeds)()
    for number, index in enumerate(links, 1):
        kernel.node.set_carrier(index, True)
        kernel.node.set_up(index, True)
        if parse_address(f"2001:db8:{number}::1") not in {a.address for a in kernel.dump().addresses}:
            kernel.node.add_address(index, parse_address(f"2001:db8:{number}::1"), 64)
    node.engine.reload(specs)
    node.work(200.0)
    assert node.engine.fib.counts() == {"installed": 6}, f"seed {seed}: {list(node.engine.fib.troubles())}"
    fresh = Node(*specs, objects=objects)
    assert [node.way(str(s.to)) for s in specs] == [fresh.way(str(s.to)) for s in specs], f"seed {seed}"
    assert len(kernel.dump().nexthops) == len(fresh.kernel.dump().nexthops)
