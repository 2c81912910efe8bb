"""What was tried on a node, where reading is not enough. Nothing here is known of a snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from via6.prefix import Address


@dataclass(frozen=True)
class Measured:
    """`silent` are (ifindex, address) of next hops that were asked by Neighbour Discovery and did not answer, with the
    kernel's word. `managers` are the network managers that rule an interface, by its name (`systemd-networkd`,
    `NetworkManager`), with what they do with foreign routes."""

    silent: Mapping[tuple[int, Address], str] = field(default_factory=dict)
    managers: Mapping[str, str] = field(default_factory=dict)
