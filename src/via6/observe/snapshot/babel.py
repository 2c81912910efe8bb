"""What a via6 daemon says of its Babel (`via6 show -j`, `via6 status -j`) as a BabelState."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from via6.observe.node import BabelNeighbour, BabelRoute, BabelState
from via6.prefix import parse_address, parse_prefix

Json = dict[str, Any]


def state(
    status: Json, neighbours: Iterable[Json], routes: Iterable[Json], index_of: Callable[[str], int]
) -> BabelState | None:
    """None where the daemon does not speak Babel. Raises ValueError or KeyError for what no daemon says."""
    if not status.get("router_id"):
        return None
    every = list(routes)
    return BabelState(
        router_id=status["router_id"],
        neighbours=tuple(
            BabelNeighbour(parse_address(n["address"]), index_of(n["interface"]), n["cost"]) for n in neighbours
        ),
        routes=tuple(_route(r, index_of) for r in every if r["neighbour"] is not None),
        exports=tuple((parse_prefix(r["prefix"]), r["metric"]) for r in every if r["state"] == "own"),
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
