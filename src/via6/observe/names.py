"""Names that the administrator gave to numbers: routing tables and route protocols (iproute2's rt_tables, rt_protos).

The kernel speaks numbers only. We read the names where `ip` reads them, so that text pastes from one into the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from via6.model import PROTO_VIA6

TABLES: Final = {253: "default", 254: "main", 255: "local"}

# iproute2's own names, for a machine without /etc/iproute2 (lib/rt_names.c, linux/rtnetlink.h RTPROT_*).
PROTOCOLS: Final = {
    0: "unspec", 1: "redirect", 2: "kernel", 3: "boot", 4: "static", 8: "gated", 9: "ra", 10: "mrt", 11: "zebra",
    12: "bird", 13: "dnrouted", 14: "xorp", 15: "ntk", 16: "dhcp", 18: "keepalived", 42: "babel", 99: "openr",
    186: "bgp", 187: "isis", 188: "ospf", 189: "rip", 192: "eigrp",
}  # fmt: skip

SCOPES: Final = {0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}

METRICS: Final = {
    2: "mtu", 3: "window", 4: "rtt", 5: "rttvar", 6: "ssthresh", 7: "cwnd", 8: "advmss", 9: "reordering",
    10: "hoplimit", 11: "initcwnd", 12: "features", 13: "rto_min", 14: "initrwnd", 15: "quickack",
    17: "fastopen_no_cookie",
}  # fmt: skip
"""RTAX_* (linux/rtnetlink.h) whose value is a number."""
RTAX_LOCK: Final = 1
RTAX_MTU: Final = 2

PREFS: Final = {0: "medium", 1: "high", 3: "low"}  # RFC 4191 2.1, RTA_PREF


@dataclass(frozen=True)
class Names:
    """Names by number. A number without a name is shown, and read, as the number."""

    tables: Mapping[int, str] = field(default_factory=lambda: TABLES)
    protocols: Mapping[int, str] = field(default_factory=lambda: PROTOCOLS)

    def table(self, number: int) -> str:
        return self.tables.get(number) or str(number)

    def protocol(self, number: int) -> str:
        return self.protocols.get(number) or str(number)

    def table_number(self, text: str) -> int | None:
        """Number of a table's name or of its digits; None for a name that nobody gave. 0 is no table."""
        found = number_of(text, 0xFFFFFFFF, self.tables)
        return found or None

    def protocol_number(self, text: str) -> int | None:
        # Our own name works without rt_protos.d/via6.conf as well.
        return PROTO_VIA6 if text == "via6" else number_of(text, 255, self.protocols)


def number_of(text: str, most: int, names: Mapping[int, str]) -> int | None:
    """The number that has this name, or the number that the digits say (decimal, or hexadecimal behind 0x)."""
    for number, name in names.items():
        if name == text:
            return number
    try:
        number = int(text, 16 if text[:2].lower() == "0x" else 10)
    except ValueError:
        return None
    return number if 0 <= number <= most and text.isascii() else None


def parse_names(texts: Iterable[str], known: Mapping[int, str]) -> dict[int, str]:
    """`known`, and over it the names of rt_tables or rt_protos files: lines `NUMBER NAME`, `#` begins a comment.

    Lines that say something else are passed over, as `ip` does. Of two names for one number the later counts.
    """
    names = dict(known)
    for text in texts:
        for line in text.splitlines():
            words = line.split("#", 1)[0].split()
            if len(words) == 2:
                number = number_of(words[0], 0xFFFFFFFF, {})
                if number is not None:
                    names[number] = words[1]
    return names
