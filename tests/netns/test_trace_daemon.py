"""Traces by daemons on real kernels: who answers what, held against where real packets go."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon_support import Run
from support import Net, Nets, link_local, run, wait_until
from via6.collect.capture import Capture
from via6.daemon.client import ask as ask_daemon
from via6.daemon.trace_ask import ask
from via6.observe.trace.model import UDP, Flow, Hop
from via6.observe.trace.wire import PORT, Answer, Question, decode, encode
from via6.prefix import parse_address

pytestmark = pytest.mark.root


class Router:
    """A namespace with 10.9.N.1/32 on lo and links `ethM` to routers M; a daemon called rN runs in it."""

    def __init__(self, nets: Nets, number: int, folder: Path) -> None:
        self.net = nets.new()
        self.number = number
        self.folder = folder
        self.address = f"10.9.{number}.1"
        self.run: Run | None = None
        self.net.ip(f"addr add {self.address}/32 dev lo")
        self.net.sysctl("net.ipv4.ip_forward", 1)

    def start(self, text: str = "", *options: str) -> None:
        file = self.folder / f"r{self.number}.toml"
        if not text:
            text = '[babel]\ninterfaces = ["eth*"]\nexport = "connected"\n'
        file.write_text(f'[node]\nname = "r{self.number}"\n' + text)
        environment = {"VIA6_STATE": str(self.folder / f"state{self.number}")}
        self.run = Run(self.net, file, *options, env=environment)

    def trace(self, to: str, back: bool = True, **flow: Any) -> tuple[list[Hop], list[Hop], list[str]]:
        source = flow.pop("source", None)
        asked = Flow(parse_address(to), parse_address(source) if source else None, **flow)
        return self.net.call(ask, asked, back)

    def knows(self, other: Router) -> bool:
        return f"{other.address} " in self.net.ip("route show proto 46") + " "


@contextlib.contextmanager
def routers(nets: Nets, folder: Path, links: list[tuple[int, int]]) -> Iterator[dict[int, Router]]:
    made = {number: Router(nets, number, folder) for number in sorted({n for link in links for n in link})}
    for one, other in links:
        nets.veth(made[one].net, f"eth{other}", made[other].net, f"eth{one}")
    try:
        yield made
    finally:
        for router in made.values():
            if router.run is not None:
                assert router.run.stop() == 0


def settled(made: dict[int, Router]) -> None:
    wait_until(
        lambda: all(a.knows(b) for a in made.values() for b in made.values() if a is not b),
        20,
        what="routes everywhere",
    )


def brief(hops: list[Hop]) -> list[tuple[str, str, str, str]]:
    return [(hop.node, hop.in_device, hop.out_device, hop.ends) for hop in hops]


LINE = [(1, 2), (2, 3), (3, 4)]


def test_a_line_there_and_back(nets: Nets, tmp_path: Path) -> None:
    with routers(nets, tmp_path, LINE) as made:
        for router in made.values():
            router.start()
        settled(made)
        there, back, remarks = made[1].trace("10.9.4.1")
        assert brief(there) == [
            ("r1", "", "eth2", ""), ("r2", "eth1", "eth3", ""), ("r3", "eth2", "eth4", ""),
            ("r4", "eth3", "", "ACCEPTED"),
        ]  # fmt: skip
        assert brief(back) == [
            ("r4", "", "eth3", ""), ("r3", "eth4", "eth2", ""), ("r2", "eth3", "eth1", ""),
            ("r1", "eth2", "", "ACCEPTED"),
        ]  # fmt: skip
        assert remarks == []
        # The kernel may show the number of the nexthop object alone: the text is the same.
        made[2].net.sysctl("net.ipv4.nexthop_compat_mode", 0)
        again = made[1].trace("10.9.4.1")[0]
        assert "nhid" in made[2].net.ip("route get fibmatch 10.9.4.1")
        assert again[1].route == there[1].route
        for hop, far, dev in zip(there, (2, 3, 4), ("eth1", "eth2", "eth3"), strict=False):
            assert hop.next_hop == parse_address(link_local(made[far].net, dev))
            assert hop.route.startswith("10.9.4.1 via inet6 fe80::")
            assert hop.mtu == 1500


# --- several next hops ---------------------------------------------------------------------------------------------

DIAMOND = [(0, 1), (1, 2), (1, 3), (2, 4), (3, 4)]


def send_udp(source: str, sport: int, to: str, dport: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.bind((source, sport))
        out.sendto(b"trace", (to, dport))


def way_of_packets(made: dict[int, Router], sender: int, wanted: list[tuple[str, int]]) -> dict[tuple[str, int], str]:
    """By destination and source port the device on which the real packet left r1."""
    found: dict[tuple[str, int], str] = {}
    with contextlib.ExitStack() as stack:
        with made[1].net.inside():
            captures = [stack.enter_context(Capture(dev)) for dev in ("eth2", "eth3")]
        with made[sender].net.inside():
            for far, port in wanted:
                send_udp(made[sender].address, port, far, 7)
        time.sleep(0.2)
        for capture in captures:
            for seen in capture.read(count=1000, timeout_s=0.1, keep=lambda c: c.outgoing):
                packet = seen.octets[14:]
                if packet[0] == 0x45 and packet[9] == UDP and packet[22:24] == b"\0\7":
                    key = socket.inet_ntoa(packet[16:20]), struct.unpack("!H", packet[20:22])[0]
                    assert found.setdefault(key, capture.device) == capture.device
    return found


def two_ways(made: dict[int, Router]) -> None:
    """r1 shares what goes to r4 among r2 and r3, instead of what Babel says."""
    hops = " ".join(f"nexthop via inet6 {link_local(made[n].net, 'eth1')} dev eth{n}" for n in (2, 3))
    made[1].net.ip(f"route add 10.9.4.0/24 metric 10 {hops}")
    made[1].net.ip(f"route add 10.9.4.1 metric 10 {hops}")


@pytest.mark.parametrize("policy", [0, 1])
def test_the_hash_is_that_of_the_packet(nets: Nets, tmp_path: Path, policy: int) -> None:
    with routers(nets, tmp_path, DIAMOND) as made:
        for router in made.values():
            router.start()
        settled(made)
        made[1].net.sysctl("net.ipv4.fib_multipath_hash_policy", policy)
        # Policy 0 looks at addresses alone: then many addresses behind r4.
        made[4].net.ip("addr add 10.9.4.2/24 dev lo")
        for near, far, dev in ((0, 1, "eth0"), (2, 4, "eth2"), (3, 4, "eth3")):
            via = link_local(made[far].net, dev)
            made[near].net.ip(f"route add 10.9.4.0/24 via inet6 {via} dev eth{far}")
        two_ways(made)
        for sender in (0, 1):
            one = [("10.9.4.1", port) for port in range(40000, 40025)]
            many = [(f"10.9.4.{number}", 40000) for number in range(1, 26)]
            wanted = many if policy == 0 else one
            seen = way_of_packets(made, sender, wanted)
            assert sorted(seen) == sorted(wanted)
            assert set(seen.values()) == {"eth2", "eth3"}, "both ways are taken"
            for (far, port), device in seen.items():
                there, back, _ = made[sender].trace(far, source=made[sender].address, proto=UDP, sport=port, dport=7)
                assert there[-1].node == "r4"
                assert there[-1].ends == "ACCEPTED"
                assert there[1 - sender].out_device == device, (far, port)
                assert there[2 - sender].node == f"r{device[-1]}"
                assert back[-1].node == f"r{sender}"


# --- the end of the way --------------------------------------------------------------------------------------------


def make(net: Net, name: str) -> None:
    """A WireGuard device."""
    if "Error" in net.ip("link add", name, "type wireguard", check=False):
        env = {k: v for k, v in os.environ.items() if k not in ("WG_PROCESS_FOREGROUND", "LOG_LEVEL")}
        net.run("wireguard-go", name, env=env)


def key(net: Net, name: str) -> str:
    """Gives it a private key; the public one."""
    private = run("wg", "genkey").stdout
    net.run("wg", "set", name, "private-key", "/dev/stdin", "listen-port", "51820", input=private)
    return run("wg", "pubkey", input=private).stdout.strip()


def lan(nets: Nets, router: Router, number: int) -> Net:
    """A host 10.8.N.2 on a LAN with IPv4 behind a router, 10.8.N.1 there."""
    host = nets.new()
    nets.veth(router.net, "lan0", host, "eth0")
    router.net.ip(f"addr add 10.8.{number}.1/24 dev lan0")
    host.ip(f"addr add 10.8.{number}.2/24 dev eth0")
    host.ip(f"route add default via 10.8.{number}.1")
    return host


def test_hosts_on_lans(nets: Nets, tmp_path: Path) -> None:
    with routers(nets, tmp_path, LINE[:2]) as made:
        lan(nets, made[1], 1)
        host = lan(nets, made[3], 3)
        for router in made.values():
            router.start()
        settled(made)
        wait_until(lambda: "10.8.3.0/24" in made[1].net.ip("route"), 10)
        # From a host behind this node: as its packet comes in here.
        there, back, _ = made[1].trace("10.8.3.2", source="10.8.1.2")
        assert brief(there) == [
            ("r1", "lan0", "eth2", ""), ("r2", "eth1", "eth3", ""), ("r3", "eth2", "lan0", "DELIVERED_TO_SUBNET")
        ]  # fmt: skip
        assert brief(back) == [
            ("r3", "lan0", "eth2", ""), ("r2", "eth3", "eth1", ""), ("r1", "eth2", "lan0", "DELIVERED_TO_SUBNET")
        ]  # fmt: skip
        # A host that is not there is asked for, and nobody answers.
        there, back, _ = made[1].trace("10.8.3.77")
        assert there[-1].node == "r3"
        assert there[-1].ends == "NEIGHBOR_UNREACHABLE"
        assert "10.8.3.77 on lan0 does not answer ARP" in there[-1].why
        assert back == []
        # The kernel still remembers that nobody answered when the host comes; a packet would have it asked again.
        wait_until(lambda: "FAILED" in made[3].net.ip("neigh show 10.8.3.77"), 10)
        host.ip("addr add 10.8.3.77/24 dev eth0")
        there, back, _ = made[1].trace("10.8.3.77")
        assert there[-1].ends == "DELIVERED_TO_SUBNET"
        assert back[-1].node == "r1"


def with_sysctl(made: dict[int, Router], name: str, value: int) -> tuple[str, str, str]:
    """How the way from r1 to r4 ends with a sysctl of r3. Its daemon sets it right whenever something changes, and
    every two seconds, so a trace may come too late."""
    for _ in range(5):
        made[3].net.sysctl(f"net.ipv4.conf.eth2.{name}", value)
        last = made[1].trace("10.9.4.1")[0][-1]
        if last.node == "r3":
            break
    return last.node, last.ends, last.why


def test_faults_are_named_where_they_are(nets: Nets, tmp_path: Path) -> None:
    with routers(nets, tmp_path, LINE) as made:
        for router in made.values():
            router.start()
        settled(made)
        net = made[3].net

        def end() -> tuple[str, str, str]:
            there, back, _ = made[1].trace("10.9.4.1")
            assert back == [], "a packet that is lost has no way back"
            return there[-1].node, there[-1].ends, there[-1].why

        net.ip("route add blackhole 10.9.4.1 metric 5")
        assert end() == ("r3", "NULL_ROUTED", "a route of type blackhole discards it")
        net.ip("route del blackhole 10.9.4.1 metric 5")
        net.ip("route add prohibit 10.9.4.1 metric 5")
        assert end()[:2] == ("r3", "NULL_ROUTED")
        net.ip("route del prohibit 10.9.4.1 metric 5")
        broken = with_sysctl(made, "forwarding", 0)
        assert broken == ("r3", "NULL_ROUTED", "IPv4 forwarding is off on eth2, where it comes in")
        net.sysctl("net.ipv4.conf.eth2.forwarding", 1)
        net.ip("route add blackhole 10.9.1.1 metric 5")
        node, ends, why = with_sysctl(made, "rp_filter", 1)
        assert (node, ends) == ("r3", "NULL_ROUTED")
        assert "rp_filter=1 on eth2 drops packets from 10.9.1.1" in why
        net.sysctl("net.ipv4.conf.eth2.rp_filter", 0)
        there, back, _ = made[1].trace("10.9.4.1")
        assert there[-1].ends == "ACCEPTED"
        assert brief(back)[-1] == ("r3", "eth4", "", "NULL_ROUTED")
        net.ip("route del blackhole 10.9.1.1 metric 5")
        there, back, _ = made[1].trace("10.77.0.1")
        assert brief(there) == [("r1", "", "", "NO_ROUTE")]


def test_another_way_back_and_a_loop(nets: Nets, tmp_path: Path) -> None:
    with routers(nets, tmp_path, DIAMOND[1:]) as made:
        for router in made.values():
            router.start()
        settled(made)

        def steer(near: int, to: str, far: int) -> None:
            via = link_local(made[far].net, f"eth{near}")
            made[near].net.ip(f"route replace {to} via inet6 {via} dev eth{far} metric 5")

        steer(1, "10.9.4.1", 2)
        steer(4, "10.9.1.1", 3)
        there, back, _ = made[1].trace("10.9.4.1")
        assert [hop.node for hop in there] == ["r1", "r2", "r4"]
        assert [hop.node for hop in back] == ["r4", "r3", "r1"]
        # r2 sends it back to r1: a loop as short as there is.
        steer(2, "10.9.4.1", 1)
        there, back, _ = made[1].trace("10.9.4.1")
        assert brief(there) == [("r1", "", "eth2", ""), ("r2", "eth1", "eth1", ""), ("r1", "eth2", "", "LOOP")]
        assert back == []
        # And a longer one, on the way back, behind a way there that is good.
        steer(2, "10.9.4.1", 4)
        steer(3, "10.9.1.1", 4)
        there, back, _ = made[1].trace("10.9.4.1")
        assert there[-1].ends == "ACCEPTED"
        assert [(hop.node, hop.ends) for hop in back] == [("r4", ""), ("r3", ""), ("r4", "LOOP")]


# --- who does not answer -------------------------------------------------------------------------------------------


def test_a_hop_without_via6(nets: Nets, tmp_path: Path) -> None:
    with routers(nets, tmp_path, LINE) as made:
        for router in made.values():
            router.start()
        settled(made)
        run = made[3].run
        assert run is not None
        run.stop(9)
        made[3].run = None
        begin = time.monotonic()
        there, back, _ = made[1].trace("10.9.4.1")
        assert time.monotonic() - begin < 0.25, "an ICMP error says so at once"
        assert brief(there) == [("r1", "", "eth2", ""), ("r2", "eth1", "eth3", "UNKNOWN")]
        assert there[-1].why == f"no via6 runs at next hop {link_local(made[3].net, 'eth2')} on eth3"
        assert there[-1].next_hop == parse_address(link_local(made[3].net, "eth2"))
        assert brief(back) == [("r2", "eth3", "eth1", ""), ("r1", "eth2", "", "ACCEPTED")]
        # Nor is anybody there: the neighbour itself is gone.
        made[3].net.ip("link set eth2 down")
        made[2].net.ip("route add 10.9.44.0/24 via inet6 fe80::dead dev eth1")
        there, _, _ = made[2].trace("10.9.44.1")
        assert there[-1].ends == "NEIGHBOR_UNREACHABLE"
        assert "fe80::dead on eth1 does not answer Neighbour Discovery" in there[-1].why


def test_turned_off_and_on_again(nets: Nets, tmp_path: Path) -> None:
    text = '[babel]\ninterfaces = ["eth*"]\nexport = "connected"\n'
    with routers(nets, tmp_path, LINE[:2]) as made:
        made[1].start()
        made[2].start(text + "[trace]\nanswer = false\n")
        made[3].start()
        settled(made)
        there, _, _ = made[1].trace("10.9.3.1")
        assert brief(there) == [("r1", "", "eth2", "UNKNOWN")]
        there, back, _ = made[2].trace("10.9.3.1")
        assert there[-1].node == "r3", "it may ask all the same"
        assert brief(back) == [("r3", "", "eth2", "UNKNOWN")]
        run = made[2].run
        assert run is not None
        run.file.write_text('[node]\nname = "otto"\n' + text)
        run.send(1)
        run.says("reloaded")
        there, back, _ = made[1].trace("10.9.3.1")
        assert [hop.node for hop in there] == ["r1", "otto", "r3"]
        assert [hop.node for hop in back] == ["r3", "otto", "r1"]


KEY = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"


def keyed(algorithm: str, secret: str) -> str:
    text = '[babel]\ninterfaces = ["eth*"]\nexport = "connected"\n'
    return text + f'[[babel.key]]\nname = "k"\nalgorithm = "{algorithm}"\nsecret = "{secret}"\n'


@pytest.mark.parametrize("algorithm", ["hmac-sha256", "blake2s128"])
def test_keys(nets: Nets, tmp_path: Path, algorithm: str) -> None:
    with routers(nets, tmp_path, LINE[:2]) as made:
        for router in made.values():
            router.start(keyed(algorithm, KEY))
        settled(made)
        there, back, _ = made[1].trace("10.9.3.1")
        assert [hop.node for hop in there] == ["r1", "r2", "r3"]
        assert [hop.node for hop in back] == ["r3", "r2", "r1"]
        # Routes of static kind stay when r3 gets another key, and questions with the wrong one are not answered.
        run = made[3].run
        assert run is not None
        made[2].net.ip(f"route add 10.9.3.1 via inet6 {link_local(made[3].net, 'eth2')} dev eth3 metric 5")
        run.file.write_text('[node]\nname = "r3"\n' + keyed(algorithm, KEY[::-1]))
        run.send(1)
        run.says("reloaded")
        time.sleep(0.4)
        there, back, _ = made[1].trace("10.9.3.1")
        assert brief(there) == [("r1", "", "eth2", ""), ("r2", "eth1", "eth3", "UNKNOWN")]
        assert brief(back) == [("r2", "eth3", "eth1", ""), ("r1", "eth2", "", "ACCEPTED")]
        # It signs and takes all: r2 does not believe what it says, but hears r2 out.
        assert questions(made[2], made[3].net, "eth2", "eth3", keyless()) == 0


def keyless() -> bytes:
    flow = Flow(parse_address("10.9.3.1"), parse_address("10.9.1.1"))
    return encode(Question(os.urandom(8), flow, 1))


def questions(
    asked: Router, asker: Net, dev: str, far: str, data: bytes, hop_limit: int = 255, count: int = 1, source: str = ""
) -> int:
    """Datagrams that come back to `asker` for so many questions that it sends out of `dev`."""
    to = link_local(asked.net, far)

    def work() -> int:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hop_limit)
            index = socket.if_nametoindex(dev)
            sock.bind((source or "::", 0, 0, 0))
            sock.settimeout(0.5)
            for number in range(count):
                fresh = data[:8] + number.to_bytes(4, "big") + data[12:]
                sock.sendto(fresh, (to, PORT, 0, index))
            seen = set()
            with contextlib.suppress(TimeoutError):
                while True:
                    answer, _ = decode(sock.recv(2000))
                    assert isinstance(answer, Answer)
                    seen.add(answer.nonce)
            return len(seen)

    return int(asker.call(work))


def test_strangers(nets: Nets, tmp_path: Path) -> None:
    with routers(nets, tmp_path, LINE[:1]) as made:
        made[1].start()
        lone = made[2].net
        lone.ip("addr add 2001:db8::2/64 dev eth1 nodad")
        made[1].net.ip("route add 2001:db8::/64 dev eth2")
        assert questions(made[1], lone, "eth1", "eth2", keyless()) == 1
        assert questions(made[1], lone, "eth1", "eth2", keyless(), hop_limit=254) == 0
        assert questions(made[1], lone, "eth1", "eth2", keyless(), source="2001:db8::2") == 0
        assert questions(made[1], lone, "eth1", "eth2", b"v6" + os.urandom(60)) == 0
        # A flood: about as many as one may ask, and Babel does not suffer.
        time.sleep(2.1)
        answered = questions(made[1], lone, "eth1", "eth2", keyless(), count=2000)
        assert 100 <= answered <= 140
        # Where Babel is not spoken nobody is answered.
        host = lan(nets, made[1], 1)
        wait_until(lambda: link_local(made[1].net, "lan0"), 5)
        assert questions(made[1], host, "eth0", "lan0", keyless()) == 0


BABEL = '[babel]\ninterfaces = ["eth*"]\nexport = "connected"\n'


def test_hosts_without_ipv6_ask_their_router(nets: Nets, tmp_path: Path) -> None:
    """By IPv4, where the router says so; who is not on the link is not answered."""
    with routers(nets, tmp_path, LINE[:2]) as made:
        hosts = [lan(nets, made[number], number) for number in (1, 3)]
        for host in hosts:
            host.sysctl("net.ipv6.conf.all.disable_ipv6", 1)
        made[1].net.sysctl("net.ipv6.conf.lan0.disable_ipv6", 1)
        made[1].start(BABEL + '[trace]\ninterfaces = "lan0"\n')
        for number in (2, 3):
            made[number].start()
        settled(made)
        wait_until(lambda: "10.8.3.0/24" in made[1].net.ip("route"), 10)
        there, back, remarks = hosts[0].call(ask, Flow(parse_address("10.8.3.2"), parse_address("10.8.1.2")), True)
        assert brief(there)[1:] == [
            ("r1", "lan0", "eth2", ""), ("r2", "eth1", "eth3", ""), ("r3", "eth2", "lan0", "DELIVERED_TO_SUBNET")
        ]  # fmt: skip
        assert brief(back) == [
            ("r3", "lan0", "eth2", ""), ("r2", "eth3", "eth1", ""), ("r1", "eth2", "lan0", "DELIVERED_TO_SUBNET")
        ]  # fmt: skip
        assert remarks == []
        # The other router has not been told to answer its host, and says at once that nobody listens to it.
        there, back, _ = hosts[1].call(ask, Flow(parse_address("10.8.1.2"), parse_address("10.8.3.2")), True)
        assert [hop.ends for hop in there] == ["UNKNOWN"]

        hosts[0].ip("addr add 10.99.0.1/32 dev eth0")
        made[1].net.ip("route add 10.99.0.1 via 10.8.1.2")
        made[1].net.ip("addr add 10.8.1.129/25 dev eth2")
        hosts[0].ip("addr add 10.8.1.130/24 dev eth0")
        for source, to, ttl, answered in (
            ("10.8.1.2", "10.8.1.1", 255, 1), ("10.8.1.2", "10.8.1.1", 254, 0), ("10.99.0.1", "10.8.1.1", 255, 0),
            ("10.8.1.130", "10.8.1.129", 255, 0), ("10.8.1.2", "10.9.1.1", 255, 0),
        ):  # fmt: skip
            assert questions_by_ipv4(hosts[0], source, to, ttl) == answered, (source, to, ttl)


def questions_by_ipv4(host: Net, source: str, to: str, ttl: int) -> int:
    """Datagrams that come back for one question."""

    def work() -> int:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
            sock.bind((source, 0))
            sock.settimeout(0.5)
            sock.sendto(keyless(), (to, PORT))
            try:
                answer, _ = decode(sock.recv(2000))
            except TimeoutError:
                return 0
            return int(isinstance(answer, Answer))

    return int(host.call(work))


# --- other ways to ask ---------------------------------------------------------------------------------------------


def test_without_babel_and_without_a_daemon_here(nets: Nets, tmp_path: Path) -> None:
    """Static routes with global next hops; `[trace] interfaces` says where. The first node has no daemon."""
    with routers(nets, tmp_path, LINE[:2]) as made:
        for one, other in LINE[:2]:
            made[one].net.ip(f"addr add 2001:db8:{one}::1/64 dev eth{other} nodad")
            made[other].net.ip(f"addr add 2001:db8:{one}::2/64 dev eth{one} nodad")
        routes = {2: ("10.9.3.1", "2001:db8:2::2", "10.9.1.1", "2001:db8:1::1"), 3: ("10.9.1.1", "2001:db8:2::1")}
        for number, words in routes.items():
            text = '[trace]\ninterfaces = "eth*"\n'
            text += "".join(
                f'[[route]]\nto = "{t}"\nvia = "{v}"\n' for t, v in zip(words[::2], words[1::2], strict=True)
            )
            made[number].start(text)
        made[1].net.ip("route add 10.9.3.1 via inet6 2001:db8:1::2")
        begin = time.monotonic()
        there, back, _ = made[1].trace("10.9.3.1")
        took = time.monotonic() - begin
        assert [hop.node for hop in there][1:] == ["r2", "r3"]
        assert there[0].out_device == "eth2"
        assert there[0].next_hop == parse_address("2001:db8:1::2")
        # r1 answers nobody, so r2's question to it has no answer: said, and at once (an ICMP error tells).
        assert brief(back) == [("r3", "", "eth2", ""), ("r2", "eth3", "eth1", "UNKNOWN")]
        assert took < 0.3


def test_an_ipv4_next_hop(nets: Nets, tmp_path: Path) -> None:
    """Babel knows who that is; of another route the link-layer address tells."""
    with routers(nets, tmp_path, LINE[:1]) as made:
        made[1].net.ip("addr add 192.0.2.1/24 dev eth2")
        made[2].net.ip("addr add 192.0.2.2/24 dev eth1")
        for router in made.values():
            router.start()
        settled(made)
        there, back, _ = made[1].trace("10.9.2.1")
        assert [hop.node for hop in there] == ["r1", "r2"]
        assert there[0].next_hop == parse_address("192.0.2.2")
        assert [hop.node for hop in back] == ["r2", "r1"]
        made[1].net.ip("route add 10.9.2.0/24 via 192.0.2.2")
        made[2].net.ip("addr add 10.9.2.2/24 dev lo")
        made[1].net.ip("-4 neigh flush dev eth2")
        there, back, _ = made[1].trace("10.9.2.2")
        assert [hop.node for hop in there] == ["r1", "r2"]
        made[1].net.ip("route add 10.9.3.0/24 via 192.0.2.3")
        there, back, _ = made[1].trace("10.9.3.3")
        assert there[-1].ends == "NEIGHBOR_UNREACHABLE"


def test_the_control_socket(nets: Nets, tmp_path: Path) -> None:
    with routers(nets, tmp_path, LINE[:1]) as made:
        for router in made.values():
            router.start()
        settled(made)

        def control() -> list[dict[str, Any]]:
            question = {"trace": {"to": "10.9.2.1", "proto": "tcp", "sport": 1, "dport": 2, "back": True}}
            return [json.loads(line) for lines in ask_daemon(question) for line in lines]

        lines = made[1].net.call(control)
        assert [(line["direction"], line["index"], line["node"], line["last"]) for line in lines] == [
            ("there", 0, "r1", False), ("there", 1, "r2", True), ("back", 0, "r2", False), ("back", 1, "r1", True)
        ]  # fmt: skip
        assert all(0 < line["daemon_ms"] < 1000 for line in lines)
        there, _, remarks = made[1].trace("2001:db8::1")
        assert there == []
        assert "IPv4" in remarks[0]


def test_wireguard_drops(nets: Nets, tmp_path: Path) -> None:
    """The question gets through a tunnel whose AllowedIPs have no IPv4: the packet would not."""
    names = [f"wt{side}{os.getpid()}"[:15] for side in "ab"]
    with routers(nets, tmp_path, LINE[:1]) as made:
        keys = []
        try:
            for number, name in zip((1, 2), names, strict=True):
                net = made[number].net
                net.ip(f"addr add 2001:db8::{number}/64 dev eth{3 - number} nodad")
                make(net, name)
                keys.append(key(net, name))
                net.ip(f"addr add fe80::{number}/64 dev {name} nodad")
            for number, name in zip((1, 2), names, strict=True):
                net = made[number].net
                peer = ["peer", keys[2 - number], "endpoint", f"[2001:db8::{3 - number}]:51820"]
                net.run("wg", "set", name, *peer, "allowed-ips", f"fe80::{3 - number}/128")
                net.ip(f"link set {name} up")
                text = f'[trace]\ninterfaces = "wt*"\n[[route]]\nto = "10.9.{3 - number}.1"\n'
                made[number].start(text + f'via = "fe80::{3 - number}%{name}"\n')
            there, back, _ = made[1].trace("10.9.2.1")
            assert (there[0].ends, len(there), back) == ("NEIGHBOR_UNREACHABLE", 1, [])
            assert there[0].why == (
                f"AllowedIPs of the WireGuard peer do not cover 10.9.2.1/32: {names[0]} drops what is routed there."
            )
            made[1].net.run("wg", "set", names[0], "peer", keys[1], "allowed-ips", "fe80::2/128,10.9.2.0/24")
            time.sleep(5.1)
            # Now it leaves, and is not let in at the other end.
            there, back, _ = made[1].trace("10.9.2.1")
            assert brief(there) == [("r1", "", names[0], ""), ("r2", names[1], "", "NEIGHBOR_UNREACHABLE")]
            assert (
                there[1].why == f"no WireGuard peer of {names[1]} has 10.9.1.1 in its AllowedIPs: it is dropped there"
            )
            assert back == []
            # What it lets in it also sends, so the answer comes back.
            made[2].net.run("wg", "set", names[1], "peer", keys[0], "allowed-ips", "fe80::1/128,10.9.1.0/24")
            time.sleep(5.1)
            there, back, _ = made[1].trace("10.9.2.1")
            assert [hop.node for hop in there] == ["r1", "r2"]
            assert brief(back) == [("r2", "", names[1], ""), ("r1", names[0], "", "ACCEPTED")]
            status = made[2].net.call(lambda: [json.loads(x) for xs in ask_daemon({"show": "status"}) for x in xs])
            assert status[0]["counters"]["trace-questions"] == 2
        finally:
            for number, name in zip((1, 2), names, strict=True):
                made[number].net.ip(f"link del {name}", check=False)
            wait_until(lambda: not any(Path(f"/var/run/wireguard/{name}.sock").exists() for name in names))


def test_another_program_has_the_port(nets: Nets, tmp_path: Path) -> None:
    """Routing is what counts: the daemon says so, and runs."""
    with routers(nets, tmp_path, LINE[:1]) as made:
        with made[1].net.inside():
            taken = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            taken.bind(("::", PORT))
        with taken:
            for router in made.values():
                router.start()
            settled(made)
            run = made[1].run
            assert run is not None
            assert "traces do not pass here: UDP port 8046" in run.log
            there, _, remarks = made[1].trace("10.9.2.1")
            assert there == []
            assert "traces nothing" in remarks[0]
            assert brief(made[2].trace("10.9.1.1")[0]) == [("r2", "", "eth1", "UNKNOWN")]
