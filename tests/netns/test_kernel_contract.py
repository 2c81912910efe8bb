"""The same scenarios against Linux in a namespace and against its simulated twin: answers, tables and notifications.

Each scenario is a function of a world and leaves a log; the logs of both worlds must be equal. What differs for good
reason is left out before: the kernel's own routes (connected, local, multicast), and repeated link notifications.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from support import Nets, wait_until
from via6.kernel.linux import LinuxKernel
from via6.kernel.watch import LinuxWatch
from via6.model import (
    NH_ONLINK,
    PROTO_KERNEL,
    PROTO_STATIC,
    Burst,
    Change,
    DropNexthop,
    InterfaceAddress,
    Link,
    NextHop,
    NexthopObject,
    Outcome,
    Plan,
    PutNexthop,
    Route,
    RouteBlock,
    Snapshot,
    Step,
    Watch,
)
from via6.prefix import AF_INET, format_address, parse_address, parse_prefix
from via6.sim.kernel import SimKernel

pytestmark = pytest.mark.root

DEVICES = ("eth0", "eth1", "eth2", "eth3")  # eth2 is set down, eth3 has no carrier
ADDRESSES = (("eth0", "2001:db8::1", 64), ("eth1", "2001:db8:1::1", 64), ("eth0", "192.0.2.1", 24))


def lladdr(number: int) -> bytes:
    return bytes([2, 0, 0, 0, 0, number + 1])


class World(Protocol):
    """One node, as a scenario sees it."""

    index: dict[str, int]

    def apply(self, plan: Plan) -> Outcome: ...
    def by_hand(self, plan: Plan) -> Outcome: ...
    def dump(self) -> Snapshot: ...
    def watch(self) -> Watch: ...
    def carrier(self, dev: str, carrier: bool) -> None: ...
    def up(self, dev: str, up: bool) -> None: ...
    def delete(self, dev: str) -> None: ...
    def address(self, dev: str, address: str, length: int, there: bool) -> None: ...


class LinuxWorld:
    def __init__(self, nets: Nets) -> None:
        self._here, self._there = nets.new(), nets.new()
        for number, dev in enumerate(DEVICES):
            nets.veth(self._here, dev, self._there, dev, up=False)
            self._here.ip("link", "set", dev, "address", lladdr(number).hex(":"))
            if dev != "eth3":
                self._there.ip("link", "set", dev, "up")
            if dev != "eth2":
                self._here.ip("link", "set", dev, "up")
        for dev, address, length in ADDRESSES:
            self._here.ip("addr", "add", f"{address}/{length}", "dev", dev)
        with self._here.inside():
            self._own, self._other = LinuxKernel(), LinuxKernel()
        self.index = {link.name: link.ifindex for link in self.dump().links}
        wait_until(lambda: [self._state(d) for d in DEVICES] == ["UP", "UP", "DOWN", "DOWN"], what="links settled")
        # The kernel takes carrier changes in bunches, once a second.
        time.sleep(1.1)
        self._watches: list[LinuxWatch] = []

    def _state(self, dev: str) -> str:
        link = self.dump().by_name[dev]
        return link.operstate if link.carrier or link.operstate == "DOWN" else "…"

    def close(self) -> None:
        for watch in self._watches:
            watch.close()
        self._own.close()
        self._other.close()

    def apply(self, plan: Plan) -> Outcome:
        return self._own.apply(plan)

    def by_hand(self, plan: Plan) -> Outcome:
        return self._other.apply(plan)

    def dump(self) -> Snapshot:
        return self._own.dump()

    def watch(self) -> Watch:
        with self._here.inside():
            watch = self._own.watch()
        self._watches.append(watch)
        return watch

    def carrier(self, dev: str, carrier: bool) -> None:
        self._there.ip("link", "set", dev, "up" if carrier else "down")
        wait_until(lambda: self._state(dev) == ("UP" if carrier else "DOWN"), what="carrier")

    def up(self, dev: str, up: bool) -> None:
        self._here.ip("link", "set", dev, "up" if up else "down")
        wait_until(lambda: self._state(dev) == ("UP" if up else "DOWN"), what="link state")

    def delete(self, dev: str) -> None:
        self._here.ip("link", "del", dev)

    def address(self, dev: str, address: str, length: int, there: bool) -> None:
        self._here.ip("addr", "add" if there else "del", f"{address}/{length}", "dev", dev)


class SimWorld:
    def __init__(self) -> None:
        self._kernel = SimKernel()
        self._node = self._kernel.node
        self.index = {"lo": 1}
        for number, dev in enumerate(DEVICES):
            self.index[dev] = self._node.add_link(dev, lladdr=lladdr(number))
            self._node.set_carrier(self.index[dev], dev != "eth3")
            self._node.set_up(self.index[dev], dev != "eth2")
        for dev, address, length in ADDRESSES:
            self.address(dev, address, length, True)

    def apply(self, plan: Plan) -> Outcome:
        return self._kernel.apply(plan)

    def by_hand(self, plan: Plan) -> Outcome:
        return self._kernel.by_hand(plan)

    def dump(self) -> Snapshot:
        return self._kernel.dump()

    def watch(self) -> Watch:
        return self._kernel.watch()

    def carrier(self, dev: str, carrier: bool) -> None:
        self._node.set_carrier(self.index[dev], carrier)

    def up(self, dev: str, up: bool) -> None:
        self._node.set_up(self.index[dev], up)

    def delete(self, dev: str) -> None:
        self._node.delete_link(self.index[dev])

    def address(self, dev: str, address: str, length: int, there: bool) -> None:
        if there:
            self._node.add_address(self.index[dev], parse_address(address), length)
        else:
            self._node.delete_address(self.index[dev], parse_address(address))


# --- what both worlds are asked, in words that both understand ------------------------------------------------------


class Story:
    """A scenario under way: names instead of ifindexes, and the log that is compared."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.names = {index: name for name, index in world.index.items()}
        self.log: list[str] = []
        self.watch = world.watch()

    def hop(self, text: str) -> NextHop:
        """`fe80::1%eth0`, `%eth0`, `2001:db8::9`, with `*weight` and `!` for onlink."""
        text, onlink, _ = text.partition("!")
        text, _, weight = text.partition("*")
        via, _, dev = text.partition("%")
        index = self.world.index[dev] if dev in self.world.index else int(dev or 0)
        return NextHop(parse_address(via) if via else None, index, int(weight or 1), NH_ONLINK if onlink else 0)

    def route(self, prefix: str, *hops: str, **more: object) -> Route:
        if isinstance(more.get("src"), str):
            more["src"] = parse_address(str(more["src"]))
        return Route(parse_prefix(prefix), tuple(map(self.hop, hops)), **more)  # type: ignore[arg-type]

    def nexthop(self, nhid: int, hop: str = "", **more: object) -> NexthopObject:
        one = self.hop(hop)
        return NexthopObject(nhid, one.via, one.ifindex, flags=one.flags, **more)  # type: ignore[arg-type]

    def do(self, *steps: Step, hand: bool = False) -> None:
        """Each step for itself, with the answer noted."""
        for step in steps:
            act = self.world.by_hand if hand else self.world.apply
            outcome = act(Plan((step,)))
            said = [
                f"{f.errno} {f.text} for {f.destination and format_address(f.destination)}" for f in outcome.failures
            ]
            self.log.append(f"{self.show_step(step)}: {'; '.join(said) or 'done'}{' overrun' * outcome.overrun}")

    def add(self, *routes: Route, hand: bool = False, op: str = "add") -> None:
        self.do(*(burst(op, r) for r in routes), hand=hand)

    def look(self, what: str) -> None:
        """Notes the tables and what the watch has heard since the last look."""
        snapshot = self.world.dump()
        self.log.append(f"--- {what}: tables")
        self.log += sorted(self.show(r) for r in snapshot.routes if r.protocol != PROTO_KERNEL)
        self.log += [self.show(n) for n in sorted(snapshot.nexthops, key=lambda n: n.nhid)]
        self.log += sorted(self.show(a) for a in snapshot.addresses)
        self.log += sorted(self.show(link) for link in snapshot.links)
        self.log.append(f"--- {what}: heard")
        for event in self.watch.read():
            if isinstance(event, Change) and not (
                isinstance(event.object, Route) and event.object.protocol == PROTO_KERNEL
            ):
                line = self.show(event.object) + " GONE" * event.gone
                if line != self.log[-1]:
                    self.log.append(line)

    # --- text ---

    def show_hop(self, hop: NextHop) -> str:
        via = format_address(hop.via) if hop.via else ""
        return f"{via}%{self.names.get(hop.ifindex, hop.ifindex)}*{hop.weight}f{hop.flags}"

    def show_step(self, step: Step) -> str:
        if isinstance(step, Burst):
            return f"{step.op} {self.show(next(iter(step.block)))}"
        return f"drop {step.nhid}" if isinstance(step, DropNexthop) else f"put{step.replace} {self.show(step.object)}"

    def show(self, thing: object) -> str:
        match thing:
            case Route():
                hops = " ".join(map(self.show_hop, thing.next_hops))
                src = format_address(thing.src) if thing.src else "-"
                slot = f"{thing.prefix} table {thing.table} metric {thing.metric} tos {thing.tos}"
                kind = f"{thing.type} proto {thing.protocol} scope {thing.scope} flags {thing.flags}"
                return f"{slot} [{hops}] nhid {thing.nhid} {kind} src {src} {thing.metrics}"
            case NexthopObject():
                hop = self.show_hop(NextHop(thing.via, thing.ifindex, 1, thing.flags))
                return (
                    f"nexthop {thing.nhid} {hop} {thing.group} {thing.blackhole} proto {thing.protocol} {thing.family}"
                )
            case InterfaceAddress():
                return f"{format_address(thing.address)}/{thing.length} {self.names[thing.ifindex]} scope {thing.scope}"
            case Link():
                return f"{thing.name} up={thing.up} carrier={thing.carrier}"
        return repr(thing)


def burst(op: str, route: Route) -> Burst:
    return Burst(op, RouteBlock(route.as_template(), [route.prefix.packed]))


def v4_to_v6_gateways(s: Story) -> None:
    """Every way in which a next hop can be wrong."""
    hops = """
        fe80::1%99 %99 fe80::1%eth2 2001:db8::9%eth2 %eth2 fe80::1%eth3 %eth3 2001:db8:9::1%eth0 2001:db8:1::2%eth0
        2001:db8:9::1 2001:db8::9 2001:db8::1%eth0 2001:db8:1::1%eth0 2001:db8::1 fe80::1 fe80::ff:fe00:1%eth0
        ::ffff:1.2.3.4%eth0 ::ffff:1.2.3.4 ff02::1%eth0 ::%eth0 ::1%eth0 ::1 fe80::1%lo 2001:db8::9%lo
        2001:db8:77::1%eth0! 2001:db8::1%eth0! 2001:db8:1::1%eth0! 2001:db8:1::1%eth2! ::ffff:1.2.3.4%eth0!
        192.0.2.9%eth0 198.51.100.9%eth0 192.0.2.1%eth0 198.51.100.9 192.0.2.9%eth2 192.0.2.9%eth3 192.0.2.9%99
        192.0.2.9 198.51.100.9%eth0! 192.0.2.1%eth0! 192.0.2.9%eth2!
    """
    for number, hop in enumerate(hops.split()):
        s.add(s.route(f"10.{number}.0.0/16", hop))
        if hop[:3] not in ("192", "198"):
            s.add(s.route(f"2001:db8:f{number:02}::/48", hop))
    s.look("after")


def kinds_of_routes(s: Story) -> None:
    s.add(
        s.route("10.1.0.0/16"),
        s.route("10.2.0.0/16", type="blackhole"),
        s.route("10.3.0.0/16", "fe80::1%eth0", type="blackhole"),
        s.route("10.4.0.0/16", type="unreachable", metric=100),
        s.route("10.5.0.0/16", type="throw"),
        s.route("10.6.0.0/16", type="prohibit"),
        s.route("10.7.0.0/16", "fe80::1%eth0", src="192.0.2.1"),
        s.route("10.8.0.0/16", "fe80::1%eth0", src="192.0.2.77"),
        s.route("10.9.0.0/16", "fe80::1%eth0", metrics=((2, 1400),)),
        s.route("10.10.0.0/16", "fe80::1%eth0", table=1000, protocol=PROTO_STATIC),
        s.route("10.11.0.0/16", "%eth0", scope=253),
        s.route("10.12.0.0/16", "fe80::1%eth0", "fe80::2%eth1*5"),
        s.route("10.13.0.0/16", "fe80::1%eth0", "fe80::2%eth2"),
        s.route("10.14.0.0/16", "fe80::1%eth0", "fe80::2%eth3"),
        s.route("10.15.0.0/16", "fe80::1%eth0", "fe80::2%99"),
        s.route("10.16.0.0/16", "2001:db8::9*256", "192.0.2.9%eth0"),
        s.route("10.17.0.0/16", "fe80::1%eth0", "fe80::1%eth0"),
        s.route("2001:db8:a1::/48"),
        s.route("2001:db8:a2::/48", type="blackhole"),
        s.route("2001:db8:a3::/48", "fe80::1%eth0", type="unreachable"),
        s.route("2001:db8:a4::/48", "fe80::1%eth0", src="2001:db8::1"),
        s.route("2001:db8:a5::/48", "fe80::1%eth0", src="2001:db8::77"),
        s.route("2001:db8:a6::/48", "2001:db8::9*5", "fe80::1%eth1"),
        s.route("2001:db8:a7::/48", "fe80::1%eth0", metric=5, metrics=((2, 1400),)),
    )
    s.look("after")


def recursion_is_refused(s: Story) -> None:
    """Linux wants a next hop on link: a gateway behind a gateway is no way, a device route is one."""
    s.add(
        s.route("2001:db8:40::/48", "2001:db8::9"),
        s.route("10.1.0.0/16", "2001:db8:40::1"),
        s.route("2001:db8:41::/48", "%eth1"),
        s.route("10.2.0.0/16", "2001:db8:41::1"),
        s.route("10.3.0.0/16", "2001:db8:41::1%eth0"),
        s.route("2001:db8:41:1::/64", type="blackhole"),
        s.route("10.4.0.0/16", "2001:db8:41:1::1"),
        s.route("2001:db8:42::/48", "2001:db8:40::1"),
        s.route("10.5.0.0/16", "2001:db8:1::77%eth0!"),
    )
    s.look("after")


def slots(s: Story) -> None:
    """(prefix, table, metric, tos) is the place of a route."""
    one = s.route("10.1.0.0/16", "fe80::1%eth0")
    six = s.route("2001:db8:a::/48", "fe80::1%eth0")
    for hand in (False, True):
        s.add(one, one, s.route("10.1.0.0/16", "fe80::2%eth0", protocol=PROTO_STATIC), hand=hand)
        s.add(s.route("10.1.0.0/16", "fe80::1%eth0", metric=5), hand=hand)
        s.add(s.route("10.1.0.0/16", "fe80::1%eth0", tos=4), hand=hand)
        s.add(s.route("10.1.0.0/16", "2001:db8:9::1%eth0"), hand=hand)
        s.add(
            six,
            six,
            s.route("2001:db8:a::/48", "fe80::2%eth0"),
            s.route("2001:db8:a::/48", "fe80::2%eth0", metric=5),
            hand=hand,
        )
        s.look("added")
        s.add(s.route("10.1.0.0/16", "fe80::3%eth0"), s.route("10.2.0.0/16", "fe80::3%eth0"), op="replace", hand=hand)
        s.add(s.route("10.1.0.0/16", "2001:db8:9::1%eth0"), op="replace", hand=hand)
        s.add(s.route("2001:db8:a::/48", "fe80::3%eth0", "fe80::4%eth0"), op="replace", hand=hand)
        s.look("replaced")
        s.add(
            s.route("10.9.0.0/16"),
            s.route("10.9.0.0/16", table=77),
            s.route("2001:db8:9::/48"),
            s.route("2001:db8:9::/48", table=77),
            s.route("10.1.0.0/16", protocol=99),
            s.route("10.1.0.0/16", "fe80::9%eth0"),
            s.route("10.1.0.0/16", metric=7),
            s.route("10.1.0.0/16", metrics=((2, 1400),)),
            s.route("10.1.0.0/16", type="blackhole"),
            s.route("10.1.0.0/16", src="192.0.2.1"),
            s.route("10.1.0.0/16", protocol=0),
            s.route("10.1.0.0/16", "fe80::1%eth0", metric=5),
            s.route("10.1.0.0/16", tos=4),
            s.route("10.2.0.0/16", "fe80::3%eth0"),
            s.route("2001:db8:a::/48", "fe80::3%eth0", metric=1024),
            s.route("2001:db8:a::/48", metric=7),
            s.route("2001:db8:a::/48", protocol=99),
            s.route("2001:db8:a::/48", "fe80::4%eth0"),
            s.route("2001:db8:a::/48", metric=5),
            op="delete",
            hand=hand,
        )
        s.look("deleted")


def nexthop_objects(s: Story) -> None:
    def put(nhid: int, hop: str = "", in_place: bool = False, **more: object) -> None:
        s.do(PutNexthop(s.nexthop(nhid, hop, **more), in_place))

    put(1, "fe80::1%eth0")
    put(1, "fe80::1%eth0")
    put(1, "2001:db8:9::1%eth0")
    for hop in ("fe80::1%99", "fe80::1", "fe80::1%eth2", "fe80::1%eth3", "2001:db8:9::1%eth0", "2001:db8::1%eth0",
                "::ffff:1.2.3.4%eth0", "ff02::1%eth0"):  # fmt: skip
        put(2, hop)
    put(3, "%eth0", family=AF_INET)
    put(4, "192.0.2.9%eth0", family=AF_INET)
    put(5, "198.51.100.9%eth0", family=AF_INET)
    put(6, "2001:db8:9::1%eth0!")
    put(7, blackhole=True)
    put(2, "fe80::2%eth1")
    put(10, group=((1, 1), (2, 5)))
    for group in (((1, 1), (77, 1)), ((1, 1), (1, 1)), ((10, 1),), ((7, 1), (1, 1)), ((1, 1), (1, 1), (77, 1))):
        put(11, group=group)
    put(12, group=((7, 1),))
    put(13, group=((1, 256), (2, 1)))
    put(1, in_place=True, group=((2, 1),))
    put(10, "fe80::1%eth0", in_place=True)
    put(20, "fe80::20%eth0", in_place=True)
    put(1, in_place=True, blackhole=True)
    put(1, "fe80::5%eth2", in_place=True)
    put(10, in_place=True, group=((10, 1),))
    s.do(DropNexthop(99), DropNexthop(0))
    s.look("objects")
    s.add(
        s.route("10.1.0.0/16", nhid=1),
        s.route("10.2.0.0/16", nhid=77),
        s.route("10.3.0.0/16", nhid=10),
        s.route("10.4.0.0/16", nhid=4),
        s.route("10.5.0.0/16", nhid=7),
        s.route("10.1.0.0/16", nhid=2),
        s.route("10.6.0.0/16", nhid=1, src="192.0.2.77"),
        s.route("10.7.0.0/16", nhid=12),
        s.route("2001:db8:a1::/48", nhid=1),
        s.route("2001:db8:a2::/48", nhid=77),
        s.route("2001:db8:a3::/48", nhid=10),
        s.route("2001:db8:a4::/48", nhid=4),
        s.route("2001:db8:a5::/48", nhid=7),
    )
    put(1, "192.0.2.9%eth0", in_place=True, family=AF_INET)
    s.look("routes on objects")
    s.add(s.route("10.1.0.0/16", nhid=2), s.route("10.1.0.0/16", "fe80::1%eth0"), s.route("10.3.0.0/16"), op="delete")
    s.add(s.route("2001:db8:a1::/48", nhid=2), s.route("2001:db8:a3::/48", metric=7), op="delete")
    s.add(s.route("2001:db8:a3::/48", protocol=99), s.route("2001:db8:a3::/48", "fe80::99%eth3"), op="delete")
    s.look("deleted")


def nexthop_objects_move_and_go(s: Story) -> None:
    for hand in (False, True):
        s.do(
            PutNexthop(s.nexthop(1, "fe80::1%eth0")),
            PutNexthop(s.nexthop(2, "fe80::2%eth1")),
            PutNexthop(s.nexthop(10, group=((1, 1), (2, 5)))),
            PutNexthop(s.nexthop(11, group=((2, 1),))),
            hand=hand,
        )
        for nhid in (1, 2, 10, 11):
            s.add(s.route(f"10.{nhid}.0.0/16", nhid=nhid), s.route(f"2001:db8:a{nhid}::/48", nhid=nhid), hand=hand)
        s.look("there")
        s.do(PutNexthop(s.nexthop(1, "fe80::9%eth0"), True), hand=hand)
        s.do(PutNexthop(s.nexthop(10, group=((2, 3), (1, 1))), True), hand=hand)
        s.look("moved")
        s.do(DropNexthop(1), hand=hand)
        s.look("one gone")
        s.do(DropNexthop(2), hand=hand)
        s.look("both gone")


def _furnish(s: Story) -> None:
    s.do(
        PutNexthop(s.nexthop(1, "fe80::1%eth0")),
        PutNexthop(s.nexthop(2, "fe80::2%eth1")),
        PutNexthop(s.nexthop(10, group=((1, 1), (2, 5)))),
        PutNexthop(s.nexthop(11, group=((2, 1),))),
    )
    for nhid in (1, 2, 10, 11):
        s.add(s.route(f"10.{nhid}.0.0/16", nhid=nhid), s.route(f"2001:db8:a{nhid}::/48", nhid=nhid))
    for number, hops in enumerate((
        ("fe80::1%eth1",), ("fe80::1%eth0", "fe80::2%eth1"), ("fe80::1%eth1", "fe80::2%eth1"), ("%eth1",),
        ("2001:db8:1::9", "2001:db8::9"),
    )):  # fmt: skip
        s.add(s.route(f"10.2{number}.0.0/16", *hops), s.route(f"2001:db8:b{number}::/48", *hops))
    s.look("furnished")


def carrier_lost_and_found(s: Story) -> None:
    _furnish(s)
    s.world.carrier("eth1", False)
    s.look("carrier lost")
    s.world.carrier("eth1", True)
    s.look("carrier found")


def link_set_down_and_up(s: Story) -> None:
    _furnish(s)
    s.world.up("eth1", False)
    s.look("down")
    s.world.up("eth1", True)
    s.look("up")
    s.world.up("eth0", False)
    s.look("the other down")


def link_deleted(s: Story) -> None:
    _furnish(s)
    s.world.delete("eth1")
    s.look("deleted")


def address_gone(s: Story) -> None:
    s.world.address("eth1", "198.51.100.1", 32, True)
    s.world.address("eth1", "198.51.100.2", 32, True)
    s.do(PutNexthop(s.nexthop(2, "fe80::2%eth1")))
    s.add(
        s.route("10.1.0.0/16", "fe80::1%eth0", src="198.51.100.1"),
        s.route("10.2.0.0/16", "2001:db8:1::9"),
        s.route("10.3.0.0/16", "fe80::1%eth0", "fe80::1%eth1"),
        s.route("10.4.0.0/16", nhid=2),
        s.route("2001:db8:a::/48", "fe80::1%eth0", src="2001:db8:1::1"),
        s.route("2001:db8:b::/48", "2001:db8:1::9"),
    )
    s.look("before")
    s.world.address("eth1", "2001:db8:1::1", 64, False)
    s.look("IPv6 address gone")
    s.world.address("eth1", "198.51.100.1", 32, False)
    s.look("IPv4 address gone")
    s.world.address("eth1", "198.51.100.2", 32, False)
    s.look("last IPv4 address gone")
    s.world.address("eth1", "198.51.100.2", 32, True)
    s.look("IPv4 address back")
    s.add(s.route("10.5.0.0/16", "2001:db8:1::9"))


SCENARIOS: tuple[Callable[[Story], None], ...] = (
    v4_to_v6_gateways,
    kinds_of_routes,
    recursion_is_refused,
    slots,
    nexthop_objects,
    nexthop_objects_move_and_go,
    carrier_lost_and_found,
    link_set_down_and_up,
    link_deleted,
    address_gone,
)


@pytest.fixture
def linux(nets: Nets) -> Iterator[LinuxWorld]:
    world = LinuxWorld(nets)
    yield world
    world.close()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda f: f.__name__)
def test_the_twin_answers_as_linux_does(linux: LinuxWorld, scenario: Callable[[Story], None]) -> None:
    real, simulated = Story(linux), Story(SimWorld())
    scenario(real)
    scenario(simulated)
    difference = difflib.unified_diff(real.log, simulated.log, "Linux", "its twin", n=2, lineterm="")
    assert simulated.log == real.log, "\n".join(difference)
