"""What reading does not tell, tried on this node: do the next hops answer, does the kernel send ICMP errors without an
IPv4 address, and which network managers hold the interfaces.

Next hops are asked by a Neighbour Solicitation of our own (RFC 4861, section 7.2.2): the kernel's table is not
believed (though the kernel hears the answers, too). All are asked at once; only those that stay silent cost time.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Final

from via6.model import Link
from via6.observe.doctor.look import parse_release, subnets
from via6.observe.doctor.measured import Measured
from via6.observe.doctor.nexthops import askable
from via6.observe.node import Node
from via6.prefix import Address, Prefix, format_address

Hop = tuple[int, Address]

_SOLICITATION: Final = 135  # RFC 4861
_ADVERTISEMENT: Final = 136
_ECHO_REQUEST: Final = 128  # RFC 4443
_ECHO_REPLY: Final = 129
_SOURCE_LLADDR: Final = 1
_TARGET_LLADDR: Final = 2
_OVERRIDE: Final = 0x20
_ICMP6_FILTER: Final = 1  # netinet/icmp6.h
_PKTINFO: Final = socket.IPV6_PKTINFO
_TRIES: Final = 4
_EVERY_S: Final = 0.25
_SECOND_S: Final = 0.02
_MOST: Final = 4096
_BURST: Final = 64
_SMALL: Final = 29  # an IPv4 network of so few addresses that all can be asked
_ETH_ARP: Final = 0x0806
_ETH_IPV4: Final = 0x0800

_RUN: Final = Path("/run")
_ETC: Final = Path("/etc")
_LIB: Final = Path("/usr/lib")
_PROC: Final = Path("/proc")


def measure(node: Node, dropped: int | None = None) -> Measured:
    """What can be tried from this thread's network namespace, of which `node` was read. `dropped`: what
    `dropped_by_rp_filter` said before that."""
    before = dropped_by_rp_filter() if dropped is None else dropped
    silent, heard = _ask_next_hops(node)
    return Measured(
        silent,
        managers(node.kernel.links),
        frozenset(heard),
        _icmp_source(node.release),
        here=True,
        lonely4=_lonely4(node),
        present=_present({ifindex for ifindex, _ in silent}),
        rpf_drops=dropped_by_rp_filter() - before,
        lladdrs={hop: tuple(sorted(found)) for hop, found in heard.items() if found},
    )


def dropped_by_rp_filter() -> int:
    """How many packets this network namespace has dropped so, since it is there."""
    try:
        lines = Path("/proc/thread-self/net/netstat").read_text().splitlines()
    except OSError:
        return 0
    for names, values in pairwise(lines):
        if names.startswith("TcpExt:") and values.startswith("TcpExt:"):
            return int(dict(zip(names.split(), values.split(), strict=False)).get("IPReversePathFilter", 0))
    return 0


def _icmp_source(release: str) -> bool | None:
    """Asked of kernels before 5.13 alone: later ones do."""
    from via6.collect import icmp_source

    if parse_release(release)[:2] >= icmp_source.FIXED_IN:
        return True
    return icmp_source.is_source(icmp_source.probe())


# --- next hops -----------------------------------------------------------------------------------------------------


def _ask_next_hops(node: Node) -> tuple[dict[Hop, str], dict[Hop, set[bytes]]]:
    """(those that are silent, with what was tried; those that answered, with where they say they are). Without the
    privilege to ask: none."""
    hops = sorted(askable(node))[:_MOST]
    if not hops:
        return {}, {}
    try:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6)
    except OSError:
        return {}, {}
    with sock:
        sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, _filter(_ADVERTISEMENT))
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        return _rounds(sock, hops, node.kernel.by_index)


def _filter(passed: int) -> bytes:
    """struct icmp6_filter: 256 bits, a bit that is set blocks its type."""
    words = [0xFFFFFFFF] * 8
    words[passed >> 5] &= ~(1 << (passed & 31)) & 0xFFFFFFFF
    return struct.pack("=8I", *words)


def _rounds(
    sock: socket.socket, hops: list[Hop], links: Mapping[int, Link]
) -> tuple[dict[Hop, str], dict[Hop, set[bytes]]]:
    waiting, answered, asked = set(hops), dict[Hop, set[bytes]](), dict[Hop, int]()

    def listen(timeout_s: float) -> None:
        for hop, lladdr in _heard(sock, timeout_s):
            answered.setdefault(hop, set()).update([lladdr] if lladdr else [])

    for _ in range(_TRIES):
        for at, hop in enumerate(sorted(waiting), 1):
            asked[hop] = asked.get(hop, 0) + _solicit(sock, hop, links[hop[0]])
            if at % _BURST == 0:
                listen(0.001)
        until = time.monotonic() + _EVERY_S
        while (waiting := waiting - answered.keys()) and (left := until - time.monotonic()) > 0:
            listen(left)
        if not waiting:
            break
    until = time.monotonic() + _SECOND_S
    while answered and (left := until - time.monotonic()) > 0:  # another one may have the address as well
        listen(left)
    # What could not be sent says nothing about who was to be asked.
    silent = {hop: f"{asked[hop]} Neighbour Solicitations, no answer" for hop in sorted(waiting) if asked[hop]}
    return silent, {hop: answered[hop] for hop in hops if hop in answered}


def _solicit(sock: socket.socket, hop: Hop, link: Link) -> bool:
    """Whether the question left."""
    ifindex, target = hop
    group = socket.inet_pton(socket.AF_INET6, "ff02::1:ff00:0")[:13] + target[13:]
    option = bytes((_SOURCE_LLADDR, 1)) + link.lladdr if len(link.lladdr) == 6 else b""
    packet = struct.pack("!BBHI", _SOLICITATION, 0, 0, 0) + target + option
    try:
        sock.sendto(packet, (socket.inet_ntop(socket.AF_INET6, group), 0, 0, ifindex))
    except OSError:
        return False
    return True


def _heard(sock: socket.socket, timeout_s: float) -> Iterator[tuple[Hop, bytes]]:
    """Who advertises itself, and its link-layer address if it is the owner of the other (the flag Override: proxies and
    anycast addresses have none)."""
    if not select.select([sock], [], [], max(timeout_s, 0))[0]:
        return
    for _ in range(_BURST):
        try:
            data, told, _, _ = sock.recvmsg(2048, 64)
        except OSError:
            break
        # The sender of a packet with a global source has no scope: the interface is told beside it.
        ifindex = next((int.from_bytes(info[16:20], sys.byteorder) for _, kind, info in told if kind == _PKTINFO), 0)
        if len(data) >= 24 and data[0] == _ADVERTISEMENT:
            own = data[4] & _OVERRIDE and data[24:26] == bytes((_TARGET_LLADDR, 1)) and len(data) >= 32
            yield (ifindex, data[8:24]), data[26:32] if own else b""


def _present(indices: Iterable[int]) -> dict[int, tuple[Address, ...]]:
    """Who answers a ping to all nodes of these links (RFC 4443), so that a silent next hop may be named anew."""
    wanted = sorted(indices)
    if not wanted:
        return {}
    found: dict[int, set[Address]] = {}
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6) as sock:
        sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, _filter(_ECHO_REPLY))
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        ident = os.getpid() & 0xFFFF
        for ifindex in wanted:
            with contextlib.suppress(OSError):
                sock.sendto(struct.pack("!BBHHH", _ECHO_REQUEST, 0, 0, ident, 1), ("ff02::1", 0, 0, ifindex))
        until = time.monotonic() + _EVERY_S
        while (left := until - time.monotonic()) > 0 and select.select([sock], [], [], left)[0]:
            data, (sender, _, _, scope) = sock.recvfrom(2048)
            if len(data) >= 8 and data[4:6] == ident.to_bytes(2, "big"):
                found.setdefault(scope, set()).add(socket.inet_pton(socket.AF_INET6, sender.partition("%")[0]))
    return {ifindex: tuple(sorted(addresses)) for ifindex, addresses in found.items()}


# --- ARP -----------------------------------------------------------------------------------------------------------


def _lonely4(node: Node) -> dict[int, str]:
    """Interfaces with IPv6 next hops and a small IPv4 network in which nobody answers ARP (RFC 826)."""
    wanted = {ifindex for ifindex, _ in askable(node)}
    found: dict[int, str] = {}
    for ifindex, networks in subnets(node).items():
        small = [n for n in networks if n.length >= _SMALL]
        if ifindex in wanted and small and len(small) == len(networks):
            own = {one.address for one in node.kernel.addresses if one.ifindex == ifindex and len(one.address) == 4}
            asked = [a for n in small for a in _hosts(n) if a not in own]
            try:
                heard = _arp(node.kernel.by_index[ifindex], sorted(own)[0], asked)
            except OSError:
                continue
            if not heard:
                found[ifindex] = f"ARP for {', '.join(map(format_address, asked[:3]))}: no answer from any"
    return found


def _hosts(network: Prefix) -> Iterator[Address]:
    first = int.from_bytes(network.packed, "big")
    size = 1 << 32 - network.length
    numbers = range(first, first + size) if size <= 2 else range(first + 1, first + size - 1)
    return (number.to_bytes(4, "big") for number in numbers)


def _arp(link: Link, own: Address, asked: Iterable[Address]) -> bool:
    """Whether anybody answers. Raises OSError."""
    targets = list(asked)
    head = struct.pack("!HHBBH", 1, _ETH_IPV4, 6, 4, 1) + link.lladdr + own + bytes(6)
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.htons(_ETH_ARP)) as wire:
        wire.bind((link.name, _ETH_ARP))
        for _ in range(_TRIES):
            for target in targets:
                wire.sendto(head + target, (link.name, _ETH_ARP, 0, 0, b"\xff" * 6))
            until = time.monotonic() + _EVERY_S
            while (left := until - time.monotonic()) > 0 and select.select([wire], [], [], left)[0]:
                packet = wire.recv(2048)
                if packet[6:8] == b"\0\2" and packet[14:18] in targets:
                    return True
    return False


# --- network managers ----------------------------------------------------------------------------------------------


def managers(links: Iterable[Link]) -> dict[str, str]:
    """The interfaces that another program rules that removes foreign routes, by name: `PROGRAM: WHAT IS READ`."""
    found: dict[str, str] = {}
    for program, process, rules in (
        ("systemd-networkd", "systemd-network", _networkd), ("NetworkManager", "NetworkManager", _network_manager),
    ):  # fmt: skip
        told = {link.name: said for link in links if not link.loopback and (said := rules(link))}
        # Numbers of interfaces are of one network namespace: the files speak of the one that the program runs in.
        if told and _runs_here(process):
            found |= {name: f"{program}: {said}" for name, said in told.items()}
    return found


def _runs_here(process: str) -> bool:
    """The program runs in this network namespace, or nowhere that we see (then it will when it starts)."""
    places = []
    own = os.stat("/proc/thread-self/ns/net").st_ino
    for entry in _PROC.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            if (entry / "comm").read_text().strip() == process:
                places.append((entry / "ns/net").stat().st_ino)
        except OSError:
            continue
    return own in places if places else _of_init(own)


def _of_init(own: int) -> bool:
    """This network namespace, or this /run, is the one that the machine began with, or one of our own."""
    try:
        return (_PROC / "1/ns/net").stat().st_ino == own or (_PROC / "1/root/run").stat().st_dev != os.stat(_RUN).st_dev
    except OSError:
        return False


def _networkd(link: Link) -> str:
    state = _values(_RUN / f"systemd/netif/links/{link.ifindex}")
    admin = state.get("ADMIN_STATE", "")
    if admin in ("", "unmanaged", "linger"):
        return ""
    foreign, whence = _networkd_foreign()
    if not foreign:
        return ""
    network = state.get("NETWORK_FILE", "")
    keep = _last(_ini(Path(network), "network"), "keepconfiguration") if network else ""
    if keep.lower() in ("yes", "true", "on", "1", "static"):
        return ""
    return f"ADMIN_STATE={admin} in {_RUN}/systemd/netif/links/{link.ifindex}, {whence}"


def _networkd_foreign() -> tuple[bool, str]:
    """networkd.conf(5): ManageForeignRoutes, which is yes unless a file says no; of drop-ins the last name counts."""
    files = [p for place in (_LIB, _RUN, _ETC) if (p := place / "systemd/networkd.conf").is_file()][-1:]
    drop_ins: dict[str, Path] = {}
    for place in (_LIB, _RUN, _ETC):
        folder = place / "systemd/networkd.conf.d"
        if folder.is_dir():
            drop_ins |= {path.name: path for path in folder.glob("*.conf")}
    value, whence = "", "ManageForeignRoutes=yes (the default)"
    for path in (*files, *(drop_ins[name] for name in sorted(drop_ins))):
        said = _last(_ini(path, "network"), "manageforeignroutes")
        if said:
            value, whence = said, f"ManageForeignRoutes={said} in {path}"
    return value.lower() not in ("no", "false", "off", "0", "n", "f"), whence


def _network_manager(link: Link) -> str:
    path = _RUN / f"NetworkManager/devices/{link.ifindex}"
    managed = _last(_ini(path, "device"), "managed")
    return f"managed=true in {path}" if managed.lower() == "true" else ""


def _values(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))


def _ini(path: Path, section: str) -> Iterator[tuple[str, str]]:
    """The keys of a section, in lower case, in their order."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return
    now = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            now = line[1:-1].lower()
        elif now == section and "=" in line and line[0] not in "#;":
            key, _, value = line.partition("=")
            yield key.strip().lower(), value.strip()


def _last(pairs: Iterable[tuple[str, str]], key: str) -> str:
    return ([value for name, value in pairs if name == key] or [""])[-1]
