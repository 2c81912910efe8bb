"""What a via6 daemon says of its Babel (`via6 show -j`, `via6 status -j`) as a BabelState."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from via6.config_babel import Rule
from via6.observe.node import (
    BabelInterface,
    BabelNeighbour,
    BabelPolicy,
    BabelRejected,
    BabelRival,
    BabelRoute,
    BabelState,
)
from via6.prefix import parse_address, parse_prefix

Json = dict[str, Any]


def state(
    status: Json,
    neighbours: Iterable[Json],
    routes: Iterable[Json],
    index_of: Callable[[str], int],
    interfaces: Iterable[Json] | None = None,
) -> BabelState | None:
    """None where the daemon does not speak Babel. Raises ValueError or KeyError for what no daemon says."""
    if not status.get("router_id"):
        return None
    every = list(routes)
    return BabelState(
        router_id=status["router_id"],
        neighbours=tuple(
            BabelNeighbour(
                parse_address(n["address"]), index_of(n["interface"]), n["cost"], n.get("rxcost"), n.get("txcost"),
                n.get("reach", ""), n.get("signed", False),
            )
            for n in neighbours
        ),
        routes=tuple(_route(r, index_of) for r in every if r["neighbour"] is not None),
        exports=tuple((parse_prefix(r["prefix"]), r["metric"]) for r in every if r["state"] == "own"),
        interfaces=None if interfaces is None else tuple(map(_interface, interfaces)),
        policy=_policy(status["policy"], index_of) if status.get("policy") else None,
    )  # fmt: skip


def _policy(row: Json, index_of: Callable[[str], int]) -> BabelPolicy:
    imports = row["import"]
    return BabelPolicy(
        families=frozenset({4: 4, 6: 16}[one] for one in row["families"]),
        imports=None if imports is None else tuple(map(_rule, imports)),
        transit4=row["transit4"],
        kernel_metric=row["kernel_metric"],
        allowed=tuple((index_of(name), tuple(map(parse_prefix, only))) for name, only in row["allowed"].items()),
    )


def _rule(row: Json) -> Rule:
    named, within = (tuple(map(parse_prefix, row[key])) for key in ("prefixes", "within"))
    return Rule("any", named, within, row["shortest"], row["longest"], deny=row["deny"])


def _interface(row: Json) -> BabelInterface:
    return BabelInterface(
        ifindex=row["ifindex"],
        address=parse_address(row["address"]),
        up=row["up"],
        keys=tuple(row["keys"]),
        packets_in=row["packets_in"],
        packets_out=row["packets_out"],
        rejected=tuple(
            BabelRejected(parse_address(r["address"]), r["reason"], r["packets"], r["age_s"])
            for r in row.get("rejected", ())
        ),
        rivals=tuple(
            BabelRival(parse_prefix(r["prefix"]), r["router_id"], parse_address(r["neighbour"]))
            for r in row.get("rivals", ())
        ),
    )


def _route(row: Json, index_of: Callable[[str], int]) -> BabelRoute:
    return BabelRoute(
        prefix=parse_prefix(row["prefix"]),
        neighbour=parse_address(row["neighbour"]),
        ifindex=index_of(row["interface"]),
        router_id=row["router_id"],
        metric=row["metric"],
        advertised=row["advertised"],
        selected=row["state"] == "selected",
        feasible=row["state"] in ("selected", "backup", "feasible"),
    )
