"""Next hops: from what was declared to what Linux takes.

Linux wants a next hop on the link. via6 also takes one that is not (`via 2001:db8::1`, anywhere), looks it up in the
IPv6 table as the kernel would, longest prefix first, and follows the gateway of the route it finds (recursive next
hops, draft-ietf-intarea-v4-via-v6; RFC 4271 5.1.3 for the idea). The answer holds the trail: the routes that were
followed. When one of them changes, the question must be asked again, and `via6 run` does.

Two things keep the answer from resting on itself. Routes that via6 installed for the family in question do not count
(an IPv6 next hop of an IPv4 route may well follow an IPv6 route of ours). And a next hop inside the very prefix that
it is to carry must be found by a longer prefix than that: once installed, the route would be the way to its own next
hop.

What is looked at is a `view.View` of the node.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from via6.model import NH_DEAD, NH_ONLINK, PROTO_VIA6, Link, NextHop, Route
from via6.prefix import (
    AF_INET,
    AF_INET6,
    Address,
    Prefix,
    format_address,
    is_link_local,
    is_multicast,
    is_v4_mapped,
)
from via6.view import View

MAX_DEPTH: Final = 8
"""Routes followed for one next hop. Linux itself follows none; real chains have one or two."""

MAX_WEIGHT: Final = 256

UNKNOWN_DEVICE: Final = "unknown-device"
NO_DEVICE: Final = "link-local-without-device"
V4_MAPPED: Final = "ipv4-mapped"
NOT_UNICAST: Final = "not-unicast"
WRONG_FAMILY: Final = "wrong-family"
ITSELF: Final = "itself"
NO_ROUTE: Final = "no-route"
LOOP: Final = "loop"
TOO_DEEP: Final = "too-deep"
DROPPED: Final = "dropped"
DEVICE_DOWN: Final = "device-down"
NO_CARRIER: Final = "no-carrier"
NOT_ON_LINK: Final = "not-on-link"
NO_SOURCE: Final = "no-source"

_DROPS: Final = frozenset({"blackhole", "unreachable", "prohibit"})


@dataclass(frozen=True, slots=True)
class Resolved:
    """What Linux takes: neighbours and links. `trail` are the routes followed, the last one being the connected one
    (empty for a link-local next hop, or for a bare device)."""

    next_hops: tuple[NextHop, ...]
    trail: tuple[Route, ...] = ()

    @property
    def on_link(self) -> bool:
        """The next hop was a neighbour already; no gateway had to be followed."""
        return not any(hop.via for route in self.trail for hop in route.next_hops)

    @property
    def depends(self) -> tuple[Prefix, ...]:
        """The prefixes on whose routes the answer rests."""
        return tuple(route.prefix for route in self.trail)


@dataclass(frozen=True, slots=True)
class Unresolved:
    """Why not: `kind` is one of the words above, `text` the fault with its place, `remedy` what to type or change."""

    kind: str
    text: str
    remedy: str
    trail: tuple[Route, ...] = ()


# --- resolution ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Question:
    """What stays the same while gateways are followed. `family` is that of the route's destination."""

    view: View
    family: int
    inside: Prefix | None
    carrier: bool


def resolve(
    view: View,
    address: Address | None,
    device: str = "",
    *,
    weight: int = 1,
    family: int = AF_INET,
    inside: Prefix | None = None,
    need_carrier: bool = True,
) -> Resolved | Unresolved:
    """The neighbours behind a declared next hop; `address` None means the link `device` itself.

    `family` is that of the route's destination and `inside` the destination itself, if it might contain the next hop.
    Without `need_carrier` a link that is up without carrier will do, as it does for `ip route add`.
    """
    question = _Question(view, family, inside, need_carrier)
    ifindex = 0
    if device:
        link = view.named(device)
        if link is None:
            return Unresolved(UNKNOWN_DEVICE, f"there is no device {device!r}", f"devices here: {view.names()}")
        ifindex = link.ifindex
        fault = _link_fault(question, link)
        if fault:
            return fault
    if address is None:
        return Resolved((NextHop(None, ifindex, weight),))
    fault = _address_fault(view, address, ifindex, family)
    if fault:
        return fault
    if is_link_local(address) and len(address) == 16:
        return Resolved((NextHop(address, ifindex, weight),))
    answer = _follow(question, address, ifindex, (), (address,))
    if isinstance(answer, Resolved):
        return replace(answer, next_hops=_scaled(answer.next_hops, weight))
    return answer


def on_link(
    view: View, address: Address | None, device: str = "", *, weight: int = 1, family: int = AF_INET
) -> Resolved | Unresolved:
    """As `resolve`, but a next hop behind a gateway is refused: the kernel would, and without a daemon nobody follows
    it when IPv6 moves."""
    answer = resolve(view, address, device, weight=weight, family=family, need_carrier=False)
    if isinstance(answer, Unresolved) or answer.on_link or address is None:
        return answer
    via = " or ".join(_spelled(view, hop) for hop in answer.next_hops)
    return Unresolved(
        NOT_ON_LINK,
        f"the next hop {format_address(address)} is not on link: it is reached by {_shown(view, answer.trail[0])}",
        f"name the neighbour itself (via {via}), or declare the route and let `via6 run` follow it when IPv6 moves",
        answer.trail,
    )


def source_fault(view: View, source: Address) -> Unresolved | None:
    """Why `src SOURCE` would be refused, or None."""
    if view.is_own(source):
        return None
    text = format_address(source)
    bits = len(source) * 8
    return Unresolved(
        NO_SOURCE,
        f"the source address {text} is not an address of this node",
        f"give it one (ip addr add {text}/{bits} dev lo), or leave src out",
    )


def _scaled(hops: Iterable[NextHop], weight: int) -> tuple[NextHop, ...]:
    """Weights multiplied; the kernel's bound is kept by scaling all of them down."""
    raised = [replace(hop, weight=hop.weight * weight) for hop in hops]
    most = max(hop.weight for hop in raised)
    if most <= MAX_WEIGHT:
        return tuple(raised)
    return tuple(replace(hop, weight=max(1, hop.weight * MAX_WEIGHT // most)) for hop in raised)


def _address_fault(view: View, address: Address, ifindex: int, family: int) -> Unresolved | None:
    text = format_address(address)
    if is_v4_mapped(address):
        plain = format_address(address[12:])
        return Unresolved(
            V4_MAPPED, f"the next hop {text} is an IPv4-mapped address, which no neighbour has",
            f"write the neighbour's IPv6 address, or {plain} if you mean IPv4",
        )  # fmt: skip
    if not any(address) or is_multicast(address) or address == b"\xff" * 4:
        what = "multicast" if is_multicast(address) else "broadcast" if any(address) else "the unspecified address"
        return Unresolved(NOT_UNICAST, f"the next hop {text} is {what}", "write the address of one neighbour")
    if len(address) == 4 and family == AF_INET6:
        return Unresolved(
            WRONG_FAMILY, f"an IPv6 route cannot have the IPv4 next hop {text}", "write the neighbour's IPv6 address"
        )
    if is_link_local(address) and len(address) == 16 and not ifindex:
        return Unresolved(
            NO_DEVICE, f"the next hop {text} is link-local: it means nothing without a device",
            f"write via {text} dev DEV, or {text}%DEV; devices here: {view.names()}",
        )  # fmt: skip
    if view.is_own(address, ifindex):
        where = ", ".join(view.dev(a.ifindex) for a in view.addresses(address))
        return Unresolved(
            ITSELF, f"the next hop {text} is this node itself" + (f" (on {where})" if where else ""),
            "write the address of the neighbour at the other end",
        )  # fmt: skip
    return None


def _link_fault(question: _Question, link: Link) -> Unresolved | None:
    if not link.up:
        return Unresolved(DEVICE_DOWN, f"the device {link.name} is down", f"ip link set {link.name} up")
    if question.carrier and not link.carrier:
        return Unresolved(
            NO_CARRIER, f"the device {link.name} has no carrier", "look at the cable, or at the other end's device"
        )
    return None


def _follow(
    question: _Question, address: Address, ifindex: int, trail: tuple[Route, ...], asked: tuple[Address, ...]
) -> Resolved | Unresolved:
    """Looks `address` up and follows gateways. `asked` are the addresses on the way here."""
    view = question.view
    text = format_address(address)
    if len(trail) >= MAX_DEPTH:
        return Unresolved(
            TOO_DEEP, f"the way to {text} leads through more than {MAX_DEPTH} routes",
            "name a next hop that is nearer", trail,
        )  # fmt: skip
    first_fault: Unresolved | None = None
    for route in view.matches(address):
        if route.protocol == PROTO_VIA6 and route.family == question.family:
            continue
        if route.type == "throw":
            break
        if route.type in _DROPS:
            return Unresolved(
                DROPPED, f"the way to the next hop {text} is closed: {_shown(view, route)}",
                f"remove that route, or add one to {text}", (*trail, route),
            )  # fmt: skip
        hops = [hop for hop in view.hops(route) if not ifindex or hop.ifindex in (0, ifindex)]
        if not hops:
            continue
        inside = question.inside
        if inside is not None and address in inside and route.prefix.length <= inside.length:
            return Unresolved(
                LOOP, f"the next hop {text} lies in {inside} itself: the route would lead to its own next hop",
                f"name its device, or add a route to {Prefix(address, len(address) * 8)} first", (*trail, route),
            )  # fmt: skip
        answer = _through(question, address, route, hops, trail, asked)
        if isinstance(answer, Resolved) or answer.kind in (LOOP, TOO_DEEP):
            return answer
        first_fault = first_fault or answer
    if first_fault is not None:
        return first_fault
    on = f" on {view.dev(ifindex)}" if ifindex else ""
    return Unresolved(
        NO_ROUTE, f"there is no route to the next hop {text}{on}",
        f"add one (ip -{6 if len(address) == 16 else 4} route add {text} …), or name a neighbour on link", trail,
    )  # fmt: skip


def _through(
    question: _Question,
    address: Address,
    route: Route,
    hops: list[NextHop],
    trail: tuple[Route, ...],
    asked: tuple[Address, ...],
) -> Resolved | Unresolved:
    """All next hops of one matching route; those that do not work are left out while one does."""
    found: list[NextHop] = []
    fault: Unresolved | None = None
    longest: tuple[Route, ...] = (*trail, route)
    for hop in hops:
        answer = _hop(question, address, hop, (*trail, route), asked)
        if isinstance(answer, Resolved):
            found += _scaled(answer.next_hops, hop.weight)
            longest = max(longest, answer.trail, key=len)
        elif fault is None or answer.kind in (LOOP, TOO_DEEP):
            fault = answer
    if found:
        return Resolved(tuple(found), longest)
    assert fault is not None  # there was a hop
    return fault


def _hop(
    question: _Question, address: Address, hop: NextHop, trail: tuple[Route, ...], asked: tuple[Address, ...]
) -> Resolved | Unresolved:
    link = question.view.links.get(hop.ifindex)
    if hop.ifindex and link is None:
        return Unresolved(UNKNOWN_DEVICE, f"the device {question.view.dev(hop.ifindex)} is gone", "", trail)
    if link is not None:
        fault = _link_fault(question, link)
        if fault is not None or hop.flags & NH_DEAD:
            return replace(fault, trail=trail) if fault else Unresolved(
                DEVICE_DOWN, f"{_shown(question.view, trail[-1])} is dead", f"ip link set {link.name} up", trail
            )  # fmt: skip
    if hop.via is None:
        return Resolved((NextHop(address, hop.ifindex),), trail)
    if hop.ifindex:
        # The kernel took this gateway for this link, so it is a neighbour there.
        return Resolved((NextHop(hop.via, hop.ifindex, 1, hop.flags & NH_ONLINK),), trail)
    if hop.via in asked:
        chain = " -> ".join(format_address(a) for a in (*asked, hop.via))
        return Unresolved(LOOP, f"the next hop leads back to itself: {chain}", "give one of them another way", trail)
    return _follow(question, hop.via, 0, trail, (*asked, hop.via))


def _spelled(view: View, hop: NextHop) -> str:
    via = format_address(hop.via) if hop.via else ""
    return f"{via} dev {view.dev(hop.ifindex)}".strip()


def _shown(view: View, route: Route) -> str:
    """A route in short, for a message."""
    words = [str(route.prefix)] if route.type == "unicast" else [route.type, str(route.prefix)]
    hops = view.hops(route)
    if len(hops) == 1 and route.type == "unicast":
        words += (["via", format_address(hops[0].via)] if hops[0].via else []) + ["dev", view.dev(hops[0].ifindex)]
    return " ".join(words)
