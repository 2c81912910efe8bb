"""Faults of Babel in real networks: each is made in just one way, seen as just one cause, mended, and gone.

r1 and r2 run `via6 up`, with a switch between them (a namespace with a bridge); the network is shared by the tests.
"""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support import Net, Nets, link_local, via6, wait_until

pytestmark = pytest.mark.root

KEYS = ("k1 hmac-sha256 " + "0123456789abcdef" * 4, "k1 hmac-sha256 " + "fedcba9876543210" * 4)


@dataclass
class Router:
    """A namespace with 10.8.N.1 on lo and a link eth0 to the switch, in which `via6 up eth0` runs."""

    net: Net
    number: int
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.environment = {
            "VIA6_STATE": str(self.folder / f"state{self.number}"),
            "VIA6_SOCKET": str(self.folder / f"s{self.number}"),
        }
        self.net.ip(f"addr add 10.8.{self.number}.1/32 dev lo")

    @property
    def key(self) -> Path:
        return self.folder / f"k{self.number}"

    @property
    def log(self) -> Path:
        return self.folder / f"r{self.number}.log"

    def start(self, key: str = "") -> None:
        words = ["eth0", "--export", "connected", "--hello-interval", "200"]
        if key:
            self.write_key(key)
            words += ["--key", str(self.key)]
        self.log.write_text("")
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "via6", "-n", self.net.name, "up", *words],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **self.environment},
            )  # fmt: skip
        wait_until(lambda: "ready:" in self.log.read_text(), timeout=30, what=f"r{self.number} is ready")

    def write_key(self, key: str) -> None:
        self.key.write_text(key + "\n")
        self.key.chmod(0o600)

    def stop(self, number: int = signal.SIGTERM) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(30)
        assert "Traceback" not in self.log.read_text()

    def show(self, what: str) -> list[dict[str, Any]]:
        code, out, err = via6(f"show {what} -j", netns=self.net, env=self.environment)
        assert code == 0, err
        found: list[dict[str, Any]] = json.loads(out)
        return found

    def hears(self) -> list[str]:
        """The neighbours that can be used."""
        return [row["address"] for row in self.show("neighbour") if row["cost"] < 65535]

    def doctor(self, *words: str) -> list[dict[str, Any]]:
        code, out, err = via6("doctor", "-j", *words, netns=self.net, env=self.environment)
        assert code in (0, 3), err
        found: list[dict[str, Any]] = json.loads(out)
        assert (code == 3) is any(one["severity"] != "info" for one in found)
        return found

    def roots(self) -> set[str]:
        return {one["code"] for one in self.doctor() if not one["depends_on"]}

    def mend(self, finding: dict[str, Any]) -> None:
        """Runs the remedy as it is printed, here (its remarks and what the service manager would do left out)."""
        for line in finding["remedy"].splitlines():
            if not line.startswith("#") and "systemctl" not in line:
                subprocess.run(shlex.split(line), check=True, timeout=30)


@dataclass
class Pair:
    """The two routers and the switch."""

    one: Router
    other: Router
    switch: Net

    def settle(self) -> None:
        """They hear each other and have each other's route."""
        wait_until(lambda: self.one.hears() and self.other.hears(), timeout=20, every=0.1, what="neighbours")
        for router, far in ((self.one, self.other), (self.other, self.one)):
            wait_until(lambda r=router, f=far: f"10.8.{f.number}.1" in r.net.ip("route show proto 46"), timeout=20)

    def healthy(self) -> None:
        self.settle()
        assert self.one.doctor() == []
        assert self.other.doctor() == []


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    nets = Nets()
    folder = tmp_path_factory.mktemp("doctor")
    switch = nets.new()
    switch.ip("link add br0 type bridge")
    switch.ip("link set br0 up")
    routers = [Router(nets.new(), number, folder) for number in (1, 2)]
    for router in routers:
        nets.veth(router.net, "eth0", switch, f"p{router.number}")
        switch.ip(f"link set p{router.number} master br0")
    try:
        for router in routers:
            link_local(router.net)
            router.start()
        yield Pair(*routers, switch)
    finally:
        for router in routers:
            if router.process is not None and router.process.poll() is None:
                router.process.kill()
                router.process.wait(30)
        nets.close()


@pytest.fixture
def pair(module: Pair) -> Iterator[Pair]:
    """Healthy before the test and after it."""
    module.healthy()
    yield module
    module.healthy()


def test_a_switch_that_filters_both_ways(pair: Pair) -> None:
    rules = "table bridge f { chain c { type filter hook forward priority 0; udp dport 6696 drop; }; }"
    pair.switch.run("nft", rules)
    wait_until(lambda: not pair.one.hears() and not pair.other.hears(), timeout=20, every=0.2)
    (one,) = pair.one.doctor()
    far = link_local(pair.other.net)
    assert (one["code"], one["subject"], one["severity"]) == ("babel-filtered", f"eth0 {far}", "error")
    assert f"{far} answers an echo request to ff02::1:6" in one["evidence"]
    pair.switch.run("nft delete table bridge f")


def test_a_switch_that_filters_one_way(pair: Pair) -> None:
    rules = "table bridge f { chain c { type filter hook forward priority 0; iifname p1 udp dport 6696 drop; }; }"
    pair.switch.run("nft", rules)
    wait_until(lambda: not pair.one.hears() and not pair.other.show("neighbour"), timeout=20, every=0.2)
    (one,) = pair.one.doctor()
    assert (one["code"], one["subject"]) == ("babel-one-way", f"eth0 {link_local(pair.other.net)}")
    assert "asked by unicast: silence" in one["evidence"]
    assert pair.other.roots() == {"babel-filtered"}
    pair.switch.run("nft delete table bridge f")


def test_a_link_that_came_back_without_its_address(pair: Pair) -> None:
    """Set down and up again, an interface whose address was written by hand has none: no route names it any more."""
    pair.one.net.ip("link set eth0 addrgenmode none")
    pair.one.net.ip("link set eth0 down")
    wait_until(lambda: not pair.one.show("neighbour"), timeout=20, every=0.2)
    pair.one.net.ip("link set eth0 up")
    wait_until(lambda: pair.one.net.json("link show eth0")[0]["operstate"] == "UP", timeout=20)
    (row,) = pair.one.show("interface")
    assert (row["interface"], row["address"], row["up"]) == ("eth0", "::", False)
    assert "no link-local address" in via6("show interface", netns=pair.one.net, env=pair.one.environment)[1]
    status = via6("status", netns=pair.one.net, env=pair.one.environment)[1]
    assert "0 of 1 up" in status
    assert "eth0: no link-local address" in status
    (one,) = pair.one.doctor()
    assert (one["code"], one["subject"], one["severity"]) == ("no-link-local", "eth0", "error")
    pair.one.mend(one)


def test_the_firewall_here_is_no_fault_of_the_link(pair: Pair) -> None:
    """What another check finds at its root is not told again as what follows from it."""
    rules = "table inet f { chain c { type filter hook input priority 0; udp dport 6696 drop; }; }"
    pair.one.net.run("nft", rules)
    wait_until(lambda: not pair.other.hears() and not pair.one.show("neighbour"), timeout=20, every=0.2)
    assert pair.one.roots() == {"firewall-babel"}
    pair.one.net.run("nft delete table inet f")


def test_keys_that_differ(pair: Pair) -> None:
    for router in (pair.one, pair.other):
        router.stop()
        router.start(KEYS[0])
    pair.healthy()
    pair.other.write_key(KEYS[1])
    assert pair.other.process is not None
    pair.other.process.send_signal(signal.SIGHUP)
    for router, far in ((pair.one, pair.other), (pair.other, pair.one)):
        wait_until(lambda r=router: not r.show("neighbour"), timeout=20, every=0.2)
        (one,) = router.doctor()
        assert (one["code"], one["subject"]) == ("babel-key", f"eth0 {link_local(far.net)}")
        assert "bad-mac" in one["evidence"]
    pair.other.write_key(KEYS[0])
    pair.other.process.send_signal(signal.SIGHUP)
    pair.healthy()
    pair.other.stop()
    pair.other.start()  # without a key: it hears r1, and r1 does not hear it
    wait_until(lambda: len((pair.other.show("neighbour") or [{"reach": ""}])[0]["reach"]) > 4, timeout=20, every=0.2)
    (one,) = pair.other.doctor()
    assert one["code"] == "babel-key"
    assert "eth0 has no key" in one["evidence"]
    wait_until(lambda: pair.one.roots() == {"babel-key"}, timeout=20, every=0.2)
    (one,) = pair.one.doctor()
    assert "no-mac" in one["evidence"]
    pair.one.stop()
    pair.one.start()


SENDER = """
import socket, time
sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
sock.bind(("::", 6696))
sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
index = socket.if_nametoindex("eth0")
while True:
    sock.sendto(bytes((42, 3, 0, 0)), ("ff02::1:6", 6696, 0, index))
    time.sleep(0.1)
"""


def test_another_version(pair: Pair) -> None:
    pair.other.stop()
    wait_until(lambda: not pair.one.hears(), timeout=20, every=0.2)
    sender = pair.other.net.spawn(sys.executable, "-c", textwrap.dedent(SENDER))
    wait_until(lambda: pair.one.show("interface")[0]["rejected"], timeout=20, every=0.1)
    wait_until(lambda: not pair.one.show("neighbour"), timeout=20, every=0.2)
    (one,) = pair.one.doctor()
    assert (one["code"], one["subject"]) == ("babel-version", f"eth0 {link_local(pair.other.net)}")
    sender.kill()
    sender.wait()
    pair.other.start()


def test_a_daemon_that_was_killed(pair: Pair) -> None:
    pair.other.stop(signal.SIGKILL)
    (one,) = pair.other.doctor()
    assert (one["code"], one["severity"]) == ("daemon-not-running", "warning")
    wait_until(lambda: not pair.one.show("neighbour"), timeout=20, every=0.2)
    assert pair.one.doctor() == []  # a router may leave
    pair.other.start()


def deafen(pid: int) -> None:
    """Takes the daemon's netlink sockets out of all groups for routes: what happens there it is not told."""
    libc = ctypes.CDLL(None, use_errno=True)
    inodes = set()
    for row in Path(f"/proc/{pid}/net/netlink").read_text().splitlines()[1:]:
        fields = row.split()
        if fields[1] == "0" and int(fields[3], 16):
            inodes.add(fields[-1])
    pidfd = os.pidfd_open(pid)
    deaf = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        target = os.readlink(entry)
        if not target.startswith("socket:[") or target[8:-1] not in inodes:
            continue
        fd = libc.syscall(438, pidfd, int(entry.name), 0)  # pidfd_getfd(2)
        assert fd >= 0, os.strerror(ctypes.get_errno())
        with socket.socket(fileno=fd) as sock:
            for group in (7, 11, 32):  # RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE, RTNLGRP_NEXTHOP
                sock.setsockopt(270, 2, group)  # SOL_NETLINK, NETLINK_DROP_MEMBERSHIP
            deaf += 1
    os.close(pidfd)
    assert deaf


def test_a_daemon_that_hangs(pair: Pair) -> None:
    """It is stopped, as by a debugger or by a machine that is short of everything."""
    assert pair.one.process is not None
    pair.one.process.send_signal(signal.SIGSTOP)
    try:
        found = pair.one.doctor()
        assert [one["code"] for one in found if not one["depends_on"]] == ["daemon-not-answering"], found
        assert found[0]["severity"] == "warning"
    finally:
        pair.one.process.send_signal(signal.SIGCONT)
    pair.healthy()


def test_a_route_that_the_kernel_lacks(pair: Pair) -> None:
    """The daemon mends at once what it is told of; so nobody tells it."""
    assert pair.one.process is not None
    deafen(pair.one.process.pid)
    pair.one.net.ip("route del 10.8.2.1 metric 460")
    (one,) = pair.one.doctor()
    assert (one["code"], one["subject"]) == ("installed-missing", "10.8.2.1/32")
    pair.one.mend(one)
    assert pair.one.doctor() == []
    pair.one.stop()
    pair.one.start()


def test_one_address_at_two_nodes(pair: Pair) -> None:
    routers = (pair.one, pair.other)
    for router in routers:
        router.net.ip("addr add 10.8.9.1/32 dev lo")
    for router in routers:
        wait_until(lambda r=router: r.show("interface")[0]["rivals"], timeout=20, every=0.1)
        (one,) = router.doctor()
        assert (one["code"], one["subject"], one["severity"]) == ("exported-twice", "10.8.9.1/32", "warning")
    pair.other.net.ip("addr del 10.8.9.1/32 dev lo")
    for router in routers:
        wait_until(lambda r=router: not r.show("interface")[0]["rivals"], timeout=20, every=0.1)
    pair.healthy()
    pair.one.net.ip("addr del 10.8.9.1/32 dev lo")


def test_one_link_local_address_at_both_ends(pair: Pair) -> None:
    first, second = link_local(pair.one.net), link_local(pair.other.net)
    pair.other.net.ip(f"addr add {first}/64 dev eth0 nodad")
    pair.other.net.ip(f"addr del {second}/64 dev eth0")
    wait_until(lambda: pair.one.show("interface")[0]["rejected"], timeout=20, every=0.1)
    wait_until(lambda: not pair.one.hears(), timeout=20, every=0.1)
    assert pair.one.roots() == {"babel-own-address"}
    pair.other.net.ip(f"addr add {second}/64 dev eth0 nodad")
    pair.other.net.ip(f"addr del {first}/64 dev eth0")
    pair.settle()
    wait_until(lambda: pair.one.doctor() == [], timeout=40, every=1)
