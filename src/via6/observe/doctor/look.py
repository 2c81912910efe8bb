"""What checks ask of a node: IPv4 routes with their next hops, the links in use, sysctls as they count, and words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from via6.model import TABLE_MAIN, Link, NextHop, Route, RouteBlock
from via6.observe.doctor.finding import Fix, SetSysctl
from via6.observe.names import PROTOCOLS
from via6.observe.node import Node
from via6.observe.show import RTM_F_CLONED, resolved
from via6.prefix import AF_INET, Address, Prefix, format_address, mask

NOARP: Final = 0x80 | 0x10  # IFF_NOARP, IFF_POINTOPOINT: nobody is asked for a link-layer address
TUNNELS: Final = frozenset({"wireguard", "tun"})
BY_KERNEL: Final = 2
FROM_OUTSIDE: Final = frozenset({1, 9, 16})
"""Protocols of routes that a redirect, a router advertisement or DHCP brought."""
DAEMONS: Final = frozenset({12, 11, 42, 46, 186, 187, 188, 189, 192})
"""Protocols of routing daemons: bird, zebra, babel, via6, bgp, isis, ospf, rip, eigrp."""
DISCARDS: Final = frozenset({"blackhole", "unreachable", "prohibit"})
LINK_LOCAL: Final = Prefix(bytes.fromhex("fe80") + bytes(14), 10)

_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Use:
    """A next hop of IPv4 routes: those of one block, that share all but their destination."""

    hop: NextHop
    block: RouteBlock

    @property
    def route(self) -> Route:
        """The template of the routes."""
        return self.block.template


def blocks4(node: Node) -> Iterator[RouteBlock]:
    """The IPv4 routes that somebody put there, of all tables but the kernel's own, with their next hops."""
    objects = {o.nhid: o for o in node.kernel.nexthops}
    for block in node.kernel.routes.blocks:
        template = block.template
        if template.family != AF_INET or template.flags & RTM_F_CLONED or template.protocol == BY_KERNEL:
            continue
        yield RouteBlock(resolved(template, objects), block.destinations)


def uses(node: Node) -> Iterator[Use]:
    """Every next hop of an IPv4 unicast route, of the main table and of those that rules lead to."""
    tables = {TABLE_MAIN} | {rule.table for rule in node.kernel.rules}
    for block in blocks4(node):
        if block.template.type == "unicast" and (block.template.table in tables or not has_read(node, "rules")):
            yield from (Use(hop, block) for hop in block.template.next_hops)


def uses6(node: Node) -> Iterator[Use]:
    """Those whose next hop is an IPv6 one."""
    return (use for use in uses(node) if use.hop.via is not None and len(use.hop.via) == 16)


def by_hop(found: Iterable[Use]) -> dict[tuple[int, Address], list[Use]]:
    """The same, by (ifindex, next hop)."""
    made: dict[tuple[int, Address], list[Use]] = {}
    for use in found:
        if use.hop.via is not None:
            made.setdefault((use.hop.ifindex, use.hop.via), []).append(use)
    return made


def prefixes(found: Iterable[Use]) -> Iterator[Prefix]:
    """The destinations."""
    for use in found:
        length = use.route.prefix.length
        yield from (Prefix(destination, length) for destination in use.block.destinations)


def counted(found: Iterable[Use]) -> str:
    """`10.3.0.0/24, 10.4.0.0/24 and 7 more`."""
    listed = list(found)
    number = sum(len(use.block) for use in listed)
    shown = [str(prefix) for prefix, _ in zip(prefixes(listed), range(_SHOWN), strict=False)]
    return ", ".join(shown) + (f" and {number - len(shown)} more" if number > len(shown) else "")


def some(prefix_list: Iterable[Prefix]) -> str:
    """The same, of prefixes."""
    listed = list(prefix_list)
    more = len(listed) - _SHOWN
    return ", ".join(map(str, listed[:_SHOWN])) + (f" and {more} more" if more > 0 else "")


def hop_text(node: Node, ifindex: int, via: Address | None) -> str:
    """`fe80::2 dev eth1`."""
    dev = node.kernel.dev(ifindex)
    return f"{format_address(via)} dev {dev}" if via is not None else f"dev {dev}"


def route_text(node: Node, route: Route) -> str:
    """Nearly as `ip route` writes it, in one line."""
    parts = [str(route.prefix)] if route.type == "unicast" else [f"{route.type} {route.prefix}"]
    for hop in route.next_hops:
        family = "inet6 " if hop.via is not None and len(hop.via) == 16 else ""
        parts.append(f"via {family}{format_address(hop.via)}" if hop.via is not None else "")
        parts.append(f"dev {node.kernel.dev(hop.ifindex)}" if hop.ifindex else "")
    parts.append(f"proto {PROTOCOLS.get(route.protocol, route.protocol)}")
    parts.append(f"metric {route.metric}" if route.metric else "")
    return " ".join(filter(None, parts))


def discarding(node: Node, destination: Address, table: int = TABLE_MAIN) -> Route | None:
    """The route of a table that takes packets to an address, if it discards them."""
    found: list[tuple[int, int, Route]] = []
    for block in blocks4(node):
        one = block.template
        wanted = mask(destination, one.prefix.length)
        if one.table == table and one.type != "throw" and wanted in block.destinations:
            found.append((-one.prefix.length, one.metric, one.at(wanted)))
    best = min(found, key=lambda each: each[:2], default=None)
    return best[2] if best is not None and best[2].type in DISCARDS else None


def deletion(node: Node, route: Route) -> str:
    """The command that takes a route away."""
    words = "" if route.type == "unicast" or route.nhid else f"{route.type} "
    devs = [node.kernel.dev(hop.ifindex) for hop in route.next_hops if hop.ifindex]
    dev = f" dev {devs[0]}" if devs and route.type == "unicast" else ""
    metric = f" metric {route.metric}" if route.metric else ""
    table = "" if route.table == TABLE_MAIN else f" table {route.table}"
    return f"ip route del {words}{route.prefix}{dev}{metric}{table}"


# --- links ---------------------------------------------------------------------------------------------------------


def babel_devices(node: Node) -> set[int]:
    """The interfaces that Babel is spoken on, as far as the daemon tells."""
    if node.babel is None:
        return set()
    told = {one.ifindex for one in node.babel.interfaces or ()}
    return told | {one.ifindex for one in node.babel.neighbours}


def via6_devices(node: Node) -> set[int]:
    """The interfaces that IPv4 with IPv6 next hops leaves by, or that Babel is spoken on."""
    return {use.hop.ifindex for use in uses6(node)} | babel_devices(node)


def links_of(node: Node, indices: Iterable[int]) -> list[Link]:
    """The links with these numbers, those that exist, without lo."""
    found = (node.kernel.by_index.get(index) for index in sorted(indices))
    return [link for link in found if link is not None and not link.loopback]


def link_local_of(link: Link) -> Address | None:
    """The address that an interface makes itself of its MAC (RFC 4291, appendix A)."""
    mac = link.lladdr
    if len(mac) != 6 or not any(mac):
        return None
    return LINK_LOCAL.packed[:8] + bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:]


def subnets(node: Node) -> dict[int, list[Prefix]]:
    """The IPv4 networks that a node is on with others, by interface: /32 has nobody else in it."""
    found: dict[int, list[Prefix]] = {}
    for one in node.kernel.addresses:
        link = node.kernel.by_index.get(one.ifindex)
        if len(one.address) == 4 and one.length < 32 and link is not None and not link.loopback:
            found.setdefault(one.ifindex, []).append(Prefix(mask(one.address, one.length), one.length))
    return found


def own4(node: Node) -> set[Address]:
    """The node's IPv4 addresses that it can send from: those of 127.0.0.0/8 stay inside (scope host)."""
    return {one.address for one in node.kernel.addresses if len(one.address) == 4 and one.address[0] != 127}


def has_read(node: Node, *parts: str) -> bool:
    """All these parts were read."""
    kernel = {"links", "addresses", "routes4", "routes6", "rules", "nexthops", "neighbours"}
    return all(part not in node.unread and (part not in kernel or part in node.kernel.parts) for part in parts)


# --- sysctls -------------------------------------------------------------------------------------------------------


def of_dev(node: Node, family: int, dev: str, key: str) -> int | None:
    """net.ipv4.conf.DEV.KEY, or net.ipv6."""
    return node.sysctls.get(f"net/ipv{family}/conf/{dev}/{key}")


def rp_filter(node: Node, dev: str) -> int:
    """As it counts: the larger of `all` and the interface. 0 if it was not read."""
    return max((of_dev(node, 4, one, "rp_filter") or 0) for one in ("all", dev))


def is_strict(node: Node, link: Link) -> bool:
    """A packet must come in where its answer would leave. So with 1, and with 2 on an interface without an IPv4
    address (net/ipv4/fib_frontend.c: __fib_validate_source)."""
    level = rp_filter(node, link.name)
    addressed = any(one.ifindex == link.ifindex and len(one.address) == 4 for one in node.kernel.addresses)
    return level == 1 or (level == 2 and not addressed)


def sysctl_name(path: str) -> str:
    """As sysctl(8) takes it: with dots, unless the name of an interface has one."""
    return path if "." in path else path.replace("/", ".")


def said(node: Node, *paths: str) -> tuple[str, ...]:
    """`net.ipv4.conf.eth1.forwarding = 0` for each that was read."""
    return tuple(f"{sysctl_name(path)} = {node.sysctls[path]}" for path in paths if path in node.sysctls)


def set_sysctls(values: Mapping[str, int]) -> tuple[tuple[str, ...], tuple[Fix, ...]]:
    """(remedy, fixes) that set these: one command, and how they stay so over a reboot."""
    words = " ".join(f"{sysctl_name(path)}={value}" for path, value in values.items())
    kept = "\\n".join(f"{sysctl_name(path)} = {value}" for path, value in values.items())
    remedy = (f"sysctl -w {words}", f"# to keep it: printf '{kept}\\n' >> /etc/sysctl.d/90-via6.conf")
    return remedy, tuple(SetSysctl(path, value) for path, value in values.items())


def at(node: Node, *devices: str) -> tuple[tuple[str, str], ...]:
    """Places on this node, for `Finding.places`."""
    return tuple((node.name, dev) for dev in devices)


def parse_release(text: str) -> tuple[int, int, int]:
    """`6.1.0-28-amd64` -> (6, 1, 0); what cannot be read counts as new."""
    numbers = []
    for part in text.split(".", 2):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    if not numbers:
        return (99, 0, 0)
    major, minor, patch = (*numbers, 0, 0)[:3]
    return (major, minor, patch)
