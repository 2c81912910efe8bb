"""`via6 trace` in real networks: routers with and without via6, faults on the way, equal ways, users without rights."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from support import Net, Nets, link_local, via6, wait_until
from via6.lab.speakers import program
from via6.observe.packet import ICMP, Icmp, IPv4, build_icmp, build_ipv4, checksum, parse_ipv4
from via6.observe.trace.probe import DUMMY

pytestmark = pytest.mark.root


class Node:
    """A router `rN` in a namespace; the link to rM is ethM. Those with an address have 10.9.N.1/32 on lo."""

    def __init__(self, net: Net, number: int, folder: Path, addressed: bool) -> None:
        self.net = net
        self.number = number
        self.name = f"r{number}"
        self.address = f"10.9.{number}.1"
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        if addressed:
            net.ip(f"addr add {self.address}/32 dev lo")
        for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            net.sysctl(key, 1)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "VIA6_STATE": str(self._folder / f"state{self.number}"),
            "VIA6_SOCKET": str(self._folder / f"s{self.number}"),
        }

    @property
    def log(self) -> str:
        path = self._folder / f"{self.name}.log"
        return path.read_text() if path.exists() else ""

    def via6(self, *words: str) -> None:
        """The daemon; without further words it exports what is connected."""
        argv = [sys.executable, "-m", "via6", "-n", self.net.name, "up", "eth*", "--name", self.name, *words]
        with (self._folder / f"{self.name}.log").open("ab") as out:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.environment
            )
        wait_until(lambda: "ready:" in self.log, timeout=30, what=f"{self.name} ready: {self.log}")

    def babeld(self) -> None:
        devices = [link["ifname"] for link in self.net.json("link") if link["ifname"] != "lo"]
        self.net.spawn(
            program("babeld"), "-I", f"{self._folder}/{self.name}.pid", "-S", f"{self._folder}/{self.name}.state",
            "-C", "default type wired hello-interval 1 update-interval 4", *devices,
        )  # fmt: skip

    def route(self, prefix: str, *hops: Node, **more: str) -> None:
        words = [f"via inet6 {link_local(hop.net, f'eth{self.number}')} dev eth{hop.number}" for hop in hops]
        if len(words) > 1:
            words = [f"nexthop {word}" for word in words]
        self.net.ip("route replace", prefix, *(f"{key} {value}" for key, value in more.items()), *words)

    def trace(self, *words: str, prefix: Sequence[str] = ()) -> tuple[int, dict[str, Any], float]:
        """(exit code, JSON, seconds)"""
        began = time.monotonic()
        code, out, err = via6("trace", "-j", *words, netns=self.net, env=self.environment)
        took = time.monotonic() - began
        assert "Traceback" not in err
        assert out, err
        return code, json.loads(out), took

    def text(self, *words: str) -> str:
        return via6("trace", *words, netns=self.net, env=self.environment)[1]


@contextlib.contextmanager
def network(
    nets: Nets, folder: Path, count: int, links: Sequence[tuple[int, int]], addressed: set[int]
) -> Iterator[list[Node]]:
    nodes = [Node(nets.new(), number, folder, number in addressed) for number in range(count)]
    for at, (a, b) in enumerate(links):
        near, far = nodes[a].net, nodes[b].net
        near.ip(f"link add eth{b} index {11 + 2 * at} type veth peer name eth{a} index {12 + 2 * at} netns {far.name}")
        near.ip(f"link set eth{b} up")
        far.ip(f"link set eth{a} up")
    try:
        yield nodes
    finally:
        for node in nodes:
            if node.process is not None and node.process.poll() is None:
                node.process.send_signal(signal.SIGTERM)
        for node in nodes:
            if node.process is not None:
                node.process.wait(30)
                assert "Traceback" not in node.log, node.log


def line(nets: Nets, folder: Path, count: int) -> contextlib.AbstractContextManager[list[Node]]:
    """r0 - r1 - …, with addresses at the ends alone."""
    return network(nets, folder, count, [(n, n + 1) for n in range(count - 1)], {0, count - 1})


def static_line(nodes: Sequence[Node]) -> None:
    """Routes from end to end, by hand."""
    first, last = nodes[0], nodes[-1]
    for one, following in pairwise(nodes):
        one.route(f"{last.address}/32", following, **({"src": first.address} if one is first else {}))
        following.route(f"{first.address}/32", one, **({"src": last.address} if following is last else {}))


def has_route(node: Node, to: str) -> bool:
    return bool(node.net.json("-4 route show", to))


NOBODY = "setpriv", "--bounding-set=-all", "--inh-caps=-all", "--reuid=65534", "--regid=65534", "--clear-groups"


def names(made: dict[str, Any] | None) -> list[str | None]:
    return [hop["node"] for hop in made["hops"]] if made else []


LONG = 15  # seconds: it does not hang, however busy the machine is
KEYS = {"node", "in", "route", "next_hop", "out", "rtt_ms", "icmp_source"}


# --- all run via6 --------------------------------------------------------------------------------------------------


def test_a_line_of_routers_that_run_via6(nets: Nets, tmp_path: Path) -> None:
    with line(nets, tmp_path, 4) as nodes:
        for node in nodes:
            node.via6("--export", "connected")
        first, last = nodes[0], nodes[-1]
        wait_until(lambda: has_route(first, last.address) and has_route(last, first.address), timeout=30)
        code, made, took = first.trace(last.address)
        assert (code, made["disposition"], made["back"]["disposition"]) == (0, "ACCEPTED", "ACCEPTED"), made
        assert names(made) == ["r0", "r1", "r2", "r3"]
        assert names(made["back"]) == ["r3", "r2", "r1", "r0"]
        assert all(hop.keys() >= KEYS for hop in made["hops"] + made["back"]["hops"])
        assert [hop["icmp_source"] for hop in made["hops"]] == [None, "192.0.0.8", "192.0.0.8", last.address]
        assert [hop["in"] for hop in made["hops"]] == [None, "eth0", "eth1", "eth2"]
        assert [hop["out"] for hop in made["hops"]] == ["eth1", "eth2", "eth3", None]
        assert made["hops"][1]["next_hop"] == link_local(nodes[2].net, "eth1")
        assert all(hop["rtt_ms"] is not None for hop in made["hops"][1:])
        assert all(hop["route"] for hop in made["hops"])
        assert not made["asymmetric"]
        assert made["remarks"] == []
        assert made["back"]["back"] is None
        assert took < LONG
        for words in (["--proto", "udp"], ["--port", "22"], ["--proto", "udp", "--port", "53"]):
            code, made, _ = first.trace(last.address, *words)
            assert (code, names(made), made["disposition"]) == (0, ["r0", "r1", "r2", "r3"], "ACCEPTED")
            assert made["flow"]["sport"]
        text = first.text(last.address)
        assert text.rstrip().endswith("ACCEPTED")
        assert re.search(r"^ ?1 +r1 +eth0 +eth2 +fe80::\S+ +[\d.]+ ms +192\.0\.0\.8$", text, re.MULTILINE), text
        assert max(map(len, text.splitlines())) <= 110


@pytest.fixture
def four(nets: Nets, tmp_path: Path) -> Iterator[list[Node]]:
    """A line of four with daemons, and static routes that faults can be made in."""
    with line(nets, tmp_path, 4) as nodes:
        static_line(nodes)
        for node in nodes:
            node.via6()
        wait_until(lambda: None not in names(nodes[0].trace(nodes[-1].address)[1]), timeout=10, what="daemons answer")
        time.sleep(1.2)  # a router gives one ICMP error a second
        yield nodes


FAULTS = {
    "blackhole": ("NULL_ROUTED", "ip route replace blackhole 10.9.3.1"),
    "unreachable": ("NULL_ROUTED", "ip route replace unreachable 10.9.3.1"),
    "prohibit": ("NULL_ROUTED", "ip route replace prohibit 10.9.3.1"),
    "no route": ("NO_ROUTE", "ip route del 10.9.3.1"),
    "forwarding": ("NULL_ROUTED", "sysctl -qw net.ipv4.conf.eth1.forwarding=0"),
    "next hop": ("NEIGHBOR_UNREACHABLE", "ip route replace 10.9.3.1 via inet6 fe80::dead dev eth3"),
    "loop": ("LOOP", ""),
}


def test_faults_on_the_way_are_named(four: list[Node]) -> None:
    first, _, third, last = four
    for name, (ends, command) in FAULTS.items():
        if name == "loop":
            third.route(f"{last.address}/32", four[1])
        else:
            third.net.run(command)
        code, made, took = first.trace(last.address)
        for _ in range(5 if name == "forwarding" else 0):  # the daemon there may turn it on again
            if made["disposition"] != ends:
                third.net.run(command)
                code, made, took = first.trace(last.address)
        assert (code, made["disposition"]) == (3, ends), (name, made)
        assert took < LONG, name
        end = next(hop for hop in made["hops"] if hop["ends"])
        assert end["ends"] == ends
        assert end["node"] == ("r1" if name == "loop" else "r2"), (name, made)
        assert end["why"], name
        text = first.text(last.address)
        assert name == "forwarding" or text.rstrip().endswith(ends), (name, text)
        third.net.sysctl("net.ipv4.conf.eth1.forwarding", 1)
        third.route(f"{last.address}/32", last)
    time.sleep(1.2)
    assert first.trace(last.address)[0] == 0


def test_a_packet_filter_no_daemon_knows_of(four: list[Node]) -> None:
    first, _, third, last = four
    rule = "add table ip t; add chain ip t f { type filter hook forward priority 0; policy drop; }"
    third.net.run("nft", rule)
    code, made, _ = first.trace(last.address)
    assert (code, made["disposition"]) == (3, "UNKNOWN"), made
    assert any("a packet filter at r2 or at r3" in remark for remark in made["remarks"]), made
    third.net.run("nft", "delete table ip t")
    third.net.run("nft", rule.replace("policy drop;", "") + "; add rule ip t f ip daddr 10.9.3.1 reject with icmp 13")
    time.sleep(1.2)
    code, made, _ = first.trace(last.address)
    assert (code, made["disposition"]) == (3, "NULL_ROUTED"), made
    assert [hop["node"] for hop in made["hops"] if hop["ends"]] == ["r2"]
    assert any("packet filter" in remark for remark in made["remarks"])


def test_no_way_back(four: list[Node]) -> None:
    first, second, _, last = four
    second.net.ip(f"route replace blackhole {first.address}")
    code, made, took = first.trace(last.address)
    assert (code, made["disposition"], made["back"]["disposition"]) == (3, "ACCEPTED", "NULL_ROUTED"), made
    assert names(made["back"]) == ["r3", "r2", "r1"]
    assert any("does not come back" in remark for remark in made["remarks"])
    assert took < LONG


def test_the_other_way_back(nets: Nets, tmp_path: Path) -> None:
    with network(nets, tmp_path, 3, [(0, 1), (1, 2), (0, 2)], {0, 1, 2}) as (one, middle, other):
        one.route(f"{other.address}/32", middle, src=one.address)
        middle.route(f"{other.address}/32", other)
        other.route(f"{one.address}/32", one, src=other.address)
        middle.route(f"{one.address}/32", one)
        for words in ((), ("--proto", "udp"), ("--port", "80")):  # the answer tells that much without any daemon
            code, made, _ = one.trace(other.address, *words)
            assert (code, made["asymmetric"]) == (0, True), made
            assert made["back"]["hops"][-1]["in"] == "eth2"
        for node in (one, middle, other):
            node.via6()
        wait_until(lambda: None not in names(one.trace(other.address)[1]), timeout=10)
        code, made, _ = one.trace(other.address)
        assert (names(made), names(made["back"]), made["asymmetric"]) == (["r0", "r1", "r2"], ["r2", "r0"], True), made
        assert code == 0
        assert "asymmetric" in one.text(other.address)


def test_equal_ways_are_those_of_reality(nets: Nets, tmp_path: Path) -> None:
    """Both middle routers have addresses, so their ICMP tells which of them the probes have passed."""
    with network(nets, tmp_path, 4, [(0, 1), (0, 2), (1, 3), (2, 3)], {0, 1, 2, 3}) as nodes:
        first, left, right, last = nodes
        first.route(f"{last.address}/32", left, right, src=first.address)
        last.route(f"{first.address}/32", left, right, src=last.address)
        for node in (left, right):
            node.route(f"{last.address}/32", last)
            node.route(f"{first.address}/32", first)
        for node in nodes:
            node.net.sysctl("net.ipv4.fib_multipath_hash_policy", 1)
            node.via6()
        wait_until(lambda: None not in names(first.trace(last.address)[1]), timeout=10)
        seen = set()
        for port in range(7000, 7006):
            for proto in ("udp", "tcp"):
                _, made, _ = first.trace(last.address, "--proto", proto, "--port", str(port))
                name, source = made["hops"][1]["node"], made["hops"][1]["icmp_source"]
                assert len(made["hops"]) == 3, made
                assert source in (None, f"10.9.{name[1]}.1"), made
                seen.add((name, source))
        assert {name for name, source in seen if source} == {"r1", "r2"}


# --- some do not ---------------------------------------------------------------------------------------------------


def test_babeld_on_the_way(nets: Nets, tmp_path: Path) -> None:
    with line(nets, tmp_path, 5) as nodes:
        for node in nodes:
            if node.number == 2:
                node.babeld()
            else:
                node.via6("--export", "connected")
        first, last = nodes[0], nodes[-1]
        wait_until(lambda: has_route(first, last.address) and has_route(last, first.address), timeout=60)
        wait_until(lambda: first.trace(last.address)[1]["disposition"] == "ACCEPTED", timeout=20)
        code, made, took = first.trace(last.address)
        assert code == 0
        assert names(made) == ["r0", "r1", None, None, None]
        assert made["hops"][-1]["icmp_source"] == last.address
        far = link_local(nodes[2].net, "eth1")
        assert any(f"{far} dev eth2 of r1" in note for note in made["hops"][2]["notes"]), made
        # The last daemon there says what becomes of an answer that comes back to it.
        back = made["back"]
        assert (names(back), back["disposition"]) == ([None, "r1", "r0"], "ACCEPTED"), back
        assert back["hops"][1]["in"] == "eth2"
        assert "not known" in back["hops"][0]["notes"][0]
        assert any(remark.startswith("from r1 on") for remark in back["remarks"])
        assert took < LONG
        # Static routes, so that Babel does not mend what is broken now.
        nodes[1].net.ip(f"route add blackhole {first.address} metric 5")
        code, made, _ = first.trace(last.address)
        back = made["back"]
        assert (code, made["disposition"], back["disposition"], names(back)) == (
            3, "UNKNOWN", "NULL_ROUTED", [None, "r1"],
        )  # fmt: skip


def test_nobody_runs_via6(nets: Nets, tmp_path: Path) -> None:
    with line(nets, tmp_path, 4) as nodes:
        static_line(nodes)
        first, last = nodes[0], nodes[-1]
        code, made, took = first.trace(last.address)
        assert (code, made["disposition"]) == (0, "ACCEPTED")
        assert names(made) == [first.net.name, None, None, None]
        assert made["hops"][0]["out"] == "eth1"
        back = made["back"]["hops"]
        assert [(hop["node"], hop["in"]) for hop in back] == [(None, None), (first.net.name, "eth1")]
        assert f"it is {link_local(nodes[1].net, 'eth0')} dev eth1" in made["hops"][1]["notes"][0]
        assert took < LONG
        text = first.text(last.address)
        assert "192.0.0.8 is how a router without an IPv4 address answers" in text
        nodes[2].net.ip(f"route replace blackhole {last.address}")
        code, made, took = first.trace(last.address)
        assert (code, made["disposition"], made["back"]["disposition"]) == (3, "UNKNOWN", "UNKNOWN"), made
        assert took < LONG
        nodes[2].net.ip(f"route del {last.address}")
        nodes[2].route(last.address, nodes[1])
        time.sleep(1.2)
        code, made, took = first.trace(last.address)
        assert (code, made["disposition"]) == (3, "LOOP"), made
        assert took < LONG
        time.sleep(5)  # the loop has used up what ICMP errors there were
        nodes[2].net.ip(f"route replace unreachable {last.address}")
        code, made, _ = first.trace(last.address)
        assert (code, made["hops"][-1]["ends"]) == (3, "NEIGHBOR_UNREACHABLE")
        assert "host unreachable, says 192.0.0.8" in made["hops"][-1]["why"]


def test_without_rights(nets: Nets, tmp_path: Path) -> None:
    with line(nets, tmp_path, 3) as nodes:
        static_line(nodes)
        first, last = nodes[0], nodes[-1]
        for ping, words, said in (
            ("1 0", (), "ICMP needs"),
            ("0 65534", (), ""),
            ("1 0", ("--port", "80"), "TCP needs"),
        ):
            first.net.sysctl("net/ipv4/ping_group_range", ping)
            done = first.net.run(
                *NOBODY, sys.executable, "-m", "via6", "trace", "-j", last.address, *words, check=False
            )
            if "No module" in done.stderr or "Permission denied" in done.stderr:
                pytest.skip("this interpreter is not for other users")
            made = json.loads(done.stdout)
            assert (done.returncode, made["disposition"]) == (0, "ACCEPTED"), made
            assert [hop["icmp_source"] for hop in made["hops"]] == [None, "192.0.0.8", last.address]
            assert made["back"]["hops"][-1]["in"] == "eth1"
            assert any("needs CAP_NET_RAW" in remark for remark in made["remarks"]) == bool(said)


def _checksums(device: str) -> None:
    """Written before a frame leaves: who copies frames would see them unfinished (ethtool -K DEVICE tx off)."""
    value = ctypes.create_string_buffer(struct.pack("II", 0x17, 0))  # ETHTOOL_STXCSUM
    request = struct.pack("16sP16x", device.encode(), ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8946, request)  # SIOCETHTOOL


@contextlib.contextmanager
def slow_link(nets: Nets, a: Node, b: Node, one_way_s: float) -> Iterator[None]:
    """Joins two nodes by a wire on which each frame travels so long."""
    middle = nets.new()
    for node, other in ((a, b), (b, a)):
        middle.ip(f"link add {node.name} type veth peer name eth{other.number} netns {node.net.name}")
        middle.ip(f"link set {node.name} up")
        node.net.call(_checksums, f"eth{other.number}")
        node.net.ip(f"link set eth{other.number} up")
    ends = {}
    with middle.inside():
        for node in (a, b):
            ends[node.name] = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            ends[node.name].bind((node.name, 3))
            ends[node.name].setsockopt(263, 1, struct.pack("IHH8s", socket.if_nametoindex(node.name), 1, 0, bytes(8)))
    stop = threading.Event()

    def carry(source: socket.socket, sink: socket.socket) -> None:
        source.settimeout(0.002)
        flying: list[tuple[float, bytes]] = []
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                data, where = source.recvfrom(4096)
                if where[2] != socket.PACKET_OUTGOING:
                    flying.append((time.monotonic() + one_way_s, data))
            while flying and flying[0][0] <= time.monotonic():
                sink.send(flying.pop(0)[1])

    one, other = ends.values()
    threads = [threading.Thread(target=carry, args=pair) for pair in ((one, other), (other, one))]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        one.close()
        other.close()


def test_a_long_way(nets: Nets, tmp_path: Path) -> None:
    with network(nets, tmp_path, 3, [(0, 1)], {0, 2}) as nodes, slow_link(nets, nodes[1], nodes[2], 0.12):
        static_line(nodes)
        first, last = nodes[0], nodes[-1]
        assert first.trace(last.address)[0] == 0  # neighbours were asked for on the way
        for words in ((), ("--proto", "udp"), ("--port", "80")):
            code, made, took = first.trace(last.address, *words)
            assert (code, made["disposition"], len(made["hops"])) == (0, "ACCEPTED", 3), made
            assert made["hops"][1]["rtt_ms"] < 100
            assert 240 <= made["hops"][2]["rtt_ms"] < 400
            assert took < LONG
        for node in nodes:
            node.via6()
        wait_until(lambda: None not in names(first.trace(last.address)[1]), timeout=20)
        code, made, _ = first.trace(last.address)
        assert (code, names(made), names(made["back"])) == (0, ["r0", "r1", "r2"], ["r2", "r1", "r0"])


# --- what lies before the first hop --------------------------------------------------------------------------------


def test_this_node(nets: Nets, tmp_path: Path) -> None:
    with line(nets, tmp_path, 2) as (one, two):
        static_line([one, two])
        code, made, _ = one.trace(one.address)
        assert (code, names(made), made["disposition"]) == (0, [one.net.name], "ACCEPTED")
        code, made, took = one.trace("10.200.0.1")
        assert (code, made["disposition"], len(made["hops"])) == (3, "NO_ROUTE", 1)
        assert made["remarks"] == [], "it has an address, and no route"
        assert took < LONG
        one.net.ip("route add blackhole 10.201.0.0/16")
        code, made, _ = one.trace("10.201.0.1")
        assert (code, made["disposition"]) == (3, "NULL_ROUTED")
        code, made, _ = one.trace(two.address, "--from", "10.77.0.1")
        assert (code, made["disposition"], made["hops"][0]["route"]) == (3, "UNKNOWN", None), made
        assert "where its packets come in is not known" in made["hops"][0]["why"]
        assert any("no probes" in remark for remark in made["remarks"])
        rule = "add table ip t; add chain ip t o { type filter hook output priority 0; }; add rule ip t o drop"
        one.net.run("nft", rule)
        code, made, took = one.trace(two.address)
        assert (code, made["disposition"], len(made["hops"])) == (3, "NULL_ROUTED", 1), made
        assert "packet filter on output" in made["hops"][0]["why"]
        one.net.run("nft", "delete table ip t")
        one.net.ip(f"addr del {one.address}/32 dev lo")
        one.route(f"{two.address}/32", two)
        code, made, _ = one.trace(two.address)
        assert code == 3
        assert any("[node] address" in remark for remark in made["remarks"])


@pytest.mark.parametrize(
    ("words", "said"),
    [(["10.0.0.0/8"], "one address"), (["fe80::1"], "IPv6"), (["10.0.0.1", "--proto", "icmp", "--port", "7"], "ports"),
     (["10.0.0.1", "--port", "70000"], "65535"), (["224.0.0.1"], "no address of one machine"), (["x"], "'x'"),
     (["10.0.0.1", "--max-hops", "0"], "--max-hops"), (["r3.example"], "getent ahostsv4 r3.example"),
     (["10.0.0.1", "--from", "224.0.0.5"], "no address of one machine"), (["10.0.0.1", "--from", "x"], "'x'"),
     (["10.0.0.1", "--from", "127.0.0.1"], "never leaves its node"),
     (["10.0.0.1", "--snapshots", "/nowhere"], "/nowhere")],
)  # fmt: skip
def test_mistakes(words: list[str], said: str) -> None:
    code, out, err = via6("trace", *words)
    assert (code in (1, 2), out) == (True, "")
    assert said in err
    assert "Traceback" not in err


# --- extensions, and paper -----------------------------------------------------------------------------------------


def _answers_with_extensions(net: Net, end: threading.Event) -> None:
    """A router that answers every packet to 10.50.0.0/16 as one that knows RFC 5837 and the node extension."""
    objects = struct.pack("!HBBI", 16, 2, 0x0A, 3) + b"\x08xe-1\0\0\0" + b"\0\x0c\x05\x02" + b"\x06core\0\0\0"[:8]
    blank = b"\x20\0\0\0" + objects
    extensions = blank[:2] + checksum(blank).to_bytes(2, "big") + blank[4:]
    with net.inside():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        back = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with wire, back:
        wire.settimeout(0.1)
        while not end.is_set():
            with contextlib.suppress(TimeoutError):
                data = wire.recv(2048)
                packet = parse_ipv4(data)[0]
                if packet is None or packet.destination[:2] != bytes((10, 50)):
                    continue
                message = build_icmp(Icmp(11, 0, 32, 0, data[:128].ljust(128, b"\0") + extensions))
                back.sendto(build_ipv4(IPv4(DUMMY, packet.source, ICMP, message)), (socket.inet_ntoa(packet.source), 0))


def test_routers_that_name_themselves_in_icmp(nets: Nets, tmp_path: Path) -> None:
    with line(nets, tmp_path, 2) as (one, two):
        static_line([one, two])
        one.route("10.50.0.0/16", two, src=one.address)
        two.net.sysctl("net.ipv4.ip_forward", 0)
        end = threading.Event()
        thread = threading.Thread(target=_answers_with_extensions, args=(two.net, end))
        thread.start()
        try:
            for words in ((), ("--proto", "udp"), ("--port", "80")):
                _, made, _ = one.trace("10.50.0.1", "--max-hops", "2", *words)
                hop = made["hops"][1]
                assert (hop["node"], hop["in"], hop["icmp_source"]) == ("core", "xe-1", "192.0.0.8"), made
            one.net.sysctl("net/ipv4/ping_group_range", "0 65534")
            for words in ((), ("--proto", "udp")):
                trace = (sys.executable, "-m", "via6", "trace", "-j", "10.50.0.1", "--max-hops", "2", *words)
                done = one.net.run(*NOBODY, *trace, check=False)
                if "No module" in done.stderr or "Permission denied" in done.stderr:
                    pytest.skip("this interpreter is not for other users")
                hop = json.loads(done.stdout)["hops"][1]
                assert (hop["node"], hop["in"], hop["icmp_source"]) == ("core", "xe-1", "192.0.0.8"), words
        finally:
            end.set()
            thread.join()


def test_paper_says_what_the_network_does(four: list[Node], tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    first, last = four[0], four[-1]
    folder = tmp_path / "paper"
    folder.mkdir()

    def snapshots() -> None:
        for node in four:
            code, _, err = via6(
                "snapshot", "--name", node.name, "-o", f"{folder}/", netns=node.net, env=node.environment
            )
            assert code == 0, err

    def compare() -> None:
        snapshots()
        code, live, _ = first.trace(last.address)
        done, out, err = via6("trace", "-j", last.address, "--snapshots", str(folder), "--from", "r0")
        assert done in (0, 3), err
        paper = json.loads(out)
        assert (names(paper), paper["disposition"], done) == (names(live), live["disposition"], code), (paper, live)
        assert names(live["back"]) in (names(paper["back"]), [])  # paper knows it even of what is lost
        for one, other in zip(paper["hops"], live["hops"], strict=True):
            assert {key: one[key] for key in ("node", "in", "out", "next_hop")} == {
                key: other[key] for key in ("node", "in", "out", "next_hop")
            }

    compare()
    third = four[2]
    for name, (_, command) in FAULTS.items():
        if name == "forwarding":  # the daemon turns it on again
            continue
        if name == "loop":
            third.route(f"{last.address}/32", four[1])
        else:
            third.net.run(command)
        compare()
        third.route(f"{last.address}/32", last)
