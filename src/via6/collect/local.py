"""What is read of this machine besides netlink: sysctls of the namespace, names of tables and protocols, the kernel's
release.

/proc/sys/net shows the network namespace of the *reading thread*, so these functions may be called after
`kernel.netns.enter`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from via6.observe.names import PROTOCOLS, TABLES, Names, parse_names

# iproute2 reads /usr/share (or /usr/lib) first and what the administrator wrote in /etc over it.
_PLACES: Final = ("/usr/lib/iproute2", "/usr/share/iproute2", "/etc/iproute2")


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def _files(name: str, places: Iterable[str]) -> Iterable[str]:
    for place in places:
        paths = [f"{place}/{name}"]
        folder = f"{place}/{name}.d"
        if os.path.isdir(folder):
            paths += sorted(f"{folder}/{file}" for file in os.listdir(folder) if file.endswith(".conf"))
        for path in paths:
            text = _read(path)
            if text is not None:
                yield text


def names(places: Iterable[str] = _PLACES) -> Names:
    """The names of tables and protocols as `ip` of this machine knows them."""
    places = tuple(places)
    return Names(parse_names(_files("rt_tables", places), TABLES), parse_names(_files("rt_protos", places), PROTOCOLS))


def sysctl(name: str) -> int | None:
    """The number in a sysctl, named with slashes: `net/ipv4/conf/eth1/forwarding`. None: not there, or no number."""
    text = _read(f"/proc/sys/{name}")
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def sysctls(names: Iterable[str]) -> dict[str, int]:
    """Those of the named sysctls that exist."""
    found = ((name, sysctl(name)) for name in names)
    return {name: value for name, value in found if value is not None}


def kernel_release() -> str:
    """`6.1.0-18-amd64`."""
    return os.uname().release
