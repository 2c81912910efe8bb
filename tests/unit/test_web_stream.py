"""The stream of events: numbers, what a listener gets again, and that a slow one costs nothing."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from verify_support import network
from via6.model import Neighbour
from via6.observe.names import Names
from via6.observe.node import BabelRoute
from via6.prefix import parse_address, parse_prefix
from via6.web import stream
from via6.web.changes import between
from via6.web.stream import Client, EventStream, Hub


def parsed(octets: bytes) -> list[tuple[int, str, Any]]:
    found = []
    for block in octets.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "event" in fields:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


def hub() -> Hub:
    return Hub(lambda: b'{"whole":true}')


def test_a_listener_begins_with_the_whole_and_then_hears_changes() -> None:
    told = hub()
    version = told.version
    client = told.join(None)
    assert parsed(client.take()) == [(version, "network", {"whole": True})]
    told.publish("link", {"id": "a", "state": "down"})
    assert parsed(client.take()) == [(version + 1, "link", {"id": "a", "state": "down"})]


def test_who_comes_back_gets_what_was_missed() -> None:
    told = hub()
    start = told.version
    for number in range(5):
        told.publish("link", {"n": number})
    assert [e[2]["n"] for e in parsed(told.join(start + 2).take())] == [2, 3, 4]
    assert parsed(told.join(start + 5).take()) == []
    for last in (start - 1, start + 6, 0, 1 << 60):
        assert parsed(told.join(last).take())[0][1] == "network"


def test_what_is_held_is_bounded() -> None:
    told = hub()
    start = told.version
    for _ in range(5000):
        told.publish("network", b'"' + b"x" * 20_000 + b'"')
    assert told._past_octets <= stream._HELD_OCTETS
    for _ in range(5000):
        told.publish("link", {})
    assert len(told._past) <= 1024
    assert parsed(told.join(start).take())[0][1] == "network"


def test_who_does_not_read_is_dropped() -> None:
    told = hub()
    slow, quick = told.join(None), told.join(None)
    for _ in range(3000):
        told.publish("link", {})
        quick.take()
    assert slow.over
    assert not slow.waiting
    assert not quick.over
    huge = told.join(None)
    for _ in range(5):
        told.publish("network", b'"' + b"x" * (1 << 20) + b'"')
    assert huge.over


def test_versions_grow_over_a_restart() -> None:
    assert hub().version <= hub().version
    assert hub().version > 1_700_000_000_000


class _Asgi:
    """The two channels of an answer, by hand."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.gone = asyncio.Event()
        self.blocked = asyncio.Event()
        self.blocked.set()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await self.blocked.wait()
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(one.get("body", b"") for one in self.sent)


async def _until(true: Any) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


def _run(work: Any) -> None:
    asyncio.run(work())


def test_a_stream_ends_when_its_listener_goes() -> None:
    async def work() -> None:
        told, ends = hub(), _Asgi()
        task = asyncio.create_task(EventStream(told, None)({"type": "http", "method": "GET"}, ends.receive, ends.send))
        await _until(lambda: b"whole" in ends.body)
        told.publish("node", {"id": "r1", "state": "down"})
        await _until(lambda: b"event: node" in ends.body)
        ends.gone.set()
        await asyncio.wait_for(task, 10)
        assert not told.clients

    _run(work)


def test_a_stream_that_is_stuck_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_PATIENCE_S", 0.05)

    async def work() -> None:
        told, ends = hub(), _Asgi()
        task = asyncio.create_task(EventStream(told, None)({"type": "http", "method": "GET"}, ends.receive, ends.send))
        await _until(lambda: b"whole" in ends.body)
        ends.blocked.clear()
        told.publish("link", {})
        await asyncio.wait_for(task, 10)
        assert not told.clients

    _run(work)


def test_streams_end_with_the_server() -> None:
    async def work() -> None:
        told, ends = hub(), _Asgi()
        task = asyncio.create_task(EventStream(told, None)({"type": "http", "method": "GET"}, ends.receive, ends.send))
        await _until(lambda: b"whole" in ends.body)
        told.close()
        await asyncio.wait_for(task, 10)
        assert ends.sent[-1]["more_body"] is False

    _run(work)


def test_a_heart_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.02)

    async def work() -> None:
        told, ends = hub(), _Asgi()
        task = asyncio.create_task(EventStream(told, None)({"type": "http", "method": "GET"}, ends.receive, ends.send))
        await _until(lambda: ends.body.count(b"\n:\n\n") >= 3)
        ends.gone.set()
        await asyncio.wait_for(task, 10)

    _run(work)


def test_head_has_no_body() -> None:
    async def work() -> None:
        told, ends = hub(), _Asgi()
        await EventStream(told, None)({"type": "http", "method": "HEAD"}, ends.receive, ends.send)
        assert ends.body == b""
        assert not told.clients

    _run(work)


def test_octets_of_odd_text() -> None:
    assert json.loads(stream.dumps({"name": "r\ud800\n"})) == {"name": "r\ud800\n"}
    assert b"\n" not in stream.dumps({"name": "a\nb\u2028"})


def test_a_client_of_its_own() -> None:
    client = Client()
    client.put(b"x")
    assert client.wake.is_set()
    assert client.take() == b"x"
    assert not client.wake.is_set()


def test_a_neighbour_that_the_kernel_forgets_is_no_news() -> None:
    node = network([("r1", "r2")], babel=True)["r1"]
    seen = Neighbour(node.kernel.by_name["eth1"].ifindex, parse_address("fe80::2"), bytes(5) + b"\x02", "STALE")
    with_one = replace(node, kernel=replace(node.kernel, neighbours=(seen,)))
    without = replace(node, kernel=replace(node.kernel, neighbours=()))
    assert between(with_one, without, Names()).same
    assert not between(without, with_one, Names()).same
    failed = replace(with_one, kernel=replace(node.kernel, neighbours=(replace(seen, state="FAILED"),)))
    assert not between(with_one, failed, Names()).same
    group = replace(seen, address=parse_address("ff02::1:ff00:2"), state="NOARP")
    assert between(with_one, replace(node, kernel=replace(node.kernel, neighbours=(seen, group))), Names()).same


def test_a_retracted_route_that_babel_forgets_is_no_news() -> None:
    node = network([("r1", "r2")], babel=True)["r1"]
    assert node.babel is not None
    ifindex = node.kernel.by_name["eth1"].ifindex
    gone = BabelRoute(parse_prefix("10.9.0.0/24"), parse_address("fe80::2"), ifindex, "::9", 65535, 65535, False, False)
    kept = replace(node, babel=replace(node.babel, routes=(*node.babel.routes, gone)))
    usable = replace(node, babel=replace(node.babel, routes=(*node.babel.routes, replace(gone, metric=96))))
    assert between(kept, node, Names()).same
    assert not between(kept, usable, Names()).same
