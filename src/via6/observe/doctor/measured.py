"""What was tried on a node, where reading is not enough. Nothing here is known of a snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from via6.prefix import Address, Prefix


@dataclass(frozen=True)
class Probed:
    """Echo requests to an address. `answered` are own addresses that it answers to, `silent` those that it does not.
    `mtu` is what the kernel would send there in one piece, after all ICMP errors that came; if that vanished, `passes`
    is the largest that did not, and `large` how far one of the full size came."""

    target: Address
    answered: tuple[Address, ...] = ()
    silent: tuple[Silent, ...] = ()
    mtu: int = 0
    passes: int = 0
    large: Silent | None = None


@dataclass(frozen=True, slots=True)
class Silent:
    """How far packets from `source` came: `end` hops told of them, the last one from the address `last` (None: no hop
    did). `error` is an ICMP error that ended the way, in words."""

    source: Address
    end: int = 0
    last: Address | None = None
    error: str = ""


@dataclass(frozen=True)
class Measured:
    """`silent` are (ifindex, address) of next hops that were asked by Neighbour Discovery and did not answer, with what
    was tried, `answered` those that did. `managers` are the network managers that rule an interface, by its name
    (`systemd-networkd`, `NetworkManager`), with what they do with foreign routes. `icmp_source` says whether the kernel
    sends ICMP errors without an IPv4 address (None: not tried).

    `here`: anything was tried at all. `unheard` are members of Babel's multicast group on a link of ours of which no
    packet came, with what was tried; `babel_ports` what came of a packet to UDP 6696 of a neighbour; `narrow` next hops
    that answer a small ICMPv6 echo and not one of the link's MTU: (the largest that was answered, the MTU). `probed` is
    what probes to the target told. `missing` are prefixes of routes that Babel holds for installed and that the kernel
    lacked twice, some time apart.

    `lonely4` are interfaces with an IPv4 network of a few addresses, none of which answers ARP, with what was tried.
    `present` are the link-local addresses of who answers a ping to ff02::1, by the interface (asked only where a next
    hop is silent). `rpf_drops` are packets that rp_filter dropped while we looked.

    `handshakes` is how many seconds ago the last handshake with a WireGuard peer was, by (device, key), after packets
    were sent there (None: never). `wireguard` are the interfaces that a WireGuard holds, also one in user space, and
    one without a peer. `babel_links` are the interfaces on which a program of this node listens to Babel's multicast
    group.

    `lladdrs` are the link-layer addresses that the next hops which answered are at; of several more than one machine
    has the address."""

    silent: Mapping[tuple[int, Address], str] = field(default_factory=dict)
    managers: Mapping[str, str] = field(default_factory=dict)
    answered: frozenset[tuple[int, Address]] = frozenset()
    icmp_source: bool | None = None
    here: bool = False
    unheard: Mapping[tuple[int, Address], str] = field(default_factory=dict)
    babel_ports: Mapping[tuple[int, Address], str] = field(default_factory=dict)
    narrow: Mapping[tuple[int, Address], tuple[int, int]] = field(default_factory=dict)
    probed: Probed | None = None
    missing: frozenset[Prefix] = frozenset()
    lonely4: Mapping[int, str] = field(default_factory=dict)
    present: Mapping[int, tuple[Address, ...]] = field(default_factory=dict)
    rpf_drops: int = 0
    handshakes: Mapping[tuple[str, str], float | None] = field(default_factory=dict)
    wireguard: frozenset[int] = frozenset()
    babel_links: frozenset[int] = frozenset()
    lladdrs: Mapping[tuple[int, Address], tuple[bytes, ...]] = field(default_factory=dict)
