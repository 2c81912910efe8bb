"""Declared routes in the words of another system. The rule of all: never a route that the target would silently
misread. What a target cannot express is refused by name, and the caller fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from via6.config import RouteSpec
from via6.render import bird, bsd, iproute2, managers, networkd
from via6.render.words import Refused, Rendered, TargetFile

__all__ = ["ALIASES", "SYSTEMS", "Refused", "Rendered", "TargetFile", "render"]

SYSTEMS: Final[dict[str, Callable[[Iterable[RouteSpec]], Rendered]]] = {
    "iproute2": iproute2.render,
    "networkd": networkd.render,
    "bird": bird.render,
    "freebsd": bsd.render_freebsd,
    "openbsd": bsd.render_openbsd,
    "netplan": managers.render_netplan,
    "networkmanager": managers.render_networkmanager,
}
ALIASES: Final = {"systemd-networkd": "networkd", "nm": "networkmanager"}


def render(system: str, routes: Iterable[RouteSpec]) -> Rendered:
    """`system` is a key of SYSTEMS or of ALIASES."""
    return SYSTEMS[ALIASES.get(system, system)](routes)
