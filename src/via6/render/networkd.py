"""systemd-networkd: drop-ins with [Route] sections. Gateway= takes an IPv6 address for an IPv4 Destination= (not in
the manual; seen with systemd 252, where a test asks networkd itself).

networkd applies one .network file to a link: the first that matches. A file of ours would therefore push aside the
one that gives the link its addresses, or be pushed aside. A drop-in `X.network.d/via6.conf` adds to file X instead,
so that is what we write, one for each device. Which X it is only the machine knows; the heading says how to ask.
"""

from __future__ import annotations

from collections.abc import Iterable

from via6.config import RouteSpec
from via6.prefix import AF_INET, format_address
from via6.render.words import Fault, Rendered, TargetFile, heading, sift

_LOOPBACK = "lo"


def _fault(route: RouteSpec) -> Fault | None:
    if not all(via.dev for via in route.vias):
        return "networkd keeps each route under a device, a next hop of this one names none", "add dev ="
    if len(route.vias) > 1 and not all(via.address for via in route.vias):
        # MultiPathRoute=@wg0 came late (systemd 260); an older networkd ignores the line with a warning.
        return "networkd takes several next hops only with an address each", "give each next hop its via ="
    return None


def _section(route: RouteSpec) -> list[str]:
    # Table= always: without it networkd puts the routes of a device in a VRF into the VRF's table.
    lines = ["", "[Route]", f"Destination={route.to}", f"Table={route.table}"]
    if route.type != "unicast":
        lines.append(f"Type={route.type}")
    if len(route.vias) > 1:
        for via in route.vias:
            assert via.address
            lines.append(f"MultiPathRoute={format_address(via.address)}@{via.dev} {via.weight}")
    elif route.vias and route.vias[0].address:
        # A next hop of via6 is on the link of its device by definition; networkd may know its prefix only later (RA).
        lines += [f"Gateway={format_address(route.vias[0].address)}", "GatewayOnLink=yes"]
    elif route.vias and route.to.family == AF_INET:
        lines.append("Scope=link")
    if route.metric:
        lines.append(f"Metric={route.metric}")
    if route.src:
        lines.append(f"PreferredSource={format_address(route.src)}")
    if route.mtu:
        lines.append(f"MTUBytes={route.mtu}")
    return lines


def render(routes: Iterable[RouteSpec]) -> Rendered:
    """A drop-in for each device; routes that drop packets have no device and go to a file for the loopback."""
    good, refused = sift(routes, _fault)
    by_device: dict[str, list[RouteSpec]] = {}
    for route in good:
        by_device.setdefault(route.vias[0].dev if route.vias else "", []).append(route)
    files = []
    for device, members in sorted(by_device.items()):
        sections = [line for route in members for line in _section(route)]
        if device:
            name = f"{device}.network.d/via6.conf"
            about = [
                f"A drop-in for the .network file of {device}: `networkctl status {device}` names that file",
                f"(Network File). If it is not {device}.network, name this folder after it, in /etc/systemd/network.",
            ]
        else:
            name = f"90-via6-{_LOOPBACK}.network"
            about = [
                "For /etc/systemd/network. Has another file the loopback already (`networkctl status lo`), then",
                "this one does nothing: put its [Route] sections there.",
            ]
            sections = ["", "[Match]", f"Name={_LOOPBACK}", *sections]
        about.append("Then: networkctl reload. Seen to work with systemd 252.")
        files.append(TargetFile(name, "\n".join([*heading("networkd", about, refused), *sections]) + "\n"))
    return Rendered(tuple(files), tuple(refused))
