"""Faults found by reading the speaker beside RFC 8966, 9229 and 8967, and traps of STANDARDS.md that the other files of
tests do not spring."""

from __future__ import annotations

import random
from dataclasses import replace

from speaker_support import A, B, Bench, P, Peer, us
from via6.babel.auth import LinkAuth
from via6.babel.model import GROUP, Arrival, Hop, HopLeft, Key, LinkSettings, RouteChange, Way
from via6.babel.wire import (
    AE_IPV4,
    AE_V4_VIA_V6,
    ChallengeRequest,
    Hello,
    Ihu,
    RouteRequest,
    SeqnoRequest,
    Update,
    Writer,
    decode,
    encode_challenge_reply,
    encode_hello,
    encode_packet,
    encode_route_request,
    encode_seqno_request,
)
from via6.prefix import parse_address, parse_prefix

PREFIX = parse_prefix(P)
FOUR = parse_address("192.0.2.1")
LONG_CS = 60000


def request(seqno: int, router_id: bytes) -> bytes:
    return encode_seqno_request(AE_IPV4, PREFIX.length, PREFIX.packed, seqno, 64, router_id)


# --- links ---------------------------------------------------------------------------------------------------------


def test_metrics_grow_whatever_a_neighbour_says_of_its_cost() -> None:
    """RFC 8966 section 3.5.2: strictly monotonic, else a loop may be feasible."""
    bench = Bench(links=1)
    peer = bench.peer()
    peer.hello(rxcost=0)
    peer.update(metric=100)
    assert bench.state() == [("selected", 101)]


def test_unscheduled_hellos_do_not_fill_the_table_for_ever() -> None:
    bench = Bench(links=1)
    stranger = Peer(bench, 1, 9)
    stranger.tlvs(encode_hello(1, 0))
    bench.run(299, keep=())
    assert len(bench.speaker.neighbours()) == 1
    stranger.tlvs(encode_hello(2, 0))
    bench.run(299, keep=())
    assert len(bench.speaker.neighbours()) == 1
    bench.run(5, keep=())
    assert not bench.speaker.neighbours()


def test_a_neighbour_that_is_gone_is_challenged_again() -> None:
    """RFC 8967 section 4.4: index and counter are forgotten with the neighbour."""
    key = Key("k", "hmac-sha256", b"secret")
    bench = Bench(links=1, settings=LinkSettings(keys=(key,)))
    theirs = LinkAuth((key,), b"12345678", False, random.Random(2))
    address = parse_address("fe80::9")

    def say(tlv: bytes, to: bytes) -> None:
        signed = theirs.sign(encode_packet(tlv), address, to)
        bench.speaker.receive(Arrival(1, address, signed, to), bench.now)
        bench.work()

    say(encode_hello(1, 100), GROUP)
    nonces = [t.nonce for d in bench.out for t in decode(d.data, us(1)).tlvs if isinstance(t, ChallengeRequest)]
    say(encode_challenge_reply(nonces[-1]), us(1))
    say(encode_hello(2, 100), GROUP)
    assert bench.speaker.auths[1].known(address)
    assert [n.authenticated for n in bench.speaker.neighbours()] == [True]
    bench.run(30, keep=())
    assert not bench.speaker.neighbours()
    assert not bench.speaker.auths[1].known(address)


def test_a_neighbour_that_starts_again_is_told_everything_though_it_was_told_just_now() -> None:
    bench = Bench(links=1)
    peer = bench.peer()
    bench.own(P)
    bench.run(2)
    peer.tlvs(encode_route_request(0, 0, b""))
    bench.run(0.3)
    assert peer.heard(Update)
    peer.seqno += 30000
    peer.hello()
    peer.tlvs(encode_route_request(0, 0, b""))
    bench.run(1.5)
    assert [u.metric for u in peer.heard(Update)] == [0]


def test_a_neighbour_that_starts_again_and_again_is_not_told_everything_each_time() -> None:
    bench = Bench(links=1)
    peer = bench.peer()
    bench.own(P)
    bench.run(2)
    peer.heard(Update)
    for _ in range(500):
        peer.seqno += 20000
        peer.hello()
    assert len(peer.heard(Update)) <= 1
    bench.run(0.5)
    assert len(peer.heard(Update)) <= 1


def test_the_first_ihu_comes_with_a_hello() -> None:
    """Who does not know us ignores what comes without one, and would wait for the third Hello after that."""
    bench = Bench(links=1)
    bench.run(10)
    for number in (2, 3):  # the second comes too soon for another burst of Hellos
        bench.out.clear()
        fresh = Peer(bench, 1, number)
        fresh.hello()
        packets = [decode(datagram.data, us(1)).tlvs for datagram in bench.out]
        first = next(tlvs for tlvs in packets if any(isinstance(tlv, Ihu) for tlv in tlvs))
        assert isinstance(first[0], Hello)
        assert fresh.address in [tlv.address for tlv in first if isinstance(tlv, Ihu)]


# --- a link that is configured anew ---


def test_without_an_ipv4_address_no_route_stays_by_an_ipv4_next_hop() -> None:
    bench = Bench(links=1)
    peer = bench.peer()
    bench.link(1, ipv4=FOUR)
    peer.update(next_hop="192.0.2.9")
    peer.update("10.2.0.0/16")
    assert bench.way() == "192.0.2.9"
    bench.link(1)
    assert bench.way() == "unreachable"
    assert bench.way("10.2.0.0/16") == "fe80::2:1"
    peer.update(next_hop="192.0.2.9")
    assert bench.way() == "unreachable"


def test_another_ipv4_address_of_ours_is_told_at_once() -> None:
    """The next hop of what was announced is gone."""
    bench = Bench(links=1)
    peer = bench.peer()
    bench.link(1, ipv4=FOUR)
    bench.own(P)
    bench.run(2)
    assert {u.ae for u in peer.heard(Update)} == {AE_IPV4}
    bench.link(1)
    bench.run(0.5)
    assert [u.ae for u in peer.heard(Update)] == [AE_V4_VIA_V6]
    bench.link(1, ipv4=parse_address("192.0.2.2"))
    bench.run(0.5)
    assert [u.next_hop for u in peer.heard(Update)] == [parse_address("192.0.2.2")]


def test_what_is_no_longer_allowed_on_a_link_goes() -> None:
    bench = Bench(links=1)
    host = bench.peer()
    host.update("10.1.2.3/32")
    host.update("10.9.9.9/32")
    bench.link(1, settings=LinkSettings(allowed=(parse_prefix("10.1.2.3/32"),)))
    assert bench.way("10.1.2.3/32")
    assert bench.way("10.9.9.9/32") == "unreachable"
    host.update("10.9.9.9/32")
    assert bench.way("10.9.9.9/32") == "unreachable"


def test_routes_of_others_by_the_hop_that_was_left_come_back() -> None:
    """Next hops need not be the neighbour itself: another one announces the same."""
    bench = Bench()
    one, two, three = bench.peer(1, 2), bench.peer(1, 3), bench.peer(2, 4)
    bench.link(1, ipv4=FOUR)
    two.update("10.3.0.0/16", metric=100, next_hop="192.0.2.3")
    three.update("10.3.0.0/16", metric=150)
    one.update("10.2.0.0/16", metric=100, next_hop="192.0.2.3")
    bench.log.clear()
    one.hello(rxcost=0xFFFF)
    shared = Hop(1, parse_address("192.0.2.3"))
    assert HopLeft(shared) in bench.log
    again = [c for c in bench.log if isinstance(c, RouteChange) and c.way and c.way.primary == shared]
    assert [c.destinations for c in again] == [[parse_prefix("10.3.0.0/16").packed]]


# --- routes --------------------------------------------------------------------------------------------------------


def test_an_ipv4_retraction_without_a_next_hop() -> None:
    bench = Bench(links=1)
    peer = bench.peer()
    bench.link(1, ipv4=FOUR)
    peer.update(next_hop="192.0.2.9")
    writer = Writer(512)
    assert writer.update(AE_IPV4, PREFIX.length, PREFIX.packed, 0, 0xFFFF, 1600, None, None)
    peer.raw(writer.take())
    assert bench.way() == "unreachable"


def test_a_retraction_may_come_in_the_other_encoding() -> None:
    """RFC 9229: AE 1 and AE 4 are the same route."""
    bench = Bench(links=1)
    peer = bench.peer()
    bench.link(1, ipv4=FOUR)
    peer.update(next_hop="192.0.2.9")
    peer.retract()  # AE 4
    assert bench.way() == "unreachable"


def test_distances_live_as_long_after_the_loss_though_updates_are_rare() -> None:
    """The last Update may be older than SOURCE_GC_S when the route is lost; what it said still goes around."""
    bench = Bench(settings=LinkSettings(update_interval_ms=600_000))
    one, two = bench.peer(1), bench.peer(2)
    one.update(metric=100, interval_cs=LONG_CS)
    bench.run(500)
    assert bench.way() == "fe80::2:1"
    two.update(metric=300, interval_cs=LONG_CS)
    one.retract()
    bench.run(170)
    assert "fe80::2:2" not in bench.way()
    bench.run(60)
    assert bench.way() == "fe80::2:2"


def test_a_guard_outlives_a_link_that_blinks_and_is_forgotten_in_time() -> None:
    hop = Hop(1, parse_address("fe80::2:1"))
    bench = Bench(adopted={PREFIX: hop, parse_prefix("10.9.0.0/16"): hop})
    bench.peer(1)
    two = bench.peer(2)
    two.update(metric=50, seqno=7, interval_cs=LONG_CS)
    bench.link(2, up=False)
    bench.link(2)
    two.hello()
    two.update(metric=50, seqno=7, interval_cs=LONG_CS)
    assert bench.way() == ""
    bench.run(250)
    two.update(metric=50, seqno=7, interval_cs=LONG_CS)
    assert bench.way() == "fe80::2:2"
    assert len(bench.speaker.table) == 1


# --- what others must not miss -------------------------------------------------------------------------------------


def test_a_retraction_that_was_lost_is_said_again() -> None:
    """It is in no dump. An outage of half a second must not leave a neighbour with thousands of dead routes."""
    bench = Bench(links=1)
    peer = bench.peer()
    bench.own(*(f"10.{i}.{j}.0/24" for i in range(16) for j in range(256)))
    bench.run(2)
    assert len({u.prefix for u in peer.heard(Update)}) == 4096
    peer.acks = False
    bench.own()
    bench.run(0.6)
    peer.sent.clear()  # none of it arrived
    peer.acks = True
    bench.run(15)
    assert len({u.prefix for u in peer.heard(Update) if u.metric == 0xFFFF}) == 4096


def test_who_turns_deaf_is_told_once_more() -> None:
    bench = Bench(links=1)
    peer = bench.peer()
    bench.own(P)
    bench.run(2)
    peer.acks = False
    bench.own()
    outlet = next(iter(bench.speaker.outlets.values()))
    while bench.now >= outlet._deaf_until:
        peer.heard(Update)
        bench.run(0.1)
        assert bench.now < 1100
    bench.run(1)
    assert [u.metric for u in peer.heard(Update)] == [0xFFFF]


# --- requests ------------------------------------------------------------------------------------------------------


def test_without_a_way_all_are_asked_at_once() -> None:
    """RFC 8966 section 3.8.2.1: the first may be a router behind us, that must not send it back."""
    bench = Bench(links=3)
    one, two, three = bench.peer(1), bench.peer(2), bench.peer(3)
    one.update(metric=100)
    bench.run(0.1)
    two.update(metric=300)
    three.update(metric=300)
    two.heard(SeqnoRequest)
    three.heard(SeqnoRequest)
    one.retract()
    bench.run(0.1)
    assert [r.seqno for r in two.heard(SeqnoRequest)] == [2]
    assert [r.seqno for r in three.heard(SeqnoRequest)] == [2]


def test_what_was_passed_on_long_ago_does_not_keep_us_from_asking() -> None:
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    one.update(metric=100, interval_cs=LONG_CS)
    bench.run(0.1)
    two.tlvs(request(2, A))
    assert one.heard(SeqnoRequest)
    bench.run(8)
    one.update(metric=500, interval_cs=LONG_CS)
    assert [r.seqno for r in one.heard(SeqnoRequest)] == [2]


def test_what_another_asks_for_does_not_slow_our_own_question() -> None:
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    one.update(metric=100, interval_cs=LONG_CS)
    bench.run(0.1)
    one.update(metric=500, interval_cs=LONG_CS)
    assert [r.seqno for r in one.heard(SeqnoRequest)] == [2]
    two.tlvs(request(3, A))
    assert [r.seqno for r in one.heard(SeqnoRequest)] == [3]
    bench.run(3)
    assert [r.seqno for r in one.heard(SeqnoRequest)] == [3]


def test_a_request_goes_by_a_feasible_route_though_another_is_nearer() -> None:
    """RFC 8966 section 3.8.1.2."""
    bench = Bench(links=3)
    one, two, three = bench.peer(1), bench.peer(2), bench.peer(3)
    three.hello(rxcost=500)
    two.update(metric=10)
    bench.run(0.1)  # our feasibility distance is 106
    one.update(metric=120)
    three.update(metric=90)
    assert sorted(bench.state()) == [("backup", 590), ("selected", 106), ("unfeasible", 216)]
    one.heard(SeqnoRequest)
    two.tlvs(request(2, A))
    assert [r.seqno for r in three.heard(SeqnoRequest)] == [2]
    assert not one.heard(SeqnoRequest)


def test_a_request_goes_by_an_infeasible_route_if_there_is_no_other() -> None:
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    two.update(metric=10)
    bench.run(0.1)
    one.update(metric=120)
    one.heard(SeqnoRequest)
    two.tlvs(request(2, A))
    assert [r.seqno for r in one.heard(SeqnoRequest)] == [2]


def test_another_router_id_answers_a_request() -> None:
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    one.update(metric=100, router_id=B, seqno=9)
    bench.run(0.1)
    two.heard(Update)
    two.tlvs(request(500, A))
    bench.run(0.1)
    assert [(u.router_id, u.seqno) for u in two.heard(Update)] == [(B, 9)]
    assert not one.heard(SeqnoRequest)


def test_requests_are_the_same_in_both_encodings_and_sent_in_one() -> None:
    """RFC 9229 section 2.3."""
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    one.update(metric=100, interval_cs=1000)
    bench.run(0.1)
    two.heard(Update)
    two.tlvs(encode_route_request(AE_V4_VIA_V6, PREFIX.length, PREFIX.packed))
    bench.run(0.1)
    assert [u.metric for u in two.heard(Update)] == [196]
    two.tlvs(encode_seqno_request(AE_V4_VIA_V6, PREFIX.length, PREFIX.packed, 2, 64, A))
    assert [r.ae for r in one.heard(SeqnoRequest)] == [AE_IPV4]
    bench.run(25)
    assert {r.ae for r in one.heard(RouteRequest)} == {AE_IPV4}


# --- links in the FIB ----------------------------------------------------------------------------------------------


def test_after_a_flap_everything_is_said_to_the_kernel_again() -> None:
    """The kernel dropped all of it with the carrier: a Way that is the same as before must still be a change."""
    bench = Bench()
    one, two = bench.peer(1), bench.peer(2)
    one.update(metric=100)
    two.update(metric=150)
    before = bench.fib[PREFIX]
    bench.link(1, up=False)
    assert bench.fib[PREFIX] == Way(before.backup)
    bench.log.clear()
    bench.link(1)
    one.hello()
    one.update(metric=100)
    last = bench.log[-1]
    assert isinstance(last, RouteChange)
    assert (last.way, last.before) == (before, Way(before.backup))
    assert replace(last, before=None).destinations == [PREFIX.packed]


def test_who_asks_again_while_it_is_told_hears_the_beginning_again() -> None:
    """It may have lost us in the middle of a large table, and with us what it had been told already."""
    bench = Bench()
    one = bench.peer(1)
    one.tlvs(encode_route_request(0, 0, b""))
    bench.run(3)
    bench.own(*(f"10.{i >> 8}.{i & 255}.0/24" for i in range(20_000)))
    bench.run(3)
    one.heard(Update)
    bench.speaker.dump(next(iter(bench.speaker.outlets.values())), bench.now)
    bench.work()
    begun = {u.prefix for u in one.heard(Update)}
    assert 0 < len(begun) < 20_000
    one.tlvs(encode_route_request(0, 0, b""))
    bench.run(12)
    assert {u.prefix for u in one.heard(Update)} >= begun


def test_a_new_neighbour_is_told_once() -> None:
    bench = Bench()
    bench.own(P)
    one = bench.peer(1)
    one.sent.clear()
    one.tlvs(encode_route_request(0, 0, b""))
    bench.run(5)
    assert len(one.heard(Update)) <= 1


def test_what_we_do_not_announce_any_more_is_asked_for() -> None:
    bench = Bench()
    one = bench.peer(1)
    prefix = parse_prefix(P)
    bench.speaker.accept = lambda asked: asked not in own
    own = {prefix}
    bench.speaker.originate({prefix: 0}, bench.now)
    one.update()
    assert bench.way() == ""
    own.clear()
    bench.speaker.originate({prefix: None}, bench.now)
    bench.speaker.reconsider([prefix], bench.now)
    bench.run(0.1)
    assert [(r.prefix, r.length) for r in one.heard(RouteRequest)] == [(prefix.packed, prefix.length)]
    one.update()
    assert bench.way() == "fe80::2:1"
    own.add(prefix)
    bench.speaker.originate({prefix: 0}, bench.now)
    bench.speaker.reconsider([prefix], bench.now)
    bench.run(0.1)
    assert bench.way() == ""
