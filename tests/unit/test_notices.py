"""Notifications: octets to changes, many of one shape as a block."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from via6.model import PROTO_STATIC, Change, Link, NextHop, Route, RouteBlock
from via6.netlink import objects
from via6.netlink.notices import Notices
from via6.netlink.route import RTM_DELROUTE, RTM_NEWROUTE
from via6.netlink.wire import NLM_F_REPLACE, attribute, attribute_u32, message
from via6.prefix import AF_INET, Prefix

VIA = bytes.fromhex("fe80") + bytes(13) + b"\1"


def notice(number: int, *, gone: bool = False, replaces: bool = False, ifindex: int = 2, seq: int = 0) -> bytes:
    """As the kernel tells of an IPv4 route: the table first, then the destination."""
    from via6.netlink.route import RTA_DST, RTA_OIF, RTA_TABLE, RTA_VIA, RTMSG

    payload = RTMSG.pack(AF_INET, 32, 0, 0, 254, PROTO_STATIC, 0, 1, 0) + attribute_u32(RTA_TABLE, 254)
    payload += attribute(RTA_DST, bytes((10, 0, 0, number))) + attribute(RTA_VIA, b"\x0a\0" + VIA)
    payload += attribute_u32(RTA_OIF, ifindex)
    return message(RTM_DELROUTE if gone else RTM_NEWROUTE, NLM_F_REPLACE if replaces else 0, payload, seq)


def route(number: int, ifindex: int = 2) -> Route:
    return Route(Prefix(bytes((10, 0, 0, number)), 32), (NextHop(VIA, ifindex),), protocol=PROTO_STATIC)


def told(*datagrams: bytes) -> list[object]:
    notices = Notices()
    for data in datagrams:
        notices.feed(data)
    return list(notices.take())


def test_a_run_is_one_block_whoever_wrote_it() -> None:
    found = told(*(notice(i, seq=i) for i in range(1, 4)))
    assert found == [Change(RouteBlock(route(1).as_template(), [route(i).prefix.packed for i in (1, 2, 3)]))]


def test_the_order_of_adding_and_removing_stays() -> None:
    assert told(notice(1), notice(1, gone=True), notice(1, ifindex=3), notice(1, replaces=True)) == [
        Change(route(1)),
        Change(route(1), gone=True),
        Change(route(1, 3)),
        Change(route(1), replaces=True),
    ]


def test_other_objects_stand_between() -> None:
    link = message(objects.RTM_NEWLINK, 0, bytes(4) + (7).to_bytes(4, "little") + bytes(8) + attribute(3, b"eth1\0"))
    found = told(notice(1), notice(2), link, notice(3))
    assert [type(getattr(change, "object", None)) for change in found] == [RouteBlock, Link, Route]


def test_what_was_taken_is_not_told_again() -> None:
    notices = Notices()
    notices.feed(notice(1))
    assert notices.take()
    assert not notices.take()
    notices.feed(notice(2))
    assert notices.take() == [Change(route(2))]


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans(), st.integers(2, 3)), max_size=30))
def test_blocks_say_what_single_notifications_say(rows: list[tuple[int, bool, bool, int]]) -> None:
    datagrams = [notice(n, gone=g, replaces=r, ifindex=i) for n, g, r, i in rows]
    single = [change for data in datagrams for change in told(data)]
    together: list[object] = []
    for change in told(*datagrams):
        assert isinstance(change, Change)
        things = list(change.object) if isinstance(change.object, RouteBlock) else [change.object]
        together += [Change(thing, change.gone, change.replaces) for thing in things]
    assert together == single


@given(st.binary(max_size=120))
def test_octets_that_say_nothing(data: bytes) -> None:
    """A datagram that is cut or mangled is passed over, and what follows is understood."""
    whole = notice(1)
    for broken in (data, whole[: min(len(data), len(whole) - 1)], whole[:20] + data):
        assert told(broken, notice(2))[-1] == Change(route(2))
