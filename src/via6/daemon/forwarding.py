"""What the kernel must be told so that IPv4 packets cross this node.

**Forwarding.** Linux looks at `forwarding` of the interface where a packet comes in, and at nothing else: neither at
the interface where it leaves nor at `all`, which is no more than a way to set every interface at once (net.ipv4.
ip_forward is the same switch). So via6 sets it on the interfaces of its neighbours, and on those of its hosts, the
links whose connected prefix it announces: what they send comes in there. The others do not forward.

**rp_filter.** The larger of `all` and the interface counts. On links between routers it must be 0. 1 (strict) drops
what comes another way than it would go, which is ordinary in a mesh. 2 (loose) wants some route to the source; but
ICMP errors of routers without an IPv4 address come from 192.0.0.8 (RFC 7600), to which there is none unless there is
a default route, and without "fragmentation needed" PMTUD dies quietly. On the links of hosts it stays what it is:
there a filter does its proper work, for the connected route is the way back.

**send_redirects.** Either of `all` and the interface is enough to turn it on. A router that sends a packet out where
it came in tells the sender of a better gateway. ICMPv4 has no room for an IPv6 gateway, so Linux writes the
destination itself there: "it is on your link", which is untrue, and a host that believes it (they do by default) asks
ARP for it in vain. A link with two via6 routers and a host has just this case. So: off wherever via6 forwards.

**ignore_routes_with_linkdown.** A connected route stays when its link loses the carrier, and is still used, though the
network may be reachable by another router that is on it. So: on wherever via6 forwards.

**The filter and the redirects need `all` at 0**, which would also change every other interface. So what `all` said is
first written into each of them, and into `default` for those to come: the result is the same for them as before.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import Final

from via6.daemon.sysctl import Sysctls, of_link, read
from via6.errors import Refusal

_FORWARDING: Final = "forwarding"
_FILTER: Final = "rp_filter"
_REDIRECTS: Final = "send_redirects"
_LINKDOWN: Final = "ignore_routes_with_linkdown"
_ALL_FORWARD: Final = "net/ipv4/conf/all/forwarding"


class Forwarding:
    """Keeps IPv4 forwarding on for a set of interfaces and gives back what was there before."""

    def __init__(self, sysctls: Sysctls) -> None:
        self._sysctls = sysctls

    def cover(self, links: Iterable[int], hosts: Iterable[int] = (), *, keep: bool = False) -> list[str]:
        """Makes it so for these interfaces (ifindex) and for no other: `links` to routers, `hosts` whose connected
        prefix is announced. To be called with the whole set when it changes, and now and then, for others write
        sysctls as well (systemd-udevd does so for each new interface): costs some reading where nothing has changed.
        What cannot be set is told, a line each; nothing is raised. `keep`: nothing is given back yet, for a node that
        has just started again does not know yet what it forwards."""
        there = {index for index, _ in socket.if_nameindex()}
        routers = set(links) & there
        wanted = routers | (set(hosts) & there)
        if keep:
            routers |= {i for i in self._ours_on(_FILTER) & there if not _number(of_link(i, _FILTER))}
            wanted |= self._ours_on(_FORWARDING) & there
        problems: list[str] = []
        steps: list[Callable[[], list[str]]] = [
            lambda: self._forget_gone(there),
            lambda: self._forward(wanted),
            lambda: self._ignore_dead(wanted),
            lambda: self._lower(_REDIRECTS, wanted, there),
            lambda: self._lower(_FILTER, routers, there),
        ]
        for step in steps:
            try:
                problems += step()
            except Refusal as refusal:
                problems.append(str(refusal))
            except OSError as error:
                problems.append(f"{error.filename}: {error.strerror}")
        return list(dict.fromkeys(problems))

    def restore(self) -> list[str]:
        """Everything as it was, when via6 leaves. What cannot be restored is told."""
        return self.cover(())

    def _forget_gone(self, there: set[int]) -> list[str]:
        """An interface that is gone took its settings along; a later one may have its ifindex."""
        known = ((name, name.partition(" ")[0]) for name in self._sysctls.changed if " " in name)
        self._sysctls.forget([name for name, index in known if int(index) not in there])
        return []

    def _forward(self, wanted: set[int]) -> list[str]:
        if wanted:
            self._sysctls.note(_ALL_FORWARD)
        problems = self._sysctls.change({of_link(i, _FORWARDING): "1" for i in sorted(wanted)})
        left = [n for n in self._ours(_FORWARDING) if int(n.partition(" ")[0]) not in wanted]
        if read(_ALL_FORWARD) == "1" and self._sysctls.before(_ALL_FORWARD) == "0":
            # Somebody has turned forwarding on for the whole node meanwhile and counts on it: a container engine.
            self._sysctls.forget(left)
        else:
            self._sysctls.restore(left)
        if not wanted:
            self._sysctls.forget([_ALL_FORWARD])
        return [f"IPv4 forwarding stays off: {problem}" for problem in problems]

    def _ignore_dead(self, wanted: set[int]) -> list[str]:
        problems = self._sysctls.change({of_link(i, _LINKDOWN): "1" for i in sorted(wanted)})
        self._sysctls.restore([n for n in self._ours(_LINKDOWN) if int(n.partition(" ")[0]) not in wanted])
        return problems

    def _lower(self, key: str, low: set[int], there: set[int]) -> list[str]:
        """Makes 0 the value that counts on the interfaces `low`, and leaves what counts on the others."""
        name_all, name_default = f"net/ipv4/conf/all/{key}", f"net/ipv4/conf/default/{key}"
        if not low:
            self._sysctls.restore([name_all, name_default, *self._ours(key)])
            return []
        over_all = _number(name_all)
        level = over_all or _as_number(self._sysctls.before(name_all))
        problems: list[str] = []
        if level and _number(name_default) < level:
            # Linux hands a new `default` on to every interface for which nobody has ever set the key, ours among them.
            problems += self._sysctls.change({name_default: str(level)}, [of_link(i, key) for i in there])
        values: dict[str, str] = {}
        for name in (of_link(i, key) for i in sorted(there - low)):
            # One that was low and is so no longer gets back what it had before.
            least = max(level, _as_number(self._sysctls.before(name)))
            if least and _number(name) < least:
                values[name] = str(least)
        if over_all:
            values[name_all] = "0"
        values.update({of_link(i, key): "0" for i in sorted(low)})
        return problems + self._sysctls.change(values)

    def _ours_on(self, key: str) -> set[int]:
        return {int(name.partition(" ")[0]) for name in self._ours(key)}

    def _ours(self, key: str) -> list[str]:
        """What we have changed of this key on interfaces."""
        return [name for name in self._sysctls.changed if name.endswith(f" {key}")]


def _number(name: str) -> int:
    return _as_number(read(name))


def _as_number(value: str | None) -> int:
    return int(value) if value and value.isdecimal() else 0
