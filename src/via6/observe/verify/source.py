"""Whether a node believes the source of a packet that comes in (net/ipv4/fib_frontend.c: fib_validate_source).

Its own address it never believes. With rp_filter (the larger of `all` and the interface's) there must be a route to the
source: with 1 by this very interface; with 2 by any, but on an interface without IPv4 address 2 is as strict as 1. That
is every interface of a v4-via-v6 network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from via6.observe.verify import words
from via6.observe.verify.links import Port
from via6.observe.verify.network import Network
from via6.observe.verify.table import FORWARD, LOCAL, UNKNOWN, Action
from via6.prefix import Address, format_address

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Sources:
    """What the interfaces of a network make of a source."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def refuses(self, port: Port, sender: Port | None, source: Address) -> tuple[int, str]:
        """(code, why) if a packet from this source is not believed there, (0, "") if it is. `sender` is the interface
        that it left by."""
        action = self.network.lookups[port[0]].action(source)
        if sender is not None and self.network.links.tunnel(port):
            taken = self.network.links.accepts(port, sender, source)
            if not taken:
                code = words.DENIED_ALLOWED_IPS if taken is False else words.UNKNOWN
                return code, f"{format_address(source)} in the AllowedIPs of {self.network.links.name(port)}"
        return self._filter(port, action, format_address(source))

    def _filter(self, port: Port, action: Action, source: str) -> tuple[int, str]:
        where = self.network.links.name(port)
        if action.kind == LOCAL:
            return words.DENIED_RP_FILTER, f"{source} is an address of {self.network.nodes[port[0]].name} itself"
        level = self.network.links.rp_filter(port)
        if level == 0:
            return 0, ""
        if level is None:
            return words.UNKNOWN, f"rp_filter of {where} was not read"
        if action.kind == UNKNOWN:
            return words.UNKNOWN, f"rp_filter={level} on {where}: {action.why}"
        if action.kind == FORWARD and port[1] in action.devices:
            return 0, ""
        strict = level == 1 or not self._addressed(port)
        if action.kind == FORWARD and not strict:
            return 0, ""
        way = "there is no way back"
        if action.kind == FORWARD:
            devices = sorted(self.network.nodes[port[0]].kernel.dev(one) for one in action.devices)
            way = f"the way back goes out of {', '.join(devices)}"
        return words.DENIED_RP_FILTER, f"rp_filter={level} on {where}, and for {source} {way}"

    def _addressed(self, port: Port) -> bool:
        return any(len(a.address) == 4 for a in self.network.links.held.get(port, ()))

    def table(self, addresses: list[Address]) -> NDArray[np.uint8]:
        """[number of the interface, source] -> code. Tunnels are left to `refuses`: they must know the sender."""
        import numpy as np

        out: Any = np.zeros((len(self.network.ports) + 1, len(addresses)), np.uint8)
        numbers = np.array([int.from_bytes(address, "big") for address in addresses], np.uint32)
        told = [one.at(numbers) for one in self.network.lookups]
        for port, number in self.network.ports.items():
            lookup = self.network.lookups[port[0]]
            codes = np.array([self._filter(port, action, "it")[0] for action in lookup.actions], np.uint8)
            out[number] = codes[told[port[0]]]
        made: NDArray[np.uint8] = out
        return made
