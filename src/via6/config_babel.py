"""What a configuration says about the Babel speaker, as values: `[node]`, `[babel]`, `[gateway]` and `[[host]]`.

Two habits run through it. Rules are tried in order and the first that fits decides. Tables for interfaces are applied
in the order of the file, each over those before it, key by key: the last that matches wins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final

from via6.babel.model import Key, LinkSettings
from via6.config_text import Problem
from via6.prefix import Address, Prefix, parse_prefix

KERNEL_METRIC: Final = 460
"""Behind what is connected (0) and what is usually typed in, before what DHCP clients and network managers add."""

IPV4: Final = frozenset({4})

ALGORITHMS: Final = {"hmac-sha256": 64, "blake2s128": 32}
"""Algorithms of RFC 8967 and the longest key of each, in octets (RFC 9046 section 3.8)."""

WEAK_BELOW: Final = 16
"""A secret of fewer octets can be guessed."""
MAX_KEYS: Final = 8
"""Keys of one interface: each signs every packet."""
MAX_GLOBS: Final = 1000
"""Names and patterns of interfaces, and tables for them."""
MAX_KEY_FILE: Final = 64 << 10

_MARTIANS: Final = tuple(
    map(
        parse_prefix,
        ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "224.0.0.0/3",
         "::/128", "::1/128", "::ffff:0:0/96", "fe80::/10", "ff00::/8"),
    )
)  # fmt: skip
_SUSPECT: Final = {4: frozenset({0, 127, 169, 192, *range(224, 256)}), 16: frozenset({0, 0xFE, 0xFF})}
"""First octets of martians: a table of a million routes is asked about one by one."""


def is_martian(prefix: Prefix) -> bool:
    """No router should hear of it: this network, loopback, link-local, the dummy addresses of RFC 7600 and its like,
    multicast and class E (RFC 6890), and their IPv6 analogues. A default route is none."""
    if prefix.packed[0] not in _SUSPECT[len(prefix.packed)]:
        return False
    return any(martian.covers(prefix) for martian in _MARTIANS)


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """`[node]`. `address` is the IPv4 address (4 octets) that the node has for itself: put on lo while via6 runs, and
    source of its packets. `name` is for people ('': the host's)."""

    name: str = ""
    address: Address | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of `export` or `import`: it fits a prefix that comes from `source`, is one of `prefixes` (empty: any),
    lies within one of `within` (empty: anywhere) and is `shortest` to `longest` bits long.

    `source` is connected, static, default, prefix (the very `prefixes`, whatever they are reached by) or any. `metric`
    is what an exported prefix is announced with; `deny` turns the rule round.
    """

    source: str = "any"
    prefixes: tuple[Prefix, ...] = ()
    within: tuple[Prefix, ...] = ()
    shortest: int = 0
    longest: int = 128
    metric: int = 0
    deny: bool = False

    def fits(self, prefix: Prefix) -> bool:
        """All but `source`."""
        return (
            self.shortest <= prefix.length <= self.longest
            and (not self.prefixes or prefix in self.prefixes)
            and (not self.within or any(outer.covers(prefix) for outer in self.within))
        )


@dataclass(frozen=True, slots=True)
class KeySpec:
    """`[[babel.key]]`: a key that stands in the configuration, or (`secret` empty) is that of its name in `file`."""

    name: str
    algorithm: str = ""
    secret: bytes = field(default=b"", repr=False)
    file: str = ""


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """What `[babel]` or one `[babel.interface."GLOB"]` sets for interfaces; None: it does not say. `keys` are names of
    keys, or paths of key files (a path has a slash); () is: no key here."""

    cost: int | None = None
    hello_interval_ms: int | None = None
    update_interval_ms: int | None = None
    split_horizon: bool | None = None
    keys: tuple[str, ...] | None = None
    accept_all: bool | None = None


@lru_cache(4096)
def _speaks(globs: tuple[str, ...], name: str) -> bool:
    wanted = any(fnmatchcase(name, glob) for glob in globs if not glob.startswith("!"))
    return wanted and not any(fnmatchcase(name, glob[1:]) for glob in globs if glob.startswith("!"))


@dataclass(frozen=True, slots=True)
class BabelSpec:
    """`[babel]`. `interfaces` are globs, those with `!` in front take away again; `families` sizes of addresses (4,
    16). `imports` None: take what is sensible (`policy`). `interface` is in the order of the file.

    `files` has what the edge read from `key_files`; until then `link` cannot say which keys there are.
    """

    interfaces: tuple[str, ...]
    exports: tuple[Rule, ...] = ()
    imports: tuple[Rule, ...] | None = None
    families: frozenset[int] = IPV4
    kernel_metric: int = KERNEL_METRIC
    common: LinkSpec = LinkSpec()
    interface: tuple[tuple[str, LinkSpec], ...] = ()
    keys: tuple[KeySpec, ...] = ()
    files: tuple[tuple[str, tuple[Key, ...]], ...] = ()

    def speaks_on(self, name: str) -> bool:
        """Babel is wanted on an interface of this name (never on a loopback: that is for the caller to see)."""
        return _speaks(self.interfaces, name)

    def link(self, name: str) -> LinkSettings | None:
        """The settings of an interface; None if Babel is not spoken there. Raises LookupError if a key file that it
        needs was not read."""
        if not self.speaks_on(name):
            return None
        settings = LinkSettings()
        names: tuple[str, ...] = ()
        for glob, spec in (("*", self.common), *self.interface):
            if not fnmatchcase(name, glob):
                continue
            given = {
                key: value
                for key in ("cost", "hello_interval_ms", "update_interval_ms", "split_horizon", "accept_all")
                if (value := getattr(spec, key)) is not None
            }
            settings = replace(settings, **given)
            names = names if spec.keys is None else spec.keys
        return replace(settings, keys=self._resolved(names))

    def _resolved(self, names: tuple[str, ...]) -> tuple[Key, ...]:
        """Keys in order, each name once."""
        files = dict(self.files)
        table = {spec.name: spec for spec in self.keys}
        found: dict[str, Key] = {}
        for name in names:
            if "/" in name:
                keys = files[name]
            elif table[name].file:
                keys = tuple(key for key in files[table[name].file] if key.name == name)
            else:
                keys = (Key(name, table[name].algorithm, table[name].secret),)
            for key in keys:
                found.setdefault(key.name, key)
        return tuple(found.values())

    @property
    def key_files(self) -> tuple[str, ...]:
        """Paths that must be read before `link` can be asked."""
        used = [name for spec in (self.common, *(s for _, s in self.interface)) for name in spec.keys or ()]
        return tuple(dict.fromkeys([*(n for n in used if "/" in n), *(k.file for k in self.keys if k.file)]))


@dataclass(frozen=True, slots=True)
class GatewaySpec:
    """`[gateway]`: announce 0.0.0.0/0 with `metric` while there is an IPv4 default route that is not Babel's, and leads
    out by `uplink` (a glob; '': anywhere). `masquerade`: translate what leaves there."""

    masquerade: bool = False
    uplink: str = ""
    metric: int = 0


@dataclass(frozen=True, slots=True)
class TraceSpec:
    """`[trace]`: whether questions of other nodes where a packet goes are answered, and on which interfaces (globs)
    they are asked and answered besides those on which Babel is spoken."""

    answer: bool = True
    interfaces: tuple[str, ...] = ()

    def asks_on(self, name: str) -> bool:
        """An interface of this name is among `interfaces`."""
        return _speaks(self.interfaces, name)


@dataclass(frozen=True, slots=True)
class HostSpec:
    """`[[host]]`: IPv4 addresses (4 octets each) that a host on the link `interface` has. It is the neighbour with this
    `mac` (6 octets) or IPv6 address `via`; with neither it speaks Babel itself and may announce these and no others.
    `place` is file, line and path, for messages."""

    addresses: tuple[Address, ...]
    interface: str
    mac: bytes | None = None
    via: Address | None = None
    place: str = ""

    @property
    def speaks(self) -> bool:
        """The host announces its addresses by Babel."""
        return self.mac is None and self.via is None


# --- keys ----------------------------------------------------------------------------------------------------------


def secret_fault(algorithm: str, text: str) -> str:
    """Why a secret in hexadecimal is of no use; '' if it is. The secret itself is never shown."""
    longest = ALGORITHMS.get(algorithm, 64)
    if not re.fullmatch("(?:[0-9a-fA-F]{2})+", text):
        return "the secret is not hexadecimal: two digits 0-9 or a-f for each octet"
    if len(text) // 2 > longest:
        return f"the secret has {len(text) // 2} octets: {algorithm} takes {longest} at most"
    return ""


def name_fault(name: str) -> str:
    """Why a key cannot be called so; '' if it can."""
    if not name or len(name) > 64 or any(c in "/#" or c.isspace() or not c.isprintable() for c in name):
        return f"{name[:80]!r} is no name of a key: 1 to 64 characters, without blanks, '/' and '#'"
    return ""


def parse_keys(data: bytes, name: str) -> tuple[tuple[Key, ...], list[Problem]]:
    """A key file: a key on each line, `NAME ALGORITHM SECRET`, the secret in hexadecimal; `#` begins a comment. All of
    its mistakes at once; never raises."""
    keys: dict[str, Key] = {}
    problems: list[Problem] = []
    remedy = f"a line is NAME ALGORITHM SECRET, such as: backbone hmac-sha256 {'0123456789abcdef' * 2}"
    lines = data[:MAX_KEY_FILE].decode(errors="surrogateescape").splitlines()
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 3:
            problems.append(Problem("", f"{len(words)} words, not three", remedy, number, file=name))
            continue
        key, algorithm, secret = words
        fault = name_fault(key) or ("" if algorithm in ALGORITHMS else f"unknown algorithm {algorithm[:80]!r}")
        fault = fault or secret_fault(algorithm, secret) or (f"the key {key!r} stands twice" if key in keys else "")
        if fault:
            help_ = "known algorithms: " + ", ".join(ALGORITHMS) if "algorithm" in fault else remedy
            problems.append(Problem("", fault, help_, number, file=name))
        else:
            keys[key] = Key(key, algorithm, bytes.fromhex(secret))
    if len(data) > MAX_KEY_FILE:
        problems.append(Problem("", f"is larger than {MAX_KEY_FILE >> 10} KB", "is it a key file?", 0, file=name))
    elif not keys and not problems:
        problems.append(Problem("", "has no key in it", remedy, 0, file=name))
    return tuple(keys.values()), problems
