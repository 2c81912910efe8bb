"""Will Babel work on a WireGuard device, and what mends it.

A WireGuard device is no ordinary link (wg(8), "Cryptokey Routing"):

- A packet goes to the one peer whose AllowedIPs match its destination longest. A multicast packet, too: with two peers
  on a device one of them at most hears our Hellos. So: one device per peer.
- The kernel gives it no link-local address, without which Babel has no source and its neighbours no next hop.
- What AllowedIPs do not cover is dropped, both ways. Babel needs its group, ff02::1:6, and fe80::/64. The packets that
  it makes routes for need IPv4: all of it, for the routes are not known beforehand. Who narrows it must think of
  192.0.0.8, where the ICMP errors of routers without IPv4 come from (RFC 7600).

AllowedIPs that wide are no hole by themselves: what a peer may send is then decided by routes and Babel's filters and
keys, as on any other link. They make `wg-quick` install routes of its own, unless it is told `Table = off`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2s
from typing import Final

from via6.observe.allowedips import Peer, collapse, uncovered
from via6.prefix import Address, Prefix, format_address, is_link_local, parse_prefix

GROUP: Final = parse_prefix("ff02::1:6/128")
LINK_LOCAL: Final = parse_prefix("fe80::/64")
ALL4: Final = parse_prefix("0.0.0.0/0")
ALL6: Final = parse_prefix("::/0")
DUMMY: Final = parse_prefix("192.0.0.8/32")

_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Device:
    """A WireGuard device: its own addresses and public key ("" if unknown), its peers, and where they are reached,
    by public key."""

    name: str
    up: bool
    addresses: tuple[Address, ...]
    peers: tuple[Peer, ...]
    public_key: str = ""
    endpoints: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """`kind` is down, no-peer, many-peers, no-link-local, babel-dropped or traffic-dropped; `fatal`: no neighbour can
    be found like this. `lines` are what to type, in their order."""

    kind: str
    fatal: bool
    text: str
    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n  ".join((self.text + (". Type" if self.lines else ""), *self.lines))


def parse_endpoints(text: str) -> tuple[tuple[str, str], ...]:
    """The output of `wg show DEV endpoints`: KEY, a tab, HOST:PORT or `(none)`."""
    pairs = (line.partition("\t") for line in text.splitlines())
    return tuple((key, place) for key, _, place in pairs if key and place and place != "(none)")


def check(device: Device, wanted: Iterable[Prefix] = (ALL4,)) -> tuple[Finding, ...]:
    """What stands in Babel's way on this device, the worst first. `wanted` is what shall be routed there: all of IPv4,
    and ALL6 where Babel carries IPv6."""
    found: list[Finding] = []
    if not device.peers:
        text = f"{device.name} is a WireGuard device without a peer: it drops every packet"
        line = f"wg set {device.name} peer PUBLIC-KEY endpoint HOST:51820 allowed-ips {_spelled((ALL4, ALL6))}"
        found.append(Finding("no-peer", True, text, (line,)))
    if len(device.peers) > 1:
        found.append(_many(device))
    if not any(len(a) == 16 and is_link_local(a) for a in device.addresses):
        text = f"{device.name} has no link-local address, which Babel needs"
        line = f"ip address add {format_address(suggested(device))}/64 dev {device.name}"
        found.append(Finding("no-link-local", True, text, (line,)))
    if not device.up:
        found.append(Finding("down", True, f"{device.name} is down", (f"ip link set {device.name} up",)))
    if len(device.peers) == 1:
        found += _dropped(device.name, device.peers[0], tuple(wanted))
    return tuple(found)


def suggested(device: Device) -> Address:
    """A link-local address for this end: from the public key, so that it is another one than that of the other end,
    and stays the same."""
    seed = device.public_key or device.name
    return LINK_LOCAL.packed[:8] + blake2s(seed.encode(), digest_size=8).digest()


def _many(device: Device) -> Finding:
    """One device for each peer but the first."""
    endpoints = dict(device.endpoints)
    lines: list[str] = []
    for number, peer in enumerate(device.peers[1:], 1):
        name = f"{device.name[: 15 - len(str(number)) - 1]}-{number}"
        at = f" endpoint {endpoints[peer.key]}" if peer.key in endpoints else ""
        local = LINK_LOCAL.packed[:8] + blake2s(f"{device.public_key} {name}".encode(), digest_size=8).digest()
        use = f"private-key /dev/stdin peer {peer.key}{at} allowed-ips {_spelled((ALL4, ALL6))}"
        lines += (
            f"wg set {device.name} peer {peer.key} remove",
            f"ip link add {name} type wireguard",
            f"wg show {device.name} private-key | wg set {name} {use}",
            f"ip address add {format_address(local)}/64 dev {name}",
            f"ip link set {name} up",
        )
    return Finding(
        "many-peers", True,
        f"{device.name} has {len(device.peers)} peers, and WireGuard gives each packet to one of them, a multicast one,"
        " too: Babel needs a device for each peer (the other ends, too; they see the new device at another port)",
        tuple(lines),
    )  # fmt: skip


def _dropped(name: str, peer: Peer, wanted: tuple[Prefix, ...]) -> Iterable[Finding]:
    for_babel = uncovered(peer, (LINK_LOCAL, GROUP))
    # Errors of routers without IPv4 come that way as well, whatever else is narrowed.
    dummy = () if any(DUMMY.packed in prefix for prefix in wanted) else (DUMMY,)
    for_packets = uncovered(peer, (*wanted, *dummy))
    # One line mends both.
    line = f"wg set {name} peer {peer.key} allowed-ips {_spelled((*peer.allowed, *for_babel, *for_packets))}"
    if for_babel:
        text = f"AllowedIPs of {name}'s peer do not cover {_shown(for_babel)}: Babel's packets are dropped"
        yield Finding("babel-dropped", True, text, (line,))
    if for_packets:
        text = f"AllowedIPs of {name}'s peer do not cover {_shown(for_packets)}: what Babel routes there is dropped"
        yield Finding("traffic-dropped", False, text, (line,))


def _spelled(prefixes: Iterable[Prefix]) -> str:
    return ",".join(map(str, collapse(prefixes)))


def _shown(prefixes: tuple[Prefix, ...]) -> str:
    more = f" and {len(prefixes) - _SHOWN} more" if len(prefixes) > _SHOWN else ""
    return ", ".join(map(str, prefixes[:_SHOWN])) + more


def wanted_for(families: Iterable[int]) -> tuple[Prefix, ...]:
    """What Babel may route when it carries these sizes of addresses (4, 16)."""
    return tuple(ALL4 if size == 4 else ALL6 for size in sorted(families))


__all__ = ["Device", "Finding", "check", "parse_endpoints", "suggested", "wanted_for"]
