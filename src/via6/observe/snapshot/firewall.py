"""What a packet filter does with four classes of packets, without running it.

A chain is walked with what is known of every packet of the class; a match that some of them may pass and others not is
a *maybe*. So a walk has a set of ends. All accept: `accept`. All drop: `drop`. Else it depends on the packet:
`unknown`, and `evidence` names the rules on which. Nothing is known of devices, ports, states of connections and sets.
`accept` ends its own chain only; a packet lives when all chains on its way let it.

nft's JSON (`nft.py`) and `iptables-save` (`iptables.py`) are read into the same chains.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from via6.observe.node import ACCEPT, DROP, UNKNOWN, Firewall
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


@dataclass(frozen=True, slots=True)
class Test:
    """What a rule asks of a packet: that its `key` is (or with `invert`, is not) among `values`. A key that is not
    known of the class, such as a device, is a maybe. `family` and `l4` are what the question takes for granted."""

    key: str = ""
    values: tuple[Prefix | tuple[int, int], ...] = ()
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
    """A chain; `hook` is "" for one that is only jumped to. `family`: AF_*, 0 for both. `where` names it to people."""

    where: str
    hook: str = ""
    family: int = 0
    policy: str = ACCEPT
    some_devices: bool = False  # a chain of single devices: not every packet comes by
    rules: list[RuleLine] = field(default_factory=list)


Ruleset = Mapping[str, Chain]
"""The chains of one table by name."""


@dataclass(frozen=True, slots=True)
class Packets:
    """A class: what is true of each packet. `hooks` are those on its way. Numbers by key, those that are known."""

    family: int
    hooks: tuple[str, ...]
    l4: int = -1
    source: Address | None = None
    numbers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


_FORWARDED: Final = ("ingress", "prerouting", "forward", "postrouting")
_ICMP, _UDP, _BABEL = 1, 17, 6696
CLASSES: Final = {
    "forward4": (Packets(AF_INET, _FORWARDED),),
    "icmp4": (
        Packets(AF_INET, _FORWARDED, _ICMP, numbers={"icmp.type": (3, 11, 12)}),
        Packets(AF_INET, ("ingress", "prerouting", "input"), _ICMP, numbers={"icmp.type": (3, 11, 12)}),
        Packets(AF_INET, ("output", "postrouting"), _ICMP, numbers={"icmp.type": (3, 11, 12)}),
    ),
    "dummy4": (
        Packets(AF_INET, _FORWARDED, _ICMP, parse_address("192.0.0.8"), {"icmp.type": (3, 11, 12)}),
        Packets(AF_INET, ("ingress", "prerouting", "input"), _ICMP, parse_address("192.0.0.8"),
                {"icmp.type": (3, 11, 12)}),
    ),
    "babel": (
        Packets(AF_INET6, ("ingress", "prerouting", "input"), _UDP, numbers={"dport": (_BABEL,), "sport": (_BABEL,)}),
        Packets(AF_INET6, ("output", "postrouting"), _UDP, numbers={"dport": (_BABEL,), "sport": (_BABEL,)}),
    ),
}  # fmt: skip
"""The classes of `node.Firewall`; each is decided on all its ways."""


def judge(rulesets: Iterable[Ruleset]) -> Firewall:
    """The verdict of all tables together on each class."""
    tables = list(rulesets)
    evidence: dict[str, None] = {}
    found = {name: _of_class(tables, ways, evidence) for name, ways in CLASSES.items()}
    shown = [text[:_LONGEST] for text in list(evidence)[:_MOST_EVIDENCE]]
    if len(evidence) > _MOST_EVIDENCE:
        shown.append(f"and {len(evidence) - _MOST_EVIDENCE} more")
    return Firewall(found["forward4"], found["icmp4"], found["dummy4"], found["babel"], tuple(shown))


def _of_class(tables: Sequence[Ruleset], ways: Iterable[Packets], evidence: dict[str, None]) -> str:
    worst = ACCEPT
    for packets in ways:
        for table in tables:
            for chain in table.values():
                if chain.hook not in packets.hooks or chain.family not in (0, packets.family):
                    continue
                walk = _Walk(table, packets)
                ends = walk.base(chain)
                if DROP in ends:
                    evidence.update(dict.fromkeys(walk.evidence))
                if ends == {DROP}:
                    return DROP
                if DROP in ends:
                    worst = UNKNOWN
    return worst


class _Walk:
    """One class of packets through one chain and those that it jumps to."""

    def __init__(self, table: Ruleset, packets: Packets) -> None:
        self._table = table
        self._packets = packets
        self.evidence: list[str] = []

    def base(self, chain: Chain) -> set[str]:
        """Accept, drop or both."""
        ends = self._chain(chain, 0)
        if FALL in ends:
            ends = ends - {FALL} | {chain.policy}
            if chain.policy == DROP:
                self.evidence.append(f"{chain.where}: policy drop")
        return ends | {ACCEPT} if chain.some_devices else ends

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
        ends = self._chain(target, depth + 1)
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
    if test.key == "saddr":
        if packets.source is None:
            return YES if any(isinstance(v, Prefix) and v.length == 0 for v in test.values) else MAYBE
        return YES if any(isinstance(v, Prefix) and packets.source in v for v in test.values) else NO
    if test.key == "daddr":
        return YES if any(isinstance(v, Prefix) and v.length == 0 for v in test.values) else MAYBE
    if test.key == "l4":
        known: tuple[int, ...] = (packets.l4,) if packets.l4 >= 0 else ()
    else:
        known = packets.numbers.get(test.key, ())
    if not known or not test.values:
        return MAYBE
    hits = [any(not isinstance(v, Prefix) and v[0] <= number <= v[1] for v in test.values) for number in known]
    return YES if all(hits) else MAYBE if any(hits) else NO
