"""netplan and NetworkManager: neither can store an IPv4 route with an IPv6 next hop. Both refuse it, or worse, older
ones write a file that then does nothing. So those routes are refused with what to do instead; for the others the
words are given, to be put where they belong (both keep routes inside a device's or connection's own settings).
"""

from __future__ import annotations

from collections.abc import Iterable

from via6.config import RouteSpec
from via6.model import TABLE_MAIN
from via6.prefix import AF_INET, format_address
from via6.render import iproute2
from via6.render.words import Fault, Rendered, TargetFile, heading, sift, v4_via_v6


def _fault(system: str, route: RouteSpec, instead: str) -> Fault | None:
    if v4_via_v6(route):
        return f"{system} cannot store an IPv4 route with an IPv6 next hop", instead
    if len(route.vias) > 1:
        return f"{system} cannot store several next hops with weights", instead
    if not route.vias or not route.vias[0].dev:
        return f"{system} keeps each route under a device, and this one names none", instead
    return None


def _netplan_instead(route: RouteSpec) -> str:
    device = next((via.dev for via in route.vias if via.dev), "")
    if not device:
        return "let `via6 run` keep it, or take `via6 render networkd`"
    return (
        "`via6 render networkd` gives a drop-in that lives beside netplan's own file: put it into"
        f" /etc/systemd/network/10-netplan-{device}.network.d/; or let `via6 run` keep it"
    )


def _netplan_entry(route: RouteSpec) -> list[str]:
    via = route.vias[0]
    lines = [f'      - to: "{route.to}"']
    if via.address:
        lines.append(f'        via: "{format_address(via.address)}"')
    elif route.to.family == AF_INET:
        lines.append("        scope: link")
    if route.metric:
        lines.append(f"        metric: {route.metric}")
    if route.table != TABLE_MAIN:
        lines.append(f"        table: {route.table}")
    if route.src:
        lines.append(f'        from: "{format_address(route.src)}"')
    if route.mtu:
        lines.append(f"        mtu: {route.mtu}")
    return lines


def render_netplan(routes: Iterable[RouteSpec]) -> Rendered:
    """The `routes:` of each device that netplan can say."""
    good, refused = sift(routes, lambda route: _fault("netplan", route, _netplan_instead(route)))
    about = ["netplan keeps routes under the device: put each part below where /etc/netplan/*.yaml has that device."]
    lines = heading("netplan", about if good else ["None of the routes can be said in netplan."], refused)
    by_device: dict[str, list[RouteSpec]] = {}
    for route in good:
        by_device.setdefault(route.vias[0].dev, []).append(route)
    for device, members in sorted(by_device.items()):
        lines += [f"    # {device}:", "      routes:"]
        lines += [f"  {line}" for route in members for line in _netplan_entry(route)]
    return Rendered((TargetFile("via6-netplan.txt", "\n".join(lines) + "\n"),), tuple(refused))


def _manager_instead(route: RouteSpec) -> str:
    device = next((via.dev for via in route.vias if via.dev), "")
    when = f" when {device} comes up" if device else ""
    return (
        "let `via6 run` keep it, or let a script in /etc/NetworkManager/dispatcher.d run this"
        f"{when}: ip {iproute2.line(route, 'replace')}"
    )


def _manager_line(route: RouteSpec) -> str:
    via = route.vias[0]
    words = [str(route.to)]
    if via.address:
        words.append(format_address(via.address))
    if route.metric:
        words.append(str(route.metric))
    if route.table != TABLE_MAIN:
        words.append(f"table={route.table}")
    if route.src:
        words.append(f"src={format_address(route.src)}")
    if route.mtu:
        words.append(f"mtu={route.mtu}")
    family = "ipv4" if route.to.family == AF_INET else "ipv6"
    connection = f'"$(nmcli -g GENERAL.CONNECTION device show {via.dev})"'
    return f'nmcli connection modify {connection} +{family}.routes "{" ".join(words)}"'


def render_networkmanager(routes: Iterable[RouteSpec]) -> Rendered:
    """The nmcli lines for what NetworkManager can say."""
    good, refused = sift(routes, lambda route: _fault("NetworkManager", route, _manager_instead(route)))
    lines = heading("networkmanager", [] if good else ["None of the routes can be said in NetworkManager."], refused)
    if any(not route.metric for route in good):
        lines.append("# A route without a metric gets NetworkManager's own for the device (100 for Ethernet).")
    lines += map(_manager_line, good)
    lines += [f"nmcli device reapply {device}" for device in sorted({route.vias[0].dev for route in good})]
    return Rendered((TargetFile("via6-nmcli.sh", "\n".join(lines) + "\n"),), tuple(refused))
