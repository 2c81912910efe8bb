"""`ip -batch` of iproute2, from 5.0 (June 2019: `via inet6`).

iproute2 6.1 takes the family of `src` and of a gateway from the first prefix it sees and forgets it for `default`:
`route add default via inet6 X src 10.1.0.2` fails. So the default routes are written 0.0.0.0/0 and ::/0, which every
version takes, in a batch too (where `-4` cannot stand before a line).
"""

from __future__ import annotations

from collections.abc import Iterable

from via6.config import RouteSpec, ViaSpec
from via6.model import TABLE_MAIN
from via6.prefix import AF_INET, format_address
from via6.render.words import Rendered, TargetFile, heading, sift


def _hop(route: RouteSpec, via: ViaSpec) -> list[str]:
    words: list[str] = []
    if via.address:
        inet6 = ["inet6"] if route.to.family == AF_INET and len(via.address) == 16 else []
        words += ["via", *inet6, format_address(via.address)]
    return words + (["dev", via.dev] if via.dev else [])


def line(route: RouteSpec, verb: str = "add") -> str:
    """The route as the words behind `ip`; `verb` is add, replace or del."""
    words = ["route", verb, *([] if route.type == "unicast" else [route.type]), str(route.to), "proto", "static"]
    if route.metric:
        words += ["metric", str(route.metric)]
    if route.table != TABLE_MAIN:
        words += ["table", str(route.table)]
    if route.src:
        words += ["src", format_address(route.src)]
    if route.mtu:
        words += ["mtu", str(route.mtu)]
    if len(route.vias) == 1:
        words += _hop(route, route.vias[0])
    else:
        for via in route.vias:
            words += ["nexthop", *_hop(route, via), "weight", str(via.weight)]
    return " ".join(words)


def render(routes: Iterable[RouteSpec]) -> Rendered:
    """One batch file. iproute2 can say all that via6 can."""
    good, refused = sift(routes, lambda route: None)
    about = ("Load it with `ip -batch FILE`; a second time with `ip -force -batch FILE` (what is there stays).",)
    text = "\n".join([*heading("iproute2", about, refused), *map(line, good)]) + "\n"
    return Rendered((TargetFile("via6.batch", text),), tuple(refused))
