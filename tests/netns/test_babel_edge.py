"""Where the Babel speaker touches the machine: its socket, the files of its identity, the ICMP source of the kernel."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import Net, Nets, link_local, run, wait_until
from via6.babel.model import GROUP, PORT, Arrival, Datagram
from via6.collect import icmp_source
from via6.daemon.identity import Identity
from via6.daemon.links import BATCH, QUEUE, BabelSocket
from via6.errors import Refusal
from via6.prefix import Address, format_address, parse_address

pytestmark = pytest.mark.root

Two = tuple[Net, BabelSocket, Net, BabelSocket]


def index(net: Net, dev: str = "eth0") -> int:
    with net.inside():
        return socket.if_nametoindex(dev)


def join(net: Net, sock: BabelSocket, dev: str = "eth0", source: Address | None = None) -> str:
    with net.inside():
        return sock.join(socket.if_nametoindex(dev), source)


def opened(net: Net) -> BabelSocket:
    with net.inside():
        return BabelSocket()


def heard(sock: BabelSocket, count: int = 1, timeout: float = 5) -> list[Arrival]:
    """The first `count` arrivals."""
    found: list[Arrival] = []
    wait_until(lambda: found.extend(sock.receive()) or len(found) >= count, timeout, what=f"{count} datagrams")
    return found


def silent(sock: BabelSocket, for_s: float = 0.2) -> bool:
    return not (select.select([sock], [], [], for_s)[0] and sock.receive())


@pytest.fixture
def two(nets: Nets) -> Iterator[Two]:
    """Two nodes on one link, each with its socket joined there."""
    a, b = nets.pair()
    for net in (a, b):
        link_local(net)
    with opened(a) as sock_a, opened(b) as sock_b:
        assert join(a, sock_a) == join(b, sock_b) == ""
        yield a, sock_a, b, sock_b


# --- the socket -------------------------------------------------------------------------------------------------------


def test_group_and_neighbour(two: Two) -> None:
    a, sock_a, b, sock_b = two
    address_a, address_b = (parse_address(link_local(net)) for net in (a, b))
    assert sock_a.send(Datagram(index(a), GROUP, b"to all"))
    (first,) = heard(sock_b)
    assert first == Arrival(index(b), address_a, b"to all", GROUP, PORT, 1)
    assert sock_b.send(Datagram(index(b), first.source, b"to one"))
    assert heard(sock_a) == [Arrival(index(a), address_b, b"to one", address_a, PORT, 1)]
    assert silent(sock_a), "hears itself"
    assert sock_a.counters == sock_b.counters == {}
    assert not sock_a.wants_write


def test_the_packet_on_the_wire(two: Two) -> None:
    a, sock_a, b, _ = two
    with b.inside():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x86DD))
    with wire:
        wire.settimeout(5)
        sock_a.send(Datagram(index(a), GROUP, b"*\2\0\0"))
        while (packet := wire.recv(2048))[6] != socket.IPPROTO_UDP:
            pass
    assert struct.unpack_from("!I", packet)[0] >> 20 & 0xFF == 0xC0, "traffic class CS6"
    assert packet[7] == 1, "hop limit"
    assert struct.unpack_from("!HH", packet, 40) == (6696, 6696)
    assert packet[48:] == b"*\2\0\0"


def test_it_sends_from_the_address_it_was_told(two: Two) -> None:
    a, sock_a, _, sock_b = two
    for number in (7, 8):
        a.ip(f"address add fe80::{number}/64 dev eth0 nodad")
    for source in ("fe80::8", "fe80::7", link_local(a)):
        assert join(a, sock_a, source=parse_address(source)) == ""
        assert sock_a.send(Datagram(index(a), GROUP, b"x"))
        assert format_address(heard(sock_b)[0].source) == source
    join(a, sock_a, source=parse_address("fe80::7"))
    a.ip("address del fe80::7/64 dev eth0")
    assert not sock_a.send(Datagram(index(a), GROUP, b"x"))
    assert sum(sock_a.counters.values()) == 1
    assert silent(sock_b)


def test_only_joined_links(nets: Nets) -> None:
    a, b = nets.pair()
    nets.veth(a, "eth1", b, "eth1")
    for net in (a, b):
        for dev in ("eth0", "eth1"):
            link_local(net, dev)
    with opened(a) as sock_a, opened(b) as sock_b:
        for dev in ("eth0", "eth1"):
            join(a, sock_a, dev)
        join(b, sock_b)
        assert sock_b.joined == {index(b)}
        sock_a.send(Datagram(index(a, "eth1"), GROUP, b"not joined"))
        assert silent(sock_b)
        sock_a.send(Datagram(index(a, "eth1"), parse_address(link_local(b, "eth1")), b"unicast"))
        wait_until(lambda: sock_b.receive() or sock_b.foreign)
        assert sock_b.foreign == 1
        join(b, sock_b, "eth1")
        sock_b.leave(index(b))
        sock_b.leave(index(b))
        sock_b.leave(4711)
        for dev in ("eth0", "eth1"):
            sock_a.send(Datagram(index(a, dev), GROUP, dev.encode()))
        assert [x.data for x in heard(sock_b)] == [b"eth1"]
        assert silent(sock_b)
        assert "ff02::1:6" not in b.ip("maddress show dev eth0")


def test_a_batch_is_bounded(two: Two) -> None:
    a, sock_a, _, sock_b = two
    assert sock_b.receive() == []
    for number in range(2 * BATCH + 1):
        sock_a.send(Datagram(index(a), GROUP, str(number).encode()))
    wait_until(lambda: select.select([sock_b], [], [], 0)[0])
    time.sleep(0.1)
    batches = [sock_b.receive() for _ in range(4)]
    assert [len(batch) for batch in batches] == [BATCH, BATCH, 1, 0]
    assert [int(x.data) for batch in batches for x in batch] == list(range(2 * BATCH + 1))


def test_a_flood_is_counted(two: Two) -> None:
    """More than 100,000 prefixes' worth of packets fits into the buffer; what does not is counted."""
    a, sock_a, b, sock_b = two
    assert sock_b.receive_buffer >= 32 << 20
    to = (link_local(b), PORT, 0, index(a))
    with a.inside():
        flooder = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sent = 20_000
    with flooder:
        for _ in range(sent):
            flooder.sendto(bytes(1400), to)
    got = 0
    while batch := sock_b.receive():
        got += len(batch)
    assert got * 1400 > 4 << 20
    sock_a.send(Datagram(index(a), GROUP, b"after"))
    assert heard(sock_b)[-1].data == b"after"
    assert 0 < sock_b.drops <= sent - got


def test_what_cannot_be_sent_is_counted_not_raised(two: Two) -> None:
    a, sock_a, _, sock_b = two
    ifindex = index(a)
    assert not sock_a.send(Datagram(4711, GROUP, b"no such link"))
    assert not sock_a.send(Datagram(ifindex, GROUP, bytes(70_000)))
    assert sock_a.counters["EMSGSIZE"] == 1
    a.ip("link set eth0 down")
    assert not sock_a.send(Datagram(ifindex, GROUP, b"down"))
    a.ip("link del eth0")
    assert not sock_a.send(Datagram(ifindex, GROUP, b"gone"))
    assert sum(sock_a.counters.values()) == 4
    assert set(sock_a.counters) <= set(errno.errorcode.values())
    assert not sock_a.wants_write
    assert silent(sock_b)
    with a.inside():
        assert sock_a.join(ifindex) == os.strerror(errno.ENODEV)
    assert sock_a.joined == frozenset()


def hold_back(net: Net, held: bool) -> None:
    """A qdisc that keeps everything: the kernel takes no more than the send buffer from one socket."""
    tc = f"tc -n {net.name} qdisc"
    run(f"{tc} replace dev eth0 root tbf rate 8bit burst 2k limit 100mb" if held else f"{tc} del dev eth0 root")


def fill(net: Net, sock: BabelSocket) -> None:
    ifindex = index(net)
    for _ in range(20_000):
        assert sock.send(Datagram(ifindex, GROUP, bytes(1400)))
        if sock.wants_write:
            return
    pytest.fail("the send buffer has no end")


def test_a_full_send_buffer_waits_in_order(two: Two) -> None:
    a, sock_a, _, sock_b = two
    hold_back(a, True)
    fill(a, sock_a)
    sock_a.flush()
    assert sock_a.wants_write
    sock_a.send(Datagram(index(a), GROUP, b"1"))
    assert not select.select([], [sock_a], [], 0)[1]
    hold_back(a, False)
    sock_a.send(Datagram(index(a), GROUP, b"2"))  # there is room now, but 1 is still waiting
    while sock_a.wants_write:
        assert select.select([], [sock_a], [], 5)[1]
        sock_a.flush()
    sock_a.send(Datagram(index(a), GROUP, b"3"))
    got: list[bytes] = []
    wait_until(lambda: got.extend(x.data for x in sock_b.receive() if len(x.data) == 1) or len(got) == 3)
    assert got == [b"1", b"2", b"3"]
    assert sock_a.counters == {}


def test_the_queue_is_bounded(two: Two) -> None:
    a, sock_a, _, _ = two
    hold_back(a, True)
    fill(a, sock_a)
    ifindex = index(a)
    left = [sock_a.send(Datagram(ifindex, GROUP, b"x")) for _ in range(QUEUE + 5)]
    assert left == [True] * (QUEUE - 1) + [False] * 6
    assert sock_a.counters == {"queue-full": 6}
    sock_a.leave(ifindex)
    assert not sock_a.wants_write, "what waits for a link that is left does not leave any more"


def test_a_membership_that_the_kernel_dropped(two: Two) -> None:
    """An MTU below 1280 takes IPv6 from an interface, with its groups, and the socket does not learn of it."""
    a, sock_a, b, sock_b = two
    assert join(b, sock_b) == "", "joining twice is no fault"
    b.ip("link set eth0 mtu 1200")
    b.ip("link set eth0 mtu 1500")
    link_local(b)
    sock_a.send(Datagram(index(a), GROUP, b"unheard"))
    assert silent(sock_b), "this kernel keeps the membership: nothing to test"
    assert join(b, sock_b) == ""
    sock_a.send(Datagram(index(a), GROUP, b"heard"))
    assert heard(sock_b)[0].data == b"heard"


def test_more_links_than_one_socket_may_join(nets: Nets) -> None:
    a, b = nets.pair()
    devices = [f"eth{n}" for n in range(12)]
    for dev in devices[1:]:
        nets.veth(a, dev, b, dev)
    with b.inside():
        optmem = Path("/proc/sys/net/core/optmem_max")
        if not optmem.exists():
            pytest.skip("net.core.optmem_max is not per namespace on this kernel")
        optmem.write_text("256")
    with opened(a) as sock_a, opened(b) as sock_b:
        for dev in devices:
            for net, sock in ((a, sock_a), (b, sock_b)):
                link_local(net, dev)
                assert join(net, sock, dev) == ""
        if len(sock_b._helpers) == 0:
            pytest.skip("this kernel takes all of them")
        for dev in devices:
            sock_a.send(Datagram(index(a, dev), GROUP, dev.encode()))
        arrivals = heard(sock_b, len(devices))
        assert sorted(x.data.decode() for x in arrivals) == sorted(devices)
        assert {x.ifindex for x in arrivals} == {index(b, dev) for dev in devices}
        sock_b.leave(index(b, "eth11"))
        sock_a.send(Datagram(index(a, "eth11"), GROUP, b"left"))
        assert silent(sock_b)


SQUATTER = """
import socket, sys, time
open("/proc/self/comm", "w").write("babeld")
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("::", 6696))
print("bound", flush=True)
time.sleep(600)
"""


def test_the_port_is_taken(nets: Nets) -> None:
    net = nets.new()
    other = net.spawn(sys.executable, "-c", SQUATTER)
    assert other.stdout is not None
    assert other.stdout.readline() == "bound\n"
    with pytest.raises(Refusal, match=r"babeld \(pid \d+\) has UDP port 6696") as caught:
        opened(net)
    assert f"`kill {other.pid}`" in caught.value.remedy
    with opened(nets.new()):  # another namespace is another matter
        pass
    other.kill()
    other.wait()
    with opened(net):
        pass


# --- files of a namespace ---------------------------------------------------------------------------------------------


def test_a_named_namespace_keeps_its_identity(nets: Nets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a reboot: another namespace, the same name. Two in one folder are two routers."""
    monkeypatch.setenv("VIA6_STATE", str(tmp_path))
    a, b = nets.new(), nets.new()
    with a.inside(), Identity() as first:
        pass
    with b.inside(), Identity() as second:
        pass
    assert first.router_id != second.router_id
    run("ip", "netns", "del", a.name)
    run("ip", "netns", "add", a.name)
    with a.inside(), Identity() as again:
        assert again.router_id == first.router_id
        assert again.seqno != first.seqno
    assert {path.stem for path in tmp_path.glob("*.json")} == {f"babel-{a.name}", f"babel-{b.name}"}


# --- ICMP without an address ------------------------------------------------------------------------------------------


def test_the_probe_reads_what_the_kernel_sends(nets: Nets) -> None:
    assert nets.new().call(icmp_source.answer_source) == parse_address("192.0.0.8")
    net = nets.new()
    net.ip("address add 192.0.2.77/32 dev lo")
    assert net.call(icmp_source.answer_source) == parse_address("192.0.2.77")


def test_the_probe_leaves_nothing(nets: Nets) -> None:
    net = nets.new()
    before = net.ip("-d address"), net.ip("route show table all")
    with net.inside():
        assert icmp_source.probe() == parse_address("192.0.0.8")
        assert icmp_source.icmp_source_ok((4, 19))
        assert icmp_source.probe(timeout_s=0.001) is None
        assert not icmp_source.icmp_source_ok((5, 12), timeout_s=0.001), "unknown counts as no"
        assert icmp_source.icmp_source_ok((5, 13), timeout_s=0), "a new kernel is not asked"
    assert (net.ip("-d address"), net.ip("route show table all")) == before


def test_what_an_old_kernel_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for address, good in ((bytes(4), False), (None, False), (parse_address("192.0.0.8"), True)):
        monkeypatch.setattr(icmp_source, "probe", lambda _timeout, address=address: address)
        assert icmp_source.icmp_source_ok((5, 10)) is good
