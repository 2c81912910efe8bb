"""Snapshots of real kernels: netlink and `ip -j` tell the same, ssh with a real sshd, what an ordinary user may not
read, what changes while it is read, the daemon's Babel."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from snapshot_support import by_script, here
from support import Net, Nets, run, via6, wait_until
from via6.collect import snapshot_local, snapshot_script, snapshot_ssh
from via6.errors import FAILED, OK
from via6.kernel.linux import LinuxKernel
from via6.model import PARTS, RouteTable
from via6.observe import snapshot
from via6.observe.node import Node
from via6.observe.snapshot import answers
from via6.prefix import parse_address, parse_prefix

pytestmark = pytest.mark.root

NOBODY = 65534


def as_told_by_both(node: Node) -> dict[str, Any]:
    """The node without what `ip -j` does not tell: locks of metrics, the protocol of an address, the family of a
    nexthop object without gateway; without times and with lifetimes in coarse steps."""
    kernel = node.kernel

    def plain(route: Any) -> Any:
        metrics = tuple(pair for pair in route.metrics if pair[0] != 1)
        return replace(route, metrics=metrics, expires=bool(route.expires))

    return {
        "links": kernel.links,
        "addresses": sorted((replace(a, protocol=0) for a in kernel.addresses), key=repr),
        "routes": sorted(map(plain, kernel.routes), key=repr),
        "rules": kernel.rules,
        "nexthops": tuple(replace(n, family=0 if not n.via else n.family) for n in kernel.nexthops),
        "neighbours": sorted(kernel.neighbours, key=repr),
        "parts": kernel.parts,
        "sysctls": node.sysctls,
        "wireguard": node.wireguard,
        "firewall": node.firewall,
        "babel": node.babel,
        "unread": node.unread,
        "release": node.release,
    }  # fmt: skip


EVERYTHING = """
link add br0 type bridge
link set br0 up
link add v1 type veth peer name v2
link set v1 master br0
link set v1 up
link set v2 mtu 1400
addr add 10.0.0.1/24 dev eth0
addr add 10.0.0.2/24 dev eth0
addr add 10.9.0.1 peer 10.9.0.2/32 dev eth0
addr add 2001:db8::1/64 dev eth0
addr add 2001:db8::2/64 dev eth0 nodad noprefixroute
addr add 10.7.7.7/32 dev lo scope host
addr add 2001:db8:9::1/64 dev v2
route add 10.1.0.0/16 via inet6 fe80::2 dev eth0
route add 10.2.0.0/16 via 10.0.0.9 dev eth0 mtu lock 1400 advmss 1300 metric 5 proto 46 src 10.0.0.2
route add 10.3.0.0/16 nexthop via inet6 fe80::3 dev eth0 weight 3 nexthop via 10.0.0.7 dev eth0 onlink
route add blackhole 10.4.0.0/16 metric 7
route add unreachable 10.5.0.0/16
route add throw 10.6.0.0/16 table 100
route add prohibit 10.6.0.0/16 table 1000 proto bird
route add 10.8.0.0/16 dev eth0 tos 0x10 hoplimit 9
nexthop add id 7 via fe80::7 dev eth0
nexthop add id 8 via fe80::8 dev eth0 proto 46
nexthop add id 9 group 7,3/8
nexthop add id 10 blackhole
nexthop add id 11 via 10.0.0.5 dev eth0 onlink
nexthop add id 12 dev eth0
route add 10.11.0.0/16 nhid 7
route add 10.12.0.0/16 nhid 9
route add 10.13.0.0/16 nhid 10
route add 10.14.0.0/16 nhid 12
route add default via inet6 fe80::2 dev eth0 metric 9
route add 2001:db8:1::/48 via fe80::2 dev eth0 pref high expires 1000
route add 2001:db8:2::/48 nexthop via fe80::3 dev eth0 nexthop via fe80::4 dev eth0
route add 2001:db8:3::/48 nhid 9
route add unreachable 2001:db8:4::/48
rule add from 10.0.0.0/8 to 10.1.0.0/16 iif eth0 oif v1 fwmark 0x10/0xff table 100 prio 100
rule add fwmark 7 table 1000 prio 101
rule add not from 10.1.1.1 blackhole prio 200
rule add prio 250 nop
rule add prio 251 unreachable
rule add prio 260 to 10.0.0.0/8 lookup 1000 suppress_prefixlength 0
rule add prio 270 ipproto udp dport 53 lookup 100
rule add prio 271 ipproto tcp sport 5000-5001 lookup 100
rule add prio 280 l3mdev
rule add prio 290 tos 0x10 lookup 100
rule add prio 300 goto 32766
-6 rule add from 2001:db8::/32 prohibit
neigh add 10.0.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent
neigh add fe80::2 lladdr 02:00:00:00:00:02 dev eth0 router nud permanent
neigh add 10.0.0.44 dev eth0 nud noarp lladdr 02:00:00:00:00:01
"""


@pytest.fixture
def full(nets: Nets) -> Net:
    """A namespace with some of everything."""
    a, b = nets.pair()
    for line in EVERYTHING.strip().splitlines():
        a.ip(line)
    b.ip("link set eth0 down")  # linkdown, NO-CARRIER

    def settled() -> bool:
        states = {row["ifname"]: (row["operstate"], "NO-CARRIER" in row["flags"]) for row in a.json("link show")}
        return states["eth0"][1] and states["br0"][1]

    wait_until(settled, what="the kernel has noticed")
    return a


def test_netlink_and_iproute_tell_the_same(full: Net) -> None:
    def held_still() -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Both readings, with nothing changed in between: bridges and multicast take a second to settle."""
        before, other, after = (as_told_by_both(node) for node in (here(full), by_script(full), here(full)))
        return (before, other) if before == after else None

    by_netlink, by_ip = wait_until(held_still, timeout=20, every=0.2)
    for part, told in by_netlink.items():
        assert told == by_ip[part], part
    assert by_netlink["parts"] == PARTS
    assert by_netlink["unread"] == {}
    actions = {rule.priority: rule.action for rule in by_netlink["rules"]}
    assert actions[260] == "to_tbl with suppress_prefixlength"
    assert actions[270] == "to_tbl with dport, ipproto"
    assert actions[290] == "to_tbl with tos"
    assert actions[300] == "goto 32766"
    assert by_netlink["sysctls"]["net/ipv4/conf/v1/rp_filter"] == 0
    assert "net/ipv6/conf/eth0/disable_ipv6" in by_netlink["sysctls"]


def test_a_kernel_comes_back_from_json_as_it_was(full: Net) -> None:
    node = here(full)
    assert snapshot.decode(snapshot.encode(node)) == node


def test_the_verb_writes_what_it_read(full: Net, tmp_path: Path) -> None:
    code, out, err = via6("snapshot", netns=full)
    assert (code, err) == (OK, "")
    (node,) = snapshot.files.read(out.encode(), "out")
    assert node.name == full.name
    assert RouteTable.of(node.kernel.routes).blocks
    file = tmp_path / "r1.json"
    assert via6("snapshot", "-o", file, "--name", "r1", netns=full) == (OK, "", "")
    assert [n.name for n in snapshot.load([file])] == ["r1"]
    # Masked, by a key: twice the same, and nothing that names anybody.
    key = tmp_path / "key"
    key.write_text("x" * 40)
    once = via6("snapshot", "--read", file, "--mask-key", key)
    assert once == via6("snapshot", "--read", file, "--mask-key", key)
    assert "2001:db8" not in once[1]
    assert json.loads(once[1])["name"] == "r1"
    wait_until(lambda: list(tmp_path.glob(".*")) == [], what="no half file is left")


# --- what changes while it is read ---------------------------------------------------------------------------------


def test_what_changes_while_it_is_read_is_read_again(nets: Nets) -> None:
    a, _ = nets.pair()
    dumps = []

    class Slow(LinuxKernel):
        def dump(self, parts: frozenset[str] = PARTS, **_: Any) -> Any:  # type: ignore[override]
            found = super().dump(parts)
            dumps.append(parts)
            if len(dumps) == 1:
                a.ip("route add 10.1.0.0/16 via inet6 fe80::2 dev eth0")
            elif len(dumps) == 2:
                a.ip("addr add 10.0.0.1/24 dev eth0")
            return found

    def read() -> tuple[Node, list[frozenset[str]]]:
        with Slow() as kernel:
            return snapshot_local.read("a", kernel, lambda _: []), dumps

    node, asked = a.call(read)
    assert asked[0] == PARTS
    assert asked[1] == {"routes4"}
    assert {"addresses", "routes4"} <= asked[2]
    assert node.unsteady == frozenset()
    assert {str(r.prefix) for r in node.kernel.routes if r.table == 254} >= {"10.1.0.0/16", "10.0.0.0/24"}
    assert any(address.address == parse_address("10.0.0.1") for address in node.kernel.addresses)


def test_a_node_that_never_holds_still_says_so(nets: Nets) -> None:
    a, _ = nets.pair()
    a.ip("addr add 10.0.0.1/24 dev eth0")
    words = "route replace 10.$((i / 250 % 250)).$((i % 250)).0/24 via inet6 fe80::2 dev eth0"
    a.spawn("sh", "-c", f"i=250; while :; do i=$((i + 1)); ip {words}; done")
    wait_until(lambda: "10.1.9.0" in a.ip("route show"))

    class Slow(LinuxKernel):
        def dump(self, parts: frozenset[str] = PARTS, **_: Any) -> Any:  # type: ignore[override]
            time.sleep(0.05)
            return super().dump(parts)

    def read() -> Node:
        with Slow() as kernel:
            return snapshot_local.read("a", kernel, lambda _: [])

    node, slow = by_script(a), a.call(read)
    assert "routes4" in node.unsteady
    assert slow.unsteady == {"routes4"}
    assert snapshot.decode(snapshot.encode(slow)).unsteady == {"routes4"}


# --- an ordinary user ----------------------------------------------------------------------------------------------


def test_what_an_ordinary_user_may_not_read_is_named(nets: Nets) -> None:
    a, _ = nets.pair()
    a.run("nft", "add table inet t")
    node = by_script(a, NOBODY)
    assert node.kernel.parts == PARTS  # the tables are there for everybody
    assert node.firewall is None
    assert "nft: " in node.unread["firewall"]
    assert set(node.unread) == {"firewall"}
    assert here(a).unread == {}


def test_an_ip_without_json_leaves_its_parts_unread(nets: Nets, tmp_path: Path) -> None:
    """As iproute2 of 2017 and busybox do."""
    a, _ = nets.pair()
    old = tmp_path / "ip"
    old.write_text('#!/bin/sh\ncase " $* " in *" -j "*rule*) echo "0: from all lookup local"; exit 0;; '
                   '*" -j "*nexthop*) echo "Object nexthop is unknown, try ip help." >&2; exit 1;; esac\n'
                   f'exec {shutil.which("ip")} "$@"\n')  # fmt: skip
    old.chmod(0o755)

    def ask() -> bytes:
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        asked = snapshot_script.script("mark").encode()
        return subprocess.run(["sh"], input=asked, capture_output=True, check=False, env=environment).stdout

    node = answers.node_of("a", snapshot_script.answers(a.call(ask), "mark"))
    assert node.kernel.parts == PARTS - {"rules", "nexthops"}
    assert node.unread["nexthops"] == "ip: Object nexthop is unknown, try ip help."
    assert node.unread["rules"].startswith("ip: it is no JSON")
    assert not {"rules", "nexthops"} & node.times.keys()


# --- ssh -----------------------------------------------------------------------------------------------------------


class Server:
    """An sshd of our own in a namespace, with keys of its own, and a client's configuration that knows it."""

    def __init__(self, net: Net, folder: Path) -> None:
        self.folder = folder
        for key in ("host", "user"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key)
        (folder / "authorized").write_text((folder / "user.pub").read_text())
        (folder / "sshd").write_text(
            f"Port 22\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\nPidFile none\nUsePAM no\n"
            "StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
        )
        kind, public = (folder / "host.pub").read_text().split()[:2]
        (folder / "known").write_text(f"10.0.0.2 {kind} {public}\n")
        self.config = folder / "config"
        self.configure(folder / "known")
        Path("/run/sshd").mkdir(exist_ok=True)
        sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin") or "sshd"
        self.process = net.spawn(sshd, "-D", "-e", "-f", folder / "sshd")
        wait_until(lambda: ":22 " in net.run("ss", "-Hltn").stdout, what="sshd listens")

    def configure(self, known: Path, key: str = "user") -> None:
        self.config.write_text(
            f"UserKnownHostsFile {known}\nGlobalKnownHostsFile /dev/null\nIdentityFile {self.folder}/{key}\n"
            f"IdentitiesOnly yes\nUser {getpass.getuser()}\nStrictHostKeyChecking no\nForwardAgent yes\n"
        )


@pytest.fixture
def served(nets: Nets, tmp_path: Path) -> tuple[Net, Net, Server]:
    """(client, router, its sshd); the router is 10.0.0.2."""
    client, router = nets.pair()
    client.ip("addr add 10.0.0.1/24 dev eth0")
    router.ip("addr add 10.0.0.2/24 dev eth0")
    router.ip("route add 10.1.0.0/16 via inet6 fe80::9 dev eth0")
    wait_until(lambda: router.json("link show eth0")[0]["operstate"] == "UP", what="the kernel has noticed")
    return client, router, Server(router, tmp_path)


def test_another_machine_by_ssh(served: tuple[Net, Net, Server], tmp_path: Path) -> None:
    client, router, server = served
    hosts = tmp_path / "hosts"
    hosts.write_text("# the network\n10.0.0.2 r2\n10.0.0.3 r3   # does not answer\n")
    out = tmp_path / "network"
    code, said, err = via6("snapshot", "-F", server.config, "--inventory", hosts, "-o", f"{out}/", netns=client)
    assert code == FAILED
    assert said == ""
    assert "via6: r3: " in err
    assert "does `ssh 10.0.0.3` get there?" in err
    (node,) = snapshot.load([out])
    assert node.name == "r2"
    assert node.unread == {}
    mine = as_told_by_both(replace(here(router), name="r2"))
    theirs = as_told_by_both(node)
    del mine["neighbours"], theirs["neighbours"]  # ARP has just been at work
    assert mine == theirs
    assert all(abs(node.times[part] - time.time()) < 60 for part in (*PARTS, "sysctls", "firewall", "babel"))


def test_an_unknown_host_key_is_refused(served: tuple[Net, Net, Server], tmp_path: Path) -> None:
    """Whatever the user's configuration allows."""
    client, _, server = served
    server.configure(tmp_path / "nothing")
    code, out, err = via6("snapshot", "-F", server.config, "--host", "10.0.0.2", netns=client)
    assert (code, out) == (FAILED, "")
    assert "type `ssh 10.0.0.2` once" in err
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "stranger")
    server.configure(tmp_path / "known", "stranger")
    code, out, err = via6("snapshot", "-F", server.config, "--host", "10.0.0.2", netns=client)
    assert (code, out) == (FAILED, "")
    assert "via6: 10.0.0.2: " in err
    assert "Permission denied" in err
    assert "ssh-agent" in err


def test_no_agent_is_forwarded() -> None:
    argv = snapshot_ssh.command(snapshot_ssh.host("admin@[2001:db8::1]:2222"))
    assert argv[-2:] == ["admin@2001:db8::1", "sh -s"]
    assert argv[-3] == "--"
    assert {"-a", "-x", "ForwardAgent=no", "BatchMode=yes", "StrictHostKeyChecking=yes"} <= set(argv)
    assert argv[argv.index("-p") + 1] == "2222"


# --- WireGuard -----------------------------------------------------------------------------------------------------


def test_wireguard_without_its_keys(nets: Nets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WG_PROCESS_FOREGROUND", raising=False)
    a = nets.new()
    device = f"wgs{os.getpid() % 100000}"
    a.run("wireguard-go", device)
    private, preshared = (run("wg", word).stdout.strip() for word in ("genkey", "genpsk"))
    peer = run("wg", "pubkey", input=run("wg", "genkey").stdout).stdout.strip()
    for name, text in (("private", private), ("preshared", preshared)):
        (tmp_path / name).write_text(text)
    a.run("wg", "set", device, "private-key", tmp_path / "private", "peer", peer, "preshared-key",
          tmp_path / "preshared", "allowed-ips", "10.1.0.0/16,fe80::/64,192.0.2.7/32")  # fmt: skip
    a.ip("link set", device, "up")
    for node in (here(a), by_script(a)):
        assert node.wireguard[device][0].key == peer
        assert parse_prefix("10.1.0.0/16") in node.wireguard[device][0].allowed
        text = snapshot.encode(node).decode()
        assert peer in text
        assert private not in text
        assert preshared not in text
    public = run("wg", "pubkey", input=private).stdout.strip()
    raw = a.run("sh", "-s", input=snapshot_script.script("mark")).stdout
    assert peer in raw  # what goes over the wire
    assert private not in raw
    assert preshared not in raw
    assert public not in raw
    assert by_script(a, NOBODY).unread.keys() >= {"wireguard"}


# --- Babel ---------------------------------------------------------------------------------------------------------


def test_the_babel_of_a_running_daemon(nets: Nets) -> None:
    a, b = nets.pair()
    for net, own in ((a, "10.1.0.1/24"), (b, "10.2.0.1/24")):
        nets.veth(net, "lan", net, "lan2")
        net.ip("addr add", own, "dev lan")
        net.spawn(sys.executable, "-m", "via6", "up", "eth0", "--export", "connected")

    def routed() -> bool:
        return "10.2.0.0/24 nhid" in a.ip("route show")

    wait_until(routed, timeout=20, what="a route by Babel")
    node = here(a)
    assert node.unread == {}
    assert node.babel is not None
    assert [n.cost < 65535 for n in node.babel.neighbours] == [True]
    (route,) = [r for r in node.babel.routes if r.prefix == parse_prefix("10.2.0.0/24")]
    assert route.selected
    assert route.feasible
    assert route.ifindex == node.kernel.by_name["eth0"].ifindex
    assert (parse_prefix("10.1.0.0/24"), 0) in node.babel.exports
    assert snapshot.decode(snapshot.encode(node)).babel == node.babel


def test_another_speaker_is_not_taken_for_none(nets: Nets, tmp_path: Path) -> None:
    a, _ = nets.pair()
    babeld = shutil.which("babeld")
    if babeld is None:
        pytest.fail("babeld is missing; `sh scripts/peers` installs it")
    a.spawn(babeld, "-I", "", "-S", tmp_path / "state", "eth0")
    wait_until(lambda: ":6696" in a.run("ss", "-Hlun").stdout, what="babeld listens")
    for node in (here(a), by_script(a)):
        assert node.babel is None
        assert "UDP 6696" in node.unread["babel"]


# --- a lab ---------------------------------------------------------------------------------------------------------


def test_all_nodes_of_a_lab(tmp_path: Path) -> None:
    name = f"snap{os.getpid()}"
    lab = tmp_path / f"{name}.toml"
    lab.write_text(
        '[lab]\nsoftware = "static"\n[router.r1]\nlan = "10.1.0.0/24"\n[router.r2]\nlan = "10.2.0.0/24"\n'
        '[[link]]\nends = ["r1", "r2"]\n'
    )
    code, _, err = via6("snapshot", "--lab", lab)
    assert code == FAILED
    assert f"`via6 lab up {lab}`" in err
    assert via6("lab", "up", lab)[0] == OK
    try:
        code, out, err = via6("snapshot", "--lab", lab)
        assert (code, err) == (OK, "")
        nodes = snapshot.files.read(out.encode(), "out")
        assert [node.name for node in nodes] == ["r1", "r1-h", "r2", "r2-h"]
        prefixes = {node.name: {str(r.prefix) for r in node.kernel.routes} for node in nodes}
        assert "10.2.0.0/24" in prefixes["r1"]
        assert "10.1.0.0/24" in prefixes["r2"]
    finally:
        via6("lab", "down", name)


def test_names_of_odd_octets(nets: Nets) -> None:
    """Linux takes almost any octets for the name of a device; `ip -j` prints them as they are, no JSON."""
    a, _ = nets.pair()
    ip, odd = (b"ip", b"-n", a.name.encode()), b"x\x1b[31m\xff"
    subprocess.run([*ip, b"link", b"add", odd, b"type", b"veth", b"peer", b"name", b'y"\\\xc3'], check=True)
    a.ip("addr add 10.5.0.1/24 dev eth0")
    subprocess.run([*ip, b"rule", b"add", b"iif", odd, b"lookup", b"77"], check=True)

    def held_still() -> tuple[dict[str, Any], dict[str, Any]] | None:
        before, other, after = (as_told_by_both(node) for node in (here(a), by_script(a), here(a)))
        return (before, other) if before == after else None

    by_netlink, by_ip = wait_until(held_still, timeout=20, every=0.2)
    for part, told in by_netlink.items():
        assert told == by_ip[part], part
    assert {"x\x1b[31m\\xff", 'y"\\\\xc3'} <= {link.name for link in by_netlink["links"]}
    assert "net/ipv4/conf/x\x1b[31m\\xff/rp_filter" in by_netlink["sysctls"]
    code, out, err = via6("snapshot", netns=a)
    assert (code, err) == (OK, "")
    assert snapshot.decode(out.encode())
