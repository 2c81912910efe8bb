"""What the renderers share: the shape of their answer, and when a route must be refused for every system."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from via6.config import RouteSpec, ViaSpec
from via6.prefix import AF_INET, format_address, is_link_local

# Names outside this set are legal in Linux, but are quotes, globs, comments or separators in one target or another.
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class TargetFile:
    """A file for the target; `name` may have one folder in it."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A route the target cannot express, or would read as another one."""

    route: RouteSpec
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """Nothing is lost: each route stands in `files` or in `refused`."""

    files: tuple[TargetFile, ...]
    refused: tuple[Refused, ...]


Fault = tuple[str, str]
"""Reason and remedy."""


def odd_device(route: RouteSpec) -> Fault | None:
    """A device name that the target might read as something else."""
    for via in route.vias:
        if via.dev and not _PLAIN.fullmatch(via.dev):
            return (
                f"the device name {via.dev!r} has characters that mean something else there",
                "rename the device: letters, digits, '_', '-' and '.'",
            )
    return None


def sift(
    routes: Iterable[RouteSpec], fault: Callable[[RouteSpec], Fault | None]
) -> tuple[list[RouteSpec], list[Refused]]:
    """The routes that can be said, and the others."""
    good: list[RouteSpec] = []
    refused: list[Refused] = []
    for route in routes:
        found = odd_device(route) or fault(route)
        if found:
            refused.append(Refused(route, *found))
        else:
            good.append(route)
    return good, refused


def v4_via_v6(route: RouteSpec) -> bool:
    """True if some next hop is of the other family than the destination."""
    return route.to.family == AF_INET and any(v.address and len(v.address) == 16 for v in route.vias)


def scoped(via: ViaSpec) -> str:
    """`fe80::1%eth1` for a link-local next hop, the bare address for any other (which must be given)."""
    assert via.address is not None
    text = format_address(via.address)
    return f"{text}%{via.dev}" if len(via.address) == 16 and is_link_local(via.address) else text


def heading(system: str, lines: Iterable[str], refused: Iterable[Refused]) -> list[str]:
    """Comment lines for the top of a file; the refused are named again, for who reads the file and not stderr."""
    left_out = [f"# NOT HERE: {r.route.to}: {r.reason}" for r in refused]
    return [f"# Written by via6 render {system}.", *(f"# {line}" for line in lines), *left_out]
