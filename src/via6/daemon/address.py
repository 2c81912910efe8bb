"""The node's own IPv4 address: what its packets, and its ICMP errors, come from.

A router with IPv6 links alone needs none to forward. But its own programs need a source, and with an address its
errors do not come from 192.0.0.8 like those of every other such router: the hops of a traceroute differ, and filters
that want a route to the source do not drop them. It is a /32 on lo: up as long as the node is, and on no link.

It is taken away again when via6 leaves, if it was via6 that put it there. That is written down before it is put, and
from Linux 5.18 the address itself carries the mark (IFA_PROTO): one that another hand has put in its place is left.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from typing import Final

from via6.daemon.journal import identity, state_file
from via6.errors import Refusal
from via6.kernel.linux import LinuxKernel, release
from via6.kernel.socket import NetlinkSocket, words
from via6.model import PROTO_VIA6, InterfaceAddress, Link
from via6.netlink import objects
from via6.netlink.wire import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    decode_ack,
    message,
    messages,
)
from via6.prefix import Address, PrefixError, format_address, parse_address

_PARTS: Final = frozenset({"links", "addresses"})
_MARKED_FROM: Final = (5, 18)
_BUFFER: Final = 1 << 16


class NodeAddress:
    """Of this network namespace. Nothing is raised here: what goes wrong is told, a line each."""

    def __init__(self) -> None:
        self._path = state_file("address")
        self._ours: Address | None = None
        with contextlib.suppress(OSError, ValueError, KeyError, AttributeError, TypeError, PrefixError):
            found = json.loads(self._path.read_text())
            if found["namespace"] == identity():
                self._ours = parse_address(found["address"])

    @property
    def ours(self) -> Address | None:
        """The address that via6 has put on lo."""
        return self._ours

    def hold(self, address: Address | None) -> list[str]:
        """Sees to it that the node has this address (None: needs none): on lo, unless it has it already, wherever
        that is. One that via6 put there and that is not wanted any more goes. Call it again when an address has gone.
        """
        if address is None and self._ours is None:
            return []
        try:
            with LinuxKernel(receive_buffer=_BUFFER) as kernel:
                now = kernel.dump(_PARTS)
            lo = next((link for link in now.links if link.loopback), None)
            if self._ours not in (None, address):
                self._remove(now.addresses, lo)
            if address is None:
                return []
            if all(a.address != address for a in now.addresses):
                if lo is None:
                    return [f"there is no loopback interface for {format_address(address)}"]
                self._put(address, lo)
            elif self._ours and lo and not lo.up:
                _ask(objects.RTM_NEWLINK, objects.encode_link_up(lo.ifindex))
        except Refusal as refusal:
            return [f"the node's address {format_address(address)}: {refusal}" if address else str(refusal)]
        return []

    def leave(self) -> list[str]:
        """Takes it away if via6 put it there. lo stays up."""
        return self.hold(None)

    def _put(self, address: Address, lo: Link) -> None:
        self._remember(address)
        try:
            if not lo.up:  # nobody hears an address of an interface that is down
                _ask(objects.RTM_NEWLINK, objects.encode_link_up(lo.ifindex))
            _ask(objects.RTM_NEWADDR, objects.encode_address(_on(lo, address)), NLM_F_CREATE | NLM_F_EXCL)
        except Refusal:
            self._remember(None)
            raise

    def _remove(self, addresses: tuple[InterfaceAddress, ...], lo: Link | None) -> None:
        for found in addresses:
            if lo is None or found.ifindex != lo.ifindex or found.address != self._ours:
                continue
            if found.length == len(found.address) * 8 and (found.protocol == PROTO_VIA6 or release() < _MARKED_FROM):
                _ask(objects.RTM_DELADDR, objects.encode_address(_on(lo, found.address)))
        self._remember(None)

    def _remember(self, address: Address | None) -> None:
        """Raises Refusal when that cannot be written: an address that would stay behind is not put there."""
        try:
            if address is None:
                self._path.unlink(missing_ok=True)
            else:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                new = self._path.with_suffix(".new")
                new.write_text(json.dumps({"namespace": identity(), "address": format_address(address)}))
                os.replace(new, self._path)
        except OSError as error:
            raise Refusal(f"{error.filename}: {error.strerror}", "run it as root; set VIA6_STATE to a folder") from None
        self._ours = address


def _on(lo: Link, address: Address) -> InterfaceAddress:
    return InterfaceAddress(lo.ifindex, address, len(address) * 8, protocol=PROTO_VIA6)


def _ask(kind: int, payload: bytes, flags: int = 0) -> None:
    """One request and its acknowledgement. What is there already, or gone already, is as it should be."""
    netlink = NetlinkSocket(_BUFFER, _BUFFER)
    try:
        netlink.send(message(kind, NLM_F_REQUEST | NLM_F_ACK | flags, payload))
        for msg in messages(netlink.receive()):
            if msg.type == NLMSG_ERROR:
                ack = decode_ack(msg)
                if ack.errno not in (0, errno.EEXIST, errno.EADDRNOTAVAIL, errno.ENODEV):
                    raise Refusal(f"the kernel refused: {words(ack.errno, ack.text)}", "run it as root")
    except OSError as error:
        raise Refusal(f"the kernel did not answer: {error.strerror or error}", "try again") from None
    finally:
        netlink.close()
