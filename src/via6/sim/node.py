"""What happens to one simulated Linux by itself: links and addresses that come and go, neighbours.

What Linux does not say is the point of this file, because a daemon must infer it (STANDARDS.md, section 4; seen on
6.18). Carrier lost: nexthop objects on the link are deleted and not announced, with what `sim.fib` says of their
routes; routes with next hops of their own stay, flagged linkdown. Link set down: the same, and routes out of it
vanish, silently for IPv4; one hop of a multipath route stays and is flagged dead. IPv6 addresses go with the link,
IPv4 ones stay. When all is well again only flags, connected routes and the link-local address come back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from via6.model import (
    IFF_LOOPBACK,
    IFF_LOWER_UP,
    IFF_UP,
    NH_DEAD,
    NH_LINKDOWN,
    PROTO_KERNEL,
    TABLE_DEFAULT,
    TABLE_LOCAL,
    TABLE_MAIN,
    InterfaceAddress,
    Link,
    Neighbour,
    NextHop,
    Route,
    Rule,
)
from via6.prefix import AF_INET, AF_INET6, Address, Prefix, mask
from via6.sim.fib import Fib, Tell
from via6.sim.refuse import Release
from via6.sim.state import LO

IFF_RUNNING: Final = 0x40
IFF_BROADCAST_MULTICAST: Final = 0x1002
IFA_F_PERMANENT: Final = 0x80
IFAPROT_KERNEL_LL: Final = 3
SCOPE_LINK: Final = 253
SCOPE_HOST: Final = 254
CONNECTED6: Final = 256  # IP6_RT_PRIO_ADDRCONF


def link_local_of(lladdr: bytes) -> Address:
    """The modified EUI-64 address (RFC 4291, appendix A) of a six-octet link-layer address."""
    return b"\xfe\x80" + bytes(6) + bytes([lladdr[0] ^ 2]) + lladdr[1:3] + b"\xff\xfe" + lladdr[3:]


class Node(Fib):
    """One node of a simulated world, with `lo` up as ifindex 1 and the default rules."""

    def __init__(self, tell: Tell, release: Release) -> None:
        super().__init__(tell, release)
        self._plugged: set[int] = set()
        self._last_ifindex = 0
        self.rules = [
            Rule(family, priority, table)
            for family in (AF_INET, AF_INET6)
            for priority, table in ((0, TABLE_LOCAL), (32766, TABLE_MAIN), (32767, TABLE_DEFAULT))
            if (family, table) != (AF_INET6, TABLE_DEFAULT)
        ]
        self.add_link("lo", mtu=65536, kind="", flags=IFF_LOOPBACK)
        self.add_address(LO, bytes((127, 0, 0, 1)), 8, SCOPE_HOST)
        self.add_address(LO, bytes(15) + b"\1", 128, SCOPE_HOST)
        self.set_up(LO, True)

    # --- links -------------------------------------------------------------------------------------------------------

    def add_link(
        self,
        name: str,
        *,
        lladdr: bytes = b"",
        mtu: int = 1500,
        kind: str = "veth",
        flags: int = IFF_BROADCAST_MULTICAST,
    ) -> int:
        """A new link, set down, its cable plugged in. Returns its ifindex. `lladdr` (6 octets) gives it a link-local
        address whenever it is set up."""
        self._last_ifindex += 1
        self._plugged.add(self._last_ifindex)
        link = Link(self._last_ifindex, name, mtu, flags, "DOWN", lladdr, kind)
        self.links[link.ifindex] = link
        self._say(link)
        return link.ifindex

    def delete_link(self, ifindex: int) -> None:
        """The device goes, with its addresses and everything that led out of it."""
        self.set_up(ifindex, False)
        for address in [a for i, a in self.addresses if i == ifindex]:
            self.delete_address(ifindex, address)
        for route in [r for r in self.every_route() if any(h.ifindex == ifindex for h in r.next_hops)]:
            # IPv4 loses a multipath route with one hop on the device altogether, IPv6 that hop alone.
            left = tuple(h for h in route.next_hops if h.ifindex != ifindex) if route.family == AF_INET6 else ()
            self.remove(route)
            if left:
                self.store(replace(route, next_hops=left))
            if route.family == AF_INET6:
                for hop in (h for h in route.next_hops if h not in left):
                    self._say(replace(route, next_hops=(hop,)), gone=True)
        self.neighbours = {key: n for key, n in self.neighbours.items() if key[0] != ifindex}
        self._say(self.links.pop(ifindex), gone=True)

    def set_carrier(self, ifindex: int, carrier: bool) -> None:
        """The cable is plugged in or pulled out."""
        if carrier == (ifindex in self._plugged):
            return
        self._plugged ^= {ifindex}
        if self.links[ifindex].up:
            if not carrier:
                self.flush_nexthops(ifindex)
            self._mark(ifindex, *((0, NH_LINKDOWN) if carrier else (NH_LINKDOWN, 0)))
            self._set_flags(ifindex, up=True)
            self._ready(ifindex)

    def set_up(self, ifindex: int, up: bool) -> None:
        """What `ip link set dev … up` and `… down` do."""
        link = self.links[ifindex]
        if link.up == up:
            return
        self._set_flags(ifindex, up=up)
        if up:
            self._revive(ifindex, (AF_INET, AF_INET6))
            self._ready(ifindex)
            for address in [a for a in self.addresses.values() if a.ifindex == ifindex]:
                self._connect(address)
            return
        self.flush_nexthops(ifindex)
        self._die(ifindex, (AF_INET, AF_INET6))
        gone = [a for a in self.addresses.values() if a.ifindex == ifindex and len(a.address) == 16]
        for address in sorted(gone, key=lambda a: (a.scope, a.address)):
            self._say(self.addresses.pop((ifindex, address.address)), gone=True)

    def _ready(self, ifindex: int) -> None:
        """A link that is up and has had a carrier gets its link-local address."""
        link = self.links[ifindex]
        if link.carrier and link.lladdr and (ifindex, link_local_of(link.lladdr)) not in self.addresses:
            self.add_address(ifindex, link_local_of(link.lladdr), 64, SCOPE_LINK, IFAPROT_KERNEL_LL)

    def _set_flags(self, ifindex: int, up: bool) -> None:
        link = self.links[ifindex]
        flags = link.flags & ~(IFF_UP | IFF_RUNNING | IFF_LOWER_UP)
        if up:
            flags |= IFF_UP | (IFF_RUNNING | IFF_LOWER_UP if ifindex in self._plugged else 0)
        operstate = "UP" if flags & IFF_LOWER_UP else "DOWN"
        self.links[ifindex] = replace(link, flags=flags, operstate="UNKNOWN" if link.loopback else operstate)
        self._say(self.links[ifindex])

    def _die(self, ifindex: int, families: tuple[int, ...]) -> None:
        """Routes of these families lose their hops out of a link, and go when none is left alive."""
        gone = [r for r in self.every_route() if r.family in families and _dies(r, ifindex)]
        self.lose(sorted(gone, key=lambda r: (r.family, r.table, r.prefix, r.metric)))
        self._mark(ifindex, NH_DEAD | NH_LINKDOWN, 0, families)

    def _revive(self, ifindex: int, families: tuple[int, ...]) -> None:
        self._mark(ifindex, 0, NH_DEAD | (NH_LINKDOWN if ifindex in self._plugged else 0), families)

    def _mark(self, ifindex: int, put: int, clear: int, families: tuple[int, ...] = (AF_INET, AF_INET6)) -> None:
        """Changes flags of all next hops out of a link; Linux tells nobody."""
        out = [r for r in self.every_route() if any(h.ifindex == ifindex for h in r.next_hops)]
        for route in (r for r in out if r.family in families):
            hops = tuple(
                replace(h, flags=h.flags & ~clear | put) if h.ifindex == ifindex else h for h in route.next_hops
            )
            self.remove(route)
            self.store(replace(route, next_hops=hops), beside=True)

    # --- addresses, neighbours ---------------------------------------------------------------------------------------

    def add_address(self, ifindex: int, address: Address, length: int, scope: int = 0, protocol: int = 0) -> None:
        """An address without DAD, with the routes that come with it."""
        new = InterfaceAddress(ifindex, address, length, scope, IFA_F_PERMANENT, None, protocol)
        self.addresses[ifindex, address] = new
        self._say(new)
        self._connect(new)
        if len(address) == 4 and self.links[ifindex].up:
            self._revive(ifindex, (AF_INET,))

    def delete_address(self, ifindex: int, address: Address) -> None:
        """With it go its routes and the IPv4 routes that have it as their source; IPv6 routes only forget it.

        With the last IPv4 address of a link go all IPv4 routes out of it, unannounced, those with an IPv6 next hop
        as well (fib_disable_ip); those on nexthop objects stay.
        """
        old = self.addresses.pop((ifindex, address))
        self._say(old, gone=True)
        still = [r for a in self.addresses.values() if a.ifindex == ifindex for r in _connected(a)]
        keys = {(r.table, r.prefix) for r in _connected(old)} - {(r.table, r.prefix) for r in still}
        for route in list(self.every_route()):
            own = route.protocol == PROTO_KERNEL and any(h.ifindex == ifindex for h in route.next_hops)
            if own and (route.table, route.prefix) in keys:
                self.remove(route)
                self._say(route, gone=True)
            elif route.src == address and not self.is_own(address):
                self.remove(route)
                if route.family == AF_INET6:
                    self.store(replace(route, src=None), beside=True)
                else:
                    self._say(route, gone=True)

        if len(address) == 4 and not any(i == ifindex and len(a) == 4 for i, a in self.addresses):
            self._die(ifindex, (AF_INET,))

    def _connect(self, address: InterfaceAddress) -> None:
        link = self.links[address.ifindex]
        if not link.up:
            return
        for route in _connected(address):
            if not any(r.next_hops[:1] == route.next_hops for r in self.at(route)):
                flags = 0 if link.carrier else NH_LINKDOWN
                route = replace(route, next_hops=(replace(route.next_hops[0], flags=flags),))
                self.store(route, beside=True)
                self._say(route)

    def put_neighbour(self, neighbour: Neighbour) -> None:
        """The ARP or ND table learns or forgets something."""
        self.neighbours[neighbour.ifindex, neighbour.address] = neighbour
        self._say(neighbour)


def _dies(route: Route, ifindex: int) -> bool:
    """Whether a route goes when the link is set down: no living hop is left. Local IPv4 routes stay."""
    if route.family == AF_INET and route.table == TABLE_LOCAL:
        return False
    out = [h.ifindex == ifindex for h in route.next_hops]
    return any(out) and all(o or h.flags & NH_DEAD for o, h in zip(out, route.next_hops, strict=True))


def _connected(address: InterfaceAddress) -> list[Route]:
    """The routes that an address brings along: itself as local, its network if it has one."""
    bits = len(address.address) * 8
    v4 = bits == 32
    hop = (NextHop(None, address.ifindex),)
    src = address.address if v4 else None
    local = Route(
        Prefix(address.address, bits), hop, "local", TABLE_LOCAL, 0, PROTO_KERNEL, SCOPE_HOST if v4 else 0, src
    )
    if address.length == bits or address.address[:1] == b"\x7f":
        return [local]
    network = Prefix(mask(address.address, address.length), address.length)
    metric, scope = (0, SCOPE_LINK) if v4 else (CONNECTED6, 0)
    return [local, Route(network, hop, "unicast", TABLE_MAIN, metric, PROTO_KERNEL, scope, src)]
