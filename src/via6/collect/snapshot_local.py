"""This network namespace as a Node: netlink for the tables, /proc/sys, and the programs that list packet filters and
WireGuard peers, where they are.

A watch is open while the kernel is read. What it told of is read again, and with a link all else: routes go with their
link and the kernel does not say so. When nothing changed during a reading all parts are of one time; a node that never
holds still is taken as it is after the fifth, and the parts named `unsteady`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from glob import glob
from pathlib import Path
from typing import Any, Final

from via6.errors import NO_DAEMON, Refusal
from via6.model import (
    PARTS,
    Change,
    InterfaceAddress,
    Kernel,
    KernelEvent,
    Link,
    NexthopObject,
    Route,
    RouteBlock,
    RouteTable,
    Rule,
    Snapshot,
)
from via6.observe.node import Node
from via6.observe.snapshot import nft
from via6.observe.snapshot.answers import (
    NOT_THERE,
    SYSCTLS,
    Answer,
    babel_of,
    firewall_of,
    readable,
    wireguard_of,
)
from via6.prefix import AF_INET

_TRIES: Final = 5
_PATIENCE_S: Final = 10.0
_ROUTES: Final = frozenset({"routes4", "routes6"})
_FIELDS: Final = ("links", "addresses", "rules", "nexthops", "neighbours")

_FILTERS: Final[Mapping[str, Sequence[str]]] = {
    "nft": ("nft", "-j", "list", "ruleset"),
    "iptables": ("iptables-save",),
    "ip6tables": ("ip6tables-save",),
    "iptables-legacy": ("iptables-legacy-save",),
    "ip6tables-legacy": ("ip6tables-legacy-save",),
}

Show = Callable[[str], list[Any]]
"""Asks the daemon for one kind of thing (`about`, `neighbour`, `route`); raises Refusal."""


def read(name: str, kernel: Kernel, show: Show) -> Node:
    """The node. `kernel` and `show` are of this thread's network namespace."""
    unread: dict[str, str] = {}
    times: dict[str, float] = {}
    snapshot, unsteady = _tables(kernel, times)
    snapshot = replace(
        snapshot,
        links=tuple(replace(link, name=readable(link.name)) for link in snapshot.links),
        rules=tuple(replace(rule, iif=readable(rule.iif), oif=readable(rule.oif)) for rule in snapshot.rules),
    )

    def noted(part: str, pair: tuple[Any, str], began: float) -> Any:
        value, why = pair
        if why:
            unread[part] = why
        else:
            times[part] = began
        return value

    def asked(part: str, question: Callable[[], tuple[Any, str]]) -> Any:
        began = time.time()
        return noted(part, question(), began)

    kinds = {link.name: link.kind for link in snapshot.links}
    return Node(
        name=name,
        kernel=snapshot,
        sysctls=asked("sysctls", lambda: ((found := sysctls()), "" if found else "/proc/sys could not be read")),
        wireguard=asked("wireguard", lambda: wireguard_of(_run("wg", "show", "all", "allowed-ips"), kinds)),
        firewall=asked("firewall", lambda: firewall_of(filters(), snapshot.links)),
        babel=asked("babel", lambda: _babel(show, snapshot)),
        unread=unread,
        times=times,
        release=os.uname().release,
        unsteady=unsteady,
    )


# --- the kernel's tables -------------------------------------------------------------------------------------------


def touched(event: KernelEvent) -> frozenset[str]:
    """The parts that are to be read again after an event."""
    if not isinstance(event, Change) or isinstance(event.object, Link):
        return PARTS
    thing = event.object
    if isinstance(thing, Route | RouteBlock):
        return frozenset({_part_of(thing if isinstance(thing, Route) else thing.template)})
    if isinstance(thing, NexthopObject):
        return _ROUTES | {"nexthops"}
    if isinstance(thing, InterfaceAddress):
        return _ROUTES | {"addresses"}
    return frozenset({"rules"}) if isinstance(thing, Rule) else frozenset()


def _tables(kernel: Kernel, times: dict[str, float]) -> tuple[Snapshot, frozenset[str]]:
    """All parts, and those of them that changed during the last of several readings."""
    watch = kernel.watch()
    try:
        held, again = Snapshot(), PARTS
        for _ in range(_TRIES):
            times |= dict.fromkeys(again, time.time())
            held = _over(held, kernel.dump(again), again)
            again = frozenset().union(*map(touched, _told(watch.read)))
            if not again:
                break
        return held, again
    finally:
        watch.close()


def _told(read: Callable[[], list[KernelEvent]]) -> Iterable[KernelEvent]:
    """All that waits; `read` gives a part of a flood at a time."""
    for _ in range(64):
        events = read()
        if not events:
            return
        yield from events


def _over(held: Snapshot, new: Snapshot, parts: frozenset[str]) -> Snapshot:
    """`held` with these parts replaced."""
    fields: dict[str, Any] = {name: getattr(new, name) for name in _FIELDS if name in parts}
    if parts & _ROUTES:
        kept = (b for b in held.routes.blocks if _part_of(b.template) not in parts)
        fields["routes"] = RouteTable((*kept, *new.routes.blocks))
    return replace(held, **fields, parts=held.parts | parts)


def _part_of(route: Route) -> str:
    return "routes4" if route.family == AF_INET else "routes6"


# --- the rest ------------------------------------------------------------------------------------------------------


def sysctls() -> dict[str, int]:
    """Those that matter to routing, as far as they are there and numbers."""
    found = {}
    for pattern in SYSCTLS:
        for path in sorted(glob(f"/proc/sys/{pattern}")) if "*" in pattern else (f"/proc/sys/{pattern}",):
            try:
                found[readable(path.removeprefix("/proc/sys/"))] = int(Path(path).read_text())
            except (OSError, ValueError):
                continue
    return dict(sorted(found.items()))


def _run(*argv: str) -> Answer:
    began = time.time()
    try:
        done = subprocess.run(
            argv, capture_output=True, timeout=_PATIENCE_S, check=False, stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C", "PATH": f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"},
        )  # fmt: skip
    except FileNotFoundError:
        return Answer(code=NOT_THERE, time=began)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Answer(code=1, said=f"it did not answer: {error}", time=began)
    said = " ".join(done.stderr.decode(errors="replace").split())[:300]
    return Answer(done.stdout, done.returncode, said, began)


def filters() -> dict[str, Answer]:
    """What the programs say that list packet filters, and what the kernel says of them."""
    found = {name: _run(*argv) for name, argv in _FILTERS.items()}
    if found["nft"].code == NOT_THERE:
        found["filters"] = Answer(_filters_of_the_kernel())
    elif nft.may_hang(found["nft"].output):
        found["chains"] = _run("nft", "list", "chains")
    legacy = b""
    for name in ("ip_tables_names", "ip6_tables_names"):
        try:
            legacy += Path(f"/proc/thread-self/net/{name}").read_bytes()
        except OSError:
            continue
    found["legacy"] = Answer(legacy)
    return found


def _filters_of_the_kernel() -> bytes:
    """Its symbols tell which packet filters it has at all; everybody may read them."""
    try:
        symbols = Path("/proc/kallsyms").read_bytes()
    except OSError:
        return b""
    if not symbols:
        return b""
    made = [b"known"]
    made += [b"nf_tables"] if b" nf_tables_newtable" in symbols else []
    made += [b"ip_tables"] if b" ipt_do_table" in symbols or b" ip6t_do_table" in symbols else []
    return b" ".join(made)


def _babel(show: Show, snapshot: Snapshot) -> tuple[Any, str]:
    import msgspec

    answers: dict[str, Answer] = {}
    try:
        answers["status"] = Answer(msgspec.json.encode(show("status")[0]))
        for kind in ("neighbour", "route", "interface"):
            answers[kind] = Answer(msgspec.json.encode(show(kind)))
    except Refusal as refusal:
        answers["status"] = Answer(code=NOT_THERE if refusal.code == NO_DAEMON else 1, said=refusal.message)
    except IndexError:
        answers["status"] = Answer(code=1, said="the daemon said nothing")
    with contextlib.suppress(OSError):
        answers["udp6"] = Answer(Path("/proc/thread-self/net/udp6").read_bytes())
    return babel_of(answers, lambda dev: snapshot.by_name[dev].ifindex)
