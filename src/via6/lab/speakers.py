"""What routing programs are told, and where they are found: babeld, BIRD and via6 itself as Babel routers of a lab.

Each announces the islands of its own router and nothing else, speaks on the links between routers alone, and keeps its
own timers: the lab compares programs as they are. A link of cost N costs N times Babel's 96 (RFC 8966 appendix A.2.1),
at most `_MOST_COST`, so that the shortest paths are those of the lab.

A program is looked for in PATH, and in the folder that `scripts/peers` of the source tree fills (VIA6_PEERS names
another one). BIRD has IPv4 routes with IPv6 next hops (RFC 9229) from 2.13 on; an older one in PATH is passed over.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from via6.errors import Refusal
from via6.lab.routes import islands
from via6.lab.topology import LAN, Router, Topology
from via6.prefix import format_address

_COST: Final = 96
_MOST_COST: Final = 8192  # several such links still add up to less than infinity, 65535
_HELLOS_PER_UPDATE: Final = 4
_PEERS: Final = Path(__file__).resolve().parents[3] / ".cache/peers/bin"
_CANDIDATES: Final = {
    "babeld": ("babeld", "babeld-13"),
    "babeld-13": ("babeld-13",),
    "bird": ("bird", "bird-2", "bird-3"),
    "bird3": ("bird-3",),
}
_PACKAGES: Final = {"babeld": "babeld", "babeld-13": "babeld 1.13", "bird": "BIRD 2.13 or newer", "bird3": "BIRD 3"}
_OLDEST_BIRD: Final = (2, 13)
_SYSTEM_PATHS: Final = "/usr/sbin:/sbin:/usr/bin:/bin"
_TRY_S: Final = 10.0


def costs(topology: Topology, router: Router) -> dict[str, int]:
    """Per link of a router the cost that Babel counts with."""
    return {device: min(_COST * cable.cost, _MOST_COST) for device, _, cable in topology.ports[router.name]}


# --- finding them --------------------------------------------------------------------------------------------------


@functools.cache
def program(software: str) -> str:
    """Path of the program. Raises Refusal if there is none that will do, with the way to get it."""
    peers = os.environ.get("VIA6_PEERS") or str(_PEERS)
    old = ""
    for name in _CANDIDATES[software]:
        found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SYSTEM_PATHS}:{peers}")
        if found is None:
            continue
        if software == "bird" and (version := bird_version(found)) < _OLDEST_BIRD:
            old = f" ({found} is {'.'.join(map(str, version))}, which has no IPv4 routes over IPv6 next hops)"
            continue
        return found
    raise Refusal(
        f"there is no {_PACKAGES[software]} on this machine{old}",
        "install it, or run `scripts/peers` of via6's source as root, which fetches babeld and BIRD of Debian 13",
    )


def control_program(bird: str) -> str:
    """The `birdc` that belongs to a `bird`."""
    head, _, name = bird.rpartition("/")
    return f"{head}/{name.replace('bird', 'birdc', 1)}"


def bird_version(path: str) -> tuple[int, ...]:
    """(2, 17, 6) of `BIRD version 2.17.6`; empty if it does not say."""
    try:
        done = subprocess.run(
            [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TRY_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"(\d+(?:\.\d+)+)", done.stdout + done.stderr)
    return tuple(map(int, found[1].split("."))) if found else ()


def require(kinds: Iterable[str]) -> None:
    """Raises Refusal if a program that these kinds of software need is not here."""
    for kind in sorted(set(kinds) & _CANDIDATES.keys()):
        program(kind)


# --- what they are told --------------------------------------------------------------------------------------------


def _key(router: Router) -> tuple[str, str]:
    """(algorithm, secret) of the router's key."""
    algorithm, _, secret = router.key.partition(" ")
    return algorithm, secret.strip()


def babeld_config(topology: Topology, router: Router) -> str:
    """babeld's configuration."""
    lines = ["key id lab type {} value {}".format(*_key(router))] if router.key else []
    used = " key lab" if router.key else ""
    if router.hello_interval_ms:
        hello, update = _intervals_ms(router)
        used += f" hello-interval {hello / 1000} update-interval {update / 1000}"
        lines.append("smoothing-half-life 0")  # it is 4 s, of a Hello interval of 4 s
    for device, cost in costs(topology, router).items():
        lines.append(f"interface {device} type wired rxcost {cost}{used}")
    for prefix in islands(router):
        # An address of its own is local to babeld, a network that an interface is in is a route of the kernel.
        local = "local " if prefix.packed == router.address else ""
        lines.append(f"redistribute {local}ip {prefix} eq {prefix.length} allow")
    return "\n".join([*lines, "redistribute local deny", "redistribute deny"]) + "\n"


def _intervals_ms(router: Router) -> tuple[int, int]:
    """How often Hellos and full updates are sent, where that was asked for; RFC 8966 appendix B has the proportion."""
    return router.hello_interval_ms, router.hello_interval_ms * _HELLOS_PER_UPDATE


_BIRD_ALGORITHMS: Final = {"hmac-sha256": "hmac sha256", "blake2s128": "blake2s128"}


def bird_config(topology: Topology, router: Router) -> str:
    """BIRD's configuration, for 2.13 and later and for 3."""
    lines = [
        "log stderr all;",
        f"router id {0xC0000200 + router.number};",  # a number that reads as 192.0.2.NUMBER
        "protocol device { }",
        f'protocol direct {{ ipv4; interface "{LAN}", "lo"; }}',
        # BIRD 3.1 may leave its kernel behind its own table until it scans that again, by default after a minute.
        "protocol kernel { scan time 2; ipv4 { import none; export where source = RTS_BABEL; }; }",
        "protocol babel {",
        "  ipv4 { import all; export where source ~ [RTS_DEVICE, RTS_BABEL]; };",
        "  randomize router id yes;",
    ]
    more = ""
    if router.hello_interval_ms:
        more = " hello interval {} ms; update interval {} ms;".format(*_intervals_ms(router))
    if router.key:
        algorithm, secret = _key(router)
        octets = ":".join(secret[at : at + 2] for at in range(0, len(secret), 2))
        more += f" authentication mac; password hex:{octets} {{ algorithm {_BIRD_ALGORITHMS[algorithm]}; }};"
    for device, cost in costs(topology, router).items():
        lines.append(f'  interface "{device}" {{ type wired; rxcost {cost};{more} }};')
    return "\n".join([*lines, "}"]) + "\n"


def via6_key_file(router: Router) -> str:
    """The file that `via6 up --key` reads."""
    return f"lab {router.key}\n"


def via6_words(topology: Topology, router: Router, key_file: Path) -> list[str]:
    """What follows `via6` on the command line, for a router whose links all cost the same."""
    words = ["up", *costs(topology, router), "--export", "connected"]
    if router.address:
        words += ["--address", format_address(router.address)]
    if router.hello_interval_ms:
        hello, update = _intervals_ms(router)
        words += ["--hello-interval", str(hello), "--update-interval", str(update)]
    if router.lan and topology.trace_on_lans:
        words += ["--trace-on", LAN]
    return [*words, "--key", str(key_file)] if router.key else words


def via6_config(topology: Topology, router: Router, key_file: Path) -> str:
    """The file for `via6 run`, where links differ in cost."""
    lines = [f'[node]\nname = "{router.name}"']
    if router.address:
        lines.append(f'address = "{format_address(router.address)}"')
    named = costs(topology, router)
    lines += ["", "[babel]", f"interfaces = {_quoted(named)}", 'export = ["connected"]']
    if router.key:
        lines.append(f"key = {_quoted([str(key_file)])}")
    if router.hello_interval_ms:
        lines += [
            f"{what}_interval_ms = {ms}" for what, ms in zip(("hello", "update"), _intervals_ms(router), strict=True)
        ]
    for device, cost in named.items():
        lines += ["", f'[babel.interface."{device}"]', f"cost = {cost}"]
    if router.lan and topology.trace_on_lans:
        lines += ["", "[trace]", f'interfaces = "{LAN}"']
    return "\n".join(lines) + "\n"


def _quoted(words: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"
