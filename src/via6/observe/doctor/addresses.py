"""Which link-local address an interface that has lost its own should have: the one that its neighbours send to.

With `disable_ipv6`, a small MTU or a flush all addresses go. The kernel makes one of the MAC again (unless
`addrgenmode` is none); one that somebody wrote by hand is gone, and the neighbours' routes still name it.
"""

from __future__ import annotations

from hashlib import blake2s
from typing import Final

from via6.model import Link
from via6.observe.doctor.finding import Case, Fix, RunCommand
from via6.observe.doctor.look import LINK_LOCAL, link_local_of, links_of, of_dev, uses6, via6_devices
from via6.observe.node import Node
from via6.prefix import Address, format_address, is_link_local

_GEN_NONE: Final = 1  # IN6_ADDR_GEN_MODE_NONE, linux/if_link.h


def made(node: Node, link: Link, avoid: Address = b"") -> Address:
    """A link-local address for an interface, always the same and hardly anybody else's: of its MAC, else of names."""
    usual = link_local_of(link)
    if usual is not None and usual != avoid:
        return usual
    seed = b"\0".join((node.name.encode(), link.name.encode(), link.lladdr, avoid))
    return LINK_LOCAL.packed[:8] + blake2s(seed, digest_size=8).digest()


def lost(case: Case, link: Link, *, nothing_comes: bool = False) -> Address | None:
    """The address to add to an interface that has none; None if the kernel makes it one, and nobody sends to another.
    `nothing_comes`: the kernel has had its chance."""
    mode = of_dev(case.node, 6, link.name, "addr_gen_mode")
    wanted = _sent_to(case, link) or _as_elsewhere(case.node, link)
    if wanted is not None and (wanted != link_local_of(link) or mode == _GEN_NONE or nothing_comes):
        return wanted
    return made(case.node, link) if mode == _GEN_NONE or nothing_comes else None


def _sent_to(case: Case, link: Link) -> Address | None:
    """The next hop that other nodes name on this link, where they are its neighbours and no node has it."""
    beyond = {use.hop.via for use in uses6(case.node) if use.hop.ifindex == link.ifindex}
    found: set[Address] = set()
    for other in case.others:
        ports = {one.ifindex for one in other.kernel.addresses if one.address in beyond}
        held = {one.address for one in other.kernel.addresses}
        named = {use.hop.via for use in uses6(other) if use.hop.ifindex in ports and use.hop.via}
        found |= {via for via in named if is_link_local(via) and via not in held and via not in beyond}
    return found.pop() if len(found) == 1 else None


def _as_elsewhere(node: Node, link: Link) -> Address | None:
    """The address that all other links of the node have, and that no MAC has made: somebody wrote it on each."""
    sets = []
    for one in links_of(node, via6_devices(node) - {link.ifindex}):
        own = {a.address for a in node.kernel.addresses if a.ifindex == one.ifindex and is_link_local(a.address)}
        sets.append(own - {link_local_of(one) or b""})
    common = set.intersection(*sets) if sets else set()
    return common.pop() if len(common) == 1 else None


def add(address: Address, dev: str) -> tuple[str, Fix]:
    """(command, fix) that gives an interface a link-local address."""
    text = f"{format_address(address)}/64"
    words = ("ip", "-6", "address", "add", text, "dev", dev)
    look = ("ip", "-br", "-6", "address", "show", "dev", dev, "to", format_address(address))
    return " ".join(words), RunCommand(words, ("ip", "-6", "address", "del", text, "dev", dev), look)
