"""How plan, apply and undo show a difference: `+` comes, `~` changes, `-` goes, `!` cannot be."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from via6.collect.local import names
from via6.daemon.apply import Proposal
from via6.daemon.change import Difference, Refused
from via6.fib import Status
from via6.model import Route, Snapshot
from via6.observe.show import as_json, line


class Printer:
    """Routes of one node in words; the snapshot gives the devices' names."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._names = names()
        self._snapshot = snapshot

    def text(self, route: Route) -> str:
        return line(route, self._names, self._snapshot.dev)

    def json(self, route: Route) -> dict[str, Any]:
        return as_json(route, self._names, self._snapshot.dev)

    def difference(self, found: Difference) -> None:
        for route in found.add:
            print("+", self.text(route))
        for old, new in found.replace:
            print("~", self.text(new))
            print("    was", self.text(old))
        for route in found.delete:
            print("-", self.text(route))

    def refused(self, found: Iterable[Refused]) -> None:
        for item in found:
            print(f"! {item.spec.place}: {item.spec.to}: {item.message}")
            print(f"    {item.remedy}")

    def occupied(self, proposal: Proposal) -> None:
        for route in proposal.occupied.values():
            print(f"! {route.prefix}: the slot holds {self.text(route)}")
            print("    it is not via6's: remove it, or declare another metric")

    def failed(self, found: Iterable[Status]) -> None:
        for status in found:
            route = status.wanted or status.held
            print(f"! {self.text(route) if route else status.prefix}")
            print(f"    the kernel refused: {status.text or 'no answer'}")

    def json_of(self, found: Difference) -> dict[str, Any]:
        return {
            "add": [self.json(r) for r in found.add],
            "replace": [{"from": self.json(old), "to": self.json(new)} for old, new in found.replace],
            "delete": [self.json(r) for r in found.delete],
        }


def refused_json(found: Iterable[Refused]) -> list[dict[str, str]]:
    return [{"place": r.spec.place, "dst": str(r.spec.to), "message": r.message, "remedy": r.remedy} for r in found]


def failed_json(found: Iterable[Status]) -> list[dict[str, Any]]:
    return [{"dst": str(s.prefix), "errno": s.errno, "message": s.text} for s in found]


def counted(found: Difference, done: bool) -> str:
    """`2 added, 1 changed, 0 removed`"""
    words = ("added", "changed", "removed") if done else ("to add", "to change", "to remove")
    numbers = (len(found.add), len(found.replace), len(found.delete))
    return ", ".join(f"{n} {word}" for n, word in zip(numbers, words, strict=True))


def dump(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))
