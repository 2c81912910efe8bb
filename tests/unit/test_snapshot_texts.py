"""What other programs print, as a Node: `ip -j` of iproute2 6.1 (captured), OpenBSD's texts, `iptables-save`, the
script for other machines, inventories. `UPDATE=1` rewrites the expected snapshots; review the difference."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from via6.collect.snapshot_script import answers as cut
from via6.collect.snapshot_script import script
from via6.collect.snapshot_ssh import Host, command, host, inventory, unique
from via6.errors import Refusal
from via6.model import NH_DEAD, PARTS, TABLE_LOCAL, NextHop
from via6.observe import snapshot
from via6.observe.node import ACCEPT, DROP, OPENBSD, UNKNOWN, Node
from via6.observe.snapshot import firewall, iproute, iptables, nft, openbsd
from via6.observe.snapshot.answers import Answer, firewall_of, node_of, unsteady, wireguard_of
from via6.prefix import AF_INET, AF_INET6, parse_address, parse_prefix

GOLDEN = Path(__file__).resolve().parents[1] / "golden/snapshot"


def as_expected(node: Node, file: Path) -> None:
    """The node is what the file says; the file is JSON with indents, for people."""
    made = json.dumps(json.loads(snapshot.encode(node)), indent=1) + "\n"
    if os.environ.get("UPDATE"):
        file.write_text(made)
    assert made == file.read_text()
    assert snapshot.load([file]) == [node]


# --- ip -j ---------------------------------------------------------------------------------------------------------


def captured() -> dict[str, Answer]:
    folder = GOLDEN / "iproute2-6.1"
    found = {path.stem: Answer(path.read_bytes(), time=1.0) for path in folder.glob("*.json")}
    return {
        **found,
        "uname": Answer(b"Linux\n6.18.44\nr1\n"),
        "tables": Answer(b"255\tlocal\n254\tmain\n# a comment\n"),
        "sysctls": Answer(b"net/ipv4/ip_forward:1\nnet/ipv4/conf/eth0.7/rp_filter:2\nnet/ipv6/conf/lo/accept_dad:-1\n"),
        "nft": Answer(b'{"nftables": []}'),
        "udp6": Answer(b""),
        "wireguard": Answer(),
    }


def test_what_iproute2_prints() -> None:
    node = node_of("", captured())
    assert node.name == "r1"
    assert node.kernel.parts == PARTS
    assert node.unread == {}
    as_expected(node, GOLDEN / "iproute2-6.1.json")


def test_devices_that_are_not_there_leave_the_part_unread() -> None:
    told = captured()
    told["routes4"] = Answer(b'[{"type":"unicast","dst":"10.0.0.0/8","dev":"eth9","flags":[]}]')
    told["neighbours"] = Answer(b'[{"dst":"10.0.0.9","dev":"if7","state":["STALE"]}]')  # a device that is gone
    node = node_of("x", told)
    assert node.unread["routes4"] == "ip: there is no device 'eth9' among the links"
    assert "routes4" not in node.kernel.parts
    assert node.kernel.neighbours[0].ifindex == 7


@pytest.mark.parametrize(
    "text", ["{}", "nothing", '[{"dst":"10.0.0.0/8","type":"odd"}]', '[{"dst":"10.0.0.256"}]', '[{"type":"local"}]',
             '[{"dst":"10.0.0.0/8","protocol":"nobody"}]', '[{"dst":"10.0.0.0/8","nexthops":[{"gateway":"x"}]}]',
             "[1]"],
)  # fmt: skip
def test_odd_answers_are_odd(text: str) -> None:
    with pytest.raises(iproute.Odd):
        iproute.routes(text.encode(), AF_INET, iproute.Names())


def test_routes_that_differ_in_their_destination_are_one_block() -> None:
    rows = [{"type": "unicast", "dst": f"10.{n}.0.0/16", "gateway": "192.0.2.1", "dev": "eth0"} for n in range(200)]
    rows += [{"type": "unicast", "dst": "default", "gateway": "192.0.2.1", "dev": "eth0"}]
    blocks = iproute.routes(json.dumps(rows).encode(), AF_INET, iproute.Names(devices={"eth0": 3}))
    assert [len(block) for block in blocks] == [200, 1]
    assert blocks[0].template.next_hops == (NextHop(parse_address("192.0.2.1"), 3),)


def test_parts_that_changed_are_unsteady() -> None:
    told = captured()
    told["before"] = Answer(b"links 1 2\nroutes4 3 4\nrules6 5 6\n")
    told["after"] = Answer(b"links 1 2\nroutes4 3 5\nrules6 5 7\n")
    assert unsteady(told) == node_of("x", told).unsteady == {"routes4", "rules"}


# --- the script ----------------------------------------------------------------------------------------------------


def test_the_script_is_one_that_any_sh_reads() -> None:
    for shell in ("sh", "bash"):
        done = subprocess.run([shell, "-n"], input=script("m"), text=True, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_script_asks_for_no_secret() -> None:
    text = "\n".join(line.partition("#")[0] for line in script("m").splitlines())
    for word in ("dump", "showconf", "private", "preshared", "/etc/shadow", "passwd", "sudo"):
        assert word not in text


def test_only_what_stands_between_the_marks_counts() -> None:
    output = (
        b"Welcome!\n@x begin links 9\nnoise\n@m begin links 17\n[]\n@m end links 0 \n@m begin rules4 18\n[{\n@m forged"
    )
    found = cut(output, "m")
    assert found == {"links": Answer(b"[]", 0, "", 17.0)}
    said = cut(b"\n@m begin nft 1\n\n@m end nft 1 Operation not permitted ", "m")["nft"]
    assert (said.code, said.fault) == (1, "Operation not permitted")
    assert cut(b"\n@m begin a x\n1\n@m end b 0 \n", "m") == {}


# --- OpenBSD -------------------------------------------------------------------------------------------------------


def text(name: str) -> str:
    return (GOLDEN / f"openbsd-{name}.txt").read_text()


def test_openbsd_route_get() -> None:
    """The seed's: a route to 192.168/16 with an IPv6 gateway."""
    node = openbsd.from_text(text("seed"), "obsd")
    assert node is not None
    assert node.system == OPENBSD
    (route,) = [r for r in node.kernel.routes if r.prefix == parse_prefix("192.168.0.0/16")]
    (hop,) = route.next_hops
    assert hop.via == parse_address("2a0a:e5c1:100::1")
    assert node.kernel.dev(hop.ifindex) == "tun0"
    assert {str(r.prefix) for r in node.kernel.routes} == {"192.168.0.0/16", "10.0.2.0/24", "0.0.0.0/0"}
    assert "routes4" not in node.kernel.parts
    assert "netstat -rn" in node.unread["routes4"]
    as_expected(node, GOLDEN / "openbsd-seed.json")


def test_openbsd_netstat() -> None:
    node = openbsd.from_text(text("netstat") + text("ifconfig"), "obsd", {"net.inet.ip.forwarding": 1})
    assert node is not None
    assert {"routes4", "routes6", "links", "addresses", "neighbours", "rules"} <= node.kernel.parts
    assert {"firewall", "babel", "wireguard"} == set(node.unread)
    at = {str(r.prefix): r for r in node.kernel.routes}
    assert [hop.via for hop in at["10.7.0.0/16"].next_hops] == list(
        map(parse_address, ("10.0.2.2", "2a0a:e5c1:100::1"))
    )
    assert at["10.8.0.0/16"].next_hops[0].flags == NH_DEAD
    assert at["10.9.0.0/16"].type == "blackhole"
    assert (at["10.0.2.15/32"].type, at["10.0.2.15/32"].table) == ("local", TABLE_LOCAL)
    assert node.sysctls["net/ipv4/conf/vio0/forwarding"] == 1
    as_expected(node, GOLDEN / "openbsd-netstat.json")


def test_openbsd_netstat_alone_knows_addresses_but_no_mtu() -> None:
    node = openbsd.from_text(text("netstat"), "obsd")
    assert node is not None
    own = {(node.kernel.dev(a.ifindex), a.address, a.length) for a in node.kernel.addresses}
    assert ("vio0", parse_address("10.0.2.15"), 24) in own
    assert {link.mtu for link in node.kernel.links} == {0}


@pytest.mark.parametrize(
    "line", ["10.0.0 1.2.3.4 UGS 0 0 - 8 em0", "10/40 1.2.3.4 UGS 0 0 - 8 em0", "2001:db8::/32 ::1 UGS 0 0 - 8 em0",
             "10/8 1.2.3.4 UGS 0 0 - x em0", "10/8 nowhere UGS 0 0 - 8 em0"],
)  # fmt: skip
def test_openbsd_lines_that_are_not_understood_are_refused(line: str) -> None:
    head = "Internet:\nDestination Gateway Flags Refs Use Mtu Prio Iface\n"
    with pytest.raises(Refusal, match="is not understood"):
        openbsd.from_text(head + line, "obsd")


def test_what_is_not_of_openbsd_is_none() -> None:
    for other in ("", "hello\n", "Internet:\nnothing", "route to: x\n", "10.0.0.0/8 via 10.1.1.1 dev eth0\n"):
        assert openbsd.from_text(other, "x") is None


# --- packet filters ------------------------------------------------------------------------------------------------

SAVED = """\
# Generated by iptables-save v1.8.9
*filter
:INPUT DROP [0:0]
:FORWARD DROP [3:180]
:OUTPUT ACCEPT [0:0]
:ours - [0:0]
-A INPUT -p icmp -m comment --comment "errors, please" -m icmp --icmp-type 3 -j ACCEPT
-A INPUT -p icmp -m icmp --icmp-type 11 -j ACCEPT
-A INPUT -p icmp -m icmp --icmp-type 12/0 -j ACCEPT
-A FORWARD -s 192.0.0.0/24 -j DROP
-A FORWARD ! -p tcp -j ours
-A FORWARD -p tcp -j ACCEPT
-A ours -d 0.0.0.0/0 -j ACCEPT
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -o eth0 -j MASQUERADE
COMMIT
"""
CLOSED6 = (
    "*filter\n:INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -p udp -m udp --dport 6696 -j ACCEPT\nCOMMIT\n"
)


def test_a_long_rule_is_cut_between_words() -> None:
    """Half an address is no address to a mask, and would be told."""
    many = " ".join(f"-s 203.0.113.{number}/32" for number in range(100, 120))
    verdict = firewall.judge(iptables.rulesets(f"*filter\n:FORWARD ACCEPT\n-A FORWARD {many} -j DROP\n", AF_INET))
    (told,) = verdict.evidence
    assert told.endswith(" …")
    assert all(word in ("-s", "…", "iptables", "filter", "FORWARD:") or word.endswith("/32") for word in told.split())
    assert 100 < len(told) <= 202


def test_iptables_save() -> None:
    verdict = firewall.judge([*iptables.rulesets(SAVED, AF_INET), *iptables.rulesets(CLOSED6, AF_INET6)])
    assert verdict.babel == ACCEPT
    assert verdict.dummy4 == DROP
    assert verdict.forward4 == UNKNOWN
    assert verdict.icmp4 == UNKNOWN  # 12/0 is a code: a maybe
    assert any("-s 192.0.0.0/24 -j DROP" in line for line in verdict.evidence)


def test_packets_of_single_interfaces() -> None:
    saved = (
        "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n"
        "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT\n-A FORWARD -i eth+ -o wg0 -j ACCEPT\nCOMMIT\n"
    )
    devices = ("docker0", "eth0", "eth1", "wg0")
    verdict = firewall.judge(iptables.rulesets(saved, AF_INET), devices)
    assert verdict.forward4 == UNKNOWN
    shut = {(one.into, one.out) for one in verdict.shut if one.packets == "forward4"}
    every = {(a, b) for a in devices for b in devices if a != b}
    assert every - shut == {
        ("docker0", "eth0"), ("docker0", "eth1"), ("docker0", "wg0"), ("eth0", "docker0"), ("eth1", "docker0"),
        ("wg0", "docker0"), ("eth0", "wg0"), ("eth1", "wg0"),
    }  # fmt: skip
    assert {one.rules for one in verdict.shut if one.packets == "forward4"} == {
        ("iptables filter FORWARD: policy drop",)
    }
    # The chains that are kept say the same of each pair.
    (packets,) = firewall.CLASSES["forward4"]
    said = {(a, b): firewall.of_packet(verdict.filter, replace(packets, iif=a, oif=b))[0] for a, b in every}
    assert {pair for pair, word in said.items() if word == DROP} == shut
    assert {pair for pair, word in said.items() if word == UNKNOWN} == {(a, "docker0") for a in devices[1:]}


def test_an_interface_of_a_named_set_is_not_known() -> None:
    base = {"family": "inet", "table": "t"}
    chain = base | {"name": "f", "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}
    for op in ("==", "!="):
        look = {"match": {"op": op, "left": {"meta": {"key": "iifname"}}, "right": "@inside"}}
        told = [{"table": {"family": "inet", "name": "t"}}, {"chain": chain},
                {"rule": base | {"chain": "f", "expr": [look, {"accept": None}]}}]  # fmt: skip
        verdict = firewall.judge(nft.rulesets(json.dumps({"nftables": told}).encode()), ("eth0", "eth1"))
        assert (verdict.forward4, verdict.shut) == (UNKNOWN, ())
        packets = replace(firewall.CLASSES["forward4"][0], iif="eth0", oif="eth1")
        assert firewall.of_packet(verdict.filter, packets)[0] == UNKNOWN


def test_a_chain_that_hangs_on_an_interface() -> None:
    chain = {"family": "netdev", "table": "t", "name": "c", "type": "filter", "hook": "ingress", "policy": "accept"}
    rule = {"family": "netdev", "table": "t", "chain": "c", "expr": [{"drop": None}]}
    told: list[dict[str, object]] = [{"table": {"family": "netdev", "name": "t"}}, {"chain": chain}, {"rule": rule}]
    text = 'table netdev t {\n\tchain c {\n\t\ttype filter hook ingress device "eth0" priority filter; policy accept;\n'
    many = text.replace('device "eth0"', "devices = { eth0, eth1 }")
    for words, wanted in (("", set()), (text, {"eth0"}), (many, {"eth0", "eth1"})):
        tables = nft.rulesets(json.dumps({"nftables": told}).encode(), (), words)
        verdict = firewall.judge(tables, ("eth0", "eth1"))
        assert (verdict.babel, verdict.dummy4) == (UNKNOWN, UNKNOWN)  # not what comes in by others
        assert {one.into for one in verdict.shut if one.packets == "babel"} == wanted


def told(**answers: Answer) -> dict[str, Answer]:
    return {name.replace("_", "-"): answer for name, answer in answers.items()}


NOT = Answer(code=127)
NFT = Answer(b'{"nftables": []}')


def test_when_the_filter_is_unread() -> None:
    assert firewall_of({})[1] == "nft is not there to list the rules"
    assert firewall_of(told(nft=Answer(code=1, said="Operation not permitted")))[1] == "nft: Operation not permitted"
    assert firewall_of(told(nft=Answer(b"x")))[1].startswith("the rules are not understood")
    # A kernel without any packet filter needs no program to say so.
    assert firewall_of(told(nft=NOT, filters=Answer(b"known")))[0] == firewall.judge([])
    assert firewall_of(told(nft=NOT, filters=Answer(b"known nf_tables")))[0] is None
    assert firewall_of(told(nft=NFT))[0] == firewall.judge([])
    # The older tables are in use, and nobody lists them.
    assert "legacy tables" in firewall_of(told(nft=NFT, legacy=Answer(b"filter\n")))[1]
    there = firewall_of(told(nft=NFT, legacy=Answer(b"filter\n"), iptables=Answer(SAVED.encode()), ip6tables=Answer()))
    assert there[0] is not None
    assert there[0].dummy4 == DROP
    by_nft = Answer(SAVED.replace("v1.8.9", "v1.8.9 (nf_tables)").encode())
    assert "legacy" in firewall_of(told(nft=NFT, legacy=Answer(b"filter\n"), iptables=by_nft))[1]


def test_wireguard_that_could_not_be_read() -> None:
    line = b"wg0\tKEY=\t10.0.0.0/8 fe80::/64\nwg0\tKEY2=\t(none)\n"
    peers, why = wireguard_of(Answer(line), {"wg0": "wireguard"})
    assert (why, [peer.key for peer in peers["wg0"]]) == ("", ["KEY=", "KEY2="])
    assert wireguard_of(NOT, {"eth0": "veth"}) == ({}, "")
    assert wireguard_of(NOT, {"wg0": "wireguard"}) == ({}, "wg: the command is not there")
    refused = Answer(code=1, said="Unable to access interface wg0: Operation not permitted")
    assert wireguard_of(refused, {"wg0": "tun"})[1].startswith("wg: Unable to access")
    assert wireguard_of(Answer(), {"wg0": "wireguard"}) == ({"wg0": ()}, "")


# --- hosts ---------------------------------------------------------------------------------------------------------


def test_hosts() -> None:
    assert host("admin@r1") == Host("admin@r1", "r1")
    assert host("r1:2222") == Host("r1", "r1", 2222)
    assert host("2001:db8::1") == Host("2001:db8::1", "2001:db8::1")
    assert host("root@[fe80::1%eth1]:22") == Host("root@fe80::1%eth1", "fe80::1", 22)
    for bad in ("", "-oProxyCommand=x", "a b", "admin@", "x@-y", "[::1", "@r1"):
        with pytest.raises(Refusal, match="is no host"):
            host(bad)
    assert command(host("r1"))[-3:] == ["--", "r1", "sh -s"]


def test_inventories() -> None:
    found = inventory(
        "# ours\nadmin@192.0.2.1 r1   # the first\n\n[routers]\n"
        "r2 ansible_host=192.0.2.2 ansible_user=ops ansible_port=2\nr3\n"
        "[routers:vars]\nansible_user=nobody\n[all:children]\nrouters\n[more]\n[2001:db8::4]:22 r4\n",
        "hosts",
    )
    assert found == [
        Host("admin@192.0.2.1", "r1"), Host("ops@192.0.2.2", "r2", 2), Host("r3", "r3"), Host("2001:db8::4", "r4", 22),
    ]  # fmt: skip
    with pytest.raises(Refusal) as caught:
        inventory("-x\nr1 a b\nr1 port=x\nr2\nother r2\nr3 user=-oX\n", "hosts")
    for said in ("hosts:1: '-x' is no host", "hosts:2: ", "hosts:3: port 'x'", "hosts:5: a node 'r2' is there twice"):
        assert said in caught.value.message
    assert "hosts:6: " in caught.value.message
    with pytest.raises(Refusal, match="names no host"):
        inventory("# nothing\n", "hosts")
    with pytest.raises(Refusal, match="two hosts would be the node 'r1'"):
        unique([host("a@r1"), host("b@r1")])


@pytest.mark.parametrize("said", [b"", b"[]", b'[{"ifindex": "x", "ifname": "lo", "mtu": 1500}]'])
def test_links_that_cannot_be_are_not_taken_for_read(said: bytes) -> None:
    with pytest.raises(iproute.Odd):
        iproute.links(said)
