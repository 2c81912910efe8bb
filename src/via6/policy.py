"""What this node announces to its neighbours and what it takes from them.

*Announced* is what the configuration names and the node can reach without Babel; what it cannot reach now, because a
link lost its carrier or a route went, it does not announce now:

- `connected`: the prefixes of addresses on links that work, and the addresses on lo. Never 169.254/16, nor what no
  router should see (`config_babel.is_martian`).
- `static`: routes of the main table that were typed in (protocols static and boot) and those that this configuration
  declares, if they lead anywhere; not the default route, which has its own word.
- a prefix by itself: while the node has that address, or a route to it or to a shorter prefix around it. The default
  route does not count as such, or every prefix would be reachable always. A route that drops (`unreachable`,
  `blackhole`) is the usual way to announce the sum of longer prefixes: it counts while one of these is reachable.
- a default route by itself, and that of `[gateway]`: while there is one that is not Babel's.
- the addresses of `[[host]]` entries while the host answers, which the caller knows.

So a default of "nothing" holds: an IPv4 island is not reachable by accident.

*Taken* is what `import` says; never martians, and never what is our own: what we announce, what is connected, our
addresses. Our own is what it is at the moment: when the link to a connected network dies, that network is learnt from
the other router on it. A default route is not taken while the node has another one, unless a rule names it.

Everything here is a function of the View and the configuration. `Standing` keeps the last answer and says what has
changed; where routes alone have changed it asks for those prefixes alone, for there may be a million of them.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import chain, repeat
from typing import Final

from via6.config import BabelSpec, Config, Rule
from via6.config_babel import is_martian
from via6.model import (
    IFA_F_DADFAILED,
    IFA_F_TENTATIVE,
    PROTO_BOOT,
    PROTO_STATIC,
    PROTO_VIA6,
    InterfaceAddress,
    Route,
)
from via6.prefix import Address, Prefix, PrefixMap, mask
from via6.view import View

Statics = PrefixMap[Route]
"""The routes that this configuration declares and that are in force now, in the main table."""

_NO_STATICS: Final[Statics] = PrefixMap()
_BY_HAND: Final = frozenset({PROTO_BOOT, PROTO_STATIC})
_DROPS: Final = ("blackhole", "unreachable", "prohibit")
_DEFAULTS: Final = {4: Prefix(bytes(4), 0), 16: Prefix(bytes(16), 0)}
_PIECE: Final = 1 << 14
_IFA_F_NOPREFIXROUTE: Final = 0x200  # linux/if_addr.h


class _Order:
    """Finds the first rule that fits without trying those that name other prefixes: there may be thousands."""

    __slots__ = ("_general", "_named", "_rules")

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._rules = rules
        self._named: dict[Prefix, list[int]] = {}
        self._general: list[int] = []
        for index, rule in enumerate(rules):
            for prefix in rule.prefixes:
                self._named.setdefault(prefix, []).append(index)
            if not rule.prefixes:
                self._general.append(index)

    def first(self, prefix: Prefix, origins: frozenset[str] | set[str] = frozenset()) -> Rule | None:
        """`origins` are the words by which the prefix goes, beside "any"."""
        named = self._named.get(prefix)
        for index in sorted(self._general + named) if named else self._general:
            rule = self._rules[index]
            if (rule.source == "any" or rule.source in origins) and rule.fits(prefix):
                return rule
        return None


@dataclass(frozen=True, slots=True)
class Import:
    """Which prefixes are taken; equal if it would say the same, but for what is announced. `rules` None: the default
    policy. `own` are addresses and connected networks. `defaults` are the sizes of addresses (4, 16) for which the node
    has a default route that is not Babel's."""

    families: frozenset[int]
    rules: tuple[Rule, ...] | None = None
    own: frozenset[Prefix] = frozenset()
    defaults: frozenset[int] = frozenset()
    announced: Container[Prefix] = field(default=(), compare=False)
    _order: _Order = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_order", _Order(self.rules or ()))

    def accepts(self, prefix: Prefix) -> bool:
        """A route to this prefix may be taken from a neighbour."""
        size = len(prefix.packed)
        if size not in self.families or prefix in self.own or prefix in self.announced or is_martian(prefix):
            return False
        second = not prefix.length and size in self.defaults
        if self.rules is None:
            return not second
        rule = self._order.first(prefix)
        return rule is not None and not rule.deny and (not second or prefix in rule.prefixes)


class Standing:
    """What holds now: `announce` is every prefix that we originate, with its metric; `source` the IPv4 address that our
    own packets take by Babel's routes (None: let the kernel choose)."""

    def __init__(self) -> None:
        self.announce: dict[Prefix, int] = {}
        self.imports = Import(frozenset())
        self.source: Address | None = None
        self._basis: tuple[object, ...] = ()
        self._todo: PrefixMap[None] = PrefixMap()

    @property
    def decided(self) -> bool:
        """There is an answer."""
        return bool(self._basis)

    @property
    def complete(self) -> bool:
        """Every prefix that was touched has been looked at."""
        return not len(self._todo)

    def follow(
        self,
        view: View,
        config: Config,
        *,
        statics: Statics = _NO_STATICS,
        hosts: Iterable[Address] = (),
        most: int = _PIECE,
    ) -> tuple[dict[Prefix, int | None], bool]:
        """What is announced otherwise than at the last call (None: not any more), and whether what is taken has changed
        for other prefixes than these, too. `hosts` are the addresses of `[[host]]` entries whose host answers. At most
        `most` prefixes are looked at; until it is `complete`, there is more to come."""
        hosts = frozenset(hosts)
        touched = view.take_touched()
        basis = view, config, dict(statics.items()), hosts
        if touched is None or basis != self._basis:
            touched = view.by_hand()
            for prefix in chain((Prefix(host, 32) for host in hosts), connected(view), statics.keys(), self.announce):
                touched[prefix] = None
            self._todo = touched
        else:
            self._todo.absorb(touched)
        self._basis = basis
        piece = self._todo.take(most)
        _add_named(piece, config)
        now = announced(view, config, statics=statics, hosts=hosts, among=piece)
        before = self.announce
        changes: dict[Prefix, int | None] = {p: metric for p, metric in now.items() if before.get(p) != metric}
        if len(now) < len(piece):
            changes.update((prefix, None) for prefix, _ in piece.items() if prefix in before and prefix not in now)
        for prefix, metric in changes.items():
            if metric is None:
                del self.announce[prefix]
            else:
                self.announce[prefix] = metric
        taken, self.imports = self.imports, imported(view, config, self.announce, statics=statics)
        self.source = source(view, config, self.announce)
        return changes, taken != self.imports


def _add_named(touched: PrefixMap[None], config: Config) -> None:
    """What follows from other routes than that to the prefix itself is asked for always."""
    for rule in config.babel.exports if config.babel is not None else ():
        for prefix in rule.prefixes:
            touched[prefix] = None
    for prefix in _DEFAULTS.values():
        touched[prefix] = None


# --- what is announced ---------------------------------------------------------------------------------------------


def announced(
    view: View,
    config: Config,
    *,
    statics: Statics = _NO_STATICS,
    hosts: Iterable[Address] = (),
    among: PrefixMap[None] | None = None,
) -> dict[Prefix, int]:
    """Every prefix that we originate now, or those of them that are `among` these, with its metric."""
    babel = config.babel
    if babel is None:
        return {}
    found = {}
    first = _Order(babel.exports).first
    for prefix, origins in _candidates(view, babel, statics, among).items():
        rule = first(prefix, origins)
        if rule is not None and not rule.deny:
            found[prefix] = rule.metric
    gateway = config.gateway
    if gateway is not None and 4 in babel.families:
        found.pop(_DEFAULTS[4], None)  # always `among`
        if has_default(view, 4, statics=statics, uplink=gateway.uplink):
            found[_DEFAULTS[4]] = gateway.metric
    if 4 in babel.families:
        for address in hosts:
            prefix = Prefix(address, 32)
            if among is None or prefix in among:
                found.setdefault(prefix, 0)
    return found


def _candidates(
    view: View, babel: BabelSpec, statics: Statics, among: PrefixMap[None] | None
) -> dict[Prefix, frozenset[str]]:
    """What any rule may announce, with the words it goes by."""
    wanted = {rule.source for rule in babel.exports if not rule.deny}
    linked = frozenset(connected(view))
    found: dict[Prefix, frozenset[str]] = {}
    if "connected" in wanted:
        _mark(found, "connected", (prefix for prefix in linked if among is None or prefix in among))
    if "static" in wanted:
        _mark(found, "static", _static(view, statics, among))
    named = {prefix for rule in babel.exports if rule.source == "prefix" for prefix in rule.prefixes}
    _mark(found, "prefix", (prefix for prefix in named if _reaches(view, prefix, statics, linked)))
    sizes = babel.families
    return {p: origins for p, origins in found.items() if len(p[0]) in sizes and not is_martian(p)}


def _mark(found: dict[Prefix, frozenset[str]], word: str, prefixes: Iterable[Prefix]) -> None:
    alone = frozenset({word})
    new = dict.fromkeys(prefixes, alone)
    for prefix in found.keys() & new.keys():
        new[prefix] = found[prefix] | alone
    found.update(new)


def connected(view: View) -> Iterable[Prefix]:
    """The prefixes of our addresses on links that work, of both families; on lo the addresses by themselves."""
    for address in view.inventory():
        for prefix in _prefixes(view, address):
            if not is_martian(prefix):
                yield prefix


def _prefixes(view: View, own: InterfaceAddress) -> Iterable[Prefix]:
    link = view.links.get(own.ifindex)
    if link is None or not link.carrier or own.flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED):
        return ()
    master = view.links.get(link.master)
    if master is not None and master.kind == "vrf":  # another routing table, another world
        return ()
    itself = Prefix(own.address, len(own.address) * 8)
    if link.loopback or own.flags & _IFA_F_NOPREFIXROUTE:
        return (itself,)
    if own.peer is not None and own.peer != own.address:
        return itself, Prefix(mask(own.peer, own.length), own.length)
    return (Prefix(mask(own.address, own.length), own.length),)


def _static(view: View, statics: Statics, among: PrefixMap[None] | None) -> Iterable[Prefix]:
    for size in (4, 16):
        for block in view.routes(size, _BY_HAND, among):
            length = block.template.prefix.length
            if length and block.template.type == "unicast" and view.usable(block.template):
                yield from map(Prefix._make, zip(block.destinations, repeat(length)))
    # Of a hundred thousand declared routes most share their next hops, as one object: that is looked at once.
    usable: dict[int, bool] = {}
    for prefix, route in statics.items():
        if prefix.length and route.type == "unicast":
            key = -route.nhid or id(route.next_hops)
            if key not in usable:
                usable[key] = view.usable(route)
            if usable[key] and (among is None or prefix in among):
                yield prefix


def _foreign(view: View, prefix: Prefix, statics: Statics) -> list[Route]:
    """Routes to exactly this prefix that are not Babel's, in the kernel's order."""
    declared = statics.get(prefix)
    others = [route for route in view.at(prefix) if route.protocol != PROTO_VIA6]
    return sorted([*others, *([declared] if declared is not None else [])], key=lambda route: route.metric)


def _reaches(view: View, prefix: Prefix, statics: Statics, linked: frozenset[Prefix]) -> bool:
    """The node can send to every address of the prefix without Babel."""
    if not prefix.length:
        return has_default(view, len(prefix.packed), statics=statics)
    if prefix in linked or view.owns(prefix):
        return True
    for length in range(prefix.length, 0, -1):
        outer = Prefix(mask(prefix.packed, length), length)
        routes = _foreign(view, outer, statics)
        if not routes:
            if outer in linked:
                return True
            continue
        # What leads nowhere hides the shorter prefixes behind it: the kernel does not look on.
        for route in routes:
            if route.type == "unicast" and view.usable(route):
                return True
            if route.type != "unicast":
                return length == prefix.length and route.type in _DROPS and _sums_up(view, prefix, statics, linked)
        return False
    return False


def _sums_up(view: View, prefix: Prefix, statics: Statics, linked: frozenset[Prefix]) -> bool:
    """A longer prefix within this one is reachable."""
    if any(prefix.covers(inner) for inner in linked):
        return True
    for block in view.routes(len(prefix.packed)):
        template = block.template
        longer = template.prefix.length > prefix.length and template.protocol != PROTO_VIA6
        if longer and _leads(view, template) and any(d in prefix for d in block.destinations):
            return True
    inner = (route for at, route in statics.items() if at.length > prefix.length and prefix.covers(at))
    return any(_leads(view, route) for route in inner)


def _leads(view: View, route: Route) -> bool:
    return route.type == "unicast" and view.usable(route)


def has_default(view: View, size: int, *, statics: Statics = _NO_STATICS, uplink: str = "") -> bool:
    """There is a default route for addresses of `size` octets that is not Babel's, leading out by a link that works
    and whose name matches `uplink`."""
    for route in _foreign(view, _DEFAULTS[size], statics):
        out = [view.links.get(hop.ifindex) for hop in view.hops(route)]
        alive = [link for link in out if link is not None and link.carrier and not link.loopback]
        if route.type == "unicast" and any(not uplink or fnmatchcase(link.name, uplink) for link in alive):
            return True
    return False


# --- what is taken -------------------------------------------------------------------------------------------------


def imported(view: View, config: Config, announce: Container[Prefix], *, statics: Statics = _NO_STATICS) -> Import:
    """What is taken from neighbours while we announce these."""
    babel = config.babel
    if babel is None:
        return Import(frozenset())
    own = {Prefix(a.address, len(a.address) * 8) for a in view.inventory() if len(a.address) in babel.families}
    own |= {prefix for prefix in connected(view) if len(prefix.packed) in babel.families}
    if config.node.address is not None:
        own.add(Prefix(config.node.address, 32))
    defaults = frozenset(size for size in babel.families if has_default(view, size, statics=statics))
    return Import(babel.families, babel.imports, frozenset(own), defaults, announce)


def source(view: View, config: Config, announce: Container[Prefix]) -> Address | None:
    """The IPv4 address that others can answer to: that of the node, else one of an announced network, on lo first."""
    if config.node.address is not None:
        return config.node.address
    found = []
    for own in view.inventory():
        link = view.links.get(own.ifindex)
        if len(own.address) == 4 and link is not None and any(
            prefix in announce for prefix in (*_prefixes(view, own), Prefix(own.address, 32))
        ):  # fmt: skip
            found.append((not link.loopback, own.ifindex, own.address))
    return min(found)[2] if found else None
