"""`nft -j list ruleset` (libnftables-json(5)) as chains for `firewall.judge`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import msgspec

from via6.observe.node import ACCEPT, DROP
from via6.observe.snapshot.firewall import ANY, FALL, GOTO, JUMP, RETURN, Chain, RuleLine, Ruleset, Test, Verdict
from via6.observe.snapshot.iptables import ICMP_TYPES, PROTOCOLS
from via6.prefix import AF_INET, AF_INET6, Prefix, PrefixError, mask, parse_address

Json = dict[str, Any]

_FAMILIES: Final = {"ip": AF_INET, "ip6": AF_INET6, "inet": 0, "netdev": 0}
_OF_IPTABLES: Final = ("filter", "nat", "mangle", "raw", "security")
_HARMLESS: Final = frozenset({
    "counter", "log", "mangle", "notrack", "set", "flow", "ct helper", "ct timeout", "ct expectation", "dup", "last",
    "secmark",
})  # fmt: skip
_NUMBERED: Final = {("icmp", "type"): "icmp.type", ("udp", "dport"): "dport", ("udp", "sport"): "sport",
                    ("th", "dport"): "dport", ("th", "sport"): "sport"}  # fmt: skip
_MAYBE: Final = Test("?")


def rulesets(data: bytes, but: Collection[tuple[str, str]] = (), chains: str = "") -> list[Ruleset]:
    """The tables, one set of chains each, without those in `but` (family, name). `chains` is what `nft list chains`
    prints. Raises ValueError."""
    hung = _hung(chains)
    found = msgspec.json.decode(data) if data.strip() else {"nftables": []}
    if not isinstance(found, dict) or not isinstance(found.get("nftables"), list):
        raise ValueError("it is no ruleset of nft")
    tables: dict[tuple[str, str], dict[str, Chain]] = {}
    for entry in found["nftables"]:
        kind, value = next(iter(entry.items()))
        if not isinstance(value, dict) or value.get("family") not in _FAMILIES:
            continue
        key = value["family"], str(value.get("table", value.get("name")))
        if kind == "table" and "dormant" not in value.get("flags", ()) and key not in but:
            tables.setdefault(key, {})
        elif kind == "chain" and key in tables:
            tables[key][value["name"]] = _chain(value, hung)
        elif kind == "rule" and key in tables and value["chain"] in tables[key]:
            tables[key][value["chain"]].rules += _rules(value.get("expr", []), _FAMILIES[value["family"]])
    return list(tables.values())


def tables_of_iptables() -> frozenset[tuple[str, str]]:
    """Those that iptables-nft makes, which `iptables-save` tells better."""
    return frozenset((family, name) for family in ("ip", "ip6") for name in _OF_IPTABLES)


def _hung(chains: str) -> dict[tuple[str, str, str], tuple[str, ...]]:
    """(family, table, chain) of those that hang on single devices, with these: before 1.0.8 the JSON lacks them."""
    found: dict[tuple[str, str, str], tuple[str, ...]] = {}
    table, name = ("", ""), ""
    for words in map(str.split, chains.splitlines()):
        if words[:1] == ["table"]:
            table = words[1], words[2]
        elif words[:1] == ["chain"]:
            name = words[1]
        elif words[:1] == ["type"] and (at := next((w for w in ("device", "devices") if w in words), "")):
            given = words[words.index(at) + 1 : words.index("priority")]
            found[*table, name] = tuple(word.strip('",') for word in given if word not in ("=", "{", "}"))
    return found


def may_hang(data: bytes) -> bool:
    """Some chain may hang on single devices: then `nft list chains` is worth asking."""
    return b'"ingress"' in data or b'"egress"' in data


def _chain(value: Json, hung: dict[tuple[str, str, str], tuple[str, ...]]) -> Chain:
    devices = value.get("dev", hung.get((value["family"], value["table"], value["name"]), ()))
    return Chain(
        where=f"nft {value['family']} {value['table']} {value['name']}",
        hook=value.get("hook", ""),
        family=_FAMILIES[value["family"]],
        policy=DROP if value.get("policy") == "drop" else ACCEPT,
        devices=(
            (tuple(devices) if isinstance(devices, list | tuple) else (devices,))
            if value.get("hook") in ("ingress", "egress")
            else None
        ),
    )


def _rules(expr: list[Json], family: int) -> list[RuleLine]:
    """One rule: its tests and its verdict."""
    tests: list[Test] = []
    verdicts: tuple[Verdict, ...] = (Verdict(),)
    text = " ".join(map(_words, expr))
    for statement in expr:
        kind, value = next(iter(statement.items()))
        if kind == "match":
            tests.append(_test(value, family))
        elif kind in ("accept", "drop", "return", "continue", "reject", "jump", "goto"):
            verdicts = (_verdict(kind, value),)
        elif kind in ("masquerade", "snat", "dnat", "redirect"):
            verdicts = (Verdict(ACCEPT),)
        elif kind == "vmap":
            return [RuleLine((*tests, *more), (verdict,), text) for more, verdict in _vmap(value, family)]
        elif kind in ("queue", "xt", "tproxy", "synproxy", "fwd"):
            tests, verdicts = [*tests, _MAYBE], (Verdict(ANY),)
        elif kind not in _HARMLESS:  # limit, quota, ct count, and what is to come
            tests.append(_MAYBE)
    return [RuleLine(tuple(tests), verdicts, text)]


def _verdict(kind: str, value: Any) -> Verdict:
    if kind in ("jump", "goto"):
        return Verdict(JUMP if kind == "jump" else GOTO, value["target"])
    return Verdict({"accept": ACCEPT, "drop": DROP, "reject": DROP, "return": RETURN}.get(kind, FALL))


def _vmap(value: Json, family: int) -> list[tuple[tuple[Test, ...], Verdict]]:
    """The elements of an anonymous map, as rules one behind the other; a named map is not looked into."""
    data = value.get("data")
    if not isinstance(data, dict) or "set" not in data:
        return [((_MAYBE,), Verdict(ANY))]
    return [
        ((_test({"op": "==", "left": value.get("key"), "right": key}, family),), _verdict(*next(iter(said.items()))))
        for key, said in data["set"]
    ]


def _test(value: Json, family: int) -> Test:
    op, left, right = value.get("op"), value.get("left"), value.get("right")
    if op not in ("==", "!=", "in") or not isinstance(left, dict):
        return Test("?", family=family)
    invert = op == "!="
    meta, payload, tracked = left.get("meta"), left.get("payload"), left.get("ct")
    if isinstance(tracked, dict) and tracked.get("key") == "state":
        return Test("state", tuple(sorted(str(word) for word in _items(right))), invert, family)
    if isinstance(meta, dict):
        return _meta(meta.get("key", ""), right, invert, family)
    if isinstance(payload, dict) and "protocol" in payload:
        return _payload(payload["protocol"], payload["field"], right, invert, family)
    return Test("?", family=family)


def _meta(key: str, right: Any, invert: bool, family: int) -> Test:
    words = {str(word) for word in _items(right)}
    if key in ("nfproto", "protocol") and words <= {"ipv4", "ip", "ipv6", "ip6"} and words:
        wanted = {AF_INET if word in ("ipv4", "ip") else AF_INET6 for word in words}
        if len(wanted) == 2:
            return Test(invert=invert)
        return Test(family=AF_INET + AF_INET6 - wanted.pop() if invert else wanted.pop())
    if key in ("iif", "iifname", "oif", "oifname"):
        named = all(isinstance(item, str) and item and item[0] != "@" for item in _items(right))
        return Test(key[:3], tuple(sorted(words)) if named else (), invert, family)
    if key == "l4proto":
        return Test("l4", _numbers(right, PROTOCOLS), invert, family)
    return Test("?", family=family)


def _payload(protocol: str, field: str, right: Any, invert: bool, family: int) -> Test:
    if protocol in ("ip", "ip6"):
        family = AF_INET if protocol == "ip" else AF_INET6
        if field in ("protocol", "nexthdr"):
            return Test("l4", _numbers(right, PROTOCOLS), invert, family)
        if field in ("saddr", "daddr"):
            values = _prefixes(right)
            return Test(field, values, invert, family) if values else Test("?", family=family)
        return Test("?", family=family)
    l4 = PROTOCOLS.get(protocol, -1)
    key = _NUMBERED.get((protocol, field), "?")
    family = AF_INET if protocol == "icmp" else AF_INET6 if protocol == "icmpv6" else family
    return Test(key, _numbers(right, ICMP_TYPES if protocol == "icmp" else {}), invert, family, l4)


def _items(right: Any) -> list[Any]:
    """The elements of a set, or the one value."""
    if isinstance(right, dict) and "set" in right:
        found = right["set"] if isinstance(right["set"], list) else [right["set"]]
        return [item["elem"]["val"] if isinstance(item, dict) and "elem" in item else item for item in found]
    return right if isinstance(right, list) else [right]


def _numbers(right: Any, names: dict[str, int]) -> tuple[tuple[int, int], ...]:
    """Ranges of numbers; empty if one of them is not known."""
    made = []
    for item in _items(right):
        pair = item["range"] if isinstance(item, dict) and "range" in item else [item, item]
        ends = [names.get(end, -1) if isinstance(end, str) else end for end in pair]
        if not all(isinstance(end, int) and end >= 0 for end in ends):
            return ()
        made.append((ends[0], ends[1]))
    return tuple(made)


def _prefixes(right: Any) -> tuple[Prefix, ...]:
    """Prefixes; empty if one of them is none (a named set, a range)."""
    made = []
    for item in _items(right):
        try:
            if isinstance(item, dict):
                packed, length = parse_address(item["prefix"]["addr"]), int(item["prefix"]["len"])
            else:
                packed = parse_address(item)
                length = len(packed) * 8
            made.append(Prefix(mask(packed, length), length))
        except (PrefixError, KeyError, TypeError, ValueError):
            return ()
    return tuple(made)


def _words(statement: Json) -> str:
    """A statement as nft would nearly spell it: for people."""
    kind, value = next(iter(statement.items()))
    if kind == "match":
        op = "" if value.get("op") in ("==", "in") else f"{value.get('op')} "
        return f"{_left(value.get('left'))} {op}{_right(value.get('right'))}"
    if kind in ("jump", "goto"):
        return f"{kind} {value['target']}"
    return kind


def _left(value: Any) -> str:
    if isinstance(value, dict):
        inner = next(iter(value.values()))
        if isinstance(inner, dict):
            return " ".join(str(word) for word in (inner.get("protocol"), inner.get("field", inner.get("key"))) if word)
    return "?"


def _right(value: Any) -> str:
    items = _items(value)
    words = []
    for item in items[:8]:
        if isinstance(item, dict) and "prefix" in item:
            words.append(f"{item['prefix'].get('addr')}/{item['prefix'].get('len')}")
        elif isinstance(item, dict) and "range" in item:
            words.append("-".join(map(str, item["range"])))
        else:
            words.append(str(item) if isinstance(item, str | int) else "?")
    return words[0] if len(items) == 1 else "{ " + ", ".join(words) + (" …" if len(items) > 8 else "") + " }"
