"""Findings about WireGuard devices beyond their routes: does Babel pass, and does the peer answer at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from via6.observe import wg_babel
from via6.observe.allowedips import peer_of
from via6.observe.doctor.finding import ERROR, INFO, Case, Check, Finding, RunCommand
from via6.observe.doctor.look import at, babel_devices, uses
from via6.observe.wg_babel import Device

_CODES: Final = {
    "no-peer": ("wireguard-peers", ERROR),
    "many-peers": ("wireguard-peers", INFO),
    "no-link-local": ("no-link-local", ERROR),
    "babel-dropped": ("allowed-ips-gap", ERROR),
}
HANDSHAKE_S: Final = 180.0
"""Of a tunnel in use no key is older: wireguard(4) makes a new one every 120 s, and takes none older than 180 s."""


def babel_passes(case: Case) -> Iterator[Finding]:
    """What keeps Babel from passing a WireGuard device. Nobody is heard then, and there are no routes to look at."""
    node = case.node
    for ifindex in sorted(babel_devices(node)):
        link = node.kernel.by_index.get(ifindex)
        known = link is not None and "wireguard" not in node.unread and (
            link.kind == "wireguard" or link.name in node.wireguard or ifindex in case.measured.wireguard
        )  # fmt: skip
        if link is None or not known or not link.up:
            continue
        peers = node.wireguard.get(link.name, ())
        own = tuple(one.address for one in node.kernel.addresses if one.ifindex == ifindex)
        for found in wg_babel.check(Device(link.name, link.up, own, peers)):
            code, severity = _CODES.get(found.kind, ("", ""))
            if not code:
                continue
            fixes: tuple[RunCommand, ...] = ()
            if found.kind == "babel-dropped":
                command = tuple(found.lines[0].split())
                before = ",".join(map(str, peers[0].allowed))
                fixes = (RunCommand(command, (*command[:-1], before), ("wg", "show", link.name, "allowed-ips")),)
            lists = [f"{one.key} {', '.join(map(str, one.allowed)) or '(none)'}" for one in peers[:3]]
            yield Finding(
                code,
                severity,
                found.text,
                tuple(f"wg show {link.name} allowed-ips: {one}" for one in lists) or (f"wg show {link.name}: no peer",),
                f"Babel on {link.name}, and every route by it",
                (*found.lines, f"# and the same in the file that {link.name} is set up from"),
                subject=f"{link.name} Babel",
                fixes=fixes,
                places=at(node, link.name),
            )


def silent_peer(case: Case) -> Iterator[Finding]:
    """A peer that packets were sent to while we looked, and with which there is no handshake."""
    node = case.node
    for (dev, key), age_s in case.measured.handshakes.items():
        link = node.kernel.by_name.get(dev)
        if link is None or not link.up or (age_s is not None and age_s <= HANDSHAKE_S):
            continue
        peers = node.wireguard.get(dev, ())
        hops = {use.hop.via for use in uses(node) if use.hop.ifindex == link.ifindex}
        meant = {one.key for one in (peer_of(peers, via) for via in hops) if one is not None}
        if link.ifindex in babel_devices(node) and len(peers) == 1:
            meant.add(peers[0].key)
        if key not in meant:
            continue
        last = "never" if age_s is None else f"{age_s:.0f} s ago"
        yield Finding(
            "wireguard-silent",
            ERROR,
            f"the WireGuard peer of {dev} does not answer: the last handshake was {last}",
            (f"wg show {dev} latest-handshakes: {key} {last}", f"packets were sent into {dev} just now"),
            f"everything by {dev}",
            (
                f"wg show {dev}   # is the endpoint that of the other end? Its key? Else:",
                f"# wg set {dev} peer {key} endpoint HOST:PORT",
                f"# at the other end: is the public key of {dev} a peer there, and its own address right? wg show",
                "# and does UDP pass to that port, both ways? tcpdump -ni any udp port PORT",
            ),
            subject=f"{dev} {key}",
            places=at(node, dev),
        )


CHECKS: Final[tuple[Check, ...]] = (babel_passes, silent_peer)
