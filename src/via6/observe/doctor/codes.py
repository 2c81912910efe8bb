"""Every code that a finding can have, and what it says in general. docs/doctor.md shows this table, with remedies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

CODES: Final[Mapping[str, str]] = {
    "kernel-too-old": "before 5.2 the kernel holds no such routes; before 5.13 a router without an IPv4 address cannot"
    " send ICMP errors",
    "foreign-manager": "systemd-networkd or NetworkManager removes routes that it did not make, on an interface in use",
    "icmp-rate-limit": "so few ICMP errors are sent that a traceroute misses this hop",
    "ipv6-disabled": "IPv6 is off on a link with IPv6 next hops; the IPv4 routes stay",
    "mtu-below-1280": "so small an MTU turns IPv6 off on a link",
    "no-link-local": "an interface has no IPv6 address to ask for its next hops with",
    "dad-pending": "duplicate address detection is not done: the address may not be used yet",
    "dad-failed": "another machine on the link has the same IPv6 address",
    "mixed-link": "one end of a link has an IPv4 network, the other none: ARP here, Neighbour Discovery there",
    "link-down": "one end of a link is set down, and the other is in use",
    "netmask": "two ends of a link have addresses of one IPv4 network and do not agree how large it is",
    "forwarding-off": "IPv4 that comes in, at one interface or at any, is not passed on by a node that should",
    "rp-filter-strict": "packets that come in by another interface than their answers leave by are dropped",
    "rp-filter-dummy": "no route to 192.0.0.8, so rp_filter drops the ICMP errors of routers without an IPv4 address",
    "firewall-forward": "the packet filter drops all forwarded IPv4, or all of an interface in use",
    "firewall-icmp": "the packet filter drops ICMP errors",
    "firewall-dummy": "the packet filter drops what comes from 192.0.0.8",
    "firewall-babel": "the packet filter drops UDP 6696",
    "next-hop-off-link": "an IPv6 next hop is on no prefix of its interface's link, and does not answer there",
    "next-hop-unreachable": "a next hop does not answer Neighbour Discovery, or ARP",
    "neighbour-wrong": "a neighbour entry that somebody wrote sends the packets for a next hop to another machine",
    "next-hop-twice": "more than one machine on a link has the address of a next hop",
    "synthetic-next-hop": "a route by 169.254.0.1 or 254.128.0.0, which stand for an IPv6 next hop and are nobody's",
    "next-hop-dead": "a link does not carry, and routes still lead there",
    "allowed-ips-gap": "a WireGuard device drops what is routed into it, or Babel: AllowedIPs do not cover it",
    "wireguard-peers": "a WireGuard device has no peer, or more than Babel can be spoken with",
    "wireguard-silent": "a WireGuard peer does not answer: there is no handshake",
    "no-ipv4-source": "the node has no IPv4 address for packets of its own",
    "route-shadowed": "the kernel takes another route in place of ours",
    "rule-shadowed": "a routing rule takes packets away from the table with our routes",
    "babel-key": "Babel neighbours do not agree on a key",
    "babel-version": "a neighbour speaks another version of Babel, or another protocol on its port",
    "babel-own-address": "a Babel packet came from our own address: another node has it too",
    "babel-one-way": "a Babel neighbour is heard and does not hear us, or the other way round",
    "babel-filtered": "Babel packets, UDP 6696, do not pass a link",
    "installed-missing": "the daemon says a route is installed, and the kernel lacks it",
    "daemon-not-running": "routes of a via6 daemon are in the kernel, and no daemon keeps them right",
    "daemon-not-answering": "the via6 daemon runs and does not answer",
    "exported-twice": "two nodes announce the same prefix as their own",
    "mtu-mismatch": "the ends of a link have different MTUs, or a link passes less than its MTU",
    "pmtud-black-hole": "large packets vanish on the way, and no ICMP error says so",
    "loop": "packets come to a node twice",
    "no-way": "packets do not get to where they are to go",
    "no-way-back": "packets arrive, and their answers do not come back",
}
