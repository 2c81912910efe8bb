"""Hiding addresses consistently.

A keyed, prefix-preserving permutation: bit n is flipped or not as a keyed hash of the n bits before it says. So two
addresses that share their first n bits (and no more) still do, whatever file they are in, if the key is the same: equal
stays equal, a prefix still holds what it held, the longest match is still the longest. What an address says by itself
is kept: nothing is flipped on the way to a well-known prefix (link-local, multicast, loopback, 192.0.0.0/24, RFC 1918
and the like), nor inside one that names no one (`_WHOLE`). Interface identifiers, MAC addresses, router-ids, WireGuard
keys and addresses in texts and names are hidden as well. Names of nodes and devices stay, if they hold no address.

The key decides; who has it, or can try all keys, can take the mask off. A very short prefix stays guessable.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2s
from typing import Any, Final

from via6.model import NextHop, Route, RouteBlock, RouteTable
from via6.observe.allowedips import Peer
from via6.observe.node import BabelInterface, BabelPolicy, BabelState, Firewall, Node
from via6.observe.snapshot.firewall import Chain, RuleLine
from via6.prefix import Address, Prefix, PrefixError, format_address, mask, parse_address, parse_prefix

_WHOLE: Final = tuple(
    map(
        parse_prefix,
        ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.1/32", "192.0.0.0/24", "224.0.0.0/3", "::/127", "ff00::/12"),
    )
)
"""Kept as they are: they name no one, and readers know them. 224/3 holds multicast, broadcast and 254.128.0.0."""
_SOLICITED: Final = parse_prefix("ff02::1:ff00:0/104")
"""Solicited-node groups (RFC 4291 2.7.1) end in the last three octets of an address."""
_KEPT: Final = (
    _SOLICITED,
    *map(
        parse_prefix,
        ("10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "2000::/3", "fc00::/7",
         "fe80::/64", "ff00::/8", "64:ff9b::/96", "::ffff:0:0/96"),
    ),
)  # fmt: skip
"""Their own bits are kept, those behind them hidden."""

_NO_MAC: Final = {bytes(6), b"\xff" * 6}
_IN_TEXT: Final = re.compile(
    r"(?<![\w.:])(?:"
    r"(?P<mac>[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5})(?![\w:])"
    r"|(?P<four>\d{1,3}(?:\.\d{1,3}){3})(?P<len4>/\d{1,2})?(?![\w.]*\d)"
    r"|(?P<six>(?=[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:)[0-9A-Fa-f:.]*[0-9A-Fa-f:])(?P<len6>/\d{1,3})?(?![\w:])"
    r")"
)


class Mask:
    """One mask; the same `key` (up to 32 octets) hides in the same way."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._known: dict[Address, Address] = {}
        self._heads: dict[tuple[int, bytes], bytes] = {}
        self._flips: dict[tuple[int, bytes], bytes] = {}
        # The inner nodes of the tree on the way to a kept prefix: never flipped.
        self._straight = {
            (len(p.packed), bits, int.from_bytes(p.packed, "big") >> (len(p.packed) * 8 - bits))
            for p in (*_WHOLE, *_KEPT)
            for bits in range(p.length)
        }  # fmt: skip

    def _hash(self, data: bytes, size: int) -> bytes:
        return blake2s(data, key=self._key, digest_size=size).digest()

    def address(self, address: Address) -> Address:
        """The address under the mask."""
        found = self._known.get(address)
        if found is None:
            found = self._known[address] = self._masked(address)
        return found

    def _masked(self, address: Address, octets: int = 16) -> Address:
        """The address under the mask, zero behind the first `octets`."""
        if any(address in prefix for prefix in _WHOLE) and address not in _SOLICITED:
            return address
        done = b""
        for at in range(min(octets, len(address))):
            # Octet by octet: many addresses begin alike.
            place = len(address), address[: at + 1]
            head = self._heads.get(place)
            if head is None:
                head = self._heads[place] = done + bytes([self._octet(len(address), address[:at], address[at])])
            done = head
        return done.ljust(len(address), b"\0")

    def _octet(self, size: int, before: bytes, octet: int) -> int:
        """One octet under the mask, behind these. One hash has the flips of all 255 nodes of the tree below them."""
        place = size, before
        flips = self._flips.get(place)
        if flips is None:
            flips = self._flips[place] = self._hash(b"%d/" % size + before, 32)
        value, out = int.from_bytes(before, "big") << 8 | octet, 0
        for bit in range(8):
            rest = 8 - bit
            node = 1 << bit | octet >> rest
            flip = flips[node >> 3] >> (node & 7) & 1
            if (size, len(before) * 8 + bit, value >> rest) in self._straight:
                flip = 0
            out = out << 1 | (octet >> (rest - 1) & 1) ^ flip
        return out

    def prefix(self, prefix: Prefix) -> Prefix:
        """The prefix under the mask: it holds what it held."""
        hidden = self._masked(prefix.packed, -(-prefix.length // 8))
        return Prefix(mask(hidden, prefix.length), prefix.length)

    def lladdr(self, lladdr: bytes) -> bytes:
        """A link-layer address; of a tunnel it is an IP address, and hidden as that."""
        if len(lladdr) in (4, 16):
            return self.address(lladdr)
        if not lladdr or lladdr in _NO_MAC:
            return lladdr
        hidden = self._hash(b"mac" + lladdr, min(len(lladdr), 32))
        if lladdr[0] & 1:  # a group's; what it ends in may be of an address
            return lladdr[:2] + hidden[2:]
        return bytes([hidden[0] & 0xFC | 2]) + hidden[1:]

    def router_id(self, text: str) -> str:
        """A Babel router-id: often made of an address."""
        return self._hash(b"id" + text.encode(), 8).hex(":") if text else ""

    def key(self, text: str) -> str:
        """A WireGuard public key, as something of the same shape."""
        return b64encode(self._hash(b"wg" + text.encode(), 32)).decode()

    def text(self, text: str) -> str:
        """A text with the addresses in it hidden."""
        return _IN_TEXT.sub(self._found, text)

    def _found(self, match: re.Match[str]) -> str:
        if match["mac"]:
            return self.lladdr(bytes.fromhex(match["mac"].replace(":", ""))).hex(":")
        try:
            packed = parse_address(match["four"] or match["six"])
        except PrefixError:
            return match[0]
        length = match["len4"] or match["len6"] or ""
        hidden = self.address(packed)
        if length and int(length[1:]) <= len(packed) * 8 and mask(packed, int(length[1:])) == packed:
            hidden = mask(hidden, int(length[1:]))
        return format_address(hidden) + length

    # --- a node ----------------------------------------------------------------------------------------------------

    def node(self, node: Node) -> Node:
        """The node with all its addresses hidden."""
        kernel = node.kernel
        links = tuple(replace(x, name=self.text(x.name), lladdr=self.lladdr(x.lladdr)) for x in kernel.links)
        addresses = tuple(
            replace(x, address=self.address(x.address), peer=self._maybe(x.peer)) for x in kernel.addresses
        )
        rules = tuple(
            replace(
                x, source=self.prefix(x.source) if x.source else None,
                destination=self.prefix(x.destination) if x.destination else None,
                iif=self.text(x.iif), oif=self.text(x.oif),
            )
            for x in kernel.rules
        )  # fmt: skip
        nexthops = tuple(replace(x, via=self._maybe(x.via)) for x in kernel.nexthops)
        neighbours = tuple(
            replace(x, address=self.address(x.address), lladdr=self.lladdr(x.lladdr)) for x in kernel.neighbours
        )
        return replace(
            node,
            name=self.text(node.name),
            kernel=replace(
                kernel, links=links, addresses=addresses, rules=rules, nexthops=nexthops, neighbours=neighbours,
                routes=RouteTable(tuple(map(self._block, kernel.routes.blocks))),
            ),
            sysctls={self._sysctl(name): value for name, value in node.sysctls.items()},
            wireguard=self._wireguard(node.wireguard),
            firewall=self._firewall(node.firewall) if node.firewall else None,
            babel=self._babel(node.babel) if node.babel else None,
            unread={part: self.text(why) for part, why in node.unread.items()},
        )  # fmt: skip

    def _maybe(self, address: Address | None) -> Address | None:
        return self.address(address) if address is not None else None

    def _sysctl(self, name: str) -> str:
        return "/".join(map(self.text, name.split("/")))

    def _block(self, block: RouteBlock) -> RouteBlock:
        route: Route = block.template
        hops = tuple(NextHop(self._maybe(h.via), h.ifindex, h.weight, h.flags) for h in route.next_hops)
        length = route.prefix.length
        octets = -(-length // 8)
        destinations = [mask(self._masked(packed, octets), length) for packed in block.destinations]
        return RouteBlock(replace(route, next_hops=hops, src=self._maybe(route.src)), destinations)

    def _wireguard(self, found: Mapping[str, tuple[Peer, ...]]) -> dict[str, tuple[Peer, ...]]:
        return {
            self.text(device): tuple(Peer(self.key(p.key), tuple(map(self.prefix, p.allowed))) for p in peers)
            for device, peers in found.items()
        }

    def _firewall(self, firewall: Firewall) -> Firewall:
        shut = (
            replace(one, rules=tuple(map(self.text, one.rules)), into=self.text(one.into), out=self.text(one.out))
            for one in firewall.shut
        )
        return replace(
            firewall, evidence=tuple(map(self.text, firewall.evidence)), shut=tuple(shut),
            filter=tuple({self.text(name): self._chain(one) for name, one in table.items()}
                         for table in firewall.filter),
        )  # fmt: skip

    def _chain(self, chain: Chain) -> Chain:
        def value(one: Any) -> Prefix | str:
            return self.prefix(one) if isinstance(one, Prefix) else self.text(one)

        def rule(one: RuleLine) -> RuleLine:
            tests = (replace(test, values=tuple(map(value, test.values))) for test in one.tests)
            verdicts = (replace(verdict, chain=self.text(verdict.chain)) for verdict in one.verdicts)
            return RuleLine(tuple(tests), tuple(verdicts), self.text(one.text))

        devices = chain.devices if chain.devices is None else tuple(map(self.text, chain.devices))
        return replace(chain, where=self.text(chain.where), devices=devices, rules=list(map(rule, chain.rules)))

    def _babel(self, babel: BabelState) -> BabelState:
        return BabelState(
            self.router_id(babel.router_id),
            tuple(replace(n, address=self.address(n.address)) for n in babel.neighbours),
            tuple(
                replace(
                    r, prefix=self.prefix(r.prefix), neighbour=self.address(r.neighbour),
                    router_id=self.router_id(r.router_id),
                )
                for r in babel.routes
            ),
            tuple((self.prefix(prefix), metric) for prefix, metric in babel.exports),
            None if babel.interfaces is None else tuple(map(self._babel_interface, babel.interfaces)),
            self._babel_policy(babel.policy) if babel.policy is not None else None,
        )  # fmt: skip

    def _babel_policy(self, policy: BabelPolicy) -> BabelPolicy:
        def prefixes(some: tuple[Prefix, ...]) -> tuple[Prefix, ...]:
            return tuple(map(self.prefix, some))

        rules = tuple(
            replace(rule, prefixes=prefixes(rule.prefixes), within=prefixes(rule.within))
            for rule in policy.imports or ()
        )
        allowed = tuple((ifindex, prefixes(only)) for ifindex, only in policy.allowed)
        return replace(policy, imports=None if policy.imports is None else rules, allowed=allowed)

    def _babel_interface(self, one: BabelInterface) -> BabelInterface:
        rejected = tuple(replace(r, address=self.address(r.address)) for r in one.rejected)
        keys = tuple(self.text(key) for key in one.keys)
        rivals = tuple(
            replace(
                r, prefix=self.prefix(r.prefix), router_id=self.router_id(r.router_id),
                neighbour=self.address(r.neighbour),
            )
            for r in one.rivals
        )  # fmt: skip
        return replace(one, address=self.address(one.address), keys=keys, rejected=rejected, rivals=rivals)
