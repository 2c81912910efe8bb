"""Would a plan change the way to an address, such as the far end of the ssh session it was typed in? Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from via6.model import TABLE_MAIN, Burst, NextHop, Plan, PutNexthop, Route, RouteBlock, RouteTable
from via6.prefix import Address, mask

Way = tuple[str, tuple[NextHop, ...]]


def _here(block: RouteBlock, address: Address) -> Route | None:
    """The route of a block of the main table that holds the address."""
    template = block.template
    if template.table != TABLE_MAIN or len(template.prefix.packed) != len(address):
        return None
    packed = mask(address, template.prefix.length)
    return template.at(packed) if packed in block.destinations else None


def _hops_of(plan: Plan) -> dict[int, tuple[NextHop, ...]]:
    """Next hops by nhid of the objects that the plan writes; a group's are those of its members in the plan."""
    objects = {s.object.nhid: s.object for s in plan.steps if isinstance(s, PutNexthop)}
    hops: dict[int, tuple[NextHop, ...]] = {
        i: (NextHop(o.via, o.ifindex),) for i, o in objects.items() if not o.group
    }  # fmt: skip
    for nhid, group in ((i, o.group) for i, o in objects.items() if o.group):
        hops[nhid] = tuple(replace(h, weight=w) for member, w in group for h in hops.get(member, ()))
    return hops


def _way(routes: Mapping[tuple[int, int], Route]) -> Way | None:
    best = min(routes.values(), key=lambda r: (-r.prefix.length, r.metric), default=None)
    return (best.type, tuple(replace(h, flags=0) for h in best.next_hops)) if best else None


def cuts(address: Address, routes: RouteTable, plan: Plan) -> bool:
    """True if the longest match for `address` in the main table is another after the plan than before, in its type
    or its next hops. Rules and other tables are not looked at: there the caller cannot be sure, and asks."""
    found = [route for block in routes.blocks if (route := _here(block, address))]
    before = {(r.prefix.length, r.metric): r for r in found}
    after = dict(before)
    hops = _hops_of(plan)
    for nhid, moved in hops.items():
        after = {k: replace(r, next_hops=moved) if r.nhid == nhid else r for k, r in after.items()}
    for step in plan.steps:
        route = _here(step.block, address) if isinstance(step, Burst) else None
        if route is None or not isinstance(step, Burst):
            continue
        key = route.prefix.length, route.metric
        if step.op == "delete":
            after.pop(key, None)
        elif step.op != "add" or key not in after:  # the kernel adds nothing to a slot that is taken
            after[key] = replace(route, next_hops=hops.get(route.nhid, route.next_hops))
    return _way(before) != _way(after)
