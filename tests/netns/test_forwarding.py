"""Forwarding, reverse path filters, redirects, the node's address: packets cross, and all is as before afterwards."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from support import Net, Nets, run
from via6.collect.probe import Ping, ping_many
from via6.daemon.address import NodeAddress
from via6.daemon.forwarding import Forwarding
from via6.daemon.journal import state_file
from via6.daemon.sysctl import Sysctls
from via6.kernel.linux import release
from via6.prefix import parse_address

pytestmark = pytest.mark.root

KEYS = ("forwarding", "rp_filter", "send_redirects")
FAR = "10.2.0.1"
BEYOND = "10.9.0.1"
HOST = "10.1.0.10"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIA6_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def settings(net: Net) -> dict[str, str]:
    """All that Forwarding may touch, by `interface/key`."""
    with net.inside():
        root = Path("/proc/sys/net/ipv4/conf")
        return {f"{dev.name}/{key}": (dev / key).read_text().strip() for dev in root.iterdir() for key in KEYS}


def counts(net: Net, key: str) -> dict[str, int]:
    """What counts on each interface of rp_filter or send_redirects: the larger of `all` and its own."""
    found = {name.removesuffix(f"/{key}"): int(v) for name, v in settings(net).items() if name.endswith(f"/{key}")}
    return {dev: max(value, found["all"]) for dev, value in found.items() if dev != "all"}


def cover(net: Net, links: tuple[str, ...], hosts: tuple[str, ...] = ()) -> list[str]:
    """As a run does that knows nothing but the file of the one before."""
    with net.inside():
        sysctls = Sysctls()
        index = socket.if_nametoindex
        return Forwarding(sysctls).cover([index(dev) for dev in links], [index(dev) for dev in hosts])


def restore(net: Net) -> list[str]:
    with net.inside():
        return Forwarding(Sysctls()).restore()


def ping(net: Net, target: str, timeout_s: float = 2.0) -> Ping:
    with net.inside():
        return ping_many([parse_address(target)], timeout_s=timeout_s)[0]


class Chain:
    """h - r1 - r2 with IPv6 alone between the routers: lan0 and eth0 of r1, eth0 of r2, which has 10.2.0.1 on lo and
    is told to send 10.9.0.0/16 nowhere. `spare` is one more interface of r1."""

    def __init__(self, nets: Nets) -> None:
        self.h, self.r1, self.r2 = nets.new(), nets.new(), nets.new()
        nets.veth(self.h, "eth0", self.r1, "lan0")
        nets.veth(self.r1, "eth0", self.r2, "eth0")
        nets.veth(self.r1, "spare", self.r2, "spare")
        self.h.ip(f"address add {HOST}/24 dev eth0")
        self.h.ip("route add default via 10.1.0.1")
        self.r1.ip("address add 10.1.0.1/24 dev lan0")
        for number, net in ((1, self.r1), (2, self.r2)):
            net.ip(f"address add fe80::{number}/64 dev eth0 nodad")
        self.r2.ip(f"address add {FAR}/32 dev lo")
        for prefix in ("10.2.0.0/16", "10.9.0.0/16"):
            self.r1.ip(f"route add {prefix} via inet6 fe80::2 dev eth0")
        self.r2.ip("route add 10.1.0.0/24 via inet6 fe80::1 dev eth0")


@pytest.fixture
def chain(nets: Nets) -> Chain:
    return Chain(nets)


# --- forwarding -------------------------------------------------------------------------------------------------------


def test_a_packet_crosses(chain: Chain, folder: Path) -> None:
    before = settings(chain.r1)
    assert before["eth0/forwarding"] == before["all/forwarding"] == "0"
    assert not ping(chain.h, FAR, 0.2).received
    assert cover(chain.r1, ("eth0",)) == []
    assert not ping(chain.h, FAR, 0.2).received, "forwarding is asked where a packet comes in: the host's link"
    assert cover(chain.r1, ("eth0",), ("lan0",)) == []
    assert ping(chain.h, FAR).received
    now = settings(chain.r1)
    assert {name for name in now if name.endswith("/forwarding") and now[name] == "1"} == {
        "eth0/forwarding", "lan0/forwarding",
    }  # fmt: skip
    assert restore(chain.r1) == []
    assert settings(chain.r1) == before
    assert list(folder.iterdir()) == []


def test_again_changes_nothing(chain: Chain, folder: Path) -> None:
    with chain.r1.inside():
        forwarding = Forwarding(Sysctls())
        links = [socket.if_nametoindex("eth0")]
        assert forwarding.cover(links) == []
        (file,) = folder.iterdir()
        inode = file.stat().st_ino
        assert forwarding.cover(links) == []
        assert file.stat().st_ino == inode
        Path("/proc/sys/net/ipv4/conf/eth0/forwarding").write_text("0")
        assert forwarding.cover(links) == []
        assert Path("/proc/sys/net/ipv4/conf/eth0/forwarding").read_text() == "1\n", "drift"
        assert forwarding.restore() == []


def test_a_link_that_is_left_is_restored(chain: Chain) -> None:
    before = settings(chain.r1)
    cover(chain.r1, ("eth0", "spare"), ("lan0",))
    cover(chain.r1, ("eth0",))
    now = settings(chain.r1)
    for name in ("spare", "lan0"):
        assert {key: now[f"{name}/{key}"] for key in KEYS} == {key: before[f"{name}/{key}"] for key in KEYS}
    assert now["eth0/forwarding"] == "1"
    restore(chain.r1)
    assert settings(chain.r1) == before


def test_interfaces_that_go_and_come(chain: Chain, nets: Nets) -> None:
    """Another interface gets the old name, one gets another name: each keeps what is its own."""
    r1 = chain.r1
    r1.sysctl("net.ipv4.conf.all.rp_filter", 1)
    before = settings(r1)
    cover(r1, ("eth0", "spare"))
    r1.ip("link set eth0 down")
    r1.ip("link set eth0 name up1")
    r1.ip("link del spare")
    nets.veth(r1, "spare", chain.r2, "spare")
    r1.sysctl("net.ipv4.conf.spare.forwarding", 1)
    cover(r1, ("up1",))
    assert settings(r1)["up1/forwarding"] == settings(r1)["spare/forwarding"] == "1"
    assert counts(r1, "rp_filter")["spare"] == 1, "a new one inherits what counted for all"
    restore(r1)
    now = settings(r1)
    assert {key: now[f"up1/{key}"] for key in KEYS} == {key: before[f"eth0/{key}"] for key in KEYS}
    assert now["spare/forwarding"] == "1", "never ours"
    assert {k: v for k, v in now.items() if k.startswith(("all/", "default/", "lan0/", "lo/"))} == {
        k: v for k, v in before.items() if k.startswith(("all/", "default/", "lan0/", "lo/"))
    }
    assert cover(r1, ()) == []


def test_an_ifindex_that_is_used_again(chain: Chain) -> None:
    r1 = chain.r1
    (spare,) = r1.json("link show spare")
    cover(r1, ("eth0", "spare"))
    r1.ip("link del spare")
    cover(r1, ("eth0",))
    r1.ip("link add new index", spare["ifindex"], "type veth peer name newer")
    for key, value in (("forwarding", 1), ("send_redirects", 0)):  # just what via6 would have set
        r1.sysctl(f"net.ipv4.conf.new.{key}", value)
    restore(r1)
    assert (settings(r1)["new/forwarding"], settings(r1)["new/send_redirects"]) == ("1", "0")


def test_an_interface_that_is_gone_is_no_fault(chain: Chain) -> None:
    with chain.r1.inside():
        forwarding = Forwarding(Sysctls())
        assert forwarding.cover([4711, socket.if_nametoindex("eth0")], [4712]) == []
        run("ip", "-n", chain.r1.name, "link", "del", "eth0")
        assert forwarding.restore() == []


def test_somebody_else_counts_on_forwarding(chain: Chain) -> None:
    """A container engine that came later turned it on for the whole node; it does not come again."""
    r1 = chain.r1
    cover(r1, ("eth0",), ("lan0",))
    r1.sysctl("net.ipv4.ip_forward", 1)
    restore(r1)
    assert settings(r1)["eth0/forwarding"] == "1"
    assert ping(chain.h, FAR).received
    # But one that was off while all others were on is off again.
    r1.sysctl("net.ipv4.conf.eth0.forwarding", 0)
    cover(r1, ("eth0",))
    assert settings(r1)["eth0/forwarding"] == "1"
    restore(r1)
    assert settings(r1)["eth0/forwarding"] == "0"
    assert settings(r1)["lan0/forwarding"] == "1"


def test_no_place_for_the_old_values(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VIA6_STATE", str(tmp_path / "file" / "below"))
    before = settings(chain.r1)
    with chain.r1.inside():
        assert state_file("sysctl").parent.name == "below"
    monkeypatch.setenv("VIA6_STATE", str(tmp_path))
    with chain.r1.inside():
        forwarding = Forwarding(Sysctls())
        (tmp_path / state_file("sysctl").with_suffix(".new").name).mkdir()
        problems = forwarding.cover([socket.if_nametoindex("eth0")])
    assert problems
    assert all("sysctl-" in line for line in problems)
    assert settings(chain.r1) == before, "nothing is changed that cannot be restored"


# --- reverse path filters ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("all_", "own", "other"), [(2, 0, 0), (1, 2, 2), (0, 2, 1), (0, 1, 2), (2, 2, 1), (2, None, None), (1, None, 2)]
)
def test_errors_of_a_router_without_an_address_get_through(
    chain: Chain, all_: int, own: int | None, other: int | None
) -> None:
    """r2 refuses from 192.0.0.8, to which r1 has no route."""
    h, r1, r2 = chain.h, chain.r1, chain.r2
    r2.ip(f"address del {FAR}/32 dev lo")
    r2.ip("route add unreachable 10.9.0.0/16")
    r2.sysctl("net.ipv4.conf.eth0.forwarding", 1)
    for dev, value in (("all", all_), ("eth0", own), ("spare", other), ("lan0", other)):
        if value is not None:  # never set: follows a change of `default`
            r1.sysctl(f"net.ipv4.conf.{dev}.rp_filter", value)
    for dev in ("eth0", "lan0"):
        r1.sysctl(f"net.ipv4.conf.{dev}.forwarding", 1)
    before, counted = settings(r1), counts(r1, "rp_filter")
    assert ping(h, BEYOND, 0.2).error is None
    assert cover(r1, ("eth0",), ("lan0",)) == []
    assert str(ping(h, BEYOND).error) == "host unreachable, says 192.0.0.8"
    assert counts(r1, "rp_filter") == {**counted, "eth0": 0}, "the others are filtered as before"
    cover(r1, ("eth0", "spare"), ("lan0",))
    assert counts(r1, "rp_filter") == {**counted, "eth0": 0, "spare": 0}
    cover(r1, ("spare",), ("lan0",))
    assert counts(r1, "rp_filter") == {**counted, "spare": 0}
    r1.sysctl("net.ipv4.conf.all.rp_filter", 2)  # a run of systemd-sysctl
    cover(r1, ("eth0",))
    assert counts(r1, "rp_filter") == {**dict.fromkeys(counted, 2), "eth0": 0}
    assert restore(r1) == []
    r1.sysctl("net.ipv4.conf.all.rp_filter", all_)
    assert settings(r1) == before


def test_filters_come_back_as_they_were(chain: Chain) -> None:
    for dev, value in (("all", 1), ("default", 0), ("spare", 2), ("eth0", 1)):  # nothing for lan0 and lo
        chain.r1.sysctl(f"net.ipv4.conf.{dev}.rp_filter", value)
    before = settings(chain.r1)
    cover(chain.r1, ("eth0",), ("lan0",))
    cover(chain.r1, ("eth0",), ("lan0",))
    assert settings(chain.r1)["default/rp_filter"] == "1"
    restore(chain.r1)
    assert settings(chain.r1) == before


def test_an_interface_that_gets_an_address_meanwhile(chain: Chain) -> None:
    """From then on it does not follow `default` any more: Linux takes what it has for its own."""
    chain.r1.sysctl("net.ipv4.conf.all.rp_filter", 2)
    before = settings(chain.r1)
    cover(chain.r1, ("eth0",))
    assert settings(chain.r1)["spare/rp_filter"] == "2"
    for dev in ("spare", "eth0"):
        chain.r1.ip(f"address add 10.77.0.1/32 dev {dev}")
    restore(chain.r1)
    assert settings(chain.r1) == before


def test_what_another_hand_has_set_since_stays(chain: Chain) -> None:
    chain.r1.sysctl("net.ipv4.conf.eth0.rp_filter", 1)
    cover(chain.r1, ("eth0",))
    chain.r1.sysctl("net.ipv4.conf.eth0.rp_filter", 2)
    restore(chain.r1)
    assert settings(chain.r1)["eth0/rp_filter"] == "2"


# --- redirects --------------------------------------------------------------------------------------------------------


def redirected(host: Net, target: str) -> bool:
    """Whether an ICMP redirect comes when `host` pings what lies behind two routers of its own link."""
    with host.inside():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    with wire:
        wire.bind(("eth0", 0x0800))
        wire.setblocking(False)
        for _ in range(3):
            assert ping(host, target).received
        found = False
        while True:
            try:
                packet = wire.recv(2048)
            except BlockingIOError:
                return found
            found = found or (packet[9] == 1 and packet[20] == 5)


@pytest.mark.parametrize("covered", [False, True])
def test_no_host_is_told_that_the_far_side_is_on_its_link(nets: Nets, covered: bool) -> None:
    """A host and two routers on one wire, and the first router sends on to the second by IPv6. What Linux would say
    in its redirect is: the destination is its own gateway."""
    wire = nets.new()
    wire.ip("link add br0 type bridge")
    wire.ip("link set br0 up")
    h, r1, r2 = nodes = nets.new(), nets.new(), nets.new()
    for number, net in enumerate(nodes):
        nets.veth(net, "eth0", wire, f"p{number}")
        wire.ip(f"link set p{number} master br0")
        net.ip(f"address add fe80::{number + 1}/64 dev eth0 nodad")
    h.ip(f"address add {HOST}/24 dev eth0")
    h.ip("route add default via 10.1.0.1")
    r1.ip("address add 10.1.0.1/24 dev eth0")
    r1.ip("route add 10.2.0.0/16 via inet6 fe80::3 dev eth0")
    r2.ip(f"address add {FAR}/32 dev lo")
    r2.ip("route add 10.1.0.0/24 via inet6 fe80::2 dev eth0")
    before = settings(r1)
    if covered:
        assert cover(r1, ("eth0",)) == []
        assert counts(r1, "send_redirects") == {"default": 1, "lo": 1, "eth0": 0}
    else:
        r1.sysctl("net.ipv4.conf.eth0.forwarding", 1)
    assert redirected(h, FAR) is not covered
    if covered:
        restore(r1)
        assert settings(r1) == before


# --- the node's address -----------------------------------------------------------------------------------------------

A, B = parse_address("192.0.2.1"), parse_address("192.0.2.2")


def addresses(net: Net, dev: str = "lo") -> list[str]:
    return [
        f"{info['local']}/{info['prefixlen']}"
        for entry in net.json("-4 address show dev", dev)
        for info in entry.get("addr_info", [])
        if not info["local"].startswith("127.")
    ]


def hold(net: Net, address: bytes | None) -> list[str]:
    """As a run does that knows nothing but the file of the one before."""
    with net.inside():
        return NodeAddress().hold(address)


def leave(net: Net) -> list[str]:
    with net.inside():
        return NodeAddress().leave()


def test_the_address_comes_and_goes(nets: Nets, folder: Path) -> None:
    a, b = nets.pair()
    before = a.ip("address"), a.ip("route show table all")
    for _ in range(2):
        assert hold(a, A) == []
        assert addresses(a) == ["192.0.2.1/32"]
    for number, net in ((1, a), (2, b)):
        net.ip(f"address add fe80::{number}/64 dev eth0 nodad")
    b.ip("address add 192.0.2.9/32 dev lo")
    b.ip("route add 192.0.2.1/32 via inet6 fe80::1 dev eth0")
    a.ip("route add 192.0.2.9/32 via inet6 fe80::2 dev eth0")
    assert ping(b, "192.0.2.1").received
    a.ip("route del 192.0.2.9/32")
    a.ip("address del fe80::1/64 dev eth0")
    assert leave(a) == []
    assert (a.ip("address"), a.ip("route show table all")) == before
    assert list(folder.iterdir()) == []
    assert leave(a) == []


def test_it_moves_with_the_configuration(nets: Nets) -> None:
    net = nets.new()
    for address, expected in ((A, ["192.0.2.1/32"]), (B, ["192.0.2.2/32"]), (None, [])):
        assert hold(net, address) == []
        assert addresses(net) == expected


@pytest.mark.parametrize(("device", "length"), [("lo", 32), ("eth0", 24)])
def test_one_that_is_there_already_is_not_ours(nets: Nets, device: str, length: int) -> None:
    net, _ = nets.pair()
    net.ip(f"address add 192.0.2.1/{length} dev {device}")
    assert hold(net, A) == []
    assert addresses(net, device) == [f"192.0.2.1/{length}"]
    assert device == "lo" or addresses(net) == []
    assert leave(net) == []
    assert addresses(net, device) == [f"192.0.2.1/{length}"]


def test_one_that_another_hand_put_in_its_place_stays(nets: Nets) -> None:
    if release() < (5, 18):
        pytest.skip("no IFA_PROTO on this kernel")
    net = nets.new()
    hold(net, A)
    net.ip("address del 192.0.2.1/32 dev lo")
    assert leave(net) == [], "gone already"
    hold(net, A)
    net.ip("address del 192.0.2.1/32 dev lo")
    net.ip("address add 192.0.2.1/32 dev lo")
    assert leave(net) == []
    assert addresses(net) == ["192.0.2.1/32"]


def test_it_comes_back(nets: Nets) -> None:
    net = nets.new()
    hold(net, A)
    net.ip("address flush dev lo")
    assert hold(net, A) == []
    assert addresses(net) == ["192.0.2.1/32"]


def test_a_loopback_that_is_down(nets: Nets) -> None:
    net = nets.new(lo=False)
    assert hold(net, A) == []
    assert ping(net, "192.0.2.1").received
    leave(net)
    assert addresses(net) == []


def test_of_another_namespace(nets: Nets, folder: Path) -> None:
    """Inode numbers of namespaces are used again."""
    one, two = nets.new(), nets.new()
    hold(one, A)
    two.ip("address add 192.0.2.1/32 dev lo")
    (file,) = folder.iterdir()
    with two.inside():
        file.rename(state_file("address"))
    assert leave(two) == []
    assert addresses(two) == ["192.0.2.1/32"]


@pytest.mark.parametrize("garbage", ["", "{", "null", "[]", "{}", '{"namespace": 5}', "\x00"])
def test_a_damaged_file(nets: Nets, folder: Path, garbage: str) -> None:
    net = nets.new()
    folder.mkdir()
    with net.inside():
        state_file("address").write_text(garbage)
    assert hold(net, A) == []
    assert leave(net) == []
    assert addresses(net) == []


def test_an_address_that_could_not_be_taken_away_is_not_put(nets: Nets, folder: Path) -> None:
    net = nets.new()
    folder.parent.joinpath("state").write_text("")
    problems = hold(net, A)
    assert len(problems) == 1
    assert "192.0.2.1" in problems[0]
    assert addresses(net) == []
