"""Everything but routes: links, addresses, neighbours, rules, nexthop objects."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from via6.model import IFF_UP, InterfaceAddress, Link, Neighbour, NexthopObject, Rule
from via6.netlink.wire import U32, attribute, attribute_u32, attributes, text, u32
from via6.prefix import AF_INET, AF_INET6, Prefix, family_of

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
RTM_NEWNEXTHOP, RTM_DELNEXTHOP, RTM_GETNEXTHOP = 104, 105, 106

IFINFOMSG: Final = struct.Struct("=BxHiII")  # family, type, index, flags, change
IFADDRMSG: Final = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
NDMSG: Final = struct.Struct("=B3xiHBB")  # family, ifindex, state, flags, type
RULEHDR: Final = struct.Struct("=BBBBB2xBI")  # family, dst_len, src_len, tos, table, action, flags
NHMSG: Final = struct.Struct("=BBBxI")  # family, scope, protocol, flags
NHGRP: Final = struct.Struct("=IBBH")  # id, weight - 1, its high octet (from 6.12), reserved

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_OPERSTATE, IFLA_LINKINFO = 1, 3, 4, 5, 10, 16, 18
IFLA_INFO_KIND: Final = 1
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS, IFA_PROTO = 1, 2, 8, 11
NDA_DST, NDA_LLADDR = 1, 2
FRA_DST, FRA_SRC, FRA_IIFNAME, FRA_GOTO, FRA_PRIORITY, FRA_FWMARK = 1, 2, 3, 4, 6, 10
FRA_TABLE, FRA_FWMASK, FRA_OIFNAME, FRA_L3MDEV = 15, 16, 17, 19
FIB_RULE_INVERT: Final = 2
NHA_ID, NHA_GROUP, NHA_BLACKHOLE, NHA_OIF, NHA_GATEWAY = 1, 2, 4, 5, 6

OPERSTATES: Final = ("UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP")
STATES: Final = {
    0x01: "INCOMPLETE", 0x02: "REACHABLE", 0x04: "STALE", 0x08: "DELAY",
    0x10: "PROBE", 0x20: "FAILED", 0x40: "NOARP", 0x80: "PERMANENT",
}  # fmt: skip
ACTIONS: Final = {1: "to_tbl", 2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_UNSET: Final = U32.pack(0xFFFFFFFF)
_MORE: Final = {
    12: "tun_id", 13: "suppress_ifgroup", 14: "suppress_prefixlength", 20: "uidrange", 22: "ipproto", 23: "sport",
    24: "dport", 25: "dscp", 26: "flowlabel", 27: "flowlabel",
}  # fmt: skip
"""FRA_* (linux/fib_rules.h) that restrict a rule or its outcome and have no place in `Rule`. The kernel tells 13 and 14
as -1 where they are not set."""


def decode_link(payload: bytes) -> tuple[Link | None, str]:
    """RTM_NEWLINK or RTM_DELLINK."""
    if len(payload) < 16:
        return None, "link message shorter than struct ifinfomsg"
    family, _type, index, flags, _change = IFINFOMSG.unpack_from(payload)
    if family:  # AF_BRIDGE and AF_INET6 tell of a link's part in something else: its RTM_DELLINK is no link gone
        return None, f"link message of address family {family}"
    attrs = attributes(payload, 16)
    operstate = attrs.get(IFLA_OPERSTATE, b"\0")
    return Link(
        ifindex=index,
        name=text(attrs, IFLA_IFNAME),
        mtu=u32(attrs, IFLA_MTU),
        flags=flags,
        operstate=OPERSTATES[operstate[0]] if operstate and operstate[0] < len(OPERSTATES) else "UNKNOWN",
        lladdr=attrs.get(IFLA_ADDRESS, b""),
        kind=text(attributes(attrs.get(IFLA_LINKINFO, b"")), IFLA_INFO_KIND),
        master=u32(attrs, IFLA_MASTER),
        peer=u32(attrs, IFLA_LINK),
    ), ""


def decode_address(payload: bytes) -> tuple[InterfaceAddress | None, str]:
    """RTM_NEWADDR or RTM_DELADDR. IFA_LOCAL is the own address; where IFA_ADDRESS differs it is the peer's."""
    if len(payload) < 8:
        return None, "address message shorter than struct ifaddrmsg"
    family, length, flags, scope, index = IFADDRMSG.unpack_from(payload)
    attrs = attributes(payload, 8)
    size = {AF_INET: 4, AF_INET6: 16}.get(family)
    far = attrs.get(IFA_ADDRESS, b"")
    own = attrs.get(IFA_LOCAL, far)
    if size is None or len(own) != size or length > size * 8:
        return None, "address of a strange family or size"
    protocol = attrs.get(IFA_PROTO, b"")
    return InterfaceAddress(
        ifindex=index,
        address=own,
        length=length,
        scope=scope,
        flags=u32(attrs, IFA_FLAGS, flags),
        peer=far if far != own and len(far) == size else None,
        protocol=protocol[0] if protocol else 0,
    ), ""


def encode_address(address: InterfaceAddress) -> bytes:
    """The payload of RTM_NEWADDR or RTM_DELADDR, without a peer. Kernels before 5.18 pass over the protocol."""
    out = IFADDRMSG.pack(
        family_of(address.address), address.length, address.flags & 0xFF, address.scope, address.ifindex
    )  # fmt: skip
    out += attribute(IFA_LOCAL, address.address) + attribute(IFA_ADDRESS, address.address)
    return out + (attribute(IFA_PROTO, bytes([address.protocol])) if address.protocol else b"")


def encode_link_up(ifindex: int) -> bytes:
    """The payload of an RTM_NEWLINK that sets an interface up and leaves everything else."""
    return IFINFOMSG.pack(0, 0, ifindex, IFF_UP, IFF_UP)


def decode_neighbour(payload: bytes) -> tuple[Neighbour | None, str]:
    """RTM_NEWNEIGH or RTM_DELNEIGH of IPv4 and IPv6 (bridges speak AF_BRIDGE here: not ours)."""
    if len(payload) < 12:
        return None, "neighbour message shorter than struct ndmsg"
    family, index, state, flags, _type = NDMSG.unpack_from(payload)
    attrs = attributes(payload, 12)
    address = attrs.get(NDA_DST, b"")
    if len(address) != {AF_INET: 4, AF_INET6: 16}.get(family):
        return None, "neighbour of a strange family or size"
    return Neighbour(index, address, attrs.get(NDA_LLADDR, b""), STATES.get(state, "NONE"), flags), ""


def _rule_prefix(packed: bytes | None, length: int, size: int) -> Prefix | None:
    return Prefix(packed, length) if packed is not None and len(packed) == size and length <= size * 8 else None


def action_with(action: str, more: Iterable[str]) -> str:
    """The action of a rule that depends on more than `Rule` can say."""
    words = sorted(set(more))
    return f"{action} with {', '.join(words)}" if words else action


def decode_rule(payload: bytes) -> tuple[Rule | None, str]:
    """RTM_NEWRULE or RTM_DELRULE of IPv4 and IPv6."""
    if len(payload) < 12:
        return None, "rule message shorter than struct fib_rule_hdr"
    family, dst_len, src_len, tos, table, number, flags = RULEHDR.unpack_from(payload)
    size = {AF_INET: 4, AF_INET6: 16}.get(family)
    if size is None:
        return None, f"rule of address family {family}"
    attrs = attributes(payload, 12)
    l3mdev = attrs.get(FRA_L3MDEV, b"")
    action = ACTIONS.get(number, f"action {number}")
    if action == "goto":
        action = f"goto {u32(attrs, FRA_GOTO)}"
    more = [name for kind, name in _MORE.items() if kind in attrs and attrs[kind] != _UNSET]
    return Rule(
        family=family,
        priority=u32(attrs, FRA_PRIORITY),
        table=u32(attrs, FRA_TABLE, table),
        action=action_with(action, [*more, "tos"] if tos else more),
        source=_rule_prefix(attrs.get(FRA_SRC), src_len, size),
        destination=_rule_prefix(attrs.get(FRA_DST), dst_len, size),
        iif=text(attrs, FRA_IIFNAME),
        oif=text(attrs, FRA_OIFNAME),
        fwmark=u32(attrs, FRA_FWMARK),
        fwmask=u32(attrs, FRA_FWMASK),
        l3mdev=bool(l3mdev and l3mdev[0]),
        invert=bool(flags & FIB_RULE_INVERT),
    ), ""


def encode_nexthop(nexthop: NexthopObject) -> bytes:
    """The payload of RTM_NEWNEXTHOP (linux/nexthop.h). A group names members and has neither family nor device."""
    single = not nexthop.group
    out = NHMSG.pack(nexthop.family if single else 0, 0, nexthop.protocol, nexthop.flags & 0xFF if single else 0)
    out += attribute_u32(NHA_ID, nexthop.nhid)
    if nexthop.group:
        members = b"".join(NHGRP.pack(i, (w - 1) & 0xFF, (w - 1) >> 8, 0) for i, w in nexthop.group)
        return out + attribute(NHA_GROUP, members)
    if nexthop.blackhole:
        return out + attribute(NHA_BLACKHOLE, b"")
    if nexthop.via:
        out += attribute(NHA_GATEWAY, nexthop.via)
    return out + attribute_u32(NHA_OIF, nexthop.ifindex)


def encode_nexthop_id(nhid: int) -> bytes:
    """The payload of RTM_DELNEXTHOP."""
    return NHMSG.pack(0, 0, 0, 0) + attribute_u32(NHA_ID, nhid)


def decode_nexthop(payload: bytes) -> tuple[NexthopObject | None, str]:
    """RTM_NEWNEXTHOP or RTM_DELNEXTHOP."""
    if len(payload) < 8:
        return None, "nexthop message shorter than struct nhmsg"
    family, _scope, protocol, flags = NHMSG.unpack_from(payload)
    attrs = attributes(payload, 8)
    group = attrs.get(NHA_GROUP, b"")
    via = attrs.get(NHA_GATEWAY)
    if len(group) % 8 or (via is not None and len(via) not in (4, 16)):
        return None, "nexthop with a gateway or group of a strange size"
    return NexthopObject(
        nhid=u32(attrs, NHA_ID),
        via=via,
        ifindex=u32(attrs, NHA_OIF),
        group=tuple((i, (low | high << 8) + 1) for i, low, high, _ in NHGRP.iter_unpack(group)),
        blackhole=NHA_BLACKHOLE in attrs,
        protocol=protocol,
        flags=flags,
        family=family,
    ), ""


def encode_link_dump() -> bytes:
    return IFINFOMSG.pack(0, 0, 0, 0, 0)


def encode_address_dump() -> bytes:
    return IFADDRMSG.pack(0, 0, 0, 0, 0)


def encode_neighbour_dump() -> bytes:
    return NDMSG.pack(0, 0, 0, 0, 0)


def encode_rule_dump() -> bytes:
    return RULEHDR.pack(0, 0, 0, 0, 0, 0, 0)


def encode_nexthop_dump() -> bytes:
    return NHMSG.pack(0, 0, 0, 0)
