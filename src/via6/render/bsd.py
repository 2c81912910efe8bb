"""FreeBSD and OpenBSD: lines for route(8). Both have one route for a destination: no metric, no weights here.

FreeBSD from 13.1 forwards IPv4 by an IPv6 next hop (feature ipv4_rfc5549_support). OpenBSD takes and shows such a
route, but its authors said in May 2026 that the network stack is not ready for it: so no promise is made there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from via6.config import RouteSpec
from via6.model import TABLE_MAIN
from via6.prefix import AF_INET, AF_INET6, is_link_local
from via6.render.words import Fault, Refused, Rendered, TargetFile, heading, scoped, sift, v4_via_v6

_DROP = {"blackhole": "-blackhole", "unreachable": "-reject"}


def _common_fault(system: str) -> Callable[[RouteSpec], Fault | None]:
    def fault(route: RouteSpec) -> Fault | None:
        if len(route.vias) > 1:
            return f"weights and several next hops cannot be said in {system}'s route(8)", "keep one next hop"
        if route.metric:
            return f"{system} has no metric: the route would always be used", "leave metric out"
        if route.table != TABLE_MAIN:
            return f"the table numbers of {system} are others than those of Linux", "leave table out"
        if route.src:
            return f"{system} cannot tie a source address to a route", "leave src out"
        if route.type == "prohibit":
            return f"{system} has no prohibit route", 'take type = "unreachable" or "blackhole"'
        if system == "OpenBSD" and route.vias and not route.vias[0].address:
            return "OpenBSD wants an address where the destination is on the link itself", "add via ="
        return None

    return fault


def _words(route: RouteSpec, system: str) -> tuple[str, str]:
    """What stands behind `route add` before the destination, and from the destination on."""
    inet6 = route.to.family == AF_INET6
    lead = "-inet6 " if inet6 else ""
    net = "-net " if system == "FreeBSD" else ""
    if route.type != "unicast":
        way = f"{'::1' if inet6 else '127.0.0.1'} {_DROP[route.type]}"
    elif not route.vias[0].address:
        way = f"-interface {route.vias[0].dev}"
    elif v4_via_v6(route) and system == "FreeBSD":
        way = f"-inet6 {scoped(route.vias[0])}"
    else:
        way = scoped(route.vias[0])
    return lead, f"{net}{route.to} {way}" + (f" -mtu {route.mtu}" if route.mtu else "")


def _device_note(route: RouteSpec) -> list[str]:
    """A global next hop brings its device with it: that it was declared is said, not dropped."""
    via = route.vias[0] if route.vias else None
    if via and via.address and via.dev and not (len(via.address) == 16 and is_link_local(via.address)):
        return [f"# on {via.dev}, where the next hop must be on link:"]
    return []


def _script(routes: Iterable[RouteSpec], system: str) -> list[str]:
    lines = []
    for route in routes:
        lead, rest = _words(route, system)
        lines += [*_device_note(route), f"route add {lead}{rest}"]
    return lines


def _rc_conf(routes: list[RouteSpec], refused: list[Refused]) -> str:
    """/etc/rc.conf: static_routes for IPv4, ipv6_static_routes for IPv6 (rc.d/routing adds the -inet6 there)."""
    about = ("The same for /etc/rc.conf: the routes of the next boot.",)
    lines = heading("freebsd", about, refused)
    for family, prefix in ((AF_INET, ""), (AF_INET6, "ipv6_")):
        names = []
        for number, route in enumerate(r for r in routes if r.to.family == family):
            names.append(f"via6_{number}")
            lines.append(f'{prefix}route_via6_{number}="{_words(route, "FreeBSD")[1]}"')
        if names:
            lines.append(f'{prefix}static_routes="${{{prefix}static_routes}} {" ".join(names)}"')
    return "\n".join(lines) + "\n"


def render_freebsd(routes: Iterable[RouteSpec]) -> Rendered:
    """A script for now and lines of rc.conf for the next boot."""
    good, refused = sift(routes, _common_fault("FreeBSD"))
    about = ("Needs FreeBSD 13.1 or later: `sysctl kern.features.ipv4_rfc5549_support` says 1.",)
    text = "\n".join([*heading("freebsd", about, refused), *_script(good, "FreeBSD")]) + "\n"
    files = (TargetFile("via6-routes.sh", text), TargetFile("rc.conf.via6", _rc_conf(good, refused)))
    return Rendered(files, tuple(refused))


def render_openbsd(routes: Iterable[RouteSpec]) -> Rendered:
    """A script, with the warning that belongs to it."""
    good, refused = sift(routes, _common_fault("OpenBSD"))
    about = ["For the next boot write each line with a `!` before it into /etc/hostname.IF."]
    if any(map(v4_via_v6, good)):
        about += [
            "OpenBSD accepts and shows IPv4 routes with an IPv6 next hop, but whether it forwards by them is NOT",
            "promised: its authors say (May 2026) that the network stack is not ready. Try it with real packets.",
        ]
    text = "\n".join([*heading("openbsd", about, refused), *_script(good, "OpenBSD")]) + "\n"
    return Rendered((TargetFile("via6-routes.sh", text),), tuple(refused))
