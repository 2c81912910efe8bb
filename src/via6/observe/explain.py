"""How one node sends a packet, as its kernel decides it, and why.

The kernel is asked twice (RTM_GETROUTE): for the resolved answer (one next hop, the source address, rules and the
ECMP hash applied) and for the FIB entry behind it. What it does not say stands around that: who put the route there,
whether the next hop's neighbour answers, whether the device carries, whether a sysctl stands in the way.

The disposition words are Batfish's, seen from one node:

    ACCEPTED              the packet is for this node
    DELIVERED_TO_SUBNET   the destination is on a link of this node
    EXITS_NETWORK         the packet leaves this node towards its next hop
    NEIGHBOR_UNREACHABLE  the route leads to a neighbour that does not answer, or over a link that does not carry
    NO_ROUTE              no route matches
    NULL_ROUTED           this node discards it: blackhole, unreachable, prohibit, forwarding off, reverse path filter
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from via6.model import (
    IFA_F_DADFAILED,
    IFA_F_TENTATIVE,
    NH_DEAD,
    NH_LINKDOWN,
    PROTO_BOOT,
    PROTO_KERNEL,
    PROTO_STATIC,
    PROTO_VIA6,
    TABLE_LOCAL,
    TABLE_MAIN,
    Failure,
    Link,
    Neighbour,
    NextHop,
    Route,
    Rule,
    Snapshot,
)
from via6.observe import show
from via6.observe.names import RTAX_MTU, Names
from via6.prefix import AF_INET, AF_INET6, Address, Prefix, format_address

_SENTENCES: Final = {
    "ACCEPTED": "{} is for this node itself",
    "DELIVERED_TO_SUBNET": "{} is on a link of this node",
    "EXITS_NETWORK": "{} leaves this node towards its next hop",
    "NEIGHBOR_UNREACHABLE": "{} is sent towards a neighbour that is not reached",
    "NO_ROUTE": "{} has no route",
    "NULL_ROUTED": "{} is discarded by this node",
}
GOOD: Final = frozenset({"ACCEPTED", "DELIVERED_TO_SUBNET", "EXITS_NETWORK"})

_PUT_BY: Final = {
    PROTO_KERNEL: "the kernel, for an address of the device",
    PROTO_BOOT: "an administrator, with `ip route add`",
    PROTO_STATIC: "an administrator",
    1: "an ICMP redirect",
    9: "a router advertisement",
    16: "DHCP",
    PROTO_VIA6: "via6 run, or via6 apply",
}
_NOARP: Final = 0x80 | 0x10  # IFF_NOARP, IFF_POINTOPOINT: nobody is asked for a link-layer address
_DEAD_STATES: Final = frozenset({"FAILED", "INCOMPLETE"})


@dataclass(frozen=True)
class Facts:
    """What was asked and what was found. `answer` and `entry` are the kernel's two answers; `there` is, after a
    refusal alone, the route that matches in the tables; `back` is the answer for a packet to `source`; `sysctls` are
    by path (`net/ipv4/conf/eth1/forwarding`), a missing one was not there; `drops` says why the device itself drops
    such packets (WireGuard), or is empty; `assumed`: nobody said what `source` is, we chose it."""

    destination: Address
    answer: Route | Failure
    entry: Route | Failure
    snapshot: Snapshot
    source: Address | None = None
    iif: int = 0
    mark: int = 0
    there: Route | None = None
    back: Route | Failure | None = None
    sysctls: Mapping[str, int] = field(default_factory=dict)
    drops: str = ""
    assumed: bool = False

    def sysctl(self, family: int, dev: str, name: str) -> int:
        """Its value for a device; 0 if it is not there."""
        return self.sysctls.get(f"net/ipv{4 if family == AF_INET else 6}/conf/{dev}/{name}", 0)


@dataclass
class Explanation:
    """`rows` are (label, text) in the order of reading, `data` the same as a JSON object, `wrong` are (what, remedy)
    pairs."""

    disposition: str
    rows: list[tuple[str, str]]
    data: dict[str, Any]
    wrong: list[tuple[str, str]]

    def blame(self, what: str, remedy: str = "") -> None:
        """One more thing that is wrong."""
        self.wrong.append((what, remedy))

    @property
    def good(self) -> bool:
        """The packet goes where it should, and nothing stands in its way."""
        return self.disposition in GOOD and not self.wrong


def sysctl_names(devices: tuple[str, ...]) -> list[str]:
    """The sysctls that `explain` looks at, for these devices."""
    v4 = ("forwarding", "rp_filter", "ignore_routes_with_linkdown")
    v6 = ("forwarding", "disable_ipv6", "ignore_routes_with_linkdown")
    return [f"net/ipv4/conf/{d}/{n}" for d in ("all", *devices) for n in v4] + [
        f"net/ipv6/conf/{d}/{n}" for d in ("all", *devices) for n in v6
    ]


def explain(facts: Facts, names: Names) -> Explanation:
    """The answer in words and values."""
    made = Explanation("", [], _asked(facts), [])
    if isinstance(facts.answer, Failure):
        made.disposition = _refused(facts, facts.answer, names, made)
    else:
        made.disposition = _routed(facts, facts.answer, names, made)
    made.data["disposition"] = made.disposition
    made.data["wrong"] = [{"what": what, "remedy": remedy} for what, remedy in made.wrong]
    return made


def _asked(facts: Facts) -> dict[str, Any]:
    out: dict[str, Any] = {"destination": format_address(facts.destination)}
    if facts.source:
        out["from"] = format_address(facts.source)
        out |= {"from_assumed": True} if facts.assumed else {}
    if facts.iif:
        out["iif"] = facts.snapshot.dev(facts.iif)
    if facts.mark:
        out["mark"] = facts.mark
    return out


def text(made: Explanation) -> str:
    """Lines to read; the last word is the disposition."""
    lines = [f"{label:<10} {text}".rstrip() for label, text in made.rows]
    for what, remedy in made.wrong:
        lines.append(f"wrong: {what}")
        if remedy:
            lines.append(f"  {remedy}")
    lines.append(_SENTENCES[made.disposition].format(made.data["destination"]) + f": {made.disposition}")
    return "\n".join(lines)


# --- the kernel refuses --------------------------------------------------------------------------------------------


def _refused(facts: Facts, failure: Failure, names: Names, made: Explanation) -> str:
    made.data["kernel"] = failure.text
    made.rows.append(("kernel", failure.text))
    route = facts.there
    if route is not None:
        _route_rows(facts, route, names, made)
    if facts.iif and _input_faults(facts, failure, made):
        return "NULL_ROUTED"
    if route is not None and route.type in ("blackhole", "unreachable", "prohibit"):
        where = f"{route.type} {route.prefix}"
        made.blame(f"the route {where} discards it", _discard_remedy(route, names))
        return "NULL_ROUTED"
    address = format_address(facts.destination)
    own = {a.address for a in facts.snapshot.addresses}
    if facts.source and not facts.iif and facts.source not in own:
        source = format_address(facts.source)
        made.blame(f"{source} is no address of this node", f"say where such a packet comes in: from {source} iif DEV")
    elif route is not None and any(h.flags & (NH_DEAD | NH_LINKDOWN) for h in route.next_hops):
        dev = facts.snapshot.dev(route.next_hops[0].ifindex)
        made.blame(f"the route {route.prefix} is not used: {dev} does not carry", f"ip link show {dev}")
    else:
        v4 = len(facts.destination) == 4
        made.blame(
            f"no route to {address}: {failure.text}", f"via6 route add {'0/0' if v4 else '::/0'} via ADDRESS dev DEV"
        )
    return "NO_ROUTE"


def _discard_remedy(route: Route, names: Names) -> str:
    if route.protocol == PROTO_VIA6:
        return "it is part of what via6 holds: see the configuration"
    table = "" if route.table == TABLE_MAIN else f" table {names.table(route.table)}"
    metric = f" metric {route.metric}" if route.metric else ""
    return f"via6 route del {route.type} {route.prefix}{metric}{table}"


def _input_faults(facts: Facts, failure: Failure, made: Explanation) -> bool:
    """Why a packet that comes in on a device is not let through; True if something was found."""
    dev = facts.snapshot.dev(facts.iif)
    link = facts.snapshot.by_index.get(facts.iif)
    family = AF_INET if len(facts.destination) == 4 else AF_INET6
    if link is not None and not link.up:
        made.blame(f"{dev} is down: nothing comes in there", f"ip link set dev {dev} up")
        return True
    routed = facts.there is not None and facts.there.type in ("unicast", "local", "broadcast")
    if facts.source and routed and failure.errno in (errno.EXDEV, errno.EINVAL):
        return _source_fault(facts, facts.source, dev, made)
    if failure.errno == errno.EHOSTUNREACH and family == AF_INET and _forwarding_off(facts, family, dev):
        made.blame(*_forwarding_words(family, dev))
        return True
    return False


def _source_fault(facts: Facts, source: Address, dev: str, made: Explanation) -> bool:
    """Why the kernel does not believe a source address (net/ipv4/fib_frontend.c: fib_validate_source)."""
    address = format_address(source)
    if source in {a.address for a in facts.snapshot.addresses}:
        made.blame(f"{address} is this node's own address: a packet that comes in with it is not believed")
        return True
    level = max(facts.sysctl(AF_INET, "all", "rp_filter"), facts.sysctl(AF_INET, dev, "rp_filter"))
    if not level:
        made.blame(f"{address} is no source that a packet may come in with on {dev}: the kernel drops it as a martian")
        return True
    way = "there is no way back"
    if isinstance(facts.back, Route) and facts.back.next_hops:
        way = f"the way back goes out of {facts.snapshot.dev(facts.back.next_hops[0].ifindex)}"
    made.blame(
        f"rp_filter={level} on {dev} drops packets from {address}: {way}",
        f"via6 route add {address} via ADDRESS dev {dev}; or "
        f"sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.{dev}.rp_filter=0",
    )
    return True


def _forwarding_off(facts: Facts, family: int, dev: str) -> bool:
    """IPv4 looks at the device where the packet comes in, IPv6 at the whole namespace."""
    path = f"net/ipv4/conf/{dev}/forwarding" if family == AF_INET else "net/ipv6/conf/all/forwarding"
    return facts.sysctls.get(path) == 0


def _forwarding_words(family: int, dev: str) -> tuple[str, str]:
    if family == AF_INET:
        return f"IPv4 forwarding is off on {dev}, where it comes in", f"sysctl -w net.ipv4.conf.{dev}.forwarding=1"
    return "IPv6 forwarding is off", "sysctl -w net.ipv6.conf.all.forwarding=1"


# --- the kernel routes ---------------------------------------------------------------------------------------------


def _routed(facts: Facts, answer: Route, names: Names, made: Explanation) -> str:
    entry = facts.entry if isinstance(facts.entry, Route) else answer
    objects = {o.nhid: o for o in facts.snapshot.nexthops}
    _route_rows(facts, show.resolved(entry, objects), names, made)
    hop = answer.next_hops[0] if answer.next_hops else NextHop()
    link = facts.snapshot.by_index.get(hop.ifindex)
    if answer.type == "local" or (answer.type in ("broadcast", "anycast") and facts.iif):
        _device_row(facts, link, hop, made)
        return "ACCEPTED"
    if hop.via is not None:
        dev = facts.snapshot.dev(hop.ifindex)
        v4 = len(hop.via) == 4
        made.rows.append(("next hop", f"{format_address(hop.via)} (IPv{4 if v4 else 6}) dev {dev}"))
        made.data["next_hop"] = {
            "address": format_address(hop.via), "family": "inet" if v4 else "inet6", "dev": dev,
        }  # fmt: skip
    found = _neighbour_row(facts, link, hop, made) if answer.type == "unicast" else None
    _device_row(facts, link, hop, made)
    _mtu_row(answer, link, made)
    _source_row(facts, answer, made)
    if facts.iif:
        _input_rows(facts, made)
        dev = facts.snapshot.dev(facts.iif)
        if _forwarding_off(facts, answer.family, dev):
            made.blame(*_forwarding_words(answer.family, dev))
            return "NULL_ROUTED"
    if not _arrives(facts, link, hop, found, made):
        return "NEIGHBOR_UNREACHABLE"
    return "DELIVERED_TO_SUBNET" if hop.via is None else "EXITS_NETWORK"


def _route_rows(facts: Facts, route: Route, names: Names, made: Explanation) -> None:
    snapshot = facts.snapshot
    made.rows.append(("route", show.line(route, names, snapshot.dev)))
    made.data["route"] = show.as_json(route, names, snapshot.dev)
    if len(route.next_hops) > 1:
        made.rows.append(("", f"one of {len(route.next_hops)} next hops, chosen by the hash of the packet's addresses"))
    if route.table not in (TABLE_MAIN, TABLE_LOCAL):
        rule = rule_for(facts, route.table)
        words = f"{names.table(route.table)}" + (f", by {rule_text(rule, names)}" if rule else "")
        made.rows.append(("table", words))
        made.data["rule"] = rule_text(rule, names) if rule else None
    who = _PUT_BY.get(route.protocol, names.protocol(route.protocol))
    made.rows.append(("put by", f"{who} (protocol {names.protocol(route.protocol)})"))
    made.data["put_by"] = who


def rule_for(facts: Facts, table: int) -> Rule | None:
    """The first rule that sends this packet to a table."""
    for rule in applying(facts):
        if rule.table == table:
            return rule
    return None


def applying(facts: Facts) -> list[Rule]:
    """The rules that this packet meets, in their order. A rule that looks at what was not asked for (ports, user)
    is taken as met: the kernel's own answer decides, this only names."""
    snapshot = facts.snapshot
    family = AF_INET if len(facts.destination) == 4 else AF_INET6
    iif = snapshot.dev(facts.iif) if facts.iif else "lo"

    def meets(rule: Rule) -> bool:
        met = (
            (rule.source is None or (facts.source is not None and facts.source in rule.source))
            and (rule.destination is None or facts.destination in rule.destination)
            and rule.iif in ("", iif)
            and facts.mark & rule.fwmask == rule.fwmark & rule.fwmask
        )
        return met != rule.invert

    return [r for r in sorted(snapshot.rules, key=lambda r: r.priority) if r.family == family and meets(r)]


def rule_text(rule: Rule, names: Names) -> str:
    """`rule 100: from 10.0.0.0/8 iif eth1 lookup blue`."""
    out = f"rule {rule.priority}: " + ("not " if rule.invert else "")
    out += f"from {rule.source or 'all'}" + (f" to {rule.destination}" if rule.destination else "")
    out += f" fwmark 0x{rule.fwmark:x}" if rule.fwmark else ""
    out += (f" iif {rule.iif}" if rule.iif else "") + (f" oif {rule.oif}" if rule.oif else "")
    return out + (" l3mdev" if rule.l3mdev else f" lookup {names.table(rule.table)}")


def _neighbour_row(facts: Facts, link: Link | None, hop: NextHop, made: Explanation) -> Neighbour | None:
    address = hop.via if hop.via is not None else facts.destination
    if link is not None and (link.flags & _NOARP or link.loopback):
        made.rows.append(("neighbour", f"{link.name} needs no link-layer addresses"))
        return None
    found = next((n for n in facts.snapshot.neighbours if n.ifindex == hop.ifindex and n.address == address), None)
    if found is None:
        made.rows.append(("neighbour", "not asked for yet"))
        made.data["neighbour"] = {"state": "NONE"}
        return None
    lladdr = found.lladdr.hex(":")
    made.rows.append(("neighbour", f"{lladdr} {found.state}".strip()))
    made.data["neighbour"] = {"lladdr": lladdr, "state": found.state} if lladdr else {"state": found.state}
    return found


def _device_row(facts: Facts, link: Link | None, hop: NextHop, made: Explanation) -> None:
    if link is None:
        return
    state = "up" if link.up else "down"
    carrier = "carrier" if link.carrier else "no carrier"
    made.rows.append(("device", f"{link.name} {state}, {carrier}, mtu {link.mtu}"))
    made.data["device"] = {
        "name": link.name, "up": link.up, "carrier": link.carrier, "mtu": link.mtu, "kind": link.kind,
    }  # fmt: skip


def _mtu_row(answer: Route, link: Link | None, made: Explanation) -> None:
    said = dict(answer.metrics).get(RTAX_MTU, 0)
    mtu = said or (link.mtu if link else 0)
    if mtu:
        made.rows.append(("mtu", f"{mtu}" + (" (of the route, or learnt on the path)" if said else " (of the device)")))
        made.data["mtu"] = mtu


def _source_row(facts: Facts, answer: Route, made: Explanation) -> None:
    source = facts.source or answer.src
    if facts.iif:
        return
    if source and any(source):
        made.rows.append(("source", format_address(source)))
        made.data["source"] = format_address(source)
        return
    made.data["source"] = None
    made.blame(
        "this node has no source address for its own packets to there",
        "give it one: ip addr add ADDRESS/32 dev lo; or say it in the route: … src ADDRESS",
    )


def _input_rows(facts: Facts, made: Explanation) -> None:
    dev = facts.snapshot.dev(facts.iif)
    family = AF_INET if len(facts.destination) == 4 else AF_INET6
    forwarding = not _forwarding_off(facts, family, dev)
    made.data["forwarding"] = forwarding
    words = f"{dev}" + (f" from {format_address(facts.source)}, say" if facts.assumed and facts.source else "")
    words += f", forwarding {'on' if forwarding else 'off'}"
    if family == AF_INET:
        level = max(facts.sysctl(AF_INET, "all", "rp_filter"), facts.sysctl(AF_INET, dev, "rp_filter"))
        made.data["rp_filter"] = level
        words += f", rp_filter {level}"
    made.rows.append(("comes in", words))


def _arrives(facts: Facts, link: Link | None, hop: NextHop, found: Neighbour | None, made: Explanation) -> bool:
    """False, with the reason in `wrong`, when the packet will not get over the link."""
    dev = facts.snapshot.dev(hop.ifindex)
    address = hop.via if hop.via is not None else facts.destination
    if link is not None and not link.carrier:
        family = AF_INET if len(facts.destination) == 4 else AF_INET6
        ignored = max(facts.sysctl(family, d, "ignore_routes_with_linkdown") for d in ("all", dev))
        made.blame(f"{dev} has no carrier, and the kernel uses the route all the same",
                "" if ignored else f"sysctl -w net.ipv{4 if family == AF_INET else 6}.conf.{dev}"
                ".ignore_routes_with_linkdown=1   lets another route take over")  # fmt: skip
        return False
    if len(address) == 16 and link is not None and not link.flags & _NOARP and not _can_ask(facts, link, made):
        return False
    if found is not None and found.state in _DEAD_STATES:
        asked = "ARP" if len(address) == 4 else "Neighbour Discovery"
        what = "next hop" if hop.via is not None else "destination"
        made.blame(
            f"{what} {format_address(address)} on {dev} does not answer {asked} ({found.state})",
            f"is the machine up, and is that its address? ip neigh show dev {dev}",
        )
        return False
    if facts.drops:
        what, _, remedy = facts.drops.partition("\n")
        made.blame(what, remedy.strip())
        return False
    return True


def _can_ask(facts: Facts, link: Link, made: Explanation) -> bool:
    """Neighbour Discovery needs IPv6 on the link, and an address that is not in doubt to ask from."""
    if facts.sysctl(AF_INET6, link.name, "disable_ipv6"):
        made.blame(
            f"IPv6 is disabled on {link.name}: its neighbours cannot be asked",
            f"sysctl -w net.ipv6.conf.{link.name}.disable_ipv6=0",
        )
        return False
    if link.mtu < 1280:
        made.blame(f"mtu {link.mtu} of {link.name} is too small for IPv6", f"ip link set dev {link.name} mtu 1280")
        return False
    own = [a for a in facts.snapshot.addresses if a.ifindex == link.ifindex and len(a.address) == 16]
    doubt = IFA_F_TENTATIVE | IFA_F_DADFAILED
    if any(not a.flags & doubt for a in own):
        return True
    if own:
        what = f"the IPv6 addresses of {link.name} are tentative or duplicates: it cannot ask its neighbours yet"
        made.blame(what, f"wait a second; if it stays so: ip -6 addr show dev {link.name}")
    else:
        remedy = f"ip link set dev {link.name} addrgenmode eui64, and set it down and up"
        made.blame(f"{link.name} has no IPv6 address: it cannot ask its neighbours", remedy)
    return False


def first_match(facts: Facts) -> Route | None:
    """The route that the tables of the snapshot have for the destination, by the rules: what a refusal came from."""
    host = Prefix(facts.destination, len(facts.destination) * 8)
    for rule in applying(facts):
        if rule.action != "to_tbl" or not rule.table:
            continue
        blocks = show.select(facts.snapshot, show.Filter(prefix=host, how="longest", table=rule.table))
        routes = sorted((r for b in blocks for r in b), key=lambda r: r.metric)
        if routes and routes[0].type != "throw":
            return routes[0]
    return None


def assumed_source(snapshot: Snapshot, iif: int) -> Address:
    """An IPv4 source that a packet on this device may well have: Linux answers no question about a packet that comes
    in from nowhere. Someone behind a route out of the device, else an address of the documentation (RFC 5737)."""
    own = {a.address for a in snapshot.addresses}
    for block in snapshot.routes.blocks:
        template = block.template
        if template.type != "unicast" or all(hop.ifindex != iif for hop in template.next_hops):
            continue
        for destination in block.destinations[:16]:
            first = int.from_bytes(destination, "big")
            last = first + (1 << 32 - template.prefix.length) - 1
            for number in range(first + 1, last) if last > first + 1 else (first, last):
                address = number.to_bytes(4, "big")
                if address not in own and 0 < address[0] < 224 and address[0] != 127:
                    return address
                if number > first + 16:
                    break
    return bytes((192, 0, 2, 1))
