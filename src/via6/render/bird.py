"""BIRD 2.0.8 and later: a static protocol for each table and family, and the kernel protocol that exports it.

BIRD's own ways, each tried with 2.0.12:
- an `ipv4` channel of a static protocol takes an IPv6 next hop without ceremony;
- `metric 0` in the kernel protocol lets krt_metric of each route through (the default, 32, hides it);
- a link-local or a global next hop is tied to a device by `%'eth1'`; the quotes allow names such as eth1.100;
- a device named like a BIRD keyword (`via`, `table`) cannot be written so: BIRD refuses the file, nothing is misread;
- one destination has one route per table in the kernel: BIRD exports the best alone, so others must be refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from via6.config import RouteSpec, ViaSpec
from via6.model import TABLE_MAIN
from via6.prefix import AF_INET, format_address
from via6.render.words import Fault, Rendered, TargetFile, heading, sift


def _hop(via: ViaSpec, several: bool) -> str:
    if via.address:
        text = f"via {format_address(via.address)}" + (f"%'{via.dev}'" if via.dev else "")
    else:
        text = f'via "{via.dev}"'
    return f"{text} weight {via.weight}" if several else text


def _route(route: RouteSpec) -> str:
    way = " ".join(_hop(via, len(route.vias) > 1) for via in route.vias) or route.type
    options = []
    if route.metric:
        options.append(f"krt_metric = {route.metric};")
    if route.src:
        options.append(f"krt_prefsrc = {format_address(route.src)};")
    if route.mtu:
        options.append(f"krt_mtu = {route.mtu};")
    return f"  route {route.to} {way}" + (f" {{ {' '.join(options)} }};" if options else ";")


def _group(route: RouteSpec) -> tuple[bool, int, int]:
    """The main table first."""
    return route.table != TABLE_MAIN, route.table, route.to.family


def _block(table: int, family: int, routes: Iterable[RouteSpec]) -> list[str]:
    channel = "ipv4" if family == AF_INET else "ipv6"
    version = "v4" if family == AF_INET else "v6"
    lines, inner, name = [""], "", f"via6_{version}"
    kernel: list[str] = []
    if table != TABLE_MAIN:
        name = f"via6_{table}_{version}"
        lines.append(f"{channel} table {name}_routes;")
        kernel = [f"  kernel table {table};"]
        inner = f"table {name}_routes; "
    return [
        *lines,
        f"protocol kernel {name}_kernel {{\n  metric 0;",
        *kernel,
        f'  {channel} {{ {inner}import none; export where proto = "{name}"; }};\n}}',
        f"protocol static {name} {{\n  {channel} {{ {inner}}};",
        *map(_route, routes),
        "}",
    ]


def render(routes: Iterable[RouteSpec]) -> Rendered:
    """One configuration that can run alone or be included."""
    routes = list(routes)
    best: dict[tuple[object, int], RouteSpec] = {}
    for route in sorted(routes, key=lambda r: r.metric):
        best.setdefault((route.to, route.table), route)

    def fault(route: RouteSpec) -> Fault | None:
        first = best[route.to, route.table]
        if first is route:
            return None
        return (
            f"BIRD gives the kernel one route for a destination, and {route.to} has one of metric {first.metric}",
            "keep one of them, or put its next hops into one route",
        )

    good, refused = sift(routes, fault)
    about = (
        "Needs BIRD 2.0.8 or later. Alone or by `include` in bird.conf; a node without an IPv4 address needs",
        "`router id ...;` there. Has your bird.conf a kernel protocol for the same table, leave ours out and let",
        'yours export them: `export where proto = "via6_v4"`, with `metric 0` if metrics matter.',
    )
    lines = [*heading("bird", about, refused), "", "protocol device via6_device { }"]
    for (_, table, family), members in groupby(sorted(good, key=_group), key=_group):
        lines += _block(table, family, members)
    return Rendered((TargetFile("via6.conf", "\n".join(lines) + "\n"),), tuple(refused))
