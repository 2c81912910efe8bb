"""What a packet filter does with five classes of packets, without running it.

A chain is walked with what is known of every packet of the class; a match that some of them may pass and others not is
a *maybe*. So a walk has a set of ends. All accept: `accept`. All drop: `drop`. Else it depends on the packet:
`unknown`, and `evidence` names the rules on which. Then packets of single interfaces are looked at: what of them is
surely dropped, such as all that passes between two of them (`shut`). Nothing is known of ports, states of connections
and sets. Where it is addresses or devices that forwarded IPv4 depends on, the chains are kept (`kept`), so that one
packet can be asked about (`of_packet`).
`accept` ends its own chain only; a packet lives when all chains on its way let it.

nft's JSON (`nft.py`) and `iptables-save` (`iptables.py`) are read into the same chains.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from via6.observe.node import ACCEPT, DROP, UNKNOWN, Firewall, Shut
from via6.prefix import AF_INET, AF_INET6, Address, Prefix, parse_address

YES: Final = "yes"
NO: Final = "no"
MAYBE: Final = "maybe"

FALL: Final = "fall"  # the chain goes on behind the rule, or ends without a verdict
RETURN: Final = "return"
JUMP: Final = "jump"
GOTO: Final = "goto"
ANY: Final = "any"  # nobody knows what it does

_DEEPEST: Final = 32
_MOST_EVIDENCE: Final = 16
_LONGEST: Final = 200
_MOST_KINDS: Final = 12  # of interfaces that the rules tell apart
_MOST_SHUT: Final = 256
_MOST_RULES: Final = 512
_MOST_VALUES: Final = 4096
_OF_PACKET: Final = frozenset({"saddr", "daddr", "iif", "oif"})


@dataclass(frozen=True, slots=True)
class Test:
    """What a rule asks of a packet: that its `key` is (or with `invert`, is not) among `values`; of the keys `iif` and
    `oif` names of devices (`eth*`: all that begin so), of `state` words. A key that is not known of the class is a
    maybe, and so is one without values. `family` and `l4` are what the question takes for granted."""

    key: str = ""
    values: tuple[Prefix | tuple[int, int] | str, ...] = ()
    invert: bool = False
    family: int = 0
    l4: int = -1


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end of a rule: accept, drop, FALL, RETURN, ANY, or JUMP or GOTO `chain`."""

    kind: str = FALL
    chain: str = ""


@dataclass(frozen=True, slots=True)
class RuleLine:
    """A rule: all tests, then one of the verdicts (several: nobody knows which)."""

    tests: tuple[Test, ...] = ()
    verdicts: tuple[Verdict, ...] = (Verdict(),)
    text: str = ""


@dataclass(slots=True)
class Chain:
    """A chain; `hook` is "" for one that is only jumped to. `family`: AF_*, 0 for both. `where` names it to people.
    `devices` are those that it is hung on (None: all; empty: some, nobody knows which)."""

    where: str
    hook: str = ""
    family: int = 0
    policy: str = ACCEPT
    devices: tuple[str, ...] | None = None
    rules: list[RuleLine] = field(default_factory=list)


_MAYBE: Final = Test("?")

Ruleset = Mapping[str, Chain]
"""The chains of one table by name."""


@dataclass(frozen=True, slots=True)
class Packets:
    """A class, or one packet: what is true of each. `hooks` are those on its way. `iif` and `oif` are its interfaces
    ("": any), `state` that of its connection, `beneath` those that packets may pass below an interface, such as the
    members of a bridge. Numbers by key, those that are known."""

    family: int
    hooks: tuple[str, ...]
    l4: int = -1
    source: Address | None = None
    destination: Address | None = None
    iif: str = ""
    oif: str = ""
    numbers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    state: str = ""
    beneath: Mapping[str, Collection[str]] = field(default_factory=dict)


_FORWARDED: Final = ("ingress", "prerouting", "forward", "postrouting", "egress")
_RECEIVED: Final = ("ingress", "prerouting", "input")
_SENT: Final = ("output", "postrouting", "egress")
_UNROUTED: Final = ("ingress", "prerouting", "input")  # hooks that know no interface to leave by
_ICMP, _UDP, _BABEL = 1, 17, 6696
CLASSES: Final = {
    "forward4": (Packets(AF_INET, _FORWARDED),),
    "icmp4": (
        Packets(AF_INET, _FORWARDED, _ICMP, numbers={"icmp.type": (3, 11, 12)}),
        Packets(AF_INET, _RECEIVED, _ICMP, numbers={"icmp.type": (3, 11, 12)}),
        Packets(AF_INET, _SENT, _ICMP, numbers={"icmp.type": (3, 11, 12)}),
    ),
    "dummy4": (
        Packets(AF_INET, _FORWARDED, _ICMP, parse_address("192.0.0.8"), numbers={"icmp.type": (3, 11, 12)}),
        Packets(AF_INET, _RECEIVED, _ICMP, parse_address("192.0.0.8"), numbers={"icmp.type": (3, 11, 12)}),
    ),
    "babel": (
        Packets(AF_INET6, _RECEIVED, _UDP, numbers={"dport": (_BABEL,), "sport": (_BABEL,)}),
        Packets(AF_INET6, _SENT, _UDP, numbers={"dport": (_BABEL,), "sport": (_BABEL,)}),
    ),
    "own4": (Packets(AF_INET, _RECEIVED),),
}  # fmt: skip
"""The classes of `node.Firewall`; each is decided on all its ways."""
STRAY: Final = "stray4"
_STRAY: Final = (Packets(AF_INET, _FORWARDED, state="invalid"),)
"""What is forwarded of a connection that the node has not seen the beginning of: its other direction goes elsewhere."""


def judge(rulesets: Iterable[Ruleset], devices: Iterable[str] = ()) -> Firewall:
    """The verdict of all tables together on each class, and on the packets of these interfaces."""
    tables = list(rulesets)
    evidence: dict[str, None] = {}
    found: dict[str, str] = {}
    shut: list[Shut] = []
    kinds = _kinds(tables, devices)
    for name, ways in CLASSES.items():
        found[name], maybe, surely = _of_class(tables, ways)
        if name != "own4" or found[name] == DROP:  # that some is dropped that comes to a node is as usual
            evidence.update(dict.fromkeys(maybe))
        if found[name] == DROP:
            shut.append(Shut(name, _short(surely)))
        elif found[name] == UNKNOWN:
            shut += _of_devices(tables, name, kinds)
    verdict, _, surely = _of_class(tables, _STRAY)
    if verdict == DROP and found["forward4"] != DROP:
        shut.append(Shut(STRAY, _short(surely)))
    shown = [_cut(text) for text in list(evidence)[:_MOST_EVIDENCE]]
    if len(evidence) > _MOST_EVIDENCE:
        shown.append(f"and {len(evidence) - _MOST_EVIDENCE} more")
    made = Firewall(
        found["forward4"], found["icmp4"], found["dummy4"], found["babel"], tuple(shown), own4=found["own4"]
    )
    chains = kept(tables) if made.forward4 == UNKNOWN else ()
    return replace(made, shut=tuple(shut[:_MOST_SHUT]), filter=chains)


def _cut(text: str) -> str:
    """Between words: half an address is not known as one, and a mask would let it pass."""
    return text if len(text) <= _LONGEST else text[:_LONGEST].rpartition(" ")[0] + " …"


def _short(rules: Iterable[str]) -> tuple[str, ...]:
    return tuple(_cut(text) for text in dict.fromkeys(rules))[:_MOST_EVIDENCE]


def _of_class(tables: Sequence[Ruleset], ways: Iterable[Packets]) -> tuple[str, list[str], list[str]]:
    """(verdict, the rules that drop some or all, those of the chains that surely drop all)."""
    worst = ACCEPT
    maybe: list[str] = []
    surely: list[str] = []
    for packets in ways:
        for table in tables:
            for chain in table.values():
                if chain.hook not in packets.hooks or chain.family not in (0, packets.family):
                    continue
                walk = _Walk(table, packets)
                ends = walk.base(chain)
                if DROP in ends:
                    maybe += walk.evidence
                    worst = DROP if ends == {DROP} or worst == DROP else UNKNOWN
                if ends == {DROP}:
                    surely += walk.evidence
    return worst, maybe, surely


# --- packets of single interfaces ----------------------------------------------------------------------------------


def _kinds(tables: Sequence[Ruleset], devices: Iterable[str]) -> list[list[str]]:
    """The interfaces, those together that the rules do not tell apart. None if no rule looks at one, or if there are
    too many kinds."""
    names: set[str] = set()
    for table in tables:
        for chain in table.values():
            names.update(chain.devices or ())
            tests = (test for rule in chain.rules for test in rule.tests if test.key != "state")
            names.update(value for test in tests for value in test.values if isinstance(value, str))
    by_kind: dict[frozenset[str], list[str]] = {}
    for device in devices if names else ():
        by_kind.setdefault(frozenset(name for name in names if _named(device, (name,))), []).append(device)
    return list(by_kind.values()) if len(by_kind) <= _MOST_KINDS else []


def _named(device: str, names: Iterable[str]) -> bool:
    return any(device.startswith(name[:-1]) if name.endswith("*") else device == name for name in names)


def _of_devices(tables: Sequence[Ruleset], name: str, kinds: Sequence[Sequence[str]]) -> Iterator[Shut]:
    """What of a class is surely dropped: forwarded IPv4 by both interfaces, of the other classes by one."""
    ways = CLASSES[name]
    if name == "forward4":
        for kind in kinds:
            for other in kinds:
                pairs = [(a, b) for a in kind for b in other if a != b]
                if pairs:
                    yield from _surely(tables, name, [replace(ways[0], iif=pairs[0][0], oif=pairs[0][1])], pairs)
        return
    for kind in kinds:
        coming = [replace(way, iif=kind[0]) for way in ways if way.hooks != _SENT]
        yield from _surely(tables, name, coming, [(one, "") for one in kind])
        leaving = [replace(way, oif=kind[0]) for way in ways if way.hooks != _RECEIVED]
        yield from _surely(tables, name, leaving, [("", one) for one in kind])


def _surely(
    tables: Sequence[Ruleset], name: str, ways: Sequence[Packets], pairs: Iterable[tuple[str, str]]
) -> Iterator[Shut]:
    verdict, _, rules = _of_class(tables, ways)
    if verdict == DROP:
        yield from (Shut(name, _short(rules), into, out) for into, out in pairs)


# --- one packet ----------------------------------------------------------------------------------------------------


def kept(tables: Iterable[Ruleset]) -> tuple[Ruleset, ...]:
    """The chains that forwarded IPv4 passes, without what is true or false of all of it; () if that is too much."""
    (packets,) = CLASSES["forward4"]
    found: list[Ruleset] = []
    rules = values = 0
    for table in tables:
        todo = [name for name, c in table.items() if c.hook in packets.hooks and c.family in (0, packets.family)]
        chains: dict[str, Chain] = {}
        while todo:
            name = todo.pop()
            if name not in table or name in chains:
                continue
            chain = chains[name] = replace(table[name], family=0, rules=list(_plain(table[name].rules, packets)))
            todo += [verdict.chain for rule in chain.rules for verdict in rule.verdicts if verdict.chain]
            rules += len(chain.rules)
            values += sum(len(test.values) for rule in chain.rules for test in rule.tests)
        if any(chain.hook for chain in chains.values()):
            found.append(dict(sorted(chains.items())))
    return tuple(found) if rules <= _MOST_RULES and values <= _MOST_VALUES else ()


def _plain(rules: Iterable[RuleLine], packets: Packets) -> Iterable[RuleLine]:
    for rule in rules:
        if passes(rule.tests, packets) == NO:
            continue
        tests = [
            Test(test.key, test.values, test.invert) if test.key in _OF_PACKET and test.l4 < 0 else _MAYBE
            for test in rule.tests
            if _passes(test, packets) != YES
        ]
        yield RuleLine(tuple(dict.fromkeys(tests)), rule.verdicts, _cut(rule.text))


def of_packet(tables: Sequence[Ruleset], packets: Packets) -> tuple[str, str]:
    """(accept, drop or unknown, the rules on which it rests) of one packet that is forwarded."""
    verdict, maybe, surely = _of_class(tables, (packets,))
    return verdict, "; ".join(list(dict.fromkeys(surely if verdict == DROP else maybe))[:2])


# --- one chain -----------------------------------------------------------------------------------------------------


class _Walk:
    """One class of packets through one chain and those that it jumps to."""

    def __init__(self, table: Ruleset, packets: Packets) -> None:
        self._table = table
        self._packets = packets
        self.evidence: list[str] = []
        self._ends: dict[str, set[str]] = {}

    def base(self, chain: Chain) -> set[str]:
        """Accept, drop or both."""
        device = self._packets.oif if chain.hook == "egress" else self._packets.iif
        sure = chain.devices is None
        if chain.devices and device:
            sure = _named(device, chain.devices)
            beneath = self._packets.beneath.get(device, ())
            if not sure and not any(_named(one, chain.devices) for one in beneath):
                return {ACCEPT}
            if not sure:  # there it may be known by another interface, and with another head
                self._packets = replace(self._packets, iif="", oif="")
        if chain.hook in _UNROUTED:
            self._packets = replace(self._packets, oif="")
        if chain.hook == "egress":  # which does not know where it came in
            self._packets = replace(self._packets, iif="")
        ends = self._chain(chain, 0)
        if FALL in ends:
            ends = ends - {FALL} | {chain.policy}
            if chain.policy == DROP:
                self.evidence.append(f"{chain.where}: policy drop")
        return ends if sure else ends | {ACCEPT}

    def _chain(self, chain: Chain, depth: int) -> set[str]:
        if depth > _DEEPEST:
            return {ACCEPT, DROP}
        ends: set[str] = set()
        for rule in chain.rules:
            matched = passes(rule.tests, self._packets)
            if matched == NO:
                continue
            said: set[str] = set()
            for verdict in rule.verdicts:
                said |= self._verdict(verdict, depth)
            if DROP in said:
                self.evidence.append(f"{chain.where}: {rule.text}".rstrip(": "))
            ends |= said - {FALL, RETURN}
            if RETURN in said:
                ends.add(FALL)
            if matched == YES and FALL not in said:
                return ends
        return ends | {FALL}

    def _verdict(self, verdict: Verdict, depth: int) -> set[str]:
        if verdict.kind == ANY:
            return {ACCEPT, DROP, FALL}
        if verdict.kind not in (JUMP, GOTO):
            return {verdict.kind}
        target = self._table.get(verdict.chain)
        if target is None:
            return {ACCEPT, DROP, FALL}
        if verdict.chain not in self._ends:
            self._ends[verdict.chain] = {ACCEPT, DROP, FALL}  # for who jumps back: no kernel takes that, a file may
            self._ends[verdict.chain] = self._chain(target, depth + 1)
        ends = self._ends[verdict.chain]
        # Behind a goto the chain that it was in does not go on.
        return ends - {FALL} | {RETURN} if verdict.kind == GOTO and FALL in ends else ends


def passes(tests: Iterable[Test], packets: Packets) -> str:
    """Do the packets of the class pass all tests: YES, NO, or MAYBE."""
    answers = {_passes(test, packets) for test in tests}
    if NO in answers:
        return NO
    return MAYBE if MAYBE in answers else YES


def _passes(test: Test, packets: Packets) -> str:
    if test.family and test.family != packets.family:
        return NO
    if test.l4 >= 0 and packets.l4 >= 0 and test.l4 != packets.l4:
        return NO
    answer = _among(test, packets)
    if test.invert:
        answer = {YES: NO, NO: YES}.get(answer, MAYBE)
    # The question asks for TCP, say, and the class is any protocol: some are not.
    return MAYBE if answer == YES and test.l4 >= 0 and packets.l4 < 0 else answer


def _among(test: Test, packets: Packets) -> str:
    if not test.key:
        return YES
    if test.key in ("saddr", "daddr"):
        address = packets.source if test.key == "saddr" else packets.destination
        prefixes = [value for value in test.values if isinstance(value, Prefix)]
        if address is None or not prefixes:
            return YES if any(prefix.length == 0 for prefix in prefixes) else MAYBE
        return YES if any(address in prefix for prefix in prefixes) else NO
    if test.key in ("iif", "oif", "state"):
        word = {"iif": packets.iif, "oif": packets.oif}.get(test.key, packets.state)
        if not word or not test.values:
            return MAYBE
        return YES if _named(word, (value for value in test.values if isinstance(value, str))) else NO
    if test.key == "l4":
        known: tuple[int, ...] = (packets.l4,) if packets.l4 >= 0 else ()
    else:
        known = packets.numbers.get(test.key, ())
    if not known or not test.values:
        return MAYBE
    hits = [any(not isinstance(v, Prefix | str) and v[0] <= number <= v[1] for v in test.values) for number in known]
    return YES if all(hits) else MAYBE if any(hits) else NO
