"""Packet filters that look at addresses and devices: who gets through, and what nobody can say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from verify_support import network
from via6.errors import Refusal
from via6.model import Link
from via6.observe import snapshot
from via6.observe.node import UNKNOWN, Firewall, Node
from via6.observe.snapshot import firewall as filters
from via6.observe.snapshot import iptables, nft
from via6.observe.snapshot.firewall import (
    CLASSES,
    Chain,
    RuleLine,
    Verdict,
    judge,
    kept,
    of_packet,
)
from via6.observe.snapshot.mask import Mask
from via6.observe.verify import failure, words
from via6.observe.verify.check import Checker
from via6.observe.verify.network import Network
from via6.observe.verify.table import Action, Way
from via6.observe.verify.wall import Wall
from via6.prefix import AF_INET, parse_address

LINE = [("r1", "r2"), ("r2", "r3")]


def match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def address(field: str, text: str, op: str = "==") -> dict[str, Any]:
    head, _, length = text.partition("/")
    right = {"prefix": {"addr": head, "len": int(length)}} if length else head
    return match({"payload": {"protocol": "ip", "field": field}}, right, op)


def device(key: str, *names: str) -> dict[str, Any]:
    return match({"meta": {"key": key}}, {"set": list(names)} if len(names) > 1 else names[0])


STATE = match({"ct": {"key": "state"}}, "established", "in")


def filter_of(*rules: list[Any], policy: str = "accept", more: tuple[list[Any], ...] = ()) -> Firewall:
    base = {"family": "inet", "table": "t"}
    entries: list[Any] = [{"table": {"family": "inet", "name": "t"}}]
    entries.append({"chain": base | {"name": "f", "type": "filter", "hook": "forward", "prio": 0, "policy": policy}})
    entries.append({"chain": base | {"name": "more"}})
    entries += [{"rule": base | {"chain": "f", "expr": expr}} for expr in rules]
    entries += [{"rule": base | {"chain": "more", "expr": expr}} for expr in more]
    return judge(nft.rulesets(json.dumps({"nftables": entries}).encode()))


def with_filter(firewall: Firewall, at: str = "r2") -> dict[str, Node]:
    """Through the octets of a file, so that what is read is what was written."""
    nodes = network(LINE)
    nodes[at] = snapshot.decode(snapshot.encode(replace(nodes[at], firewall=firewall)))
    assert nodes[at].firewall == firewall
    return nodes


def found(nodes: dict[str, Node]) -> list[tuple[str, str, str]]:
    problems = Checker(Network(list(nodes.values()))).report().problems
    return sorted((p.disposition, p.node, str(p.prefix)) for p in problems)


def test_destinations() -> None:
    firewall = filter_of([address("daddr", "10.3.0.0/24"), {"drop": None}])
    assert firewall.forward4 == UNKNOWN
    assert found(with_filter(firewall)) == [("DENIED_FIREWALL", "r2", "10.3.0.0/24")]
    part = filter_of([address("daddr", "10.3.0.128/25"), {"drop": None}])
    (problem,) = Checker(Network(list(with_filter(part).values()))).report().problems
    assert problem.destination >= parse_address("10.3.0.128")
    assert "ip daddr 10.3.0.128/25 drop" in problem.why
    assert not found(with_filter(filter_of([address("daddr", "10.77.0.0/16"), {"drop": None}])))


def test_all_but_one_destination() -> None:
    one = filter_of([address("daddr", "10.3.0.0/24"), {"accept": None}], policy="drop")
    assert ("DENIED_FIREWALL", "r2", "10.1.0.0/24") in found(with_filter(one))
    assert ("DENIED_FIREWALL", "r2", "10.3.0.0/24") not in found(with_filter(one))
    assert not found(with_filter(filter_of([address("daddr", "10.3.0.0/24", "!="), {"accept": None}], policy="accept")))


@pytest.mark.parametrize(("key", "dev", "lost"), [
    ("iifname", "eth1", "10.3.0.0/24"), ("iifname", "eth2", "10.1.0.0/24"), ("oifname", "eth1", "10.1.0.0/24"),
    ("oif", "eth2", "10.3.0.0/24"),
])  # fmt: skip
def test_devices(key: str, dev: str, lost: str) -> None:
    told = found(with_filter(filter_of([device(key, dev, "no-such"), {"drop": None}])))
    assert ("DENIED_FIREWALL", "r2", lost) in told
    assert {"10.1.0.0/24": "10.3.0.0/24", "10.3.0.0/24": "10.1.0.0/24"}[lost] not in {prefix for _, _, prefix in told}


def test_a_device_by_the_beginning_of_its_name() -> None:
    assert found(with_filter(filter_of([device("iifname", "eth*"), device("oifname", "eth*"), {"drop": None}])))
    assert not found(with_filter(filter_of([device("iifname", "wg*"), {"drop": None}])))


def hung(hook: str, devices: list[str] | None, *rules: list[Any]) -> Firewall:
    """A chain that hangs on devices (None: some, and which ones was not told)."""
    base = {"family": "netdev", "table": "t"}
    chain = base | {"name": "c", "type": "filter", "hook": hook, "prio": 0, "policy": "accept"}
    entries: list[Any] = [{"table": {"family": "netdev", "name": "t"}}]
    entries.append({"chain": chain | ({} if devices is None else {"dev": devices})})
    entries += [{"rule": base | {"chain": "c", "expr": expr}} for expr in rules]
    return judge(nft.rulesets(json.dumps({"nftables": entries}).encode()))


@pytest.mark.parametrize(("hook", "dev", "lost", "passes"), [
    ("ingress", "eth1", "10.3.0.0/24", "10.1.0.0/24"), ("ingress", "eth2", "10.1.0.0/24", "10.3.0.0/24"),
    ("egress", "eth1", "10.1.0.0/24", "10.3.0.0/24"), ("egress", "eth2", "10.3.0.0/24", "10.1.0.0/24"),
])  # fmt: skip
def test_chains_that_hang_on_a_device(hook: str, dev: str, lost: str, passes: str) -> None:
    told = found(with_filter(hung(hook, [dev], [{"drop": None}])))
    assert ("DENIED_FIREWALL", "r2", lost) in told
    assert passes not in {prefix for _, _, prefix in told}
    one = hung(hook, [dev, "eth9"], [address("daddr", lost), {"drop": None}])
    assert ("DENIED_FIREWALL", "r2", lost) in found(with_filter(one))
    assert not found(with_filter(hung(hook, [dev], [address("daddr", passes), {"drop": None}])))
    assert not found(with_filter(hung(hook, ["eth9"], [{"drop": None}])))
    somewhere = found(with_filter(hung(hook, None, [{"drop": None}])))
    assert {d for d, _, _ in somewhere} == {"UNKNOWN"}


def test_a_chain_below_a_bridge_is_not_overlooked() -> None:
    """What comes in by a bridge has come in by one of its members: which one nobody knows."""
    links = (Link(1, "lo"), Link(2, "br0", kind="bridge"), Link(3, "eth0", master=2), Link(4, "eth1"),
             Link(5, "eth1.7", kind="vlan", peer=4), Link(6, "eth2"), Link(7, "vrf7", kind="vrf"),
             Link(8, "eth3", master=7))  # fmt: skip

    def said(firewall: Firewall, into: int, out: int) -> int:
        return Wall.of(firewall, links).judge(Action("via", (Way(None, out),)), into, None)[0]

    ingress = hung("ingress", ["eth0", "eth1"], [{"drop": None}])
    egress = hung("egress", ["eth0", "eth1"], [{"drop": None}])
    for bridged in (2, 5):
        assert said(ingress, bridged, 6) == words.UNKNOWN
        assert said(egress, 6, bridged) == words.UNKNOWN
        assert said(ingress, 6, bridged) == said(egress, bridged, 6) == 0
    assert said(ingress, 4, 6) == said(egress, 6, 4) == words.DENIED_FIREWALL
    # In a VRF the filter sees now the interface and now the VRF.
    assert said(filter_of([device("iifname", "eth3"), {"drop": None}]), 8, 6) == words.UNKNOWN
    assert said(filter_of([device("iifname", "eth3"), {"drop": None}]), 4, 6) == 0


def test_sources_are_looked_at_from_island_to_island() -> None:
    firewall = filter_of([address("saddr", "10.1.0.0/24"), {"drop": None}])
    problems = Checker(Network(list(with_filter(firewall).values()))).report().problems
    lost = {"10.2.0.0/24", "10.3.0.0/24"}  # hosts behind r2, and r3
    assert {(p.disposition, p.node, str(p.prefix)) for p in problems} == {("DENIED_FIREWALL", "r2", to) for to in lost}
    assert all(p.source and p.source[:3] == bytes((10, 1, 0)) for p in problems)
    only = filter_of([address("saddr", "10.1.0.0/24"), {"accept": None}], policy="drop")
    assert {prefix for _, _, prefix in found(with_filter(only))} >= {"10.1.0.0/24"}
    assert not found(with_filter(filter_of([address("saddr", "10.77.0.0/24"), {"drop": None}])))


def test_a_chain_that_is_jumped_to_and_returns() -> None:
    jump = [address("daddr", "10.0.0.0/8"), {"jump": {"target": "more"}}]
    more = ([address("daddr", "10.1.0.0/24"), {"return": None}], [{"drop": None}])
    told = found(with_filter(filter_of(jump, more=more)))
    assert ("DENIED_FIREWALL", "r2", "10.3.0.0/24") in told
    assert "10.1.0.0/24" not in {prefix for _, _, prefix in told}


def test_chains_that_are_jumped_to_often_are_walked_once() -> None:
    """In a file they may even lead to each other; no kernel takes that."""
    twice = [RuleLine(verdicts=(Verdict("jump", f"c{level + 1}"),)) for level in range(30) for _ in range(2)]
    chains = {f"c{level}": Chain(f"c{level}", rules=twice[level * 2 : level * 2 + 2]) for level in range(30)}
    last = Chain("c30", rules=[RuleLine((filters.Test("iif", ("eth1",)),), (Verdict("drop"),))])
    head = Chain("f", "forward", rules=[RuleLine(verdicts=(Verdict("jump", "c0"),))])
    packets = replace(CLASSES["forward4"][0], iif="eth1", oif="eth2")
    (rules,) = judge([{"f": head, **chains, "c30": last}]).filter
    assert of_packet([rules], packets)[0] == "drop"
    assert of_packet([rules], replace(packets, iif="eth3"))[0] == "accept"
    round_ = {**rules, "c30": chains["c0"]}
    assert of_packet([round_], packets)[0] == UNKNOWN


def test_what_depends_on_more_is_unknown_and_only_that() -> None:
    firewall = filter_of([address("daddr", "10.3.0.0/24"), STATE, {"drop": None}])
    assert {(d, prefix) for d, _, prefix in found(with_filter(firewall))} == {("UNKNOWN", "10.3.0.0/24")}


def test_a_failure_is_looked_at_with_the_filter() -> None:
    nodes = network([("r1", "r2"), ("r2", "r3"), ("r3", "r1")], babel=True)
    firewall = filter_of([device("iifname", "eth1"), device("oifname", "eth2"), {"drop": None}])
    nodes["r2"] = replace(nodes["r2"], firewall=firewall)
    assert not found(nodes)
    (after,) = failure.examine(list(nodes.values()), [("link", "r1-r3")], None)
    assert {(p.disposition, p.node) for p in after.problems} == {("DENIED_FIREWALL", "r2")}


def test_iptables_says_the_same() -> None:
    text = (
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n-A FORWARD -i eth+ ! -o eth1 -d 10.3.0.0/24 -j DROP\n"
        "-A FORWARD -s 10.1.0.0/24 -m state --state NEW -j ACCEPT\nCOMMIT\n"
    )
    firewall = judge(iptables.rulesets(text, AF_INET))
    assert found(with_filter(firewall)) == [("DENIED_FIREWALL", "r2", "10.3.0.0/24")]


def test_too_many_rules_are_not_told() -> None:
    many = [[address("daddr", f"10.{n // 250}.{n % 250}.0/24"), {"drop": None}] for n in range(600)]
    assert filter_of(*many).filter == ()
    assert filter_of(*many[:500]).filter
    assert filter_of([{"drop": None}]).filter == ()  # there is one word for all
    assert kept([]) == ()


def test_masked_it_still_holds() -> None:
    rules = [address("daddr", "10.3.0.0/24"), {"drop": None}], [address("saddr", "10.9.9.9"), {"drop": None}]
    firewall = filter_of(*rules)
    mask = Mask(b"k" * 32)
    nodes = {name: mask.node(node) for name, node in with_filter(firewall).items()}
    text = snapshot.encode(nodes["r2"])
    assert b"10.9.9.9" not in text
    assert b"10.3.0.0" not in text
    assert [(d, n) for d, n, _ in found(nodes)] == [("DENIED_FIREWALL", "r2")]


def test_names_with_addresses_are_masked_as_one() -> None:
    """Of chains, of tables and of devices: what jumps there still does, and the device is still the interface."""
    rules = [device("iifname", "wg-10.9.9.9"), {"jump": {"target": "to-10.9.9.9"}}]
    base = {"family": "inet", "table": "of-10.9.9.9"}
    entries: list[Any] = [{"table": {"family": "inet", "name": "of-10.9.9.9"}}]
    entries.append({"chain": base | {"name": "f", "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}})
    entries.append({"chain": base | {"name": "to-10.9.9.9"}})
    entries.append({"rule": base | {"chain": "f", "expr": rules}})
    entries.append({"rule": base | {"chain": "to-10.9.9.9", "expr": [{"drop": None}]}})
    links = (Link(2, "wg-10.9.9.9"), Link(3, "eth1"))
    tables = nft.rulesets(json.dumps({"nftables": entries}).encode())
    below = hung("ingress", ["wg-10.9.9.9"], [{"drop": None}])
    node = network(LINE)["r1"]
    for firewall in (judge(tables, [link.name for link in links]), below):
        whole = replace(node, kernel=replace(node.kernel, links=links), firewall=firewall)
        masked = Mask(b"k" * 32).node(whole)
        assert b"10.9.9.9" not in snapshot.encode(masked)
        masked = snapshot.decode(snapshot.encode(masked))
        assert masked.firewall
        wall = Wall.of(masked.firewall, masked.kernel.links)
        assert wall.judge(Action("via", (Way(None, 3),)), 2, None)[0] == words.DENIED_FIREWALL
        assert wall.judge(Action("via", (Way(None, 2),)), 3, None)[0] == 0


@pytest.mark.parametrize(("change", "place"), [
    ({"policy": "perhaps"}, r"firewall.filter\[0\].policy"), ({"hook": "moon"}, r"firewall.filter\[0\].hook"),
    ({"rules": [{"tests": [{"key": "moon"}], "verdicts": [["drop", ""]]}]}, r"rules\[0\].tests\[0\].key"),
    ({"rules": [{"tests": [{"key": "daddr", "values": ["x"]}], "verdicts": [["drop", ""]]}]}, r"tests\[0\].values"),
    ({"rules": [{"verdicts": [["drop"]]}]}, r"verdicts\[0\]"), ({"rules": [{}]}, r"rules\[0\].verdicts"),
])  # fmt: skip
def test_a_filter_that_is_none_is_refused(change: dict[str, Any], place: str) -> None:
    node = replace(network(LINE)["r1"], firewall=filter_of([address("daddr", "10.3.0.0/24"), {"drop": None}]))
    value = json.loads(snapshot.encode(node))
    value["firewall"]["filter"][0] |= change
    with pytest.raises(Refusal, match=place):
        snapshot.decode(json.dumps(value).encode())


def test_a_wall_tells_few_parts_apart() -> None:
    firewall = filter_of(*([address("daddr", f"10.{n}.0.0/16"), {"drop": None}] for n in range(50)))
    wall = Wall.of(firewall, ())
    assert len(wall.parts.example) == 51
    assert not wall.by_source
