"""WireGuard's AllowedIPs beside the routing table.

A WireGuard device has a routing table of its own: a packet goes to the peer whose AllowedIPs match its destination
longest, and the next hop of the route is not looked at. A route `10.0.0.0/8 via inet6 PEER dev wg0` therefore drops
every packet until the peer's AllowedIPs cover 10.0.0.0/8 (wg(8), "Cryptokey Routing").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from via6.prefix import AF_INET, Address, Prefix, PrefixError, PrefixMap, format_address, parse_prefix


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer of a WireGuard device: its public key and what it may send and be sent."""

    key: str
    allowed: tuple[Prefix, ...]


def parse(text: str) -> tuple[Peer, ...]:
    """The output of `wg show DEV allowed-ips`: KEY, a tab, prefixes or `(none)`. Words that are no prefix are left."""
    peers = []
    for line in text.splitlines():
        key, _, rest = line.partition("\t")
        prefixes = []
        for word in rest.split():
            try:
                prefixes.append(parse_prefix(word))
            except PrefixError:
                continue
        if key:
            peers.append(Peer(key, tuple(prefixes)))
    return tuple(peers)


def peer_of(peers: Sequence[Peer], via: Address | None) -> Peer | None:
    """The peer that is meant by a next hop: the one whose AllowedIPs match it longest, else the only one."""
    if via is not None:
        found = PrefixMap({p: peer for peer in peers for p in peer.allowed}).lookup(via)
        if found:
            return found[1]
    return peers[0] if len(peers) == 1 else None


def collapse(prefixes: Iterable[Prefix]) -> tuple[Prefix, ...]:
    """The fewest prefixes that say the same, IPv4 first."""
    wanted = tuple(prefixes)
    four = collapse_addresses([IPv4Network((p.packed, p.length)) for p in wanted if p.family == AF_INET])
    six = collapse_addresses([IPv6Network((p.packed, p.length)) for p in wanted if p.family != AF_INET])
    return (
        *(Prefix(n.network_address.packed, n.prefixlen) for n in four),
        *(Prefix(n.network_address.packed, n.prefixlen) for n in six),
    )


def uncovered(peer: Peer, destinations: Iterable[Prefix]) -> tuple[Prefix, ...]:
    """Those destinations that the peer's AllowedIPs do not cover, alone or together."""
    wide = PrefixMap({prefix: prefix for prefix in collapse(peer.allowed)})
    return tuple(d for d in destinations if not any(w.covers(d) for w, _ in wide.matches(d.packed)))


def advice(
    device: str, peers: Sequence[Peer], via: Address | None, destinations: Sequence[Prefix], netns: str = ""
) -> str:
    """What to warn of when these destinations are routed to `via` on a WireGuard device; "" when all is well.

    The line to type holds the full list, for `wg set … allowed-ips` replaces what was there. `netns` is where the
    device is when that is not where the reader is: `wg` has no -n.
    """
    if not peers:
        return f"{device} is a WireGuard device without a peer: it drops every packet"
    peer = peer_of(peers, via)
    if peer is None:
        where = format_address(via) if via else "the link itself"
        return (
            f"no peer of {device} has {where} in its AllowedIPs: WireGuard cannot tell which peer is meant, and drops "
            "what no peer's AllowedIPs cover"
        )
    missing = uncovered(peer, destinations)
    if not missing:
        return ""
    wanted = ",".join(map(str, (*peer.allowed, *collapse(missing))))
    shown = ", ".join(map(str, missing[:3])) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    where = f" in the network namespace {netns}" if netns else ""
    return (
        f"AllowedIPs of the WireGuard peer do not cover {shown}: {device} drops what is routed there. Type{where}\n"
        f"  wg set {device} peer {peer.key} allowed-ips {wanted}"
    )
