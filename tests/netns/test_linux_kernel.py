"""`kernel.linux` where it is hard: windows, lost errors, hostile senders, deaths in mid-burst, what a watch tells."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from support import Net, Nets, run, wait_until
from via6.errors import Refusal
from via6.kernel.linux import LinuxKernel, parse_release, require
from via6.kernel.socket import NetlinkSocket
from via6.kernel.watch import LinuxWatch
from via6.model import (
    PARTS,
    Burst,
    Change,
    DropNexthop,
    Link,
    NextHop,
    NexthopObject,
    Outcome,
    Overrun,
    Plan,
    PutNexthop,
    Route,
    RouteBlock,
)
from via6.netlink.notices import Notices
from via6.prefix import AF_INET, Prefix, parse_address, parse_prefix

root = pytest.mark.root

GATEWAY = parse_address("fe80::9")
NHID = 0x76360000


@pytest.fixture
def node(nets: Nets) -> Net:
    """eth0 and eth1 up, peers in another namespace."""
    here, there = nets.new(), nets.new()
    nets.veth(here, "eth0", there, "eth0")
    nets.veth(here, "eth1", there, "eth1")
    return here


@pytest.fixture
def kernel(node: Net) -> Iterator[LinuxKernel]:
    with node.inside():
        made = LinuxKernel()
    with made:
        yield made


def index(node: Net, dev: str = "eth0") -> int:
    return int(node.json("link", "show", dev)[0]["ifindex"])


def hosts(count: int) -> list[bytes]:
    return [struct.pack("!I", 0x0B000000 + i) for i in range(count)]


def template(ifindex: int = 0, nhid: int = 0, via: bytes | None = GATEWAY) -> Route:
    hops = () if nhid else (NextHop(via, ifindex),)
    return Route(Prefix(bytes(4), 32), hops, nhid=nhid)


def burst(op: str, route: Route, destinations: list[bytes]) -> Burst:
    return Burst(op, RouteBlock(route, destinations))


# --- failures ---------------------------------------------------------------------------------------------------------


@root
@pytest.mark.parametrize("count", [1, 16, 1_000, 4_096, 4_097, 10_000])
def test_every_failure_is_told(node: Net, kernel: LinuxKernel, count: int) -> None:
    bad = hosts(count)
    good = [struct.pack("!I", 0x0C000000 + i) for i in range(100)]
    route = template(index(node))
    wrong = replace(route, next_hops=(NextHop(GATEWAY, 4711),))
    outcome = kernel.apply(Plan((burst("add", route, good), burst("add", wrong, bad), burst("delete", route, good))))
    assert not outcome.overrun
    assert [f.destination for f in outcome.failures] == bad
    assert {f.step for f in outcome.failures} == {1}
    assert all(f.errno > 0 and f.text for f in outcome.failures)
    assert not [r for r in kernel.dump(frozenset({"routes4"})).routes if r.protocol == 46]


@root
def test_every_second_fails(node: Net, kernel: LinuxKernel) -> None:
    route = template(index(node))
    every = hosts(10_000)
    assert kernel.apply(Plan((burst("add", route, every[::2]),))) == Outcome()
    outcome = kernel.apply(Plan((burst("add", route, every),)))
    assert sorted(f.destination or b"" for f in outcome.failures) == every[::2]
    assert len([r for r in kernel.dump(frozenset({"routes4"})).routes if r.protocol == 46]) == 10_000


@root
def test_failing_objects(node: Net, kernel: LinuxKernel) -> None:
    ifindex = index(node)
    steps = (
        PutNexthop(NexthopObject(NHID, GATEWAY, ifindex)),
        PutNexthop(NexthopObject(NHID, GATEWAY, ifindex)),  # exists
        PutNexthop(NexthopObject(NHID + 1, GATEWAY, 4711)),  # no such device
        PutNexthop(NexthopObject(NHID + 2, group=((NHID + 1, 1),))),  # no such member
        DropNexthop(NHID + 7),
        burst("add", template(nhid=NHID), hosts(3)),
        burst("add", template(nhid=NHID + 1), hosts(2)),
        DropNexthop(NHID),
    )
    outcome = kernel.apply(Plan(steps))
    assert [f.step for f in outcome.failures] == [1, 2, 3, 4, 6, 6]
    assert [f.destination for f in outcome.failures] == [None] * 4 + hosts(2)
    assert not kernel.dump(frozenset({"nexthops"})).nexthops


@root
@pytest.mark.parametrize("receive_buffer", [1, 4096, 65536])
def test_a_tiny_receive_buffer_never_hangs(node: Net, receive_buffer: int) -> None:
    wrong = template(4711)
    with node.inside():
        kernel = LinuxKernel(receive_buffer=receive_buffer)
    with kernel:
        start = time.monotonic()
        outcome = kernel.apply(Plan((burst("add", wrong, hosts(3_000)),)))
        assert outcome.overrun or len(outcome.failures) == 3_000
        assert time.monotonic() - start < 9
        # And it goes on working.
        assert kernel.apply(Plan((burst("add", template(index(node)), hosts(1)),))) == Outcome()
        assert [r.prefix for r in kernel.dump(frozenset({"routes4"})).routes if r.protocol == 46]


@root
def test_a_window_that_is_too_large_for_the_buffer_overruns(node: Net) -> None:
    """What the kernel loses is not taken for success."""
    with node.inside():
        kernel = LinuxKernel(receive_buffer=4096)
    with kernel:
        kernel._window = 4096  # as if the buffer were what it is not
        outcome = kernel.apply(Plan((burst("add", template(4711), hosts(3_000)),)))
        assert outcome.overrun
        assert len(outcome.failures) < 3_000


@root
def test_a_next_hop_that_dies_in_mid_burst(node: Net, kernel: LinuxKernel) -> None:
    """A thousand failures, and what stands in the kernel is what was not refused."""
    every = hosts(100_000)
    plan = Plan((PutNexthop(NexthopObject(NHID, GATEWAY, index(node))), burst("add", template(nhid=NHID), every)))
    child = os.fork()
    if not child:
        time.sleep(0.05)
        os.execvp("ip", ["ip", "-n", node.name, "link", "set", "eth0", "down"])
    outcome = kernel.apply(plan)
    os.waitpid(child, 0)
    assert not outcome.overrun
    wait_until(lambda: not [r for r in kernel.dump(frozenset({"routes4"})).routes if r.protocol == 46])
    assert len({f.destination for f in outcome.failures}) == len(outcome.failures)


@root
def test_without_privilege(node: Net) -> None:
    def attempt() -> tuple[str, str]:
        with LinuxKernel() as kernel:
            os.setgid(65534)
            os.setuid(65534)
            assert kernel.dump().links
            try:
                kernel.apply(Plan((burst("add", template(1), hosts(5_000)),)))
            except Refusal as refusal:
                return refusal.message, refusal.remedy
        return "", ""

    message, remedy = node.call(attempt)
    assert "Operation not permitted" in message
    assert "root" in remedy


# --- dumps ------------------------------------------------------------------------------------------------------------


@root
def test_dump_of_everything(node: Net, kernel: LinuxKernel) -> None:
    node.ip("addr add 2001:db8::1/64 dev eth0 nodad")
    node.ip("-4 rule add from 10.0.0.0/8 iif eth0 fwmark 7/0xff lookup 70000 pref 100")
    node.ip("-6 rule add to 2001:db8:5::/48 unreachable pref 101")
    node.ip("-4 route add 10.9.0.0/16 via inet6 fe80::9 dev eth0 table 70000 proto 99 metric 4000000000")
    node.ip("-6 route add 2001:db8:7::/48 via fe80::9 dev eth0 table 4294967294")
    node.ip(
        "-4 route add 10.10.0.0/16"
        " nexthop via inet6 fe80::9 dev eth0 weight 7 nexthop via inet6 fe80::9 dev eth1 weight 256"
    )
    node.ip("-4 route add blackhole 10.11.0.0/16")
    found = kernel.dump()
    assert found.parts == PARTS
    (route,) = found.routes.at(parse_prefix("10.9.0.0/16"), 70000)
    assert (route.metric, route.protocol, route.next_hops[0].via) == (4_000_000_000, 99, GATEWAY)
    assert found.routes.at(parse_prefix("2001:db8:7::/48"), 4294967294)
    (route,) = found.routes.at(parse_prefix("10.10.0.0/16"))
    assert [h.weight for h in route.next_hops] == [7, 256]
    assert found.routes.at(parse_prefix("10.11.0.0/16"))[0].type == "blackhole"
    rule = next(r for r in found.rules if r.priority == 100)
    assert (rule.family, rule.table, rule.iif, rule.fwmark, rule.fwmask) == (AF_INET, 70000, "eth0", 7, 0xFF)
    assert str(rule.source) == "10.0.0.0/8"
    assert next(r for r in found.rules if r.priority == 101).action == "unreachable"
    assert len(kernel.dump(frozenset({"routes4"}), table=70000).routes) == 1
    assert not kernel.dump(frozenset({"routes4"}), table=12345).routes
    assert not kernel.dump(frozenset({"routes4"}), protocol=46).routes


@root
def test_dump_while_it_changes(node: Net, kernel: LinuxKernel, tmp_path: Path) -> None:
    """Another hand works all the time: what stays is in every dump, once."""
    kernel.apply(Plan((burst("add", template(index(node)), hosts(20_000)),)))
    lines = tmp_path / "lines"
    lines.write_text("route add 12.0.0.1/32 dev eth1\nroute del 12.0.0.1/32\n" * 40_000)
    node.spawn("ip", "-batch", lines)
    for _ in range(5):
        found = [r.prefix.packed for r in kernel.dump(frozenset({"routes4"})).routes if r.protocol == 46]
        assert set(found) == set(hosts(20_000))


# --- watch ------------------------------------------------------------------------------------------------------------


def told(watch: LinuxWatch, timeout: float = 0.3) -> list[object]:
    end = time.monotonic() + timeout
    found: list[object] = []
    while time.monotonic() < end:
        found += watch.read()
        time.sleep(0.01)
    return found


@root
def test_own_changes_are_not_told_others_are(node: Net, kernel: LinuxKernel) -> None:
    with node.inside():
        watch = kernel.watch()
        other = LinuxKernel()
    route = template(index(node))
    told(watch)
    kernel.apply(Plan((burst("add", route, hosts(500)), PutNexthop(NexthopObject(NHID, GATEWAY, index(node))))))
    assert not told(watch)
    other.apply(Plan((burst("delete", route, hosts(2)), DropNexthop(NHID))))
    events = told(watch)
    assert [type(e.object).__name__ for e in events if isinstance(e, Change) and e.gone] == [
        "RouteBlock",
        "NexthopObject",
    ]
    node.ip("link set eth1 mtu 1400")
    assert any(isinstance(e, Change) and isinstance(e.object, Link) and e.object.mtu == 1400 for e in told(watch))
    other.close()
    watch.close()


@root
def test_an_overrun_is_told_and_nothing_older_than_it(node: Net) -> None:
    with node.inside():
        watch = LinuxWatch(receive_buffer=4096)
    told(watch)
    run(
        "ip",
        "-n",
        node.name,
        "-batch",
        "-",
        input="".join(f"route add 12.0.{i >> 8}.{i & 255}/32 dev eth1\n" for i in range(500)),
    )
    events = watch.read()
    assert events == [Overrun()]
    assert watch.read() == []
    node.ip("route add 12.9.0.0/16 dev eth1")
    assert [str(e.object.prefix) for e in watch.read() if isinstance(e, Change) and isinstance(e.object, Route)] == [
        "12.9.0.0/16"
    ]
    watch.close()


# --- hostile senders --------------------------------------------------------------------------------------------------


def _forge(portid: int, count: int, kind: int, flags: int = 0) -> None:
    """Datagrams that look like the kernel's, from a process of the same namespace."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as forger:
        forger.bind((0, 0))
        body = struct.pack("=i", -5) + bytes(16)
        for _ in range(count):
            forger.sendto(struct.pack("=IHHII", 16 + len(body), kind, flags, 0xFFFFFFFF, portid) + body, (portid, 0))


@root
def test_datagrams_of_others_are_ignored(node: Net, kernel: LinuxKernel) -> None:
    with node.inside():
        watch = kernel.watch()
    told(watch)
    for portid in (kernel._socket.portid, watch._socket.portid):
        node.call(_forge, portid, 20, 2)  # NLMSG_ERROR
        node.call(_forge, portid, 20, 3)  # NLMSG_DONE
        node.call(_forge, portid, 20, 24)  # RTM_NEWROUTE
    assert kernel.apply(Plan((burst("add", template(index(node)), hosts(10)),))) == Outcome()
    node.call(_forge, kernel._socket.portid, 20, 3)
    assert len([r for r in kernel.dump().routes if r.protocol == 46]) == 10
    assert not watch.read()
    watch.close()


@root
def test_a_flood_of_others_does_not_outlast_the_deadline(node: Net) -> None:
    with node.inside():
        mine = NetlinkSocket()
    child = os.fork()
    if not child:
        with node.inside():
            _forge(mine.portid, 1 << 30, 24)
    try:
        time.sleep(0.2)
        start = time.monotonic()
        with pytest.raises((TimeoutError, OSError)):
            mine.receive(0.5)
        assert time.monotonic() - start < 3
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        mine.close()


# --- pure -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6.1.0-28-amd64", (6, 1)), ("5.2.0", (5, 2)), ("5.15.167.4-microsoft-standard-WSL2", (5, 15)),
        ("4.19-rc3", (4, 19)),
        ("6.18.44-fc-v657", (6, 18)), ("6.1-custom", (6, 1)), ("6.1+", (6, 1)), ("5.10_1", (5, 10)), ("3", (3, 0)),
        ("", (99, 0)), ("x.y", (99, 0)), ("٦.1", (99, 0)),
    ],
)  # fmt: skip
def test_release(text: str, expected: tuple[int, int]) -> None:
    assert parse_release(text) == expected


@pytest.mark.parametrize("text", ["5.1.0", "4.19.0-27-amd64", "2.6.32", "5.0-rc1"])
def test_a_kernel_that_is_too_old(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        require(parse_release(text))
    assert "needs 5.2" in caught.value.message
    assert "boot a newer kernel" in caught.value.remedy


@pytest.mark.parametrize("text", ["5.2.0", "5.10.1", "6.1.0-28-amd64", "?"])
def test_a_kernel_that_is_new_enough(text: str) -> None:
    require(parse_release(text))


def test_hostile_notifications() -> None:
    for data in (
        b"",
        b"\0" * 3,
        b"\xff" * 64,
        struct.pack("=IHHII", 0, 24, 0, 0, 0),
        struct.pack("=IHHII", 1 << 31, 24, 0, 0, 0),
    ):
        notices = Notices()
        notices.feed(data)
        assert notices.take() == []
