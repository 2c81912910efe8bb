"""RFC 8966 and 9229 at one speaker, and the faults that others had (STANDARDS.md section 2): each is a test."""

from __future__ import annotations

from dataclasses import replace

import pytest

from speaker_support import OWN, A, B, Bench, P, Peer, us
from via6.babel import info
from via6.babel.model import Hop, HopLeft, LinkSettings, RouteChange
from via6.babel.source import BabelSource
from via6.babel.wire import (
    Ack,
    AckRequest,
    Hello,
    Ihu,
    RouteRequest,
    SeqnoRequest,
    Update,
    encode_ack,
    encode_ack_request,
    encode_hello,
    encode_ihu,
    encode_route_request,
    encode_seqno_request,
)
from via6.prefix import Prefix, parse_address, parse_prefix
from via6.rib import Rib

PREFIX = parse_prefix(P)


def request(seqno: int, router_id: bytes, hops: int = 64, prefix: str = P) -> bytes:
    to = parse_prefix(prefix)
    return encode_seqno_request(1, to.length, to.packed, seqno, hops, router_id)


# --- links ---------------------------------------------------------------------------------------------------------


def test_a_neighbour_is_greeted_at_once() -> None:
    bench = Bench(links=1)
    peer = bench.peer()
    bench.run(2)
    peer.sent.clear()
    fresh = Peer(bench, 1, 3)
    bench.peers.append(fresh)
    fresh.hello()
    bench.run(0.2)
    assert any(ihu.address == fresh.address and ihu.rxcost == 96 for ihu in fresh.heard(Ihu))
    assert len(fresh.heard(Hello)) >= 2  # a peer that wants two of three Hellos need not wait for the interval
    assert [tlv.ae for tlv in fresh.heard(RouteRequest)] == [0]
    assert peer.heard(RouteRequest) == []


def test_two_of_three() -> None:
    bench = Bench(links=1)
    peer = bench.peer()
    peer.update()
    assert bench.way()
    bench.run(5.9, keep=())  # announced 4 s: one is missed after 6 s, the second after 10 s
    assert bench.way()
    assert bench.speaker.neighbours()[0].reach == "1"
    bench.run(4.0, keep=())
    assert bench.speaker.neighbours()[0].reach.startswith("01")
    assert bench.way()
    bench.run(0.3, keep=())
    assert bench.way() == "unreachable"
    assert bench.speaker.neighbours()[0].cost == 0xFFFF


def test_one_way_links_are_not_used() -> None:
    bench = Bench(links=1)
    peer = bench.peer()
    for _ in range(3):
        peer.hello(ihu=False)
    peer.update()
    assert bench.way()
    peer.hello(rxcost=0xFFFF)  # it does not hear us
    assert bench.way() == "unreachable"
    peer.hello()
    assert bench.way()
    # IHUs stop, Hellos do not: 3.5 times the announced 12 s.
    for _ in range(43):
        bench.now += 1.0
        bench.speaker.tick(bench.now)
        peer.hello(interval_cs=100, ihu=False)
    assert bench.way() == "unreachable"


def test_a_hello_that_was_lost_brought_twice_or_late_is_no_restart() -> None:
    bench = Bench(links=1)
    peer = bench.peer()
    peer.hello()
    peer.tlvs(encode_hello(peer.seqno, 400))
    assert bench.speaker.neighbours()[0].reach == "11"
    peer.seqno += 1
    peer.hello()
    assert bench.speaker.neighbours()[0].reach == "1011"
    peer.seqno = 40000
    peer.hello()
    assert bench.speaker.neighbours()[0].reach == "1"


def test_hello_seqno_wraps() -> None:
    bench = Bench(links=1)
    peer = bench.peer()
    peer.seqno = 0xFFFD
    peer.hello()
    for _ in range(4):
        peer.hello()
    assert bench.speaker.neighbours()[0].reach == "11111"


def test_an_ihu_for_another_is_none_of_ours() -> None:
    bench = Bench(links=1)
    peer = bench.peer()
    peer.tlvs(encode_ihu(parse_address("fe80::99"), 0xFFFF, 400))
    assert bench.speaker.neighbours()[0].txcost == 96


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({"port": 6697}, "bad-port"),
        ({"source": parse_address("2001:db8::1")}, "bad-source"),
        ({"hop_limit": 2}, "bad-hop-limit"),
    ],
)
def test_strangers_are_not_heard(more: dict[str, object], kind: str) -> None:
    bench = Bench(links=1)
    peer = bench.peer()
    peer.tlvs(encode_ihu(us(1), 0xFFFF, 400), **more)
    assert bench.speaker.neighbours()[0].txcost == 96
    assert bench.speaker.counters[kind] == 1
    assert bench.speaker.interfaces()[0].packets_bad == 1


def test_who_is_rejected_is_named_until_a_packet_is_taken() -> None:
    bench = Bench(links=1)
    peer = bench.peer()
    for _ in range(3):
        peer.raw(bytes((42, 3, 0, 0)))
    (one,) = bench.speaker.interfaces()[0].rejected
    assert (one.address, one.reason, one.packets) == (peer.address, "bad-version", 3)
    peer.hello()
    assert bench.speaker.interfaces()[0].rejected == ()
    for number in range(20, 60):
        peer.raw(bytes((41, 2, 0, 0)), source=parse_address(f"fe80::{number}"))
    held = bench.speaker.interfaces()[0].rejected
    assert (len(held), held[-1].address, held[-1].reason) == (16, parse_address("fe80::59"), "bad-magic")
    bench.run(62)
    assert bench.speaker.interfaces()[0].rejected == ()


def test_a_rival_for_our_own_prefix_is_named_until_it_is_retracted() -> None:
    bench = Bench(links=1, accept=lambda _prefix: False)
    peer = bench.peer()
    bench.own(P)
    peer.update()
    (one,) = bench.speaker.interfaces()[0].rivals
    assert (str(one.prefix), one.neighbour) == (P, peer.address)
    peer.retract()
    assert bench.speaker.interfaces()[0].rivals == ()
    peer.update()
    bench.run(300, keep=[peer])
    assert bench.speaker.interfaces()[0].rivals == ()


def test_a_trailer_is_seen_without_a_key() -> None:
    bench = Bench(links=1)
    peer = bench.peer()
    assert not bench.speaker.neighbours()[0].signed
    peer.raw(bytes((42, 2, 0, 0, 16, 2, 1, 1)))
    assert bench.speaker.neighbours()[0].signed


def test_an_update_alone_makes_no_neighbour() -> None:
    bench = Bench(links=1)
    peer = bench.peer()
    bench.speaker.links[1].neighbours.clear()
    peer.update()
    assert bench.way() == ""
    assert not bench.speaker.neighbours()


def test_ack_requests_are_answered_at_once_and_by_unicast() -> None:
    bench = Bench(links=1)
    peer = bench.peer()
    bench.out.clear()
    peer.tlvs(encode_ack_request(0x1234, 10))
    assert [tlv.opaque for tlv in peer.heard(Ack)] == [0x1234]
    assert bench.out[-1].destination == peer.address


# --- routes and feasibility ----------------------------------------------------------------------------------------


def test_metrics_add_up_and_the_nearest_wins() -> None:
    bench = Bench()
    near, far = bench.peer(1), bench.peer(2)
    far.update(metric=200, router_id=B)
    assert bench.way() == "fe80::2:2"
    near.update(metric=100)
    assert bench.way() == "fe80::2:1 / fe80::2:2"
    assert bench.state() == [("selected", 196), ("backup", 296)]


def test_the_selected_route_stays_among_equals() -> None:
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    two.update(metric=100)
    one.update(metric=100)
    assert bench.way() == "fe80::2:2 / fe80::2:1"
    two.update(metric=100, seqno=2)  # never prefer by seqno, and never leave for one
    assert bench.way().startswith("fe80::2:2")


def test_a_route_that_is_not_nearer_than_we_ever_were_is_not_used() -> None:
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    one.update(metric=100)  # announced to `two` with 196: that is our feasibility distance
    bench.run(0.1)
    two.update(metric=196)
    assert bench.state() == [("selected", 196), ("unfeasible", 292)]
    one.retract()
    assert bench.way() == "unreachable"
    asked = two.heard(SeqnoRequest)
    assert [(r.seqno, r.router_id, r.hops) for r in asked] == [(2, A, 64)]
    two.update(metric=292, seqno=2)
    assert bench.way() == "fe80::2:2"


def test_starvation_is_asked_again_and_ends() -> None:
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    one.update(interval_cs=60000)
    bench.run(0.1)
    two.update(metric=300, interval_cs=60000)
    one.retract()
    for seconds, count in ((1.9, 1), (0.2, 1), (2.0, 1), (4.0, 1), (50, 0)):  # at 0, 2, 4 and 8 s
        bench.run(seconds)
        assert [r.seqno for r in two.heard(SeqnoRequest)] == [2] * count


def test_a_better_way_that_is_behind_is_asked_for_the_seqno_that_is_there() -> None:
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    one.update(metric=300, seqno=2)
    bench.run(0.1)
    two.update(metric=100, seqno=1)
    assert [r.seqno for r in two.heard(SeqnoRequest)] == [2]
    assert not one.heard(SeqnoRequest)
    two.update(metric=100, seqno=1)
    assert not two.heard(SeqnoRequest)  # at leisure
    two.update(metric=100, seqno=2)
    assert bench.way().startswith("fe80::2:2")


def test_who_announces_later_is_asked_though_another_was_asked_before() -> None:
    bench = Bench(links=3)
    one, two, three = bench.peer(1), bench.peer(2), bench.peer(3)
    one.update(interval_cs=60000)
    bench.run(0.1)
    two.update(metric=300, interval_cs=60000)
    one.retract()
    bench.run(9)  # asked at 0, 2, 4 and 8 s, and not again
    two.retract()
    three.update(metric=300, interval_cs=60000)
    bench.run(2.1)
    assert three.heard(SeqnoRequest)[0].seqno == 2


def test_seqnos_are_compared_modulo() -> None:
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    one.update(metric=100, seqno=0xFFFF)
    two.update(metric=400, seqno=0)
    one.retract()
    assert bench.way() == "fe80::2:2"  # 0 is newer than 65535


def test_an_infeasible_update_of_the_selected_route_is_asked_about_and_not_followed() -> None:
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    one.update(metric=100)
    bench.run(0.1)
    one.update(metric=500)
    assert bench.way() == "fe80::2:1"
    assert [(r.seqno, r.router_id) for r in one.heard(SeqnoRequest)] == [(2, A)]
    two.update(metric=150)
    one.update(metric=500)
    assert bench.way() == "fe80::2:2"


def test_a_change_of_router_id_is_told_at_once() -> None:
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    one.update(metric=100)
    bench.run(0.1)
    assert [u.router_id for u in two.heard(Update)][-1] == A
    one.update(metric=100, router_id=B)
    bench.run(0.1)
    assert [u.router_id for u in two.heard(Update)] == [B]


def test_retractions_need_neither_next_hop_nor_router_id() -> None:
    bench = Bench()
    one = bench.peer(1)
    one.update()
    one.retract()
    assert bench.way() == "unreachable"


def test_everything_is_retracted_at_once() -> None:
    bench = Bench()
    one = bench.peer(1)
    one.update(P)
    one.update("10.2.0.0/16")
    one.raw(bytes.fromhex("2a02000c080a0000000000000000ffff"))
    assert bench.way() == bench.way("10.2.0.0/16") == "unreachable"


def test_a_lost_prefix_is_held_then_forgotten() -> None:
    bench = Bench()
    one = bench.peer(1)
    one.update()
    one.retract()
    bench.run(59)
    assert bench.way() == "unreachable"
    bench.run(2)
    assert bench.way() == ""
    bench.run(400)
    assert not bench.speaker.table.cells


def test_routes_expire_after_three_and_a_half_intervals_and_not_before() -> None:
    bench = Bench()
    one = bench.peer(1)
    one.update(interval_cs=1000)
    bench.run(19)
    assert not [r for r in one.heard(RouteRequest) if r.ae]
    bench.run(15.9)
    assert bench.way() == "fe80::2:1"
    assert [(r.length, r.prefix) for r in one.heard(RouteRequest) if r.ae] == [(16, PREFIX.packed)]
    bench.run(0.3)
    assert bench.way() == "unreachable"
    assert bench.state() == [("retracted", 65535)]
    bench.run(36)
    assert bench.state() == []


def test_feasibility_distances_are_forgotten_when_nobody_needs_them() -> None:
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    one.update(metric=100)
    bench.run(0.1)
    one.retract()
    two.update(metric=500, interval_cs=60000)
    assert bench.way() == "unreachable"
    bench.run(250)
    assert bench.way() == "fe80::2:2"


def test_a_next_hop_of_its_own() -> None:
    bench = Bench()
    one = bench.peer(1)
    one.update(next_hop="fe80::77")
    assert bench.way() == "fe80::77"
    one.update()
    assert bench.way() == "fe80::2:1"


def test_ipv4_next_hops_need_ipv4_and_do_not_linger() -> None:
    bench = Bench()
    one = bench.peer(1)
    one.update(next_hop="192.0.2.9")
    assert bench.way() == ""
    bench.link(1, ipv4=parse_address("192.0.2.1"))
    one.update(next_hop="192.0.2.9")
    assert bench.way() == "192.0.2.9"
    one.update()  # the neighbour goes over to an IPv6 next hop
    assert bench.way() == "fe80::2:1"


def test_ae_1_where_the_interface_has_ipv4_and_never_both() -> None:
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    bench.link(1, ipv4=parse_address("192.0.2.1"))
    bench.own(P)
    bench.run(0.1)
    assert {(u.ae, u.next_hop) for u in one.heard(Update)} == {(1, parse_address("192.0.2.1"))}
    assert {(u.ae, u.next_hop) for u in two.heard(Update)} == {(4, us(2))}


def test_families() -> None:
    bench = Bench()
    bench.peer(1).update("2001:db8::/32")
    assert not bench.fib
    both = Bench(families=frozenset({4, 16}))
    both.peer(1).update("2001:db8::/32")
    assert both.way("2001:db8::/32") == "fe80::2:1"


def test_what_policy_denies_later_goes_and_is_retracted() -> None:
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    one.update()
    bench.run(0.1)
    two.heard(Update)
    bench.speaker.accept_now(lambda prefix: False, bench.now)
    bench.work()
    assert bench.way() == ""
    bench.run(0.1)
    assert [u.metric for u in two.heard(Update)] == [0xFFFF]
    one.update()
    assert bench.way() == ""


def test_only_allowed_prefixes_from_a_host() -> None:
    bench = Bench(links=1, settings=LinkSettings(allowed=(parse_prefix("10.1.2.3/32"),)))
    host = bench.peer(1)
    host.update("10.1.2.3/32")
    host.update("10.9.9.9/32")
    assert [str(prefix) for prefix in bench.fib] == ["10.1.2.3/32"]


def test_our_own_prefix_is_not_learnt_and_our_own_router_id_not_believed() -> None:
    bench = Bench()
    one = bench.peer(1)
    bench.own(P)
    one.update(metric=0, seqno=5)
    assert bench.way() == ""
    one.update("10.2.0.0/16", router_id=OWN)
    assert bench.way("10.2.0.0/16") == ""


# --- announcements -------------------------------------------------------------------------------------------------


def test_updates_leave_when_the_kernel_has_followed_and_not_before() -> None:
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    bench.hold = True
    one.update(metric=100)
    bench.run(1.0)
    assert bench.way()
    assert not two.heard(Update)
    bench.hold = False
    bench.run(0.1)
    assert [(u.metric, u.router_id) for u in two.heard(Update)] == [(196, A)]


def test_a_backup_is_gone_before_the_update_that_makes_it_infeasible() -> None:
    bench = Bench(links=3)
    one, two, three = bench.peer(1), bench.peer(2), bench.peer(3)
    one.update(metric=300)
    two.update(metric=350)
    assert bench.way() == "fe80::2:1 / fe80::2:2"
    bench.run(0.1)
    three.heard(Update)
    bench.hold = True
    one.update(metric=100)  # announced with 196: `two` with 350 may be behind us then
    bench.run(1.0)
    assert bench.way() == "fe80::2:1"
    assert not three.heard(Update)
    bench.hold = False
    bench.run(0.1)
    assert [u.metric for u in three.heard(Update)] == [196]


def test_a_newer_seqno_makes_backups_infeasible_too() -> None:
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    one.update(metric=100)
    two.update(metric=100)
    assert " / " in bench.way()
    one.update(metric=100, seqno=2)
    assert " / " not in bench.way()
    two.update(metric=100, seqno=2)
    assert " / " in bench.way()


def test_split_horizon() -> None:
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    one.update(metric=100)
    bench.run(20)
    assert not one.heard(Update)
    assert {u.metric for u in two.heard(Update)} == {196}
    two.update(metric=0)  # the route comes by the other link now: what was said there is taken back
    bench.run(0.1)
    assert [u.metric for u in two.heard(Update)] == [0xFFFF]
    assert [u.metric for u in one.heard(Update)] == [96]


def test_without_split_horizon() -> None:
    bench = Bench(links=1, settings=LinkSettings(split_horizon=False))
    one = bench.peer(1)
    one.update(metric=100)
    bench.run(0.1)
    assert [u.metric for u in one.heard(Update)] == [196]


def test_the_way_over_another_link_is_told_on_the_one_it_came_by() -> None:
    """The metric is the same, so nobody else hears of it."""
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    one.update(metric=100)
    two.update(metric=100)
    bench.run(0.1)
    one.heard(Update)
    one.retract()
    assert bench.way() == "fe80::2:2"
    bench.run(0.1)
    assert [u.metric for u in one.heard(Update)] == [196]


def test_what_is_not_acknowledged_is_said_again() -> None:
    bench = Bench(links=1)
    one = bench.peer(1)
    one.acks = False
    bench.own(P)
    bench.run(0.05)
    assert len(one.heard(Update)) == 1
    bench.run(1.0)
    assert len(one.heard(Update)) >= 1
    opaque = one.heard(AckRequest)
    for tlv in opaque:
        one.tlvs(bytes((3, 2)) + tlv.opaque.to_bytes(2, "big"))
    one.heard(Update)
    bench.run(5)
    assert not one.heard(Update)


def test_a_neighbour_that_never_acknowledges_gets_everything_all_the_same() -> None:
    bench = Bench(links=1)
    one = bench.peer(1)
    one.acks = False
    bench.own(*(f"10.{i}.{j}.0/24" for i in range(40) for j in range(256)))
    bench.run(12)
    assert len({u.prefix for u in one.heard(Update)}) == 40 * 256


@pytest.mark.parametrize("acks", [1, 2])
def test_a_window_that_is_half_a_packet_larger_is_no_reason_to_wake(acks: int) -> None:
    bench = Bench(links=1)
    one = bench.peer(1)
    bench.run(0.05)
    one.acks = False
    one.heard(AckRequest)
    bench.own(*(f"10.{i}.{j}.0/24" for i in range(40) for j in range(256)))
    for tlv in one.heard(AckRequest)[:acks]:
        one.tlvs(encode_ack(tlv.opaque))  # the window grows by half a packet
    bench.now += 0.01
    bench.work()
    unknown = parse_prefix("10.200.0.0/16")
    one.tlvs(encode_route_request(1, unknown.length, unknown.packed))
    assert bench.speaker.deadline(bench.now) > bench.now  # the answer waits: nothing more may leave


def test_who_comes_back_hears_what_was_retracted_meanwhile() -> None:
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    two.update()
    bench.own("10.9.0.0/16")
    bench.run(0.1)
    assert len(one.heard(Update)) == 2
    one.hello(rxcost=0xFFFF)  # it is our neighbour no longer, and we are still its
    two.retract()
    bench.own()
    bench.run(0.1)
    assert not one.heard(Update)
    one.hello()
    bench.run(0.1)
    assert {(u.prefix, u.metric) for u in one.heard(Update)} == {
        (parse_prefix(p).packed, 0xFFFF) for p in (P, "10.9.0.0/16")
    }


def test_no_more_than_a_window_is_under_way() -> None:
    bench = Bench(links=1)
    one = bench.peer(1)
    one.acks = False
    bench.run(0.05)
    one.heard(Update)
    bench.out.clear()
    bench.own(*(f"10.{i}.{j}.0/24" for i in range(40) for j in range(256)))
    assert 20 <= len(bench.out) <= 26
    assert 1000 < len(one.heard(Update)) < 5000


def test_a_prefix_that_is_announced_no_longer_is_retracted() -> None:
    bench = Bench(links=1)
    one = bench.peer(1)
    bench.own(P)
    bench.run(0.1)
    one.heard(Update)
    bench.own()
    bench.run(0.1)
    assert [u.metric for u in one.heard(Update)] == [0xFFFF]


def test_without_icmp_source_only_our_own_is_announced() -> None:
    bench = Bench(transit_v4=False)
    one, two = bench.peer(1), bench.peer(2)
    one.update(metric=100)
    bench.own("10.9.0.0/16")
    bench.run(0.1)
    assert bench.way() == "fe80::2:1"
    assert [str(Prefix(u.prefix, u.length)) for u in two.heard(Update)] == ["10.9.0.0/16"]


def test_what_the_kernel_refuses_is_not_announced() -> None:
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    one.update(metric=100)
    bench.run(0.1)
    two.heard(Update)
    bench.speaker.refuse(frozenset({PREFIX}), bench.now)
    bench.run(0.1)
    assert [u.metric for u in two.heard(Update)] == [0xFFFF]
    bench.speaker.refuse(frozenset(), bench.now)
    bench.run(0.1)
    assert [u.metric for u in two.heard(Update)] == [196]


def test_leaving_retracts_everything() -> None:
    bench = Bench(links=1)
    one = bench.peer(1)
    bench.own(P)
    bench.run(0.1)
    one.heard(Update)
    bench.speaker.leave(bench.now)
    bench.work()
    assert {(u.ae, u.metric) for u in one.heard(Update)} == {(0, 0xFFFF)}


# --- requests ------------------------------------------------------------------------------------------------------


def test_a_request_for_a_prefix_is_always_answered() -> None:
    bench = Bench(links=1)
    one = bench.peer(1)
    bench.own(P)
    bench.run(0.1)
    one.heard(Update)
    one.tlvs(encode_route_request(1, 16, PREFIX.packed))
    one.tlvs(encode_route_request(1, 16, parse_prefix("10.77.0.0/16").packed))
    bench.run(0.1)
    assert sorted((str(Prefix(u.prefix, u.length)), u.metric) for u in one.heard(Update)) == [
        ("10.1.0.0/16", 0), ("10.77.0.0/16", 0xFFFF),
    ]  # fmt: skip


def test_a_request_for_everything_is_answered_but_not_endlessly() -> None:
    bench = Bench(links=1)
    one = bench.peer(1)
    bench.own(P)
    bench.run(2)
    one.heard(Update)
    for _ in range(50):
        one.tlvs(encode_route_request(0, 0, b""))
    bench.run(0.1)
    assert len(one.heard(Update)) == 1


def test_our_seqno_rises_by_one_however_much_is_asked() -> None:
    bench = Bench(links=1, seqno=0xFFFF)
    one = bench.peer(1)
    bench.own(P)
    bench.run(0.1)
    one.heard(Update)
    one.tlvs(request(100, OWN))
    bench.run(0.1)
    assert bench.speaker.seqno == 0
    assert [u.seqno for u in one.heard(Update)] == [0]
    one.tlvs(request(0, OWN))
    assert bench.speaker.seqno == 0


def test_a_request_that_we_can_answer_is_not_forwarded() -> None:
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    one.update(metric=100, seqno=5)
    bench.run(0.1)
    two.heard(Update)
    two.tlvs(request(5, A))
    two.tlvs(request(9, B))
    bench.run(0.1)
    assert {u.seqno for u in two.heard(Update)} == {5}
    assert not one.heard(SeqnoRequest)


def test_forwarding() -> None:
    bench = Bench(links=3)
    one, two, three = bench.peer(1), bench.peer(2), bench.peer(3)
    one.update(metric=100)
    three.update(metric=190)
    two.tlvs(request(2, A, hops=7))
    assert [(r.seqno, r.hops) for r in one.heard(SeqnoRequest)] == [(2, 6)]  # to one neighbour only
    assert not three.heard(SeqnoRequest)
    two.tlvs(request(2, A, hops=7))
    assert not one.heard(SeqnoRequest)  # a copy
    one.tlvs(request(3, A))
    assert [r.seqno for r in three.heard(SeqnoRequest)] == [3]  # never back
    assert not one.heard(SeqnoRequest)
    two.tlvs(request(4, A, hops=1))
    assert not one.heard(SeqnoRequest)


def test_forwarding_prefers_feasible_routes() -> None:
    bench = Bench(links=3)
    one, two, three = bench.peer(1), bench.peer(2), bench.peer(3)
    one.update(metric=150)
    two.update(metric=10)
    one.update(metric=150, seqno=1)
    three.update(metric=300)  # infeasible
    two.tlvs(request(2, A))
    assert not three.heard(SeqnoRequest)
    assert bench.state()[0] == ("selected", 106)


def test_among_equals_a_request_goes_the_way_that_is_announced() -> None:
    """An answer by the other would change nothing of what we announce: who asked was without a route until the next
    periodic update (a seed of the simulator: 14 s)."""
    bench = Bench(links=3)
    one, two, three = bench.peer(1), bench.peer(2), bench.peer(3)
    two.update(metric=100)  # the other way round `one` would be the first by its name
    one.update(metric=100)
    assert bench.way().startswith("fe80::2:2")
    three.tlvs(request(2, A))
    assert two.heard(SeqnoRequest)
    assert not one.heard(SeqnoRequest)
    two.update(metric=100, seqno=2)
    bench.run(0.1)
    assert three.heard(Update)[-1].seqno == 2


def test_a_request_that_comes_again_goes_by_another_feasible_way() -> None:
    bench = Bench(links=4)
    one, two, three, four = (bench.peer(number) for number in (1, 2, 3, 4))
    one.update(metric=100)
    two.update(metric=150)
    four.update(metric=500)  # infeasible
    for first, second in ((1, 0), (0, 1), (1, 0)):
        three.tlvs(request(2, A))
        assert len(one.heard(SeqnoRequest)) == first
        assert len(two.heard(SeqnoRequest)) == second
        bench.run(1.9)  # the repetition had the quicker journey
    assert not four.heard(SeqnoRequest)


def test_the_answer_to_a_forwarded_request_is_passed_on_though_only_the_seqno_is_new() -> None:
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    one.update(metric=100)
    bench.run(0.1)
    two.tlvs(request(2, A))
    bench.run(0.1)
    two.heard(Update)
    one.update(metric=100, seqno=2)
    bench.run(0.1)
    assert [u.seqno for u in two.heard(Update)] == [2]


def test_pending_requests_are_told_apart_by_router_id() -> None:
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    one.update(metric=100)
    two.tlvs(request(2, A))
    two.tlvs(request(2, B))
    assert [(r.router_id, r.seqno) for r in one.heard(SeqnoRequest)] == [(A, 2)]
    one.update(metric=100, router_id=B, seqno=1)
    two.tlvs(request(2, B))
    assert [(r.router_id, r.seqno) for r in one.heard(SeqnoRequest)] == [(B, 2)]


# --- leaving a neighbour -------------------------------------------------------------------------------------------


def test_a_silent_neighbour_is_left_with_one_word() -> None:
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    for i in range(50):
        one.update(f"10.{i}.0.0/16", metric=100, interval_cs=60000)
        two.update(f"10.{i}.0.0/16", metric=150, interval_cs=60000)
    bench.log.clear()
    bench.run(12, keep=(two,))
    assert isinstance(bench.log[0], HopLeft)
    assert {bench.way(f"10.{i}.0.0/16") for i in range(50)} == {"fe80::2:2"}


def test_a_neighbour_that_blinks_gets_its_routes_back() -> None:
    """HopLeft moves them to the backup; the Way found afterwards is the same, and still a change."""
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    one.update(metric=100)
    two.update(metric=150)
    bench.log.clear()
    one.bench = Blink(bench)  # type: ignore[assignment]
    one.hello(rxcost=0xFFFF)
    one.hello()
    bench.work()
    assert isinstance(bench.log[0], HopLeft)
    last = bench.log[-1]
    assert isinstance(last, RouteChange)
    assert last.way == last.before
    rib = Rib(["babel"])
    source = BabelSource()
    rib.feed("babel", source.updates([replace(last, before=None)]))
    rib.feed("babel", source.updates(bench.log))
    route = rib.lookup(PREFIX.packed)
    assert route is not None
    assert [hop.via for hop in route.next_hops] == [one.address]


class Blink:
    """A bench on which packets come in faster than the driver turns."""

    def __init__(self, bench: Bench) -> None:
        self.speaker = bench.speaker
        self.now = bench.now

    def work(self) -> None:
        """Not yet."""


def test_carrier_loss() -> None:
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    one.update(metric=100)
    two.update(metric=150)
    bench.link(1, up=False)
    assert bench.way() == "fe80::2:2"
    assert not [n for n in bench.speaker.neighbours() if n.ifindex == 1]
    bench.link(1)
    one.hello()
    one.update(metric=100)
    assert bench.way() == "fe80::2:1 / fe80::2:2"


def test_an_interface_that_goes_takes_its_neighbours_along() -> None:
    bench = Bench()
    one = bench.peer(1)
    one.update()
    bench.speaker.forget_link(1, bench.now)
    bench.work()
    assert bench.way() == "unreachable"
    one.update()
    assert bench.way() == "unreachable"


# --- restarts ------------------------------------------------------------------------------------------------------


def test_distances_outlive_a_restart() -> None:
    first = Bench()
    one, _ = first.peer(1), first.peer(2)
    one.update(metric=100)
    first.run(0.1)
    kept = list(first.speaker.sources(first.now))
    assert [(s.router_id, s.seqno, s.metric) for s in kept] == [(A, 1, 196)]
    second = Bench(distances=kept)
    second.peer(2).update(metric=300)
    assert second.way() == ""
    second.peer(1).update(metric=100)
    assert second.way() == "fe80::2:1"


def test_an_adopted_prefix_is_not_switched_before_a_newer_seqno() -> None:
    hop = Bench().peer(1)
    adopted = {PREFIX: Hop(1, hop.address)}
    bench = Bench(adopted=adopted)
    one, two = bench.peer(1), bench.peer(2)
    two.update(metric=50, seqno=7, interval_cs=60000)
    assert bench.way() == ""
    assert [r.seqno for r in two.heard(SeqnoRequest)] == [8]
    one.update(metric=100, seqno=7)
    assert bench.way() == "fe80::2:1"
    two.update(metric=50, seqno=8, interval_cs=60000)
    assert bench.way().startswith("fe80::2:2")


def test_a_neighbour_that_is_behind_does_not_lower_the_guard() -> None:
    hop = Bench(links=3).peer(1)
    bench = Bench(links=3, adopted={PREFIX: Hop(1, hop.address)})
    one, two, three = bench.peer(1), bench.peer(2), bench.peer(3)
    three.update(metric=50, seqno=6, interval_cs=60000)  # it has not heard of 7, which we announced before the crash
    two.update(metric=300, seqno=7, interval_cs=60000)  # and this may be our own way
    assert bench.way() == ""
    one.update(metric=100, seqno=7)
    assert bench.way() == "fe80::2:1"
    three.update(metric=50, seqno=8, interval_cs=60000)
    assert bench.way().startswith("fe80::2:3")


def test_a_distance_that_a_crash_left_doubtful_is_not_kept() -> None:
    bench = Bench(adopted={PREFIX: Hop(1, Bench().peer(1).address)})
    one = bench.peer(1)
    bench.peer(2)
    one.update(metric=100)
    one.update("10.2.0.0/16")
    bench.run(0.1)
    assert {str(s.prefix) for s in bench.speaker.sources(bench.now)} == {P, "10.2.0.0/16"}
    assert {str(s.prefix) for s in info.kept_sources(bench.speaker, bench.now)} == {"10.2.0.0/16"}


def test_a_backup_that_a_crash_barred_stands_again_when_the_guard_is_over() -> None:
    bench = Bench(adopted={PREFIX: Hop(1, Bench().peer(1).address)})
    one, two = bench.peer(1), bench.peer(2)
    one.update(metric=100, interval_cs=60000)
    two.update(metric=101, interval_cs=60000)
    assert bench.way() == "fe80::2:1"
    bench.run(215)
    assert bench.way() == "fe80::2:1 / fe80::2:2"


def test_all_are_asked_for_what_makes_a_barred_backup_stand_again() -> None:
    bench = Bench(adopted={PREFIX: Hop(1, Bench().peer(1).address)})
    one, two = bench.peer(1), bench.peer(2)
    one.update(metric=100, seqno=7)
    two.update(metric=101, seqno=7)
    assert bench.way() == "fe80::2:1"
    assert [r.seqno for peer in (one, two) for r in peer.heard(SeqnoRequest)] == [8, 8]
    one.update(metric=100, seqno=8)
    two.update(metric=101, seqno=8)
    assert bench.way() == "fe80::2:1 / fe80::2:2"


def test_what_a_restarted_node_has_not_learnt_again_is_retracted() -> None:
    bench = Bench(adopted={PREFIX: Hop(1, Bench().peer(1).address)})
    one, two = bench.peer(1), bench.peer(2)
    two.update("10.2.0.0/16")
    bench.run(1)
    one.sent.clear()
    bench.speaker.disown([PREFIX, Prefix(bytes([10, 2, 0, 0]), 16)])
    bench.work()
    assert [(u.prefix, u.metric) for u in one.heard(Update)] == [(PREFIX.packed, 0xFFFF)]
    bench.run(200)
    assert bench.way() == ""
    assert bench.speaker.table.find(PREFIX.packed, PREFIX.length) is None


def test_what_our_own_policy_refuses_is_not_held() -> None:
    bench = Bench()
    one = bench.peer(1)
    one.update()
    one.update("10.2.0.0/16")
    one.retract("10.2.0.0/16")
    assert (bench.way(), bench.way("10.2.0.0/16")) == ("fe80::2:1", "unreachable")
    bench.speaker.accept_now(lambda _prefix: False, bench.now)
    bench.work()
    assert bench.fib == {}
    bench.run(70)
    assert bench.fib == {}


def test_another_with_our_address_is_told() -> None:
    bench = Bench()
    one = bench.peer(1)
    one.raw(b"anything", source=us(1))
    assert [event.kind for event in bench.speaker.events()][-1] == "own-address"


# --- floods --------------------------------------------------------------------------------------------------------


def test_a_flood_of_prefixes_is_bounded_and_reported_once() -> None:
    bench = Bench(max_routes=100)
    one, two = bench.peer(1), bench.peer(2)
    two.update("10.200.0.0/16")
    for i in range(150):
        one.update(f"10.{i}.0.0/16")
    assert len(bench.speaker.neighbours()) == 2
    assert sum(n.routes for n in bench.speaker.neighbours()) == 101
    assert bench.way("10.200.0.0/16") == "fe80::2:2"
    warnings = [e for e in bench.speaker.events() if e.warning]
    assert [e.kind for e in warnings] == ["too-many-routes"]
    assert bench.speaker.counters["too-many-routes"] == 50


def test_a_flood_of_router_ids_is_bounded() -> None:
    bench = Bench(links=1)
    one = bench.peer(1)
    for number in range(1000):
        one.update(router_id=number.to_bytes(8, "big") if number else A)
    destination = bench.speaker.table.find(PREFIX.packed, 16)
    assert destination is not None
    assert len(destination.sources) <= 16


def test_a_flood_of_neighbours_is_bounded() -> None:
    bench = Bench(links=1)
    one = bench.peer(1)
    for number in range(1000):
        one.tlvs(encode_hello(1, 400), source=parse_address(f"fe80::77:{number:x}"))
    assert len(bench.speaker.neighbours()) == 256


def test_a_flood_of_bad_packets_says_little() -> None:
    bench = Bench(links=1)
    one = bench.peer(1)
    bench.speaker.events()
    for _ in range(1000):
        one.raw(b"\x00" * 40)
    assert len(bench.speaker.events()) == 1
    assert bench.speaker.counters["bad-magic"] == 1000


def test_a_flood_of_requests_is_bounded() -> None:
    bench = Bench(links=1)
    one = bench.peer(1)
    bench.hold = True
    for number in range(3000):
        one.tlvs(encode_route_request(1, 32, (0x0A000000 + number).to_bytes(4, "big")))
    outlet = next(iter(bench.speaker.outlets.values()))
    assert len(outlet.asks) <= 1 << 16
