"""`via6 lab test`: a network made, measured and gone again, all within a sandbox."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from via6.babel.model import PORT
from via6.errors import OK, TROUBLE
from via6.lab.namespaces import Lab
from via6.lab.reach import Missing, Reach, link_addresses, measure
from via6.lab.topology import SPEAKERS, Topology

DEFAULT_TIMEOUT_S: Final = 30.0
_SHOWN: Final = 20
_LINKS_S: Final = 3.0
_POLL_S: Final = 0.02
_LISTENING: Final = f":{PORT:04X} 00000000000000000000000000000000:0000"  # udp6 of proc(5): a port without a peer


@dataclass(frozen=True, slots=True)
class Report:
    """What `lab test` found. `build_s` is the time the network took without its programs, `listening_s` the time from
    their start until the last of those that speak Babel listened (None: none does, or one does not);
    `ipv4_link_addresses` were read from the kernels: 0 is right; `troubles` names programs that have ended."""

    topology: Topology
    build_s: float
    reach: Reach
    ipv4_link_addresses: int
    troubles: str
    listening_s: float | None = None

    @property
    def good(self) -> bool:
        """Every pair answers, and no link has an IPv4 address."""
        return not self.reach.missing and self.ipv4_link_addresses == 0

    def as_json(self) -> dict[str, Any]:
        """The keys of `lab test -j`."""
        topology, reach = self.topology, self.reach
        return {
            "lab": topology.name,
            "nodes": len(topology.routers),
            "links": len(topology.cables),
            "hosts": len(topology.hosts),
            "software": {router.name: router.software for router in topology.routers},
            "pairs": reach.pairs,
            "reachable": reach.reachable,
            "seconds": None if reach.seconds is None else round(reach.seconds, 3),
            "build_seconds": round(self.build_s, 3),
            "listening_seconds": None if self.listening_s is None else round(self.listening_s, 3),
            "missing": [_missing_json(missing) for missing in reach.missing],
            "ipv4_link_addresses": self.ipv4_link_addresses,
            "troubles": self.troubles,
            "notes": list(topology.notes),
        }

    def lines(self) -> Iterator[str]:
        """The same for people."""
        topology, reach = self.topology, self.reach
        yield from topology.notes
        yield (
            f"{topology.name}: {len(topology.routers)} routers, {len(topology.cables)} links,"
            f" {len(topology.hosts)} hosts; links up after {self.build_s:.2f} s"
        )
        yield from _software_lines(topology)
        whole = "" if reach.seconds is None else f" {reach.seconds:.2f} s after the routers' start"
        if whole and self.listening_s is not None:
            whole += f", {(reach.seconds or 0.0) - self.listening_s:.2f} s after the last of them listened"
        yield f"reachable {reach.reachable}/{reach.pairs} pairs over IPv4{whole}"
        yield f"IPv4 addresses on the links' {2 * len(topology.cables)} interfaces: {self.ipv4_link_addresses}"
        if self.troubles:
            yield f"ended: {self.troubles}"
        if reach.missing:
            yield f"missing {len(reach.missing)}:"
            yield from (f"  {missing}" for missing in reach.missing[:_SHOWN])
            if len(reach.missing) > _SHOWN:
                yield f"  … and {len(reach.missing) - _SHOWN} more (-j lists all)"


def _software_lines(topology: Topology) -> Iterator[str]:
    """Which routers run what, where that is not the same on all."""
    kinds: dict[str, list[str]] = {}
    for router in topology.routers:
        kinds.setdefault(router.software, []).append(router.name)
    if len(kinds) > 1:
        yield from (f"{kind}: {' '.join(names)}" for kind, names in sorted(kinds.items()))


def _missing_json(missing: Missing) -> dict[str, Any]:
    return {
        "from": missing.source,
        "to": missing.destination,
        "stops_at": missing.stops_at,
        "why": missing.why,
        "way_back": missing.back,
    }


def wait_links(lab: Lab, timeout_s: float = _LINKS_S) -> None:
    """Waits until the kernels call every link up. Linux spaces these events out by up to a second, and what is sent
    before is lost: a speaker that starts too soon loses its first Hellos and waits for its next ones."""
    from via6.kernel.linux import LinuxKernel

    def waits() -> bool:
        with LinuxKernel(receive_buffer=1 << 18) as kernel:
            links = kernel.dump(frozenset({"links"})).links
        return any(link.up and not link.loopback and link.operstate != "UP" for link in links)

    deadline = time.monotonic() + timeout_s
    for node in lab.topology.nodes:
        while lab.call(node, waits) and time.monotonic() < deadline:
            time.sleep(_POLL_S)


def wait_listening(lab: Lab, timeout_s: float) -> float | None:
    """Waits until the routers that speak Babel listen, and says how long after their start the last of them did. None
    if there are none, or one has ended or does not listen after that time."""
    waiting = [router.name for router in lab.topology.routers if router.software in SPEAKERS]
    last: float | None = None
    while waiting:
        daemon = lab.daemons[waiting[-1]]
        with contextlib.suppress(OSError):
            if _LISTENING in Path(f"/proc/{daemon.pid}/net/udp6").read_text():
                last = time.monotonic() - lab.started_s
                waiting.pop()
                continue
        if daemon.poll() is not None or time.monotonic() > lab.started_s + timeout_s:
            return None
        time.sleep(_POLL_S)
    return last


def examine(topology: Topology, timeout_s: float, say: Callable[[str], None]) -> Report:
    """Makes the lab, measures it, removes it. Call it in a sandbox. `say` is told what happens."""
    lab = Lab(topology)
    began = time.monotonic()
    say(f"building {len(topology.nodes)} namespaces and {len(topology.cables)} links …")
    lab.build()
    if any(router.software in SPEAKERS for router in topology.routers):
        say("waiting for the carrier of all links …")
        wait_links(lab)
    built = time.monotonic()
    try:
        say(f"starting {len(topology.routers)} routers …")
        lab.start()
        say("waiting for the routes, pinging every pair …")
        listening_s = wait_listening(lab, timeout_s)
        reach = measure(lab, timeout_s)
        return Report(topology, built - began, reach, link_addresses(lab), lab.troubles(), listening_s)
    finally:
        lab.down()


def test(topology: Topology, timeout_s: float, as_json: bool) -> int:
    """Prints the report of one lab and returns the exit code: 3 if something is missing."""
    from via6.lab import sandbox

    progress = sys.stderr.isatty() and not as_json

    def say(what: str) -> None:
        if progress:
            sys.stderr.write(f"\r\033[K{what}")
            sys.stderr.flush()

    def work() -> int:
        try:
            report = examine(topology, timeout_s, say)
        finally:
            say("")
        print(json.dumps(report.as_json()) if as_json else "\n".join(report.lines()))
        return OK if report.good else TROUBLE

    return sandbox.run(work)
