"""A Node as one line of JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec.json import Encoder

from via6.model import (
    InterfaceAddress,
    Link,
    Neighbour,
    NexthopObject,
    RouteBlock,
    Rule,
)
from via6.observe.allowedips import Peer
from via6.observe.node import BabelInterface, BabelPolicy, BabelState, Firewall, Node
from via6.observe.snapshot import schema
from via6.observe.snapshot.firewall import Chain
from via6.prefix import AF_INET, AF_INET6, Address, Prefix, format_address

_TEXT_UP_TO: Final = 1024
"""Destinations of a block that are still written as text: what people read. More are for programs, and hexadecimal is
read thirty times as fast."""

_ENCODER: Final = Encoder(order="deterministic")
_FAMILIES: Final = {AF_INET: 4, AF_INET6: 6}


def encode(node: Node) -> bytes:
    """One line with its end: a file of several nodes is such lines."""
    return _ENCODER.encode(_node(node)) + b"\n"


def _node(node: Node) -> schema.NodePart:
    kernel = node.kernel
    return schema.NodePart(
        format=schema.FORMAT,
        version=schema.VERSION,
        name=node.name,
        system=node.system,
        release=node.release,
        parts=sorted(kernel.parts),
        times=dict(node.times),
        unread=dict(node.unread),
        unsteady=sorted(node.unsteady),
        links=list(map(_link, kernel.links)),
        addresses=list(map(_address, kernel.addresses)),
        routes=list(map(_routes, kernel.routes.blocks)),
        rules=list(map(_rule, kernel.rules)),
        nexthops=list(map(_nexthop, kernel.nexthops)),
        neighbours=list(map(_neighbour, kernel.neighbours)),
        sysctls=dict(node.sysctls),
        wireguard={name: list(map(_peer, peers)) for name, peers in node.wireguard.items()},
        firewall=_firewall(node.firewall) if node.firewall else None,
        babel=_babel(node.babel) if node.babel else None,
    )


def _text(address: Address | None) -> str | None:
    return format_address(address) if address is not None else None


def _prefix(prefix: Prefix | None) -> str | None:
    return str(prefix) if prefix is not None else None


def _link(link: Link) -> schema.LinkPart:
    return schema.LinkPart(
        link.ifindex, link.name, link.mtu, link.flags, link.operstate, link.lladdr.hex(":"), link.kind, link.master,
        link.peer,
    )  # fmt: skip


def _address(address: InterfaceAddress) -> schema.AddressPart:
    return schema.AddressPart(
        address.ifindex, format_address(address.address), address.length, address.scope, address.flags,
        _text(address.peer), address.protocol,
    )  # fmt: skip


def _routes(block: RouteBlock) -> schema.RoutesPart:
    route, many = block.template, len(block) > _TEXT_UP_TO
    return schema.RoutesPart(
        family=_FAMILIES[route.family],
        length=route.prefix.length,
        to=[] if many else list(map(format_address, block.destinations)),
        packed=b"".join(block.destinations).hex() if many else "",
        next_hops=[schema.HopPart(_text(h.via), h.ifindex, h.weight, h.flags) for h in route.next_hops],
        type=route.type,
        table=route.table,
        metric=route.metric,
        protocol=route.protocol,
        scope=route.scope,
        src=_text(route.src),
        nhid=route.nhid,
        metrics=list(route.metrics),
        tos=route.tos,
        flags=route.flags,
        pref=route.pref,
        expires=route.expires,
    )


def _rule(rule: Rule) -> schema.RulePart:
    return schema.RulePart(
        _FAMILIES[rule.family], rule.priority, rule.table, rule.action, _prefix(rule.source), _prefix(rule.destination),
        rule.iif, rule.oif, rule.fwmark, rule.fwmask, rule.l3mdev, rule.invert,
    )  # fmt: skip


def _nexthop(nexthop: NexthopObject) -> schema.NexthopPart:
    # A group has no family (AF_UNSPEC); so it is written as 0.
    return schema.NexthopPart(
        nexthop.nhid, _text(nexthop.via), nexthop.ifindex, list(nexthop.group), nexthop.blackhole, nexthop.protocol,
        nexthop.flags, _FAMILIES.get(nexthop.family, 0),
    )  # fmt: skip


def _neighbour(neighbour: Neighbour) -> schema.NeighbourPart:
    return schema.NeighbourPart(
        neighbour.ifindex, format_address(neighbour.address), neighbour.lladdr.hex(":"), neighbour.state,
        neighbour.flags,
    )  # fmt: skip


def _peer(peer: Peer) -> schema.PeerPart:
    return schema.PeerPart(peer.key, list(map(str, peer.allowed)))


def _firewall(firewall: Firewall) -> schema.FirewallPart:
    return schema.FirewallPart(
        firewall.forward4, firewall.icmp4, firewall.dummy4, firewall.babel, list(firewall.evidence),
        [schema.ShutPart(one.packets, list(one.rules), one.into, one.out) for one in firewall.shut],
        [_chain(at, name, chain) for at, table in enumerate(firewall.filter) for name, chain in table.items()],
        firewall.own4,
    )  # fmt: skip


def _chain(table: int, name: str, chain: Chain) -> schema.FilterChainPart:
    rules = [
        schema.FilterRulePart(
            [schema.TestPart(test.key, [str(value) for value in test.values], test.invert) for test in rule.tests],
            [[verdict.kind, verdict.chain] for verdict in rule.verdicts], rule.text,
        )
        for rule in chain.rules
    ]  # fmt: skip
    return schema.FilterChainPart(
        table,
        name,
        chain.where,
        chain.hook,
        chain.policy,
        None if chain.devices is None else list(chain.devices),
        rules,
    )


def _babel(babel: BabelState) -> schema.BabelPart:
    return schema.BabelPart(
        router_id=babel.router_id,
        neighbours=[
            schema.BabelNeighbourPart(
                format_address(n.address), n.ifindex, n.cost, n.rxcost, n.txcost, n.reach, n.signed
            )
            for n in babel.neighbours
        ],
        routes=[
            schema.BabelRoutePart(
                str(r.prefix), format_address(r.neighbour), r.ifindex, r.router_id, r.metric, r.advertised, r.selected,
                r.feasible,
            )
            for r in babel.routes
        ],
        exports=[(str(prefix), metric) for prefix, metric in babel.exports],
        interfaces=None if babel.interfaces is None else list(map(_babel_interface, babel.interfaces)),
        policy=_babel_policy(babel.policy) if babel.policy else None,
    )  # fmt: skip


def _babel_policy(policy: BabelPolicy) -> schema.BabelPolicyPart:
    rules = [
        schema.BabelRulePart(list(map(str, r.prefixes)), list(map(str, r.within)), r.shortest, r.longest, r.deny)
        for r in policy.imports or ()
    ]
    return schema.BabelPolicyPart(
        sorted({4: 4, 16: 6}[size] for size in policy.families),
        None if policy.imports is None else rules,
        policy.transit4,
        policy.kernel_metric,
        [(ifindex, list(map(str, only))) for ifindex, only in policy.allowed],
    )


def _babel_interface(one: BabelInterface) -> schema.BabelInterfacePart:
    rejected = [schema.BabelRejectedPart(format_address(r.address), r.reason, r.packets, r.age_s) for r in one.rejected]
    rivals = [schema.BabelRivalPart(str(r.prefix), r.router_id, format_address(r.neighbour)) for r in one.rivals]
    return schema.BabelInterfacePart(
        one.ifindex, format_address(one.address), one.up, list(one.keys), one.packets_in, one.packets_out, rejected,
        rivals,
    )  # fmt: skip


def encode_all(nodes: Iterable[Node]) -> bytes:
    """Several nodes, each a line (JSON Lines)."""
    return b"".join(map(encode, nodes))
