"""Hosts of a router on a real link: found, asked, given up; and `via6 host` on the other end."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from host_support import hosting, neighbours, ping, speaking
from support import Net, Nets, link_local, via6, wait_until
from via6.config_babel import HostSpec
from via6.daemon.hosts import HostWatch, Prober, link_local_of
from via6.kernel.linux import LinuxKernel
from via6.model import Overrun
from via6.prefix import Prefix, format_address, parse_address, parse_prefix

root = pytest.mark.root

PARTS = frozenset({"links", "neighbours"})
ADDRESS = parse_address("10.0.8.42")
PREFIX = Prefix(ADDRESS, 32)


class Watcher:
    """Drives a HostWatch as the daemon does, in the namespace that this thread is in."""

    def __init__(self, *hosts: HostSpec) -> None:
        self.kernel = LinuxKernel()
        self.events = self.kernel.watch(neighbours=True)
        self.prober = Prober()
        self.hosts = HostWatch(hosts, self.kernel.dump(PARTS), time.monotonic())
        self.said: list[str] = []

    def turn(self) -> None:
        now = time.monotonic()
        wait = min(max(self.hosts.deadline() - now, 0), 0.2)
        select.select([self.events.fileno()], [], [], wait)
        events = self.events.read()
        if any(isinstance(event, Overrun) for event in events):
            self.hosts.synchronise(self.kernel.dump(PARTS), time.monotonic())
        self.hosts.observe(events, time.monotonic())
        self.prober.ask(self.hosts.tick(time.monotonic()))
        self.said += [event.text for event in self.hosts.events()]

    def until(self, predicate: Callable[[], Any], what: str, timeout: float = 8) -> float:
        """Seconds until it was so."""
        begin = time.monotonic()

        def so() -> Any:
            self.turn()
            return predicate()

        wait_until(so, timeout, 0, f"{what}; said {self.said}")
        return time.monotonic() - begin

    def close(self) -> None:
        self.events.close()
        self.kernel.close()
        self.prober.close()


@contextmanager
def watching(net: Net, *hosts: HostSpec) -> Iterator[Watcher]:
    with net.inside():
        watcher = Watcher(*hosts)
    try:
        yield watcher
    finally:
        watcher.close()


def mac_of(net: Net, dev: str = "eth0") -> bytes:
    (link,) = net.json("link show dev", dev)
    return bytes.fromhex(link["address"].replace(":", ""))


@root
def test_a_host_by_its_address(nets: Nets) -> None:
    router, host = nets.pair()
    link_local(router)
    via = parse_address(link_local(host))
    with watching(router, HostSpec((ADDRESS,), "eth0", via=via)) as w:
        w.until(w.hosts.alive, "alive")
        assert w.hosts.alive() == {PREFIX}
        (route,) = w.hosts.routes()
        assert (route.to, route.vias[0].address, route.vias[0].dev) == (PREFIX, via, "eth0")
        # It stays so while it answers, and the kernel's entry is refreshed.
        begin = time.monotonic()
        w.until(lambda: time.monotonic() - begin > 3, "three seconds")
        assert w.hosts.alive() == {PREFIX}
        assert len(w.said) == 1

        # A flushed table is no death.
        router.ip("neigh flush dev eth0")
        w.until(lambda: "REACHABLE" in router.ip("neigh show dev eth0"), "asked again")
        assert w.hosts.alive() == {PREFIX}

        # Silence: the link stays up.
        host.ip("addr flush dev eth0")
        w.until(lambda: not w.hosts.alive(), "withdrawn")
        assert w.hosts.routes() == ()
        assert "does not answer" in w.said[-1]
        host.ip("addr add", format_address(via) + "/64", "dev eth0 nodad")
        w.until(w.hosts.alive, "alive again", 12)

        # Carrier.
        host.ip("link set eth0 down")
        w.until(lambda: not w.hosts.alive(), "withdrawn", 3)
        assert "link is down" in w.said[-1]


@root
def test_hosts_by_their_mac(nets: Nets) -> None:
    """One with an address made of its MAC, one with another."""
    router, host = nets.pair()
    other = nets.new()
    nets.veth(router, "eth1", other, "eth0", up=False)
    other.ip("link set eth0 addrgenmode none")
    for net, dev in ((router, "eth1"), (other, "eth0")):
        net.ip("link set", dev, "up")
    other.ip("addr add fe80::1234/64 dev eth0 nodad")
    for net, dev in ((router, "eth0"), (router, "eth1"), (host, "eth0")):
        link_local(net, dev)
    second = parse_prefix("10.0.8.43/32")
    specs = (
        HostSpec((ADDRESS, parse_address("10.0.8.44")), "eth0", mac=mac_of(host)),
        HostSpec((second.packed,), "eth1", mac=mac_of(other)),
    )
    with watching(router, *specs) as w:
        w.until(lambda: len(w.hosts.alive()) == 3, "both alive")
        hops = w.hosts.hops()
        assert hops[PREFIX].address == link_local_of(mac_of(host)) == hops[parse_prefix("10.0.8.44/32")].address
        assert hops[second].address == parse_address("fe80::1234")

        # Another machine takes the address: that is not this host.
        other.ip("link set eth0 address 02:00:00:00:00:99")
        w.until(lambda: second not in w.hosts.alive(), "withdrawn")
        assert PREFIX in w.hosts.alive()


@root
def test_links_come_and_go(nets: Nets) -> None:
    router, host = nets.new(), nets.new()
    spec = HostSpec((ADDRESS,), "eth7", via=parse_address("fe80::42"))
    with watching(router, spec) as w:
        w.turn()
        assert (w.hosts.alive(), w.hosts.deadline()) == (frozenset(), float("inf"))
        nets.veth(router, "eth7", host, "eth0")
        host.ip("addr add fe80::42/64 dev eth0 nodad")
        w.until(w.hosts.alive, "alive")
        host.ip("link del eth0")
        w.until(lambda: not w.hosts.alive(), "withdrawn", 3)
        assert w.hosts.deadline() == float("inf")
        w.hosts.reload((), time.monotonic())
        assert w.hosts.routes() == ()


# --- via6 host -----------------------------------------------------------------------------------------------------


def default(net: Net) -> str:
    return net.ip("-4 route show default").strip()


def advertise(net: Net, lifetime_s: int, dev: str = "eth0") -> None:
    """A router advertisement to all nodes, as a router sends."""

    def send() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as out:
            out.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            message = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, lifetime_s, 0, 0)
            out.sendto(message, ("ff02::1", 0, 0, socket.if_nametoindex(dev)))

    net.call(send)


@root
def test_a_host_follows_its_router(nets: Nets, tmp_path: Path) -> None:
    """The kernel takes the advertisements; the router changes; everything goes on leaving."""
    router, host = nets.pair()
    first = link_local(router)
    host.sysctl("net.ipv6.conf.eth0.accept_ra", 1)
    router.sysctl("net.ipv6.conf.all.forwarding", 1)  # else its own ND says that it is no router
    router.ip("addr add 10.9.0.1/32 dev lo")
    router.ip("route add 10.0.8.42/32 via inet6", link_local(host), "dev eth0")
    with hosting(host, tmp_path, "eth0", "--address", "10.0.8.42") as daemon:
        daemon.says("no router on eth0 yet")
        assert "10.0.8.42/32" in host.ip("addr show dev lo")
        assert default(host) == ""
        advertise(router, 1800)
        wait_until(lambda: f"via inet6 {first} dev eth0" in default(host), what="the route")
        assert f"via {first} dev eth0 proto ra" in host.ip("-6 route show default")
        assert "src 10.0.8.42" in default(host)
        assert host.call(ping, "10.9.0.1") == 1

        # Another hand changes it, and takes the address: both come back.
        host.ip("-4 route del default")
        wait_until(lambda: "src 10.0.8.42" in default(host), what="the route is back")
        host.ip("addr del 10.0.8.42/32 dev lo")
        wait_until(lambda: "src 10.0.8.42" in default(host), what="route and address are back")

        # The router says that it is none any more; another one comes.
        advertise(router, 0)
        wait_until(lambda: default(host) == "", what="without a router no route")
        router.ip("addr add fe80::77/64 dev eth0 nodad")
        router.ip("addr del", first + "/64", "dev eth0")
        advertise(router, 1800)
        wait_until(lambda: "via inet6 fe80::77 dev eth0" in default(host), what="the other router")

        # Killed and started again: nothing flaps, and the address is still via6's to take away.
        daemon.process.kill()
        daemon.process.wait(10)
        assert "fe80::77" in default(host)
        with hosting(host, tmp_path, "eth0", "--address", "10.0.8.42") as again:
            assert "fe80::77" in default(host), again.log
            assert again.stop() == 0
    assert default(host) == ""
    assert "10.0.8.42" not in host.ip("addr show dev lo")


@root
def test_a_host_whose_kernel_takes_no_advertisements(nets: Nets, tmp_path: Path) -> None:
    """via6 listens itself, asks for an advertisement, and heeds the lifetime."""
    router, host = nets.pair()
    first = link_local(router)
    link_local(host)
    host.sysctl("net.ipv6.conf.eth0.accept_ra", 0)
    solicited = router.spawn(
        sys.executable, "-c",
        "import socket, struct\n"
        "s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)\n"
        "s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)\n"
        "i = socket.if_nametoindex('eth0')\n"
        "group = socket.inet_pton(socket.AF_INET6, 'ff02::2') + struct.pack('=I', i)\n"
        "s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)\n"
        "print('listening', flush=True)\n"
        "while s.recv(1500)[0] != 133: pass\n"
        "s.sendto(struct.pack('!BBHBBHII', 134, 0, 0, 64, 0, 3, 0, 0), ('ff02::1', 0, 0, i))\n",
    )  # fmt: skip
    assert solicited.stdout is not None
    assert solicited.stdout.readline() == "listening\n"
    with hosting(host, tmp_path, "eth0", "--address", "10.0.8.42") as daemon:
        daemon.says(f"the router on eth0 is {first}", 15)
        wait_until(lambda: f"via inet6 {first} dev eth0" in default(host), what="the route")
        assert host.ip("-6 route show default") == ""
        wait_until(lambda: default(host) == "", 8, what="the lifetime is over")


@root
def test_a_host_with_two_routers(nets: Nets, tmp_path: Path) -> None:
    """The one that does not answer is left for the other."""
    host, first, second = nets.new(), nets.new(), nets.new()
    host.ip("link add br0 type bridge mcast_snooping 0")
    host.ip("link set br0 up")
    for number, router in ((1, first), (2, second)):
        nets.veth(host, f"p{number}", router, "eth0")
        host.ip(f"link set p{number} master br0")
        router.ip(f"addr add fe80::{number}/64 dev eth0 nodad")
        host.ip(f"-6 route append default via fe80::{number} dev br0 proto ra metric 10{number}")
    link_local(host, "br0")
    with hosting(host, tmp_path, "br0", "--address", "10.0.8.42"):
        wait_until(lambda: "via inet6 fe80::1 dev br0" in default(host), what="the first router")
        first.ip("link set eth0 down")
        wait_until(lambda: "via inet6 fe80::2 dev br0" in default(host), 15, what="the second router")
        first.ip("link set eth0 up")
        first.ip("addr replace fe80::1/64 dev eth0 nodad")
        wait_until(lambda: "via inet6 fe80::1 dev br0" in default(host), 15, what="the first router again")


@root
def test_a_foreign_default_route_is_respected(nets: Nets, tmp_path: Path) -> None:
    host, router = nets.pair()
    link_local(host)
    other = link_local(router)
    words = f"host eth0 --address 10.0.8.42 --router {other}"
    state = {"VIA6_STATE": str(tmp_path / "state")}
    host.ip("addr add 192.0.2.2/24 dev eth0")
    host.ip("route add default via 192.0.2.1 metric 100")
    code, out, err = via6(words, netns=host, env=state)
    assert (code, out) == (1, "")
    assert "there is an IPv4 default route already: default via 192.0.2.1 dev eth0 metric 100" in err
    assert "--metric 101" in err
    assert "10.0.8.42" not in host.ip("addr")
    with hosting(host, tmp_path, *words.split()[1:], "--metric", "101") as daemon:
        wait_until(lambda: f"via inet6 {other} dev eth0" in default(host), what="behind the other")
        assert "default via 192.0.2.1 dev eth0 metric 100" in default(host)
        assert daemon.stop() == 0
    host.ip("route del default")
    with hosting(host, tmp_path, *words.split()[1:]) as daemon:
        wait_until(lambda: f"via inet6 {other} dev eth0" in default(host), what="alone")
        host.ip("route add default via 192.0.2.1 metric 100")
        daemon.says("another IPv4 default route is there")
        wait_until(lambda: default(host) == "default via 192.0.2.1 dev eth0 metric 100", what="ours waits")
        host.ip("route del default")
        wait_until(lambda: f"via inet6 {other} dev eth0" in default(host), what="ours is back")
        assert daemon.stop() == 0
    assert default(host) == ""


@root
def test_a_host_keeps_an_address_that_was_there(nets: Nets, tmp_path: Path) -> None:
    """And a device that comes later is waited for."""
    host, router = nets.new(), nets.new()
    host.ip("addr add 10.0.8.42/32 dev lo")
    (tmp_path / "c.toml").write_text('[node]\naddress = "10.0.8.42"\n')
    with hosting(host, tmp_path, "eth0", "--config", str(tmp_path / "c.toml"), "--router", "fe80::1") as daemon:
        daemon.says("there is no device 'eth0' yet")
        nets.veth(host, "eth0", router, "eth0")
        wait_until(lambda: "via inet6 fe80::1 dev eth0" in default(host), what="the route")
        # Another address by SIGHUP; a mistake changes nothing.
        (tmp_path / "c.toml").write_text('[node]\naddress = "10.0.8.4x"\n')
        daemon.process.send_signal(signal.SIGHUP)
        daemon.says("reload refused")
        (tmp_path / "c.toml").write_text('[node]\naddress = "10.0.8.43"\n')
        daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "src 10.0.8.43" in default(host), what="the other source")
        assert daemon.stop() == 0
    assert "10.0.8.42/32" in host.ip("addr show dev lo")
    assert "10.0.8.43" not in host.ip("addr show dev lo")


@root
def test_hosts_in_a_network(nets: Nets, tmp_path: Path) -> None:
    """Two routers; at one of them a host that speaks Babel and one that is declared by its MAC."""
    core, router, stub, plain = (nets.new() for _ in range(4))
    nets.veth(core, "r", router, "core")
    nets.veth(router, "h0", stub, "eth0")
    nets.veth(router, "h1", plain, "eth0")
    for net, dev in ((core, "r"), (router, "core"), (router, "h0"), (router, "h1"), (stub, "eth0"), (plain, "eth0")):
        link_local(net, dev)
    (tmp_path / "router.toml").write_text(
        f"""
[babel]
interfaces = ["core", "h0", "h1"]
hello_interval_ms = 200
[[host]]
address = "10.0.8.42"
interface = "h0"
[[host]]
address = "10.0.8.43"
interface = "h1"
mac = "{mac_of(plain).hex(":")}"
"""
    )
    with (
        speaking(core, tmp_path, "up", "r", "--address", "10.0.0.1", "--export", "10.0.0.1/32") as _,
        speaking(router, tmp_path, "run", str(tmp_path / "router.toml")) as _,
        hosting(plain, tmp_path, "eth0", "--address", "10.0.8.43", "--router", link_local(router, "h1")),
        hosting(stub, tmp_path, "eth0", "--address", "10.0.8.42", "--router", link_local(router, "h0"), "--stub") as s,
    ):
        for address in ("10.0.8.42", "10.0.8.43"):
            wait_until(lambda a=address: a in core.ip("-4 route"), 15, what=f"{address} is announced")
        wait_until(
            lambda: stub.call(ping, "10.0.0.1") and stub.call(ping, "10.0.8.43"), 10, what="they reach each other"
        )
        # A stub learns nothing and forwards nothing.
        assert [route["dst"] for route in stub.json("-4 route")] == ["default"]
        for dev in ("eth0", "all"):
            assert stub.run("cat", f"/proc/sys/net/ipv4/conf/{dev}/forwarding").stdout.strip() == "0"
        assert router.run("cat", "/proc/sys/net/ipv4/conf/h0/forwarding").stdout.strip() == "1"

        # It may not take another's address, nor any other.
        assert s.stop() == 0
        wait_until(lambda: "10.0.8.42" not in core.ip("-4 route show type unicast"), 10, what="withdrawn")
        assert "10.0.8.42" not in stub.ip("-4 addr")
        for address in ("10.0.8.43", "10.0.8.44"):
            with hosting(stub, tmp_path, "eth0", "--address", address, "--router", link_local(router, "h0"), "--stub"):
                wait_until(lambda: link_local(stub) in neighbours(router, tmp_path), 10, what="it is a neighbour")
                time.sleep(1)  # what must not happen has no event
                assert "10.0.8.44" not in router.ip("-4 route") + core.ip("-4 route")
                assert "dev h1" in router.ip("-4 route show 10.0.8.43")

        # The declared one goes.
        plain.ip("addr flush dev eth0 scope link")
        wait_until(lambda: "10.0.8.43" not in router.ip("-4 route show type unicast"), 10, what="no route to it")
        wait_until(lambda: "10.0.8.43" not in core.ip("-4 route show type unicast"), 10, what="nor at the core")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("eth0 --address 10.0.8.0/24", "--address:"),
        ("eth0 --address 127.0.0.1", "no machine can have"),
        ("eth0 --address 2001:db8::1", "no machine can have"),
        ("eth0 --address 10.0.8.42 --router 2001:db8::1", "not link-local"),
        ("eth0 --address 10.0.8.42 --router fe80::1%eth1", "not on eth0"),
        ("eth0 --address 10.0.8.42 --metric x", "no metric"),
        ("eth0 --address 10.0.8.42 --key x", "add --stub"),
        ("eth0 --address 10.0.8.42 --stub --key /nonexistent", "key file"),
        ("eth0 --config /nonexistent", "cannot read"),
        ("a/b --address 10.0.8.42", "no device name"),
        ("lo --address 10.0.8.42", "loopback"),
    ],
)
def test_mistakes_are_named(words: str, says: str, tmp_path: Path) -> None:
    if words.startswith("lo ") and os.geteuid():
        pytest.skip("needs root")
    code, out, err = via6("host", *words.split(), env={"VIA6_STATE": str(tmp_path)})
    assert code in (1, 2), err
    assert (out, "Traceback" in err, says in err) == ("", False, True), err
