"""`via6 doctor` at one node: a real network is broken in one way, exactly that is found, it is mended as the finding
says, and nothing is found any more."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from doctor_support import Line, batch, look, roots, told, type_in, via6_doctor
from support import Nets, link_local, via6, wait_until
from via6.observe.doctor import registry
from via6.observe.doctor.finding import ERROR, WARNING
from via6.observe.doctor.measured import Measured

pytestmark = pytest.mark.root


@pytest.fixture
def line(nets: Nets) -> Line:
    return Line(nets)


@dataclass(frozen=True)
class Fault:
    """`prepare` and `spoil` change the network; then `node` finds `code`. `lost`: h1 does not reach h3 any more.
    `words` fill the placeholders of the remedy; None: `--fix` mends it."""

    name: str
    node: str
    code: str
    spoil: Callable[[Line], Any]
    severity: str = ERROR
    lost: bool = True
    prepare: Callable[[Line], Any] = lambda _line: None
    words: tuple[tuple[str, str], ...] | None = ()
    mend: Callable[[Line], Any] | None = None


def sysctl(node: str, **values: int) -> Callable[[Line], None]:
    """`ipv4__conf__east__rp_filter=1`."""

    def spoil(line: Line) -> None:
        for name, value in values.items():
            line[node].sysctl("net/" + name.replace("__", "/"), value)

    return spoil


def ip(node: str, *lines: str) -> Callable[[Line], None]:
    return lambda line: batch(line[node], *lines)


def nft(node: str, rules: str) -> Callable[[Line], None]:
    return lambda line: line[node].run("nft", "-f", "-", input=rules) and None


# --- how to spoil a network ----------------------------------------------------------------------------------------


def pending(line: Line) -> None:
    address = link_local(line["r2"], "west")
    sysctl("r2", ipv6__conf__west__accept_dad=1, ipv6__conf__west__dad_transmits=200)(line)
    batch(line["r2"], f"addr del {address}/64 dev west", f"addr add {address}/64 dev west")
    forgotten(line)


def forgotten(line: Line) -> None:
    """r1 has known r2 by a link-layer address that still works; in a minute it would ask again."""
    line["r1"].ip("neigh flush dev east")


def duplicate(line: Line) -> None:
    """r2 takes the address that r1 has on the link, as a bad template of virtual machines would."""
    own, theirs = link_local(line["r2"], "west"), link_local(line["r1"], "east")
    sysctl("r2", ipv6__conf__west__accept_dad=1)(line)
    batch(line["r2"], f"addr del {own}/64 dev west", f"addr add {theirs}/64 dev west")
    wait_until(lambda: "dadfailed" in line["r2"].ip("-6 addr show dev west"), what="DAD fails")
    forgotten(line)


def global_next_hop(line: Line) -> None:
    batch(line["r1"], "addr add 2001:db8:12::1/64 dev east nodad",
          "route replace 10.3.0.0/24 via inet6 2001:db8:12::2 dev east proto static")  # fmt: skip
    batch(line["r2"], "addr add 2001:db8:12::2/64 dev west nodad")


def moved(line: Line) -> None:
    """The network of the next hop is behind r2 now."""
    batch(line["r2"], "addr del 2001:db8:12::2/64 dev west", "addr add 2001:db8:12::2/64 dev east nodad")
    batch(line["r1"], "addr del 2001:db8:12::1/64 dev east",
          f"route add 2001:db8:12::/64 via {link_local(line['r2'], 'west')} dev east")  # fmt: skip
    forgotten(line)


def renumber(line: Line) -> None:
    own = link_local(line["r2"], "west")
    batch(line["r2"], f"addr del {own}/64 dev west", "addr add fe80::2222/64 dev west nodad")
    forgotten(line)


def pinned(line: Line) -> None:
    """Somebody wrote r2's link-layer address down, and the card was changed since."""
    line["r1"].ip(f"neigh replace {link_local(line['r2'], 'west')} lladdr 02:00:00:00:00:99 dev east nud permanent")


def host_without_gateway(line: Line) -> None:
    router = link_local(line["r1"], "lan")
    batch(line["h1"], "addr del 10.1.0.10/24 dev eth0", "addr add 10.1.0.10/32 dev lo",
          f"route add 0.0.0.0/0 via inet6 {router} dev eth0")  # fmt: skip


def one_way_round(line: Line) -> None:
    """r3 answers by r2, and r1 asks directly."""
    line.triangle()
    line["r3"].ip("route del 10.1.0.0/24 dev direct")


def later(line: Line) -> None:
    """r1's routes have a metric: there is room for smaller ones."""
    line["r1"].ip("route del 10.3.0.0/24")
    line["r1"].ip(f"route add 10.3.0.0/24 via inet6 {link_local(line['r2'], 'west')} dev east proto static metric 100")


def invented(line: Line) -> None:
    line["r1"].ip("route replace 10.3.0.0/24 via 169.254.0.1 dev east onlink")


def unplugged(far: str, dev: str, here: str) -> Callable[[Line], None]:
    """The far end goes down. A moment later the near end has no carrier."""

    def spoil(line: Line) -> None:
        line[far].ip(f"link set {dev} down")
        wait_until(lambda: "linkdown" in line["r1"].ip("route show dev", here), what="the carrier goes")

    return spoil


def plugged(line: Line) -> None:
    line["r2"].ip("link set west up")
    line.route("r2", 1, "west", "r1", "east")
    wait_until(lambda: "linkdown" not in line["r1"].ip("route"), what="the carrier comes back")


ICMP_ERRORS = "{ destination-unreachable, time-exceeded, parameter-problem }"
FORWARD = "table inet f {\n chain forward {\n type filter hook forward priority 0; %s\n }\n}\n"
INPUT = FORWARD.replace("forward", "input")
NETDEV = "table netdev f {\n chain c {\n type filter hook %s device %s priority 0; meta protocol ip drop\n }\n}\n"
TWICE = """table inet f {
 chain c {
  type filter hook forward priority 0; iifname vmap { west : drop, lan : accept }
 }
}
table ip g {
 chain c {
  type filter hook postrouting priority 0; oif east drop
 }
 chain in {
  type filter hook input priority 0; policy drop; icmp type != 8 accept
 }
}
"""
DOCKER = """table ip filter {
 chain USER {
  return
 }
 chain FORWARD {
  type filter hook forward priority 0; policy drop; jump USER
  oifname "docker0" ct state related,established accept
  iifname "docker0" oifname != "docker0" accept
  iifname "docker0" oifname "docker0" accept
 }
}
"""

FAULTS = [
    Fault("global", "r2", "forwarding-off", sysctl("r2", ipv4__ip_forward=0), words=None),
    Fault("global by hand", "r2", "forwarding-off", sysctl("r2", ipv4__ip_forward=0)),
    Fault("one interface", "r2", "forwarding-off", sysctl("r2", ipv4__conf__west__forwarding=0), words=None),
    Fault("the LAN of an edge", "r1", "forwarding-off", sysctl("r1", ipv4__conf__lan__forwarding=0)),
    Fault("an edge", "r1", "forwarding-off", sysctl("r1", ipv4__ip_forward=0), words=None),
    Fault("all", "r1", "rp-filter-strict", sysctl("r1", ipv4__conf__all__rp_filter=1), WARNING, prepare=one_way_round,
          words=None),
    Fault("interface", "r1", "rp-filter-strict", sysctl("r1", ipv4__conf__east__rp_filter=1), WARNING,
          prepare=one_way_round),
    Fault("loose without an address", "r1", "rp-filter-strict", sysctl("r1", ipv4__conf__east__rp_filter=2), WARNING,
          prepare=one_way_round, words=None),
    Fault("no route to 192.0.0.8", "r1", "rp-filter-dummy", sysctl("r1", ipv4__conf__all__rp_filter=2), WARNING, False,
          words=None),
    Fault("IPv6 off", "r2", "ipv6-disabled", sysctl("r2", ipv6__conf__west__disable_ipv6=1), words=None),
    Fault("small", "r1", "mtu-below-1280", ip("r1", "link set east mtu 1000")),
    Fault("flushed", "r1", "no-link-local", ip("r1", "addr flush dev east scope link", "neigh flush dev east")),
    Fault("DAD runs", "r2", "dad-pending", pending, WARNING),
    Fault("DAD failed", "r2", "dad-failed", duplicate),
    Fault("prefix moved", "r1", "next-hop-off-link", moved, prepare=global_next_hop),
    Fault("renumbered", "r1", "next-hop-unreachable", renumber),
    Fault("pinned", "r1", "neighbour-wrong", pinned, words=None),
    Fault("pinned, by hand", "r1", "neighbour-wrong", pinned),
    Fault("host", "h1", "no-ipv4-source", ip("h1", "addr del 10.1.0.10/32 dev lo"), prepare=host_without_gateway,
          words=(("ADDRESS", "10.1.0.10"),)),
    Fault("nft forward policy", "r2", "firewall-forward", nft("r2", FORWARD % "policy drop;")),
    Fault("nft forward rule", "r2", "firewall-forward", nft("r2", FORWARD % "meta nfproto ipv4 drop")),
    Fault("nft one direction", "r2", "firewall-forward", nft("r2", FORWARD % 'policy drop; iifname "west" accept')),
    Fault("nft interface", "r1", "firewall-forward", nft("r1", FORWARD % 'oifname "ea*" drop')),
    Fault("Docker's policy", "r2", "firewall-forward", nft("r2", DOCKER)),
    Fault("nft ingress", "r2", "firewall-forward", nft("r2", NETDEV % ("ingress", "west"))),
    Fault("two tables", "r2", "firewall-forward", nft("r2", TWICE)),
    Fault("nft icmp", "r2", "firewall-icmp", nft("r2", FORWARD % f"icmp type {ICMP_ERRORS} drop"), WARNING, False),
    Fault("nft icmp input", "r1", "firewall-icmp", nft("r1", INPUT % f"icmp type {ICMP_ERRORS} drop"), WARNING, False),
    Fault("nft bogons", "r2", "firewall-dummy", nft("r2", FORWARD % "ip saddr 192.0.0.0/24 drop"), WARNING, False),
    Fault("blackhole", "r1", "route-shadowed", ip("r1", "route add blackhole 10.3.0.0/24"), WARNING, prepare=later),
    Fault("longer", "r1", "route-shadowed", ip("r1", "route add prohibit 10.3.0.0/28"), WARNING),
    Fault("another gateway", "r1", "route-shadowed", ip("r1", "route add 10.3.0.0/24 via 10.1.0.77 dev lan"), WARNING,
          prepare=later),
    Fault("rule", "r1", "rule-shadowed", ip("r1", "rule add to 10.3.0.0/24 prohibit priority 100"), WARNING),
    Fault("rule and table", "r1", "rule-shadowed", ip("r1", "rule add lookup 100 priority 100",
          "route add unreachable default table 100"), WARNING),
    Fault("no rule", "r1", "rule-shadowed", ip("r1", "rule del priority 32766")),
    Fault("cable, with another way", "r1", "next-hop-dead", unplugged("r3", "direct", "direct"), prepare=Line.triangle,
          words=None),
    Fault("cable", "r1", "next-hop-dead", unplugged("r2", "west", "east"), mend=plugged),
    Fault("invented", "r1", "synthetic-next-hop", invented),
    Fault("one side", "r1", "mixed-link", ip("r1", "addr add 10.12.0.1/30 dev east"), WARNING, False),
    Fault("few errors", "r2", "icmp-rate-limit", sysctl("r2", ipv4__icmp_ratelimit=60000), WARNING, False, words=None),
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.code}: {fault.name}")
def test_a_fault_is_found_and_mended(line: Line, fault: Fault, tmp_path: Path) -> None:
    fault.prepare(line)
    assert line.ping()
    assert [told(line.look(name)) for name in line.nodes] == [[]] * len(line.nodes)
    fault.spoil(line)
    found = line.look(fault.node)
    assert roots(found) == {fault.code}, told(found)
    root = found[0]
    assert (root.code, root.severity) == (fault.code, fault.severity)
    assert root.title
    assert root.evidence
    assert root.breaks
    assert root.remedy
    assert line.ping() is not fault.lost
    if fault.mend is not None:
        fault.mend(line)
    elif fault.words is None:
        assert root.fixable
        code, _, err = via6_doctor(line[fault.node], tmp_path, "--fix", "--yes")
        assert (code, err) == (0, "")
    else:
        type_in(line[fault.node], root, **dict(fault.words))
    wait_until(lambda: not line.look(fault.node), timeout=4, what="all is well")  # an address may wait for DAD
    assert line.ping()


# --- what the line of routers cannot show --------------------------------------------------------------------------


def test_one_next_hop_at_two_machines(nets: Nets) -> None:
    """Three on a switch, two of them with one address that was written by hand."""
    here, one, other, switch = (nets.new() for _ in range(4))
    batch(switch, "link add br0 type bridge", "link set br0 up")
    for number, (net, address) in enumerate(((here, "fe80::a"), (one, "fe80::b"), (other, "fe80::b"))):
        nets.veth(net, "eth0", switch, f"p{number}")
        switch.ip(f"link set p{number} master br0")
        batch(net, "addr flush dev eth0 scope link", f"addr add {address}/64 dev eth0 nodad")
    batch(here, "addr add 10.0.1.1/32 dev lo", "route add 10.0.2.0/24 via inet6 fe80::b dev eth0")
    [found] = look(here)
    assert (found.code, found.severity, found.fixable) == ("next-hop-twice", ERROR, False)
    macs = {net.json("link show eth0")[0]["address"] for net in (one, other)}
    assert all(any(mac in line for line in found.evidence) for mac in macs)
    batch(other, "addr add fe80::c/64 dev eth0 nodad", "addr del fe80::b/64 dev eth0")
    assert told(look(here)) == []


def test_babel_that_a_firewall_drops(line: Line, tmp_path: Path) -> None:
    """Two routers find each other; then one of them gets a firewall."""
    for name, devices in (("r1", ("east",)), ("r2", ("west",))):
        line[name].spawn(
            sys.executable, "-m", "via6", "up", *devices, "--export", "connected",
            env={**os.environ, "VIA6_STATE": str(tmp_path / name)},
        )  # fmt: skip
    wait_until(lambda: "proto 46" in line["r2"].ip("route") or "via6" in line["r2"].ip("route"), 15, what="a route")
    wait_until(lambda: told(line.look("r2")) == [], 10, what="all is well")
    nft("r2", INPUT % "udp dport 6696 drop")(line)
    found = line.look("r2")
    assert roots(found) == {"firewall-babel"}, told(found)
    type_in(line["r2"], found[0])
    wait_until(lambda: told(line.look("r2")) == [], 10, what="all is well")


MANAGED = """
mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /etc/systemd 2>/dev/null || { mkdir -p /etc/systemd; }
mkdir -p /run/systemd/netif/links /run/NetworkManager/devices /run/bin
cp "$(command -v sleep)" /run/bin/%(program)s
/run/bin/%(program)s 60 & sleeping=$!
%(write)s
%(doctor)s doctor -j > %(folder)s/broken
%(remedy)s
%(doctor)s doctor -j > %(folder)s/mended
kill $sleeping
"""


NETWORKD = """mkdir -p /etc/systemd/networkd.conf.d
printf '[Network]\\nManageForeignRoutes=no\\n' > /etc/systemd/networkd.conf.d/90-via6.conf"""


@pytest.mark.parametrize("program", ["systemd-networkd", "NetworkManager"])
def test_a_manager_that_removes_foreign_routes(line: Line, tmp_path: Path, program: str) -> None:
    """A sandbox for /run and /etc/systemd: the state files of the manager, and a process by its name."""
    index = next(link["ifindex"] for link in line["r1"].json("link") if link["ifname"] == "east")
    write, remedy = {
        "systemd-networkd": (
            f"echo ADMIN_STATE=configured > /run/systemd/netif/links/{index}",
            NETWORKD,
        ),
        "NetworkManager": (
            f"printf '[device]\\nmanaged=true\\n' > /run/NetworkManager/devices/{index}",
            f"printf '[device]\\nmanaged=false\\n' > /run/NetworkManager/devices/{index}  # as nmcli would have it",
        ),
    }[program]
    words = {"program": program, "write": write, "remedy": remedy, "doctor": f"{sys.executable} -m via6"}
    script = MANAGED % {**words, "folder": tmp_path}
    line["r1"].run("unshare", "-m", "sh", "-uc", script, check=False)
    [found] = json.loads((tmp_path / "broken").read_text())
    assert (found["code"], found["severity"], found["subject"]) == ("foreign-manager", "warning", "east")
    assert "10.3.0.0/24" in found["evidence"]
    assert remedy.splitlines()[0] in found["remedy"] or program == "NetworkManager"
    assert json.loads((tmp_path / "mended").read_text()) == []


def test_an_old_kernel(line: Line) -> None:
    """The personality of Linux 2.6 makes uname say so."""
    argv = ("setarch", "--uname-2.6", sys.executable, "-m", "via6", "doctor", "-j")
    found = json.loads(line["r2"].run(*argv, check=False).stdout)
    assert [one["code"] for one in found] == ["kernel-too-old"]
    assert "5.2" in found[0]["title"]
    case = line.case("r2")
    assert told(registry.examine(case)) == []
    old = replace(case.node, release="5.10.10-amd64")
    # r2 has an address of its own: its ICMP errors come from there.
    assert told(registry.examine(replace(case, node=old, measured=Measured(icmp_source=False)))) == []
    line["r2"].ip("addr del 10.255.0.2/32 dev lo")
    case = line.case("r2")
    for release, tried, wanted in (
        ("5.10.10-amd64", False, ERROR), ("5.10.10-amd64", None, WARNING), ("5.10.10-amd64", True, ""),
        ("5.10.120", None, ""), ("4.19.200", False, ERROR), ("5.13.0", None, ""), ("6.1.0-40-amd64", None, ""),
    ):  # fmt: skip
        measured = replace(case.measured, icmp_source=tried)
        found_now = registry.examine(replace(case, node=replace(case.node, release=release), measured=measured))
        assert [one.severity for one in found_now] == [wanted] * bool(wanted), release


# --- the command ---------------------------------------------------------------------------------------------------


def test_fix_asks_and_undo_takes_back(line: Line, tmp_path: Path) -> None:
    r2 = line["r2"]
    r2.sysctl("net/ipv4/conf/west/forwarding", 0)
    r2.sysctl("net/ipv4/icmp_ratelimit", 60000)
    code, out, err = via6_doctor(r2, tmp_path, "--fix")
    assert (code, "nobody is there to be asked" in err) == (1, True)
    assert "net.ipv4.conf.west.forwarding = 1" in out
    assert told(line.look("r2")) != []
    code, out, err = via6_doctor(r2, tmp_path, "--fix", "--yes")
    assert (code, err) == (0, "")
    assert "done: net.ipv4.conf.west.forwarding = 1 (was 0)" in out
    assert out.endswith("nothing is wrong\n")
    r2.sysctl("net/ipv4/icmp_ratelimit", 500)
    code, out, err = via6_doctor(r2, tmp_path, "--undo")
    assert code == 0
    assert out == "back: net.ipv4.conf.west.forwarding = 0\n"
    assert err == "left alone: net.ipv4.icmp_ratelimit is 500 by now, not the 1000 of --fix\n"
    assert roots(line.look("r2")) == {"forwarding-off"}
    code, _, err = via6_doctor(r2, tmp_path, "--undo")
    assert (code, "is left to take back" in err) == (1, True)


def test_other_interfaces_keep_their_filter(line: Line, tmp_path: Path) -> None:
    """The filter of `all` guards the way to the Internet as well: lifted elsewhere, it stays there."""
    one_way_round(line)
    r1 = line["r1"]
    batch(r1, "link add wan type veth peer name naw", "link set naw up", "link set wan up",
          "addr add 198.51.100.2/24 dev wan")  # fmt: skip
    r1.sysctl("net/ipv4/conf/all/rp_filter", 1)
    assert roots(line.look("r1")) == {"rp-filter-strict"}
    assert via6_doctor(r1, tmp_path, "--fix", "--yes")[0] == 0

    def level(dev: str) -> str:
        return r1.run("cat", f"/proc/sys/net/ipv4/conf/{dev}/rp_filter").stdout.strip()

    assert [level(dev) for dev in ("all", "east", "direct", "wan", "lan")] == ["0", "0", "0", "1", "1"]
    assert line.ping()
    assert via6_doctor(r1, tmp_path, "--undo")[0] == 0
    assert [level(dev) for dev in ("all", "east", "direct", "wan", "lan")] == ["1", "0", "0", "0", "0"]


def test_an_interface_of_another_life_is_left_alone(line: Line, tmp_path: Path) -> None:
    r2 = line["r2"]
    r2.sysctl("net/ipv4/conf/west/forwarding", 0)
    assert via6_doctor(r2, tmp_path, "--fix", "--yes")[0] == 0
    r2.ip("link set west name old")
    r2.ip("link add west type veth peer name tsew")
    code, out, err = via6_doctor(r2, tmp_path, "--undo")
    assert (code, out) == (0, "")
    assert "that interface is gone" in err


def test_without_a_journal_nothing_is_mended(line: Line, tmp_path: Path) -> None:
    line["r2"].sysctl("net/ipv4/ip_forward", 0)
    state = tmp_path / "file"
    state.write_text("")
    code, _, err = via6_doctor(line["r2"], state, "--fix", "--yes")
    assert (code, "without a journal there is no undo" in err) == (1, True)
    assert line["r2"].run("cat", "/proc/sys/net/ipv4/ip_forward").stdout == "0\n"


def test_what_it_prints(line: Line, tmp_path: Path) -> None:
    assert via6("doctor", netns=line["r2"]) == (0, "nothing is wrong\n", "")
    assert via6("doctor -j", netns=line["r2"]) == (0, "[]\n", "")
    line["r2"].sysctl("net/ipv6/conf/west/disable_ipv6", 1)
    line["r2"].sysctl("net/ipv4/conf/west/forwarding", 0)
    code, out, err = via6("doctor -j", netns=line["r2"])
    assert (code, err) == (3, "")
    found = {one["code"]: one for one in json.loads(out)}
    assert found.keys() == {"ipv6-disabled", "forwarding-off"}
    for one in found.values():
        assert {"code", "severity", "title", "evidence", "remedy", "depends_on", "fixable"} <= one.keys()
        assert (one["severity"], one["depends_on"], one["fixable"]) == (ERROR, [], True)
    wanted = f"ip netns exec {line['r2']} sysctl -w net.ipv6.conf.west.disable_ipv6=0"
    assert found["ipv6-disabled"]["remedy"].splitlines()[0] == wanted
    code, out, err = via6("doctor", netns=line["r2"])
    assert (code, err) == (3, "")
    assert "    mend    " + wanted in out
    assert out.splitlines()[-1] == "2 errors; `via6 doctor --fix` mends 2"
    paper = tmp_path / "r2.json"
    assert via6(f"snapshot -o {paper}", netns=line["r2"])[0] == 0
    code, out, err = via6(f"doctor -j --snapshots {paper}")
    assert (code, err) == (3, "")
    on_paper = json.loads(out)
    assert {one["code"] for one in on_paper} == found.keys()
    assert not any(one["fixable"] for one in on_paper)


def test_a_follower_is_folded(line: Line) -> None:
    """r1 asks for r2, whose IPv6 is off: with both known, that is one cause."""
    line["r2"].sysctl("net/ipv6/conf/west/disable_ipv6", 1)
    forgotten(line)
    assert roots(line.look("r1")) == {"next-hop-unreachable"}
    found = line.look_at_all("r1", "r2")
    assert roots(found) == {"ipv6-disabled"}, told(found)
    assert found[0].code == "ipv6-disabled"
    assert {"next-hop-unreachable"} <= {one.code for one in found[1:]}


@pytest.mark.parametrize("words", [
    "--lab a --snapshots b", "--fix --undo", "--yes", "--snapshots a --fix", "--to nowhere", "--to fe80::1",
])  # fmt: skip
def test_what_it_refuses(words: str) -> None:
    assert via6("doctor", *words.split())[0] == 2


def test_the_whole_network_shows_an_asymmetric_way(line: Line) -> None:
    """r3 has one route to r1's network, the direct one, and r1 sends by r2: at r3 alone nothing tells."""
    line.triangle()
    line["r3"].ip("route del 10.1.0.0/24 metric 200")
    line["r3"].ip("route del 10.255.0.1 metric 200")
    line["r1"].ip("route del 10.3.0.0/24 dev direct")
    line["r1"].ip("route del 10.255.0.3 dev direct")
    line["r3"].sysctl("net/ipv4/conf/west/rp_filter", 1)
    assert not line.ping()
    assert "rp-filter-strict" not in roots(line.look("r3"))
    found = line.look_at_all()
    assert roots(found) == {"rp-filter-strict"}, told(found)
    assert (found[0].node, found[0].severity) == ("r3", ERROR)
    type_in(line["r3"], found[0])
    assert line.ping()
    assert told(line.look_at_all()) == []


@pytest.mark.parametrize("fault", ["disable", "flush"])
def test_an_address_written_by_hand_comes_back(line: Line, tmp_path: Path, fault: str) -> None:
    """r2 has fe80::2 on each link, as labs and some routers do; the kernel would make another one."""
    for dev, far, far_dev, prefix in (("west", "r1", "east", "10.3.0.0/24"), ("east", "r3", "west", "10.1.0.0/24")):
        line["r2"].sysctl(f"net/ipv6/conf/{dev}/addr_gen_mode", 1)
        batch(
            line["r2"], f"addr del {link_local(line['r2'], dev)}/64 dev {dev}", f"addr add fe80::2/64 dev {dev} nodad"
        )
        batch(line[far], f"route replace {prefix} via inet6 fe80::2 dev {far_dev} proto static")
        for number in ("1", "2", "3"):
            line[far].ip(f"route del 10.255.0.{number}", check=False)
    assert line.ping()
    assert told(line.look("r2")) == []
    if fault == "disable":
        line["r2"].sysctl("net/ipv6/conf/west/disable_ipv6", 1)
    else:
        line["r2"].ip("-6 addr flush dev west")
    [found] = line.look("r2")
    assert found.code == ("ipv6-disabled" if fault == "disable" else "no-link-local")
    code, out, err = via6_doctor(line["r2"], tmp_path, "--fix", "--yes")
    assert (code, err) == (0, "")
    assert "done: ip -6 address add fe80::2/64 dev west" in out
    assert line.ping()
    code, out, err = via6_doctor(line["r2"], tmp_path, "--undo")
    assert (code, err) == (0, "")
    assert "back: ip -6 address del fe80::2/64 dev west" in out
    assert [one.code for one in line.look("r2")] == [found.code]
