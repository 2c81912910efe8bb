"""JSON back into a Node: strict, and with the place of a mistake.

Two gates, as for configuration: the shape (msgspec: types, ranges, unknown keys), then the values (addresses, lengths,
names). A mistake is told as `links[3].lladdr: …`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from math import isfinite
from typing import Final, TypeVar

import msgspec
from msgspec.json import Decoder

from via6.config_babel import Rule as BabelRule
from via6.errors import Refusal
from via6.model import (
    BLANK,
    PARTS,
    InterfaceAddress,
    Link,
    Neighbour,
    NextHop,
    NexthopObject,
    Route,
    RouteBlock,
    RouteTable,
    Rule,
    Snapshot,
)
from via6.netlink.route import TYPES
from via6.observe.allowedips import Peer
from via6.observe.node import (
    ACCEPT,
    DROP,
    LINUX,
    NODE_PARTS,
    OPENBSD,
    UNKNOWN,
    BabelInterface,
    BabelNeighbour,
    BabelPolicy,
    BabelRejected,
    BabelRival,
    BabelRoute,
    BabelState,
    Firewall,
    Node,
    Shut,
)
from via6.observe.snapshot import schema
from via6.observe.snapshot.firewall import (
    ANY,
    CLASSES,
    FALL,
    GOTO,
    JUMP,
    RETURN,
    Chain,
    RuleLine,
    Ruleset,
    Test,
    Verdict,
)
from via6.prefix import AF_INET, AF_INET6, Address, Prefix, PrefixError, mask, parse_address

P = TypeVar("P")
T = TypeVar("T")

AGAIN: Final = "make it again with `via6 snapshot -o FILE`"
NEWER: Final = "read it with the via6 that made it, or a newer one"

_HEAD: Final = Decoder(schema.Head)
_NODE: Final = Decoder(schema.NodePart)
_NO_JSON: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_SIZES: Final = {4: 4, 6: 16}
_FAMILIES: Final = {0: 0, 4: AF_INET, 6: AF_INET6}
_V4: Final = r"(?:(?:0|[1-9]\d{0,2})\.){3}(?:0|[1-9]\d{0,2})"
_ALL_V4: Final = re.compile(rf"{_V4}(?:,{_V4})*", re.ASCII)


class Wrong(Exception):  # noqa: N818 - caught here, and told as a Refusal
    """A value that cannot be, and its place."""

    def __init__(self, place: str, message: str) -> None:
        super().__init__(f"{place}: {message}" if place else message)


def decode(data: bytes, where: str = "snapshot") -> Node:
    """The node of one JSON value. Raises Refusal with the place (`where` is the file's name)."""
    try:
        head = _HEAD.decode(data)
    except _NO_JSON as error:
        raise Refusal(f"{where}: {_shape(error)}", f"a snapshot is one JSON object: {AGAIN}") from None
    if head.format != schema.FORMAT:
        said = f'its format is "{head.format[:40]}"' if head.format else "it has no format"
        raise Refusal(f'{where} is no snapshot: {said}, not "{schema.FORMAT}"', AGAIN)
    if head.version != schema.VERSION:
        remedy = NEWER if head.version > schema.VERSION else AGAIN
        raise Refusal(f"{where}: version {head.version}; this via6 reads version {schema.VERSION}", remedy)
    try:
        return _node(_NODE.decode(data))
    except Wrong as wrong:
        raise Refusal(f"{where}: {wrong}", f"mend that place, or {AGAIN}") from None
    except _NO_JSON as error:
        remedy = NEWER if "unknown field" in str(error) else f"mend that place, or {AGAIN}"
        raise Refusal(f"{where}: {_shape(error)}", remedy) from None


def _shape(error: Exception) -> str:
    """What msgspec says, the place first: `links[0].mtu: expected int, got str`."""
    if isinstance(error, RecursionError):
        return "nested too deep"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    what, _, path = str(error).partition(" - at `$")
    what = what[:1].lower() + what[1:].replace("`", "")
    place = path.rstrip("`").removeprefix(".")
    return f"{place}: {what}" if place else what


# --- values --------------------------------------------------------------------------------------------------------


def _address(text: str, place: str, size: int = 0) -> Address:
    try:
        packed = parse_address(text)
    except PrefixError as error:
        raise Wrong(place, str(error)) from None
    if size and len(packed) != size:
        raise Wrong(place, f"{text!r} is not of the family that is wanted here")
    return packed


def _maybe(text: str | None, place: str, size: int = 0) -> Address | None:
    return None if text is None else _address(text, place, size)


def _made(packed: Address, length: int, text: str, place: str) -> Prefix:
    if length > len(packed) * 8:
        raise Wrong(place, f"{text!r}: the length must be a number from 0 to {len(packed) * 8}")
    if mask(packed, length) != packed:
        raise Wrong(place, f"{text!r} has host bits set")
    return Prefix(packed, length)


def _prefix(text: str, place: str, size: int = 0) -> Prefix:
    head, slash, tail = text.partition("/")
    if not slash or not (tail.isascii() and tail.isdecimal()) or len(tail) > 3:
        raise Wrong(place, f"{text!r} is no prefix, such as 10.0.0.0/8")
    return _made(_address(head, place, size), int(tail), text, place)


def _maybe_prefix(text: str | None, place: str, size: int) -> Prefix | None:
    return None if text is None else _prefix(text, place, size)


def _octets(text: str, place: str) -> bytes:
    try:
        packed = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        packed = b""
    if text and packed.hex(":") != text.lower():
        raise Wrong(place, f"{text!r} are no octets, such as 02:00:00:00:00:01")
    return packed


def _one_of(text: str, known: Iterable[str], place: str) -> str:
    if text not in known:
        raise Wrong(place, f"{text!r} is none of {', '.join(known)}")
    return text


def _each(parts: Sequence[P], make: Callable[[P, str], T], place: str) -> tuple[T, ...]:
    return tuple(make(part, f"{place}[{at}]") for at, part in enumerate(parts))


# --- the parts -----------------------------------------------------------------------------------------------------


def _link(part: schema.LinkPart, place: str) -> Link:
    if not part.name:
        raise Wrong(f"{place}.name", "an interface has a name")
    return Link(
        part.ifindex, part.name, part.mtu, part.flags, part.operstate, _octets(part.lladdr, f"{place}.lladdr"),
        part.kind, part.master, part.peer,
    )  # fmt: skip


def _interface_address(part: schema.AddressPart, place: str) -> InterfaceAddress:
    packed = _address(part.address, f"{place}.address")
    if part.length > len(packed) * 8:
        raise Wrong(f"{place}.length", f"{part.length} is more than {len(packed) * 8}")
    peer = _maybe(part.peer, f"{place}.peer", len(packed))
    return InterfaceAddress(part.ifindex, packed, part.length, part.scope, part.flags, peer, part.protocol)


def _neighbour(part: schema.NeighbourPart, place: str) -> Neighbour:
    lladdr = _octets(part.lladdr, f"{place}.lladdr")
    return Neighbour(part.ifindex, _address(part.address, f"{place}.address"), lladdr, part.state, part.flags)


def _family(number: int, place: str) -> int:
    if number not in _SIZES:
        raise Wrong(f"{place}.family", f"{number} is neither 4 nor 6")
    return _FAMILIES[number]


def _rule(part: schema.RulePart, place: str) -> Rule:
    family = _family(part.family, place)
    size = _SIZES[part.family]
    return Rule(
        family, part.priority, part.table, part.action,
        _maybe_prefix(part.source, f"{place}.source", size),
        _maybe_prefix(part.destination, f"{place}.destination", size),
        part.iif, part.oif, part.fwmark, part.fwmask, part.l3mdev, part.invert,
    )  # fmt: skip


def _nexthop(part: schema.NexthopPart, place: str) -> NexthopObject:
    family = _FAMILIES[0] if part.family == 0 else _family(part.family, place)
    via = _maybe(part.via, f"{place}.via")
    group = tuple(part.group)
    return NexthopObject(part.nhid, via, part.ifindex, group, part.blackhole, part.protocol, part.flags, family)


def _block(part: schema.RoutesPart, place: str) -> RouteBlock:
    family = _family(part.family, place)
    size = _SIZES[part.family]
    if part.length > size * 8:
        raise Wrong(f"{place}.length", f"{part.length} is more than {size * 8}")
    hops = tuple(
        NextHop(_maybe(h.via, f"{place}.next_hops[{at}].via"), h.ifindex, h.weight, h.flags)
        for at, h in enumerate(part.next_hops)
    )
    template = Route(
        Prefix(BLANK[family], part.length), hops, _one_of(part.type, TYPES, f"{place}.type"), part.table, part.metric,
        part.protocol, part.scope, _maybe(part.src, f"{place}.src", size), part.nhid,
        tuple(sorted(part.metrics)), part.tos, part.flags, part.pref, part.expires,
    )  # fmt: skip
    destinations = _packed(part.packed, size, place) if part.packed else _texts(part.to, size, place)
    if part.packed and part.to:
        raise Wrong(f"{place}.packed", "the destinations stand in `to` or in `packed`, not in both")
    if not destinations:
        raise Wrong(f"{place}.to", "routes without a destination")
    _check_host_bits(destinations, part.length, place)
    return RouteBlock(template, destinations)


def _packed(text: str, size: int, place: str) -> list[Address]:
    try:
        octets = bytes.fromhex(text)
    except ValueError:
        raise Wrong(f"{place}.packed", "it is not hexadecimal") from None
    if len(octets) % size or len(text) != 2 * len(octets):
        raise Wrong(f"{place}.packed", f"it does not hold whole addresses of {size} octets")
    return [octets[at : at + size] for at in range(0, len(octets), size)]


def _texts(texts: list[str], size: int, place: str) -> list[Address]:
    # All at once where they are well: a table is a million of them.
    joined = ",".join(texts)
    if size == 4 and _ALL_V4.fullmatch(joined):
        try:
            octets = bytes(map(int, joined.replace(",", ".").split(".")))
        except ValueError:  # a number above 255: below it gets its place
            octets = b""
        if len(octets) == 4 * len(texts):
            return [octets[at : at + 4] for at in range(0, len(octets), 4)]
    return [_address(text, f"{place}.to[{at}]", size) for at, text in enumerate(texts)]


def _check_host_bits(destinations: Sequence[Address], length: int, place: str) -> None:
    bits = len(destinations[0]) * 8
    if length == bits:
        return
    # One OR over all tells whether any of them has a bit behind the length.
    behind = (1 << (bits - length)) - 1
    for at, packed in enumerate(destinations):
        if int.from_bytes(packed, "big") & behind:
            raise Wrong(f"{place}.to[{at}]", f"host bits are set behind /{length}")


def _wireguard(part: schema.NodePart) -> dict[str, tuple[Peer, ...]]:
    made = {}
    for device, peers in part.wireguard.items():
        made[device] = tuple(
            Peer(
                peer.key,
                tuple(_prefix(text, f"wireguard.{device}[{at}].allowed[{n}]") for n, text in enumerate(peer.allowed)),
            )
            for at, peer in enumerate(peers)
        )
    return made


def _firewall(part: schema.FirewallPart | None) -> Firewall | None:
    if part is None:
        return None
    keys = ("forward4", "icmp4", "dummy4", "babel", "own4")
    forward4, icmp4, dummy4, babel, own4 = (
        _one_of(getattr(part, key), (ACCEPT, DROP, UNKNOWN), f"firewall.{key}") for key in keys
    )
    shut = tuple(
        Shut(
            _one_of(one.packets, (*keys, "stray4"), f"firewall.shut[{at}].packets"), tuple(one.rules), one.into, one.out
        )
        for at, one in enumerate(part.shut)
    )
    return Firewall(forward4, icmp4, dummy4, babel, tuple(part.evidence), shut, _filter(part.filter), own4)


def _filter(parts: Sequence[schema.FilterChainPart]) -> tuple[Ruleset, ...]:
    tables: dict[int, dict[str, Chain]] = {}
    for at, part in enumerate(parts):
        place = f"firewall.filter[{at}]"
        _one_of(part.policy, (ACCEPT, DROP), f"{place}.policy")
        _one_of(part.hook, ("", *CLASSES["forward4"][0].hooks), f"{place}.hook")
        chain = Chain(part.where, part.hook, 0, part.policy, None if part.devices is None else tuple(part.devices))
        chain.rules = [_filter_rule(rule, f"{place}.rules[{number}]") for number, rule in enumerate(part.rules)]
        if part.name in tables.setdefault(part.table, {}):
            raise Wrong(f"{place}.name", f"the chain {part.name} is there twice")
        tables[part.table][part.name] = chain
    return tuple(tables[table] for table in sorted(tables))


def _filter_rule(part: schema.FilterRulePart, place: str) -> RuleLine:
    tests = []
    for at, test in enumerate(part.tests):
        _one_of(test.key, ("saddr", "daddr", "iif", "oif", "?"), f"{place}.tests[{at}].key")
        values: tuple[Prefix | str, ...] = tuple(test.values)
        if test.key in ("saddr", "daddr"):
            values = tuple(_prefix(value, f"{place}.tests[{at}].values") for value in test.values)
        tests.append(Test(test.key, values, test.invert))
    verdicts = []
    for at, verdict in enumerate(part.verdicts):
        if len(verdict) != 2:
            raise Wrong(f"{place}.verdicts[{at}]", "a verdict is a kind and the name of a chain")
        _one_of(verdict[0], (ACCEPT, DROP, FALL, RETURN, JUMP, GOTO, ANY), f"{place}.verdicts[{at}]")
        verdicts.append(Verdict(*verdict))
    if not verdicts:
        raise Wrong(f"{place}.verdicts", "a rule has one")
    return RuleLine(tuple(tests), tuple(verdicts), part.text)


def _babel(part: schema.BabelPart | None) -> BabelState | None:
    if part is None:
        return None
    return BabelState(
        part.router_id,
        tuple(
            BabelNeighbour(
                _address(n.address, f"babel.neighbours[{at}].address"), n.ifindex, n.cost, n.rxcost, n.txcost, n.reach,
                n.signed,
            )
            for at, n in enumerate(part.neighbours)
        ),
        tuple(
            BabelRoute(
                _prefix(r.prefix, f"babel.routes[{at}].prefix"),
                _address(r.neighbour, f"babel.routes[{at}].neighbour"),
                r.ifindex, r.router_id, r.metric, r.advertised, r.selected, r.feasible,
            )
            for at, r in enumerate(part.routes)
        ),
        tuple((_prefix(text, f"babel.exports[{at}]"), metric) for at, (text, metric) in enumerate(part.exports)),
        None if part.interfaces is None
        else tuple(_babel_interface(one, f"babel.interfaces[{at}]") for at, one in enumerate(part.interfaces)),
        _babel_policy(part.policy),
    )  # fmt: skip


def _babel_policy(part: schema.BabelPolicyPart | None) -> BabelPolicy | None:
    if part is None:
        return None
    place = "babel.policy"

    def prefixes(texts: Iterable[str], where: str) -> tuple[Prefix, ...]:
        return tuple(_prefix(text, f"{place}.{where}[{at}]") for at, text in enumerate(texts))

    def rule(one: schema.BabelRulePart, at: int) -> BabelRule:
        named, within = prefixes(one.prefixes, f"imports[{at}].prefixes"), prefixes(one.within, f"imports[{at}].within")
        return BabelRule("any", named, within, one.shortest, one.longest, deny=one.deny)

    if not set(part.families) <= _SIZES.keys():
        raise Wrong(f"{place}.families", "a family is 4 or 6")
    return BabelPolicy(
        frozenset(_SIZES[one] for one in part.families),
        None if part.imports is None else tuple(rule(one, at) for at, one in enumerate(part.imports)),
        part.transit4,
        part.kernel_metric,
        tuple((ifindex, prefixes(only, f"allowed[{at}]")) for at, (ifindex, only) in enumerate(part.allowed)),
    )


def _babel_interface(part: schema.BabelInterfacePart, place: str) -> BabelInterface:
    rejected = tuple(
        BabelRejected(_address(r.address, f"{place}.rejected[{at}].address"), r.reason, r.packets, r.age_s)
        for at, r in enumerate(part.rejected)
    )
    address = _address(part.address, f"{place}.address")
    rivals = tuple(
        BabelRival(
            _prefix(r.prefix, f"{place}.rivals[{at}].prefix"), r.router_id,
            _address(r.neighbour, f"{place}.rivals[{at}].neighbour"),
        )
        for at, r in enumerate(part.rivals)
    )  # fmt: skip
    return BabelInterface(
        part.ifindex, address, part.up, tuple(part.keys), part.packets_in, part.packets_out, rejected, rivals
    )


# --- the whole -----------------------------------------------------------------------------------------------------


def _unique(keys: Iterable[object], place: str, what: str) -> None:
    seen = set()
    for at, key in enumerate(keys):
        if key in seen:
            raise Wrong(f"{place}[{at}]", f"{what} {key} is there twice")
        seen.add(key)


def _names(part: schema.NodePart) -> None:
    """Names of parts that are none would silently say nothing."""
    for at, name in enumerate(part.parts):
        _one_of(name, sorted(PARTS), f"parts[{at}]")
    for key in ("times", "unread"):
        for name in getattr(part, key):
            _one_of(name, sorted(NODE_PARTS), key)
    for at, name in enumerate(part.unsteady):
        _one_of(name, sorted(NODE_PARTS), f"unsteady[{at}]")
    for name, time in part.times.items():
        if not isfinite(time):
            raise Wrong(f"times.{name}", "it is no time")
    both = sorted(set(part.parts) & part.unread.keys())
    if both:
        raise Wrong(f"unread.{both[0]}", f"{both[0]} is among `parts` as well: was it read, or not?")


def _node(part: schema.NodePart) -> Node:
    if not part.name:
        raise Wrong("name", "a node has a name")
    _names(part)
    links = _each(part.links, _link, "links")
    _unique((link.ifindex for link in links), "links", "the ifindex")
    _unique((link.name for link in links), "links", "the name")
    kernel = Snapshot(
        links=links,
        addresses=_each(part.addresses, _interface_address, "addresses"),
        routes=RouteTable(_each(part.routes, _block, "routes")),
        rules=_each(part.rules, _rule, "rules"),
        nexthops=_each(part.nexthops, _nexthop, "nexthops"),
        neighbours=_each(part.neighbours, _neighbour, "neighbours"),
        parts=frozenset(part.parts),
    )
    _read_what_is_there(kernel, part.unread.keys())
    return Node(
        name=part.name,
        kernel=kernel,
        sysctls=part.sysctls,
        wireguard=_wireguard(part),
        firewall=_firewall(part.firewall),
        babel=_babel(part.babel),
        unread=part.unread,
        times=part.times,
        system=_one_of(part.system, (LINUX, OPENBSD), "system"),
        release=part.release,
        unsteady=frozenset(part.unsteady),
    )


def _read_what_is_there(kernel: Snapshot, unread: Collection[str]) -> None:
    """Objects of a part that neither `parts` nor `unread` (read in part) names: the file contradicts itself."""
    held: dict[str, Sequence[object]] = {
        "links": kernel.links, "addresses": kernel.addresses, "rules": kernel.rules, "nexthops": kernel.nexthops,
        "neighbours": kernel.neighbours,
        "routes4": [b for b in kernel.routes.blocks if b.template.family == AF_INET],
        "routes6": [b for b in kernel.routes.blocks if b.template.family == AF_INET6],
    }  # fmt: skip
    for name, objects in held.items():
        if objects and name not in kernel.parts and name not in unread:
            raise Wrong(name.rstrip("46"), f"there are some, but `parts` does not name {name}")
