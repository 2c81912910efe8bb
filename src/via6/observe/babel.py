"""What the Babel speaker knows, as JSON values; which of it is asked for; what has changed since it was told. Pure.

The keys are an interface: scripts rest on them, via6-show(1) lists them, so they are only ever added to. Addresses and
prefixes are text, a router-id is eight octets with colons, times end in their unit. 65535 is Babel's infinity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast

from via6.prefix import Prefix, format_address, mask

if TYPE_CHECKING:
    from via6.babel.model import InterfaceInfo, NeighbourInfo, RouteInfo, SourceInfo
    from via6.config_babel import Rule

    Info = NeighbourInfo | InterfaceInfo | RouteInfo | SourceInfo

Json = dict[str, Any]
Dev = Callable[[int], str]

KINDS: Final = ("interface", "neighbour", "route", "source")
HOWS: Final = ("exact", "root", "match", "longest")
STATES: Final = ("own", "selected", "backup", "feasible", "unfeasible", "retracted")


class Policy(NamedTuple):
    """What is taken from neighbours, as it is configured. `imports` None: all but our own; `allowed` are the only
    prefixes that are taken on an interface."""

    families: frozenset[int]
    imports: tuple[Rule, ...] | None
    transit4: bool
    kernel_metric: int
    allowed: tuple[tuple[str, tuple[Prefix, ...]], ...] = ()


class Status(NamedTuple):
    """What the daemon says of itself. `fib`: how many routes are in which phase; `waiting`: declared routes whose next
    hop is not there; `sysctls`: name with dots, value before, value now; `counters` as the speaker counts them. Babel
    is not spoken: no router_id. Uptime, memory and what can be counted in the tables the control server adds."""

    router_id: bytes = b""
    seqno: int = 0
    file: str = ""
    fib: Mapping[str, int] = {}
    waiting: int = 0
    warnings: tuple[str, ...] = ()
    sysctls: tuple[tuple[str, str, str], ...] = ()
    counters: Mapping[str, int] = {}
    policy: Policy | None = None


# --- JSON ----------------------------------------------------------------------------------------------------------


def router_id_text(router_id: bytes) -> str:
    """`02:00:00:ff:fe:00:00:01`; empty for none."""
    return router_id.hex(":")


def neighbour_json(info: NeighbourInfo) -> Json:
    """One neighbour."""
    return {
        "interface": info.interface,
        "address": format_address(info.address),
        "reach": info.reach,
        "rxcost": info.rxcost,
        "txcost": info.txcost,
        "cost": info.cost,
        "hello_interval_ms": info.hello_interval_ms,
        "routes": info.routes,
        "authenticated": info.authenticated,
        "signed": info.signed,
    }


def interface_json(info: InterfaceInfo) -> Json:
    """One interface that Babel is spoken on."""
    return {
        "interface": info.interface,
        "ifindex": info.ifindex,
        "address": format_address(info.address),
        "up": info.up,
        "cost": info.cost,
        "hello_interval_ms": info.hello_interval_ms,
        "keys": list(info.keys),
        "neighbours": info.neighbours,
        "packets_in": info.packets_in,
        "packets_out": info.packets_out,
        "packets_bad": info.packets_bad,
        "rejected": [
            {
                "address": format_address(one.address),
                "reason": one.reason,
                "packets": one.packets,
                "age_s": round(max(one.age_s, 0.0), 1),
            }
            for one in info.rejected
        ],
        "rivals": [
            {
                "prefix": f"{format_address(one.prefix.packed)}/{one.prefix.length}",
                "router_id": router_id_text(one.router_id),
                "neighbour": format_address(one.neighbour),
            }
            for one in info.rivals
        ],
    }


def _text_of(address: bytes | None) -> str | None:
    return None if address is None else format_address(address)


def route_json(info: RouteInfo, dev: Dev) -> Json:
    """One route; one of our own has neither next hop nor interface nor neighbour."""
    return {
        "prefix": f"{format_address(info.prefix.packed)}/{info.prefix.length}",
        "next_hop": _text_of(info.next_hop),
        "interface": dev(info.ifindex) if info.ifindex else None,
        "neighbour": _text_of(info.neighbour),
        "router_id": router_id_text(info.router_id),
        "seqno": info.seqno,
        "metric": info.metric,
        "advertised": info.advertised,
        "state": info.state,
        "age_s": round(info.age_s, 1),
    }


def source_json(info: SourceInfo) -> Json:
    """One feasibility distance: (seqno, metric)."""
    return {
        "prefix": f"{format_address(info.prefix.packed)}/{info.prefix.length}",
        "router_id": router_id_text(info.router_id),
        "seqno": info.seqno,
        "metric": info.metric,
        "age_s": round(info.age_s, 1),
    }


def as_json(kind: str, info: Info, dev: Dev) -> Json:
    """An info of this kind (one of KINDS) as an object with stable keys."""
    if kind == "route":
        return route_json(cast("RouteInfo", info), dev)
    if kind == "source":
        return source_json(cast("SourceInfo", info))
    if kind == "neighbour":
        return neighbour_json(cast("NeighbourInfo", info))
    return interface_json(cast("InterfaceInfo", info))


def rule_json(rule: Rule) -> Json:
    """A rule of `import`: the prefixes it names, or those within these and of a length between two."""
    return {
        "prefixes": list(map(str, rule.prefixes)),
        "within": list(map(str, rule.within)),
        "shortest": rule.shortest,
        "longest": rule.longest,
        "deny": rule.deny,
    }


def policy_json(policy: Policy) -> Json:
    """What is taken from neighbours."""
    return {
        "families": sorted({4: 4, 16: 6}[size] for size in policy.families),
        "import": None if policy.imports is None else list(map(rule_json, policy.imports)),
        "transit4": policy.transit4,
        "kernel_metric": policy.kernel_metric,
        "allowed": {name: list(map(str, prefixes)) for name, prefixes in policy.allowed},
    }


def status_json(status: Status, process: Json, counted: Json) -> Json:
    """`process` is what the daemon's process says of itself, `counted` what was counted in the tables."""
    return {
        **process,
        "router_id": router_id_text(status.router_id) or None,
        "seqno": status.seqno,
        "file": status.file or None,
        **counted,
        "fib": dict(status.fib),
        "waiting": status.waiting,
        "warnings": list(status.warnings),
        "sysctls": [{"name": name, "before": before, "now": now} for name, before, now in status.sysctls],
        "counters": dict(status.counters),
        "policy": None if status.policy is None else policy_json(status.policy),
    }


# --- which of them -------------------------------------------------------------------------------------------------


class Select(NamedTuple):
    """What is asked for. `how` says what `prefix` means: `exact`, `root` (it and all inside), `match` (all that cover
    it), `longest` (of those the longest there is). `size` is 4 or 16 octets. Zero, None and "" restrict nothing."""

    prefix: Prefix | None = None
    how: str = "exact"
    size: int = 0
    ifindex: int = 0
    state: str = ""

    def admits(self, info: Info) -> bool:
        """True if it is to be shown, as far as it alone can tell: `longest` is taken for `match`."""
        if self.ifindex and getattr(info, "ifindex", 0) != self.ifindex:
            return False
        if self.state and getattr(info, "state", self.state) != self.state:
            return False
        there: Prefix | None = getattr(info, "prefix", None)
        if there is None:
            return True
        if self.size and len(there.packed) != self.size:
            return False
        if self.prefix is None:
            return True
        if self.how == "exact":
            return there == self.prefix
        return self.prefix.covers(there) if self.how == "root" else there.covers(self.prefix)

    @property
    def places(self) -> list[Prefix] | None:
        """The prefixes to look at, the longest first; None: all of the table."""
        if self.prefix is None or self.how == "root":
            return None
        if self.how == "exact":
            return [self.prefix]
        packed = self.prefix.packed
        return [Prefix(mask(packed, length), length) for length in range(self.prefix.length, -1, -1)]


def longest(found: Iterable[Info]) -> list[Info]:
    """Those with the longest prefix."""
    rows = list(found)
    most = max((cast("RouteInfo", row).prefix.length for row in rows), default=0)
    return [row for row in rows if cast("RouteInfo", row).prefix.length == most]


T = TypeVar("T")


def chosen(rows: Iterable[T], admits: Callable[[T], bool]) -> Iterator[T | None]:
    """The rows, None for each that is not asked for: whoever walks through them keeps the turns short that way."""
    return (row if admits(row) else None for row in rows)


# --- what has changed ----------------------------------------------------------------------------------------------

Key = tuple[Any, ...]

_KEYS: Final[Mapping[str, Callable[[Any], Key]]] = {
    "interface": lambda info: (info.ifindex,),
    "neighbour": lambda info: (info.ifindex, info.address),
    "route": lambda info: (info.ifindex, info.neighbour),
    "source": lambda info: (info.router_id,),
}
"""What tells the infos of one group apart."""


def _missed(reach: str) -> str:
    """A Hello that came is no news; one that did not is."""
    return reach if reach.startswith("0") else ""


_VALUES: Final[Mapping[str, Callable[[Any], Key]]] = {
    "interface": lambda i: (i.interface, i.address, i.up, i.cost, i.hello_interval_ms, i.keys, i.neighbours),
    "neighbour": lambda i: (
        _missed(i.reach),
        i.rxcost,
        i.txcost,
        i.cost,
        i.hello_interval_ms,
        i.routes,
        i.authenticated,
    ),
    "route": lambda i: (i.next_hop, i.router_id, i.seqno, i.metric, i.advertised, i.state),
    "source": lambda i: (i.seqno, i.metric),
}
"""What is worth telling when it changes: no ages, no packet counters."""

Change = tuple[str, Any]
"""(add, change or remove, the info)."""


class Deltas:
    """What has been told, by group: a prefix for routes and sources, the kind for the others."""

    def __init__(self) -> None:
        self._told: dict[str, dict[Prefix | None, tuple[Any, ...]]] = {kind: {} for kind in KINDS}

    def __len__(self) -> int:
        return sum(len(told) for groups in self._told.values() for told in groups.values())

    def compare(self, kind: str, prefix: Prefix | None, infos: Iterable[Info]) -> list[Change]:
        """`infos` are all there are of this group now. What is not new, in the order: gone, changed, there."""
        key_of, value_of = _KEYS[kind], _VALUES[kind]
        groups = self._told[kind]
        now = tuple(infos)
        before = {key_of(info): info for info in groups.get(prefix, ())}
        made: list[Change] = []
        for info in now:
            old = before.pop(key_of(info), None)
            if old is None:
                made.append(("add", info))
            elif value_of(old) != value_of(info):
                made.append(("change", info))
        if now:
            groups[prefix] = now
        else:
            groups.pop(prefix, None)
        return [("remove", info) for info in before.values()] + made

    def meet(self, kind: str, info: Info) -> Change | None:
        """One info that was read in passing; what is to be told if it is not what was told before."""
        groups, group = self._told[kind], cast("Prefix | None", getattr(info, "prefix", None))
        key_of, value_of = _KEYS[kind], _VALUES[kind]
        key = key_of(info)
        there = groups.get(group, ())
        old = next((other for other in there if key_of(other) == key), None)
        if old is not None and value_of(old) == value_of(info):
            return None
        groups[group] = (*(other for other in there if other is not old), info)
        return ("add" if old is None else "change", info)

    def note(self, kind: str, action: str, info: Info) -> None:
        """Somebody else tells this change."""
        groups, group = self._told[kind], cast("Prefix | None", getattr(info, "prefix", None))
        key_of = _KEYS[kind]
        key = key_of(info)
        there = tuple(other for other in groups.get(group, ()) if key_of(other) != key)
        there = there if action == "remove" else (*there, info)
        if there:
            groups[group] = there
        else:
            groups.pop(group, None)

    def forget(self, kind: str) -> Iterator[None]:
        """Nothing of this kind has been told. What was goes step by step as the iterator is walked through: to free a
        hundred thousand routes takes a while."""
        old, self._told[kind] = self._told[kind], {}

        def free() -> Iterator[None]:
            while old:
                old.popitem()
                yield None

        return free()
