"""What the tables of a configuration look like, and how a table of any shape is brought to it, key by key: what has
another type is told and left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import msgspec

from via6.config_babel import ALGORITHMS
from via6.config_text import Lines, Problem, device_fault, fits, noun, short, unknown

HELLO_MS: Final = (50, 200_000)
UPDATE_MS: Final = (200, 655_350)
"""Babel counts in 16 bits of 10 ms; an IHU is sent every three Hellos."""
COST: Final = (1, 65_534)
METRIC: Final = (0, 65_534)
KERNEL_METRICS: Final = (1, 4_294_967_000)
"""Some room is left for the routes that stand behind one another."""


class NodeTable(msgspec.Struct):
    """`[node]` as written."""

    name: str | None = None
    address: str | None = None


class InterfaceTable(msgspec.Struct):
    """One `[babel.interface."GLOB"]` as written."""

    cost: int | None = None
    hello_interval_ms: int | None = None
    update_interval_ms: int | None = None
    split_horizon: bool | None = None
    key: Any = None
    accept_all: bool | None = None


class BabelTable(InterfaceTable):
    """`[babel]` as written."""

    interfaces: str | list[str] | None = None
    export: Any = None
    import_: Any = msgspec.field(default=None, name="import")
    families: str | list[str] | None = None
    kernel_metric: int | None = None
    interface: dict[str, dict[str, Any]] | None = None


class KeyTable(msgspec.Struct):
    """One `[[babel.key]]` as written."""

    name: str | None = None
    algorithm: str | None = None
    secret: str | None = None
    file: str | None = None


class GatewayTable(msgspec.Struct):
    """`[gateway]` as written."""

    masquerade: bool = False
    uplink: str | None = None
    metric: int | None = None


class TraceTable(msgspec.Struct):
    """`[trace]` as written."""

    answer: bool = True
    interfaces: str | list[str] | None = None


class HostTable(msgspec.Struct):
    """One `[[host]]` as written."""

    address: str | list[str] | None = None
    interface: str | None = None
    mac: str | None = None
    via: str | None = None


WANTED: Final = {
    "name": 'a text in quotes: name = "r1"',
    "address": 'an IPv4 address in quotes: address = "10.0.0.1"',
    "interfaces": 'names or globs in quotes: interfaces = ["eth*", "wg0"]',
    "families": 'a list: families = ["ipv4", "ipv6"]',
    "interface": '[babel.interface."eth*"] for [babel], interface = "eth1" for others',
    "split_horizon": "true or false, without quotes",
    "accept_all": "true or false, without quotes",
    "masquerade": "true or false, without quotes",
    "answer": "true or false, without quotes",
    "algorithm": "a word in quotes: " + " or ".join(ALGORITHMS),
    "secret": "hexadecimal digits in quotes: `openssl rand -hex 32` makes some",
    "file": 'a path in quotes: file = "/etc/via6/babel.keys"',
    "uplink": 'the name of a device in quotes: uplink = "eth0"',
    "mac": 'a link-layer address in quotes: mac = "52:54:00:12:34:56"',
    "via": 'an IPv6 address in quotes: via = "fe80::22"',
}
ALIASES: Final = {
    "device": "interface", "dev": "interface", "interfaces": "interface", "ip": "address", "prefix": "address",
    "lladdr": "mac", "hello": "hello_interval_ms", "hello_interval": "hello_interval_ms", "rxcost": "cost",
    "update_interval": "update_interval_ms", "keys": "key", "id": "name", "router_id": "name", "type": "algorithm",
    "value": "secret", "nat": "masquerade", "metric": "kernel_metric", "redistribute": "export", "out": "export",
    "in": "import", "routes": "export", "networks": "export", "network": "export", "family": "families",
}  # fmt: skip

_T = TypeVar("_T", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Report:
    """Tells faults of one table; the line is looked up only for a fault."""

    where: str
    parts: tuple[str, ...]
    index: int
    lines: Lines
    into: list[Problem]

    def __call__(self, at: str, message: str, remedy: str, severity: str = "error") -> None:
        """`at` is the path below the table (`export[1].metric`), '' for the table itself."""
        key = re.split(r"[.\[]", at, maxsplit=1)[0]
        line = self.lines.find(self.parts, self.index, key)
        place = f"{self.where}.{at}" if at else self.where
        self.into.append(Problem(place, message, remedy, line, severity))

    def below(self, where: str, *parts: str, index: int = 0) -> Report:
        """For a table within this one."""
        return replace(self, where=f"{self.where}.{where}", parts=self.parts + parts, index=index)


def shaped(kind: type[_T], table: Mapping[str, Any], report: Report) -> _T:
    """What has the right type; the rest is told."""
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    good = {}
    for key, value in table.items():
        if key not in fields:
            report(key, *unknown(key, fields, ALIASES))
        elif not fits(value, fields[key]):
            wanted = WANTED.get(key, f"a number without quotes: {key} = {96 if key == 'cost' else 1000}")
            report(key, f"is {noun(value)}" if not isinstance(value, list | dict) else "has the wrong form",
                   f"wanted: {wanted}")  # fmt: skip
        else:
            good[key] = value
    return msgspec.convert(good, kind)


def number(report: Report, key: str, value: int | None, bounds: tuple[int, int], step: int = 1) -> int | None:
    """`value` if it is in range."""
    low, high = bounds
    if value is None or (low <= value <= high and value % step == 0):
        return value
    if low <= value <= high:
        report(key, f"{key} {value} cannot be announced: Babel counts in {step} ms",
               f"write {value // step * step} or {value // step * step + step}")  # fmt: skip
    else:
        report(key, f"{key} {short(value)} is out of range", f"a number from {low} to {high}")
    return None


def as_list(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else value or []


def is_glob(name: str) -> bool:
    """It may mean several interfaces."""
    return any(c in name for c in "*?[")


def glob_fault(glob: str) -> tuple[str, str] | None:
    """Message and remedy."""
    remedy = 'write a name or a pattern: "eth1", "wg*", "eth[1-3]"'
    if not is_glob(glob):
        if glob == "lo":
            return "Babel is not spoken on the loopback", 'name the interfaces to other routers: "eth1", "wg*"'
        fault = device_fault(glob)
        return (fault, remedy + "; `ip -br link` lists the devices of a node") if fault else None
    if any(c in "/:" or c.isspace() or not c.isprintable() for c in glob):
        return f"{glob!r} fits no device name", remedy
    if glob.count("[") != glob.count("]"):
        return f"{glob!r} has a bracket too many or too few", remedy
    return None
