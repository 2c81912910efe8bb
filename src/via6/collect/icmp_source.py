"""Can this kernel send ICMPv4 errors without an IPv4 address?

A router that has none must send "fragmentation needed" all the same, or PMTUD black-holes. Linux does so from 5.13,
from 192.0.0.8 (RFC 7600); before, the source was 0.0.0.0, which nobody forwards. Stable kernels got the mend as well
(4.19.196, for one), so an older release is asked rather than judged.

The question: in a network namespace of its own, with nothing in it but lo and no address of use, a packet with TTL 1
is put on lo to be forwarded. What the "time exceeded" comes from is the answer. That is done by a process of its own
(`python -m via6.collect.icmp_source`), which may unshare what it likes and whose namespace goes with it. It needs
either CAP_SYS_ADMIN or that the system lets users make namespaces.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from via6.model import NextHop, Route
from via6.netlink import objects
from via6.netlink.route import RTM_NEWROUTE, SCOPE_LINK, encode_route
from via6.netlink.wire import NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NLMSG_ERROR, decode_ack, message, messages
from via6.observe.packet import (
    ETH_IPV4,
    ICMP,
    TIME_EXCEEDED,
    UDP,
    IPv4,
    Udp,
    build_ipv4,
    build_udp,
    parse_icmp,
    parse_ipv4,
)
from via6.prefix import Address, PrefixError, format_address, parse_address, parse_prefix

FIXED_IN: Final = (5, 13)
_CLONE_NEWUSER: Final = 0x10000000  # linux/sched.h
_CLONE_NEWNET: Final = 0x40000000
_FORWARDING: Final = Path("/proc/sys/net/ipv4/conf/lo/forwarding")
_FROM: Final = parse_address("198.51.100.1")  # RFC 5737, as good as any in a namespace of one's own
_TO: Final = parse_address("203.0.113.1")
_LO_ADDRESS: Final = bytes(6)
_WAIT_S: Final = 1.0


def icmp_source_ok(release: tuple[int, int], timeout_s: float = 5.0) -> bool:
    """Whether routers without an address get through with their ICMP errors. `release` is that of the kernel, as
    (5, 10); only one before 5.13 is probed. A probe that cannot be made, or has no answer in time, counts as no."""
    return release >= FIXED_IN or is_source(probe(timeout_s))


def is_source(address: Address | None) -> bool:
    """0.0.0.0 is what a kernel without the mend sends."""
    return address is not None and address != bytes(4)


def probe(timeout_s: float = 5.0) -> Address | None:
    """Where an ICMPv4 error of an address-less router comes from here; None if that could not be found out."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "via6.collect.icmp_source"], stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
        return parse_address(done.stdout.strip()) if done.returncode == 0 else None
    except (OSError, subprocess.SubprocessError, PrefixError):
        return None


def answer_source() -> Address | None:
    """Asks the network namespace this thread is in, which must be a throw-away one: lo is set up and forwards, and
    everything goes to lo. Raises OSError."""
    lo = socket.if_nametoindex("lo")
    _netlink(objects.RTM_NEWLINK, objects.encode_link_up(lo))
    route = Route(parse_prefix("0.0.0.0/0"), (NextHop(None, lo),), scope=SCOPE_LINK)
    _netlink(RTM_NEWROUTE, encode_route(route), NLM_F_CREATE)
    _FORWARDING.write_text("1")
    datagram = build_udp(Udp(33434, 33434), _FROM, _TO)
    packet = build_ipv4(IPv4(_FROM, _TO, UDP, datagram, ttl=1))
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, socket.htons(ETH_IPV4)) as wire:
        wire.bind(("lo", ETH_IPV4))
        wire.setblocking(False)
        wire.sendto(packet, ("lo", ETH_IPV4, 0, 0, _LO_ADDRESS))
        until = time.monotonic() + _WAIT_S
        while (left := until - time.monotonic()) > 0:
            if select.select([wire], [], [], left)[0]:
                found = _error_source(wire.recv(4096))
                if found is not None:
                    return found
    return None


def _error_source(data: bytes) -> Address | None:
    packet, _ = parse_ipv4(data)
    if packet is None or packet.protocol != ICMP or packet.destination != _FROM:
        return None
    error, _ = parse_icmp(packet.payload)
    return packet.source if error and error.type == TIME_EXCEEDED else None


def _netlink(kind: int, payload: bytes, flags: int = 0) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as netlink:
        netlink.settimeout(_WAIT_S)
        netlink.send(message(kind, NLM_F_REQUEST | NLM_F_ACK | flags, payload))
        for msg in messages(netlink.recv(1 << 16)):
            number = decode_ack(msg).errno if msg.type == NLMSG_ERROR else 0
            if number:
                raise OSError(number, os.strerror(number))


def _leave() -> None:
    """Into a new network namespace; as an ordinary user by way of a user namespace. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0 and libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def main() -> int:
    """Prints the address; 1 when there was none."""
    try:
        _leave()
        found = answer_source()
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    print(format_address(found) if found else "")
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
