"""The fates of a packet. Batfish's words where it has one."""

from __future__ import annotations

from typing import Final

# As numbers in arrays; 0 is "goes on".
ACCEPTED: Final = 1
DELIVERED_TO_SUBNET: Final = 2
EXITS_NETWORK: Final = 3
NO_ROUTE: Final = 4
NULL_ROUTED: Final = 5
NEIGHBOR_UNREACHABLE: Final = 6
FORWARDING_OFF: Final = 7
DENIED_FIREWALL: Final = 8
DENIED_RP_FILTER: Final = 9
DENIED_ALLOWED_IPS: Final = 10
LOOP: Final = 11
UNKNOWN: Final = 12

NAMES: Final = (
    "", "ACCEPTED", "DELIVERED_TO_SUBNET", "EXITS_NETWORK", "NO_ROUTE", "NULL_ROUTED", "NEIGHBOR_UNREACHABLE",
    "FORWARDING_OFF", "DENIED_FIREWALL", "DENIED_RP_FILTER", "DENIED_ALLOWED_IPS", "LOOP", "UNKNOWN",
)  # fmt: skip

MEANINGS: Final = {
    "ACCEPTED": "arrives at the node that has the address",
    "DELIVERED_TO_SUBNET": "arrives on the link of its destination; no snapshot has a host of that address",
    "EXITS_NETWORK": "leaves for a next hop that is in no snapshot",
    "NO_ROUTE": "a node on the way has no route",
    "NULL_ROUTED": "a node on the way discards it: blackhole, unreachable, prohibit",
    "NEIGHBOR_UNREACHABLE": "the next hop does not answer, or the link does not carry",
    "FORWARDING_OFF": "a node on the way does not forward what comes in by that interface",
    "DENIED_FIREWALL": "a packet filter drops it",
    "DENIED_RP_FILTER": "a node does not believe the source: reverse path filter, or its own address",
    "DENIED_ALLOWED_IPS": "no WireGuard peer's AllowedIPs cover it",
    "LOOP": "it goes round until its hop limit ends",
    "UNKNOWN": "a snapshot does not say",
}

ARRIVED: Final = frozenset({ACCEPTED, DELIVERED_TO_SUBNET})
GOOD: Final = 1 << ACCEPTED | 1 << DELIVERED_TO_SUBNET
"""As bits of a set of fates."""


def names(fates: int) -> list[str]:
    """The words of a set of fates."""
    return [NAMES[code] for code in range(1, len(NAMES)) if fates >> code & 1]
