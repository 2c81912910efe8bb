"""`iptables-save` and `ip6tables-save` as chains for `firewall.judge`."""

from __future__ import annotations

import shlex
from typing import Final

from via6.observe.node import ACCEPT, DROP
from via6.observe.snapshot.firewall import ANY, FALL, GOTO, JUMP, RETURN, Chain, RuleLine, Ruleset, Test, Verdict
from via6.prefix import Prefix, PrefixError, mask, parse_address

PROTOCOLS: Final = {
    "icmp": 1, "igmp": 2, "ipip": 4, "ipencap": 4, "tcp": 6, "udp": 17, "dccp": 33, "ipv6": 41, "gre": 47, "esp": 50,
    "ah": 51, "icmpv6": 58, "ipv6-icmp": 58, "ospf": 89, "pim": 103, "vrrp": 112, "sctp": 132, "udplite": 136,
}  # fmt: skip
ICMP_TYPES: Final = {
    "echo-reply": 0, "destination-unreachable": 3, "source-quench": 4, "redirect": 5, "echo-request": 8,
    "router-advertisement": 9, "router-solicitation": 10, "time-exceeded": 11, "parameter-problem": 12,
    "timestamp-request": 13, "timestamp-reply": 14, "info-request": 15, "info-reply": 16, "address-mask-request": 17,
    "address-mask-reply": 18,
}  # fmt: skip
_HOOKS: Final = {name.upper(): name for name in ("prerouting", "input", "forward", "output", "postrouting")}
_TARGETS: Final = {"ACCEPT": ACCEPT, "DROP": DROP, "REJECT": DROP, "RETURN": RETURN}
_DONE: Final = frozenset({"MASQUERADE", "SNAT", "DNAT", "REDIRECT", "NETMAP"})
_HARMLESS: Final = frozenset({
    "LOG", "NFLOG", "ULOG", "AUDIT", "MARK", "CONNMARK", "CT", "NOTRACK", "TCPMSS", "DSCP", "TOS", "TTL", "HL", "ECN",
    "CLASSIFY", "CHECKSUM", "TRACE", "SET", "SECMARK", "CONNSECMARK", "IDLETIMER", "LED", "TEE", "RATEEST",
    "TCPOPTSTRIP",
})  # fmt: skip


def made_by_nft(text: str) -> bool:
    """True for the output of an iptables that writes nft rules: then `nft` shows the same ones."""
    return "(nf_tables)" in text


def rulesets(text: str, family: int) -> list[Ruleset]:
    """The tables of one `iptables-save`, one set of chains each. Raises ValueError."""
    tables: list[dict[str, Chain]] = []
    name = ""
    for line in text.splitlines():
        if line.startswith("*"):
            name = line[1:].strip()
            tables.append({})
        elif line.startswith(":") and tables:
            chain, policy = line[1:].split()[:2]
            hook = _HOOKS.get(chain, "") if policy != "-" else ""
            tables[-1][chain] = Chain(
                f"iptables {name} {chain}", hook, family, DROP if policy == "DROP" else ACCEPT
            )  # fmt: skip
        elif line.startswith("-A ") and tables:
            words = shlex.split(line)
            if words[1] in tables[-1]:
                tables[-1][words[1]].rules.append(_rule(words[2:], family))
    return list(tables)


def _rule(words: list[str], family: int) -> RuleLine:
    tests: list[Test] = []
    verdict = Verdict()
    l4 = -1
    rest = iter(words)
    invert = False
    for word in rest:
        if word == "!":
            invert = True
            continue
        if word in ("-j", "-g"):
            verdict = _verdict(next(rest, ""), word)
            break  # what follows are options of the target
        if word == "-p":
            number = _protocol(next(rest, ""))
            l4 = number if not invert else -1
            tests.append(Test("l4", ((number, number),), invert) if number >= 0 else Test("?"))
        elif word in ("-s", "-d"):
            tests.append(_address("saddr" if word == "-s" else "daddr", next(rest, ""), invert))
        elif word in ("--dport", "--sport", "--icmp-type"):
            tests.append(_number(word, next(rest, ""), invert, l4))
        elif word in ("-i", "-o"):
            name = next(rest, "")
            name = f"{name[:-1]}*" if name.endswith("+") else name
            tests.append(Test("iif" if word == "-i" else "oif", (name,) if name else (), invert))
        elif word in ("--ctstate", "--state"):
            tests.append(Test("state", tuple(next(rest, "").lower().split(",")), invert))
        elif word in ("-m", "--comment"):
            next(rest, "")
        elif word.startswith("-"):
            tests.append(Test("?"))  # a device, a state, a limit …
        invert = False
    return RuleLine(tuple(tests), (verdict,), " ".join(words))


def _protocol(text: str) -> int:
    if text.isdecimal():
        return int(text)
    return PROTOCOLS.get(text, -1)


def _verdict(target: str, word: str) -> Verdict:
    if target in _TARGETS:
        return Verdict(_TARGETS[target])
    if target in _DONE:
        return Verdict(ACCEPT)
    if target in _HARMLESS:
        return Verdict(FALL)
    if target.isupper() and target.isalpha() and target in ("NFQUEUE", "QUEUE", "TPROXY", "SYNPROXY"):
        return Verdict(ANY)
    return Verdict(GOTO if word == "-g" else JUMP, target)


def _address(key: str, text: str, invert: bool) -> Test:
    values = []
    for item in text.split(","):
        head, _, tail = item.partition("/")
        try:
            packed = parse_address(head)
            bits = len(packed) * 8
            length = int(tail) if tail.isdecimal() else bits if not tail else -1
            if not 0 <= length <= bits:  # a mask with holes
                return Test("?")
            values.append(Prefix(mask(packed, length), length))
        except PrefixError:
            return Test("?")
    return Test(key, tuple(values), invert)


def _number(word: str, text: str, invert: bool, l4: int) -> Test:
    key = {"--dport": "dport", "--sport": "sport"}.get(word, "icmp.type")
    low, _, high = text.partition("/")[0].partition(":")
    ends = [ICMP_TYPES.get(end, int(end) if end.isdecimal() else -1) for end in (low, high or low)]
    if min(ends) < 0 or "/" in text:
        return Test("?", l4=l4)
    return Test(key, ((ends[0], ends[1]),), invert, l4=l4)
