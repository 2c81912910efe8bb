"""The way out: a node with an IPv4 uplink announces 0.0.0.0/0, and may translate what leaves there.

It is announced while the node itself would send a packet that way: while the best IPv4 default route of the main table
that is not ours has a next hop on a link with carrier. So two gateways back each other up: the routes of one that
loses its uplink go over to the other.

Translation is one rule of nftables in a table of our own, `ip via6`: what leaves by the uplink and does not bear an
address of the uplink itself gets one (masquerade), so this node's own packets keep theirs. The table is loaded as one
transaction and goes when via6 leaves; after a kill -9 the next run removes it.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from via6.babel.model import Event
from via6.config_babel import GatewaySpec
from via6.daemon.journal import identity, state_file
from via6.errors import Refusal
from via6.model import NH_DEAD, NH_LINKDOWN, Change, InterfaceAddress, KernelEvent, Link, Route
from via6.netlink.wire import messages
from via6.prefix import Prefix, PrefixMap, format_address
from via6.view import View

DEFAULT: Final = Prefix(bytes(4), 0)

_NETLINK_NETFILTER: Final = 12  # linux/netlink.h
_NFNLGRP_NFTABLES: Final = 7  # linux/netfilter/nfnetlink.h
_DELTABLE: Final = 10 << 8 | 2  # NFNL_SUBSYS_NFTABLES, NFT_MSG_DELTABLE
_TURN: Final = 256
_DEADLINE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Uplink:
    """The default route that others put in, and the devices that it leads out by."""

    route: Route
    devices: tuple[str, ...]

    def __str__(self) -> str:
        hops = [hop for hop in self.route.next_hops if hop.via]
        via = f"via {format_address(hops[0].via)} " if len(hops) == 1 and hops[0].via else ""
        return f"default {via}dev {' '.join(self.devices)}"


def uplink(view: View, glob: str = "", statics: PrefixMap[Route] | None = None) -> Uplink | None:
    """The IPv4 default route that this node goes by, those of Babel aside; `glob` bounds the devices ('': any)."""
    routes = list(view.at(DEFAULT))
    declared = statics.get(DEFAULT) if statics is not None else None
    if declared is not None:
        routes.append(declared)
    for route in sorted(routes, key=lambda r: r.metric):
        if route.type != "unicast":
            return None  # it drops what comes to it
        devices = [link.name for link in _links(view, route) if not glob or fnmatchcase(link.name, glob)]
        if devices:
            return Uplink(route, tuple(dict.fromkeys(devices)))
    return None


def _links(view: View, route: Route) -> Iterable[Link]:
    for hop in view.hops(route):
        link = view.links.get(hop.ifindex)
        if link is not None and link.carrier and not link.loopback and not hop.flags & (NH_DEAD | NH_LINKDOWN):
            yield link


def ruleset(devices: Iterable[str]) -> str:
    """The transaction for `nft -f -`: puts the table in the place of an older one; without devices, of nothing."""
    names = ", ".join(f'"{name}"' for name in sorted(devices))
    # `add` first: `delete` alone would fail where there is none.
    text = "add table ip via6\ndelete table ip via6\n"
    if not names:
        return text
    return text + (
        "table ip via6 {\n"
        "  chain postrouting {\n"
        "    type nat hook postrouting priority srcnat; policy accept;\n"
        f"    oifname {{ {names} }} fib saddr . oif type != local masquerade\n"
        "  }\n"
        "}\n"
    )


class Masquerade:
    """The table `ip via6` of this network namespace. Devices whose names nft cannot take are refused by it."""

    def __init__(self) -> None:
        self._mark = state_file("nft")
        self._devices: frozenset[str] = frozenset()
        self._watch: socket.socket | None = None
        if self._left():
            self.set(frozenset())

    def _left(self) -> bool:
        """A run that was killed left a table here."""
        try:
            return self._mark.read_text() == identity()
        except (OSError, UnicodeDecodeError):
            return False

    @staticmethod
    def require() -> None:
        """Raises Refusal when there is no nft."""
        if not _nft():
            raise Refusal(
                "[gateway] masquerade = true needs the program nft, which is not here",
                "install it (on Debian: apt install nftables), or set masquerade = false",
            )

    def set(self, devices: frozenset[str]) -> None:
        """Translates what leaves by these devices, and nothing else any more. Raises Refusal."""
        if devices == self._devices and not (not devices and self._left()):
            return
        try:
            if devices:
                # Noted before it is made: whoever kills us in between leaves the next run a note too many.
                self._mark.parent.mkdir(parents=True, exist_ok=True)
                self._mark.write_text(identity())
                self._listen()
            _load(ruleset(devices))
            self._devices = devices
            if not devices:
                self._mark.unlink(missing_ok=True)
        except OSError as error:
            raise Refusal(f"{error.filename or 'nft'}: {error.strerror}", "set VIA6_STATE to a folder") from None

    def _listen(self) -> None:
        if self._watch is None:
            with contextlib.suppress(OSError):  # without it a table that another hand removes is missed, no more
                kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
                self._watch = socket.socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER)
                self._watch.bind((0, 1 << (_NFNLGRP_NFTABLES - 1)))

    def fileno(self) -> int:
        """Of the socket that tells what happens in nftables, -1 if there is none."""
        return self._watch.fileno() if self._watch is not None else -1

    def repair(self) -> bool:
        """Reads what happened; True if the table was gone and had to be made again. Raises Refusal."""
        if not (self._told_of_removal() and self._devices) or _there():
            return False
        _load(ruleset(self._devices))
        return True

    def _told_of_removal(self) -> bool:
        found = False
        for _ in range(_TURN if self._watch is not None else 0):
            assert self._watch is not None
            try:
                data = self._watch.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: whatever it was
                found = True
                continue
            found = found or any(msg.type == _DELTABLE for msg in messages(data))
        return found

    def close(self) -> None:
        """Removes the table. Raises Refusal."""
        try:
            self.set(frozenset())
        finally:
            if self._watch is not None:
                self._watch.close()
                self._watch = None


def _nft() -> str:
    # An ordinary PATH on Debian lacks /usr/sbin.
    return shutil.which("nft") or shutil.which("nft", path="/usr/sbin:/sbin") or ""


def _run(*words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    Masquerade.require()
    try:
        return subprocess.run(
            [_nft(), *words], input=text, capture_output=True, text=True, timeout=_DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise Refusal("nft did not come to an end", "try `nft list ruleset`, or set masquerade = false") from None


def _there() -> bool:
    return _run("list", "table", "ip", "via6").returncode == 0


def _load(text: str) -> None:
    done = _run("-f", "-", text=text)
    if done.returncode:
        why = next((line for line in done.stderr.splitlines() if line.strip()), f"exit code {done.returncode}")
        raise Refusal(
            f"nft refused the table ip via6: {why.strip()}",
            "give via6 CAP_NET_ADMIN and the kernel nf_tables with nat, masq and fib, or set masquerade = false",
        )


class Gateway:
    """Whether 0.0.0.0/0 may be announced, and the translation that goes with it."""

    def __init__(self, spec: GatewaySpec | None) -> None:
        """Raises Refusal: translation is wanted, and there is no nft."""
        self._spec = spec
        self._uplink: Uplink | None = None
        self._told = ""
        self._failed = ""
        self._events: list[Event] = []
        if spec is not None and spec.masquerade:
            Masquerade.require()
        self._masquerade = Masquerade()

    def reload(self, spec: GatewaySpec | None) -> None:
        """Another configuration holds. Raises Refusal, and then the old one stays in force."""
        if spec is not None and spec.masquerade:
            Masquerade.require()
        self._spec = spec

    def settle(self, view: View, statics: PrefixMap[Route] | None = None) -> bool:
        """True while 0.0.0.0/0 may be announced; to be called when the view has changed, `statics` being the routes
        that this configuration declares and that are in force. Brings the translation in line with the uplink; without
        the translation that is wanted nothing is announced, and the next call tries again."""
        spec = self._spec
        found = uplink(view, spec.uplink, statics) if spec is not None else None
        wanted = frozenset(found.devices) if found is not None and spec is not None and spec.masquerade else frozenset()
        failed = ""
        try:
            self._masquerade.set(wanted)
        except Refusal as refusal:
            found = found if not wanted else None
            failed = str(refusal)
        if failed and failed != self._failed:
            self._events.append(Event("gateway-nft", f"gateway: {failed}", True))
        self._failed = failed
        self._uplink = found
        text = str(found) if found is not None else ""
        if text != self._told:
            self._told = text
            if found is not None:
                self._events.append(Event("gateway-up", f"gateway: announces 0.0.0.0/0, {text}"))
            else:
                self._events.append(Event("gateway-down", "gateway: no IPv4 uplink, 0.0.0.0/0 is withdrawn", True))
        return found is not None

    def undermined(self, event: KernelEvent, view: View) -> bool:
        """After this notification the uplink's route may be gone without a word, and a dump must tell: IPv4 routes go
        with their address, and with a nexthop object whose link lost its carrier."""
        route = self._uplink.route if self._uplink is not None else None
        if route is None or not isinstance(event, Change):
            return False
        indices = {hop.ifindex for hop in view.hops(route)}
        if isinstance(event.object, InterfaceAddress):
            gone = event.gone and len(event.object.address) == 4
            return gone and (event.object.ifindex in indices or event.object.address == route.src)
        return (
            isinstance(event.object, Link)
            and event.object.ifindex in indices
            and not event.object.carrier
            and bool(route.nhid)
        )

    def devices(self) -> frozenset[str]:
        """The uplink's devices: what comes back comes in there, so they must forward IPv4, too."""
        return frozenset(self._uplink.devices) if self._uplink is not None else frozenset()

    def fileno(self) -> int:
        """Readable when somebody removes tables of nftables: then call `disturbed`. -1: nothing to watch."""
        return self._masquerade.fileno()

    def disturbed(self) -> None:
        """Puts our table back if another hand has removed it, as a firewall does that loads its rules anew."""
        try:
            if self._masquerade.repair():
                text = "gateway: another hand removed the table ip via6 from nftables; it is back"
                self._events.append(Event("gateway-nft", text, True))
        except Refusal as refusal:
            self._events.append(Event("gateway-nft", f"gateway: {refusal}", True))

    def events(self) -> list[Event]:
        """What is worth a line in the log since the last call."""
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """Leaves nothing in nftables. Raises Refusal."""
        self._uplink = None
        self._masquerade.close()


__all__ = ["DEFAULT", "Gateway", "Masquerade", "Uplink", "ruleset", "uplink"]
