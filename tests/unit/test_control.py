"""The control socket, with a daemon that is made up: who may ask what, and that asking does the daemon no harm."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import Nets, run, via6, wait_until
from via6.babel.model import InterfaceInfo, NeighbourInfo, RouteInfo, SourceInfo
from via6.cli.main import dispatch
from via6.daemon import client, control, listen, monitors
from via6.daemon.control import Server
from via6.errors import FAILED, NO_DAEMON, OK, USAGE, Refusal
from via6.observe.babel import Status
from via6.prefix import Prefix, parse_address, parse_prefix

ID = bytes.fromhex("0200aafffe000001")
OWN = RouteInfo(parse_prefix("10.9.0.1/32"), None, 0, None, ID, 1, 0, 0, "own", 1.0)


def route(number: int, metric: int = 96, neighbour: str = "fe80::2", length: int = 24) -> RouteInfo:
    prefix = Prefix(bytes((10, number >> 8, number & 255, 0)) if length == 24 else bytes((10, number, 0, 0)), length)
    hop = parse_address(neighbour)
    return RouteInfo(prefix, hop, 2, hop, ID, 1, metric, 0, "selected", 1.0)


class Fake:
    """Answers of a daemon with some routes."""

    def __init__(self, routes: int = 3) -> None:
        self.asked = False
        self.here = [
            InterfaceInfo(3, "eth2", parse_address("fe80::1"), False, 96, 1000, (), 0, 0, 0, 0),
            InterfaceInfo(2, "eth1", parse_address("fe80::1"), True, 96, 1000, (), 1, 5, 6, 0),
        ]
        self.near = [NeighbourInfo(2, "eth1", parse_address("fe80::2"), "11", 96, 96, 96, 1000, routes, False)]
        self.table: dict[Prefix, list[RouteInfo]] = {OWN.prefix: [OWN]}
        for number in range(routes):
            self.put(route(number))

    def put(self, info: RouteInfo) -> Prefix:
        self.table[info.prefix] = [info]
        return info.prefix

    def neighbours(self) -> Iterable[NeighbourInfo]:
        return list(self.near)

    def interfaces(self) -> Iterable[InterfaceInfo]:
        return list(self.here)

    def routes(self) -> Iterator[RouteInfo]:
        self.asked = True
        return (info for prefix in list(self.table) for info in self.table.get(prefix, ()))

    def routes_of(self, prefix: Prefix) -> Iterable[RouteInfo]:
        return list(self.table.get(prefix, ()))

    def sources(self) -> Iterable[SourceInfo]:
        return (SourceInfo(info.prefix, ID, 1, info.metric, 2.0) for info in self.routes())

    def status(self) -> Status:
        return Status(ID, 3, "x.toml", {"installed": 3}, 0, ("no key",))


class Running:
    """A server whose loop runs in a thread of its own, as the daemon's does in its process."""

    def __init__(self, path: Path | str | None, answers: Fake) -> None:
        self.path = str(path or client.PATH)
        self.answers = answers
        self.watched: list[bool] = []
        self.said: list[str] = []
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.faults: list[Any] = []
        self.loop.call_soon_threadsafe(
            self.loop.set_exception_handler, lambda _loop, context: self.faults.append(context)
        )
        self.server = Server(path and str(path), answers, subscribe=self.watched.append, complain=self.said.append)
        try:
            self.notes = self.wait(self.server.start())
        except BaseException:
            self._end()
            raise

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def do(self, work: Callable[..., Any], *args: Any) -> Any:
        async def now() -> Any:
            return work(*args)

        return self.wait(now())

    def put(self, info: RouteInfo) -> None:
        """A route changes, and the driver says so."""
        self.do(lambda: self.server.routes_changed([self.answers.put(info)]))

    def drop(self, prefix: Prefix) -> None:
        self.do(lambda: (self.answers.table.pop(prefix), self.server.routes_changed([prefix])))

    def close(self) -> None:
        self.wait(self.server.close())
        self.wait(self.server.close())
        self._end()
        assert self.faults == []

    def _end(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(30)
        self.loop.run_until_complete(self._settle())
        self.loop.close()

    async def _settle(self) -> None:
        """A caller who was just being let in, and what `asyncio.run` does at its end."""
        for _ in range(10):
            await asyncio.sleep(0)
        await self.loop.shutdown_asyncgens()
        assert asyncio.all_tasks() == {asyncio.current_task()}


@contextlib.contextmanager
def running(path: Path | str | None, answers: Fake | None = None) -> Iterator[Running]:
    made = Running(path, answers or Fake())
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    path = tmp_path / "s"
    monkeypatch.setenv("VIA6_SOCKET", str(path))
    with running(path) as made:
        yield made


class Peer:
    """A client that says just what it is told."""

    def __init__(self, path: str) -> None:
        self.socket = client.dial(path)
        self.socket.settimeout(30)
        self.file = self.socket.makefile("rb")

    def say(self, text: str | bytes) -> None:
        self.socket.sendall(text if isinstance(text, bytes) else text.encode() + b"\n")

    def hear(self) -> Any:
        """The next object; None at the end."""
        line = self.file.readline()
        return json.loads(line) if line else None

    def hear_all(self) -> list[Any]:
        """Up to the end mark, without it."""
        made = self.hear_rest()
        assert self.end == len(made)
        return made

    def hear_rest(self) -> list[Any]:
        """Up to the end mark, whatever it counts."""
        made = []
        while "end" not in (said := self.hear()):
            made.append(said)
        self.end = said["end"]
        return made

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@contextlib.contextmanager
def peer(daemon: Running) -> Iterator[Peer]:
    made = Peer(daemon.path)
    try:
        yield made
    finally:
        made.close()


# --- questions and answers -----------------------------------------------------------------------------------------


def test_each_kind_is_shown(daemon: Running) -> None:
    with peer(daemon) as one:
        one.say('{"show": "interface"}')
        assert [row["interface"] for row in one.hear_all()] == ["eth1", "eth2"]
        one.say('{"show": "neighbour", "dev": "eth1"}')
        assert [row["address"] for row in one.hear_all()] == ["fe80::2"]
        one.say('{"show": "route"}\n{"show": "source"}')
        routes = one.hear_all()
        assert [row["prefix"] for row in routes] == ["10.9.0.1/32", "10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24"]
        assert [row["interface"] for row in routes] == [None, "eth1", "eth1", "eth1"]
        assert len(one.hear_all()) == 4
        one.say('{"show": "status"}')
        (status,) = one.hear_all()
        assert (status["pid"], status["neighbours"], status["interfaces_up"]) == (os.getpid(), 1, 1)
        assert (status["routes"]["own"], status["routes"]["selected"], status["routes"]["backup"]) == (1, 3, 0)
        assert status["memory_kib"] > 1000
        one.say('{"show": "about"}')
        assert one.hear_all()[0]["netns"] == client.namespace()


@pytest.mark.parametrize(
    ("asked", "prefixes"),
    [
        ({"prefix": "10.0.1.0/24"}, ["10.0.1.0/24"]),
        ({"prefix": "10.0.0.0/16"}, ["10.0.0.0/16"]),
        ({"prefix": "10.0.1.9", "how": "longest"}, ["10.0.1.0/24"]),
        ({"prefix": "10.0.77.9", "how": "longest"}, ["10.0.0.0/16"]),
        ({"prefix": "10.0.1.9", "how": "match"}, ["10.0.1.0/24", "10.0.0.0/16"]),
        ({"prefix": "10.9.0.0/16", "how": "root"}, ["10.9.0.1/32"]),
        ({"prefix": "11.0.0.0/8"}, []),
        ({"family": 6}, []),
        ({"state": "own"}, ["10.9.0.1/32"]),
        ({"dev": "eth2"}, []),
    ],
)
def test_less_is_shown_when_less_is_asked_for(daemon: Running, asked: dict[str, Any], prefixes: list[str]) -> None:
    daemon.answers.put(route(0, length=16))
    with peer(daemon) as one:
        one.say(json.dumps({"show": "route", **asked}))
        assert [row["prefix"] for row in one.hear_all()] == prefixes
        if not {"dev", "state"} & asked.keys():
            one.say(json.dumps({"show": "source", **asked}))
            assert sorted(row["prefix"] for row in one.hear_all()) == sorted(prefixes)


BAD = [
    b"\n", b"{\n", b"[]\n", b"7\n", b"null\n", b'"show"\n', b"\xff\xfe\n", b'{"show": 1}\n', b'{"show": "rout6"}\n',
    b"{}\n", b'{"show": "route", "monitor": true}\n', b'{"monitor": false}\n', b'{"monitor": []}\n',
    b'{"monitor": ["source"]}\n', b'{"monitor": [1]}\n', b'{"show": "route", "prefix": "10.0.0.1/8"}\n',
    b'{"show": "route", "prefix": ""}\n', b'{"show": "route", "how": "x"}\n', b'{"show": "route", "state": "x"}\n',
    b'{"show": "route", "dev": "nope"}\n', b'{"show": "neighbour", "prefix": "10.0.0.0/8"}\n', b"[" * 4000 + b"\n",
    b'{"show": "route", "family": 5}\n', b'{"show": "route", "more": 1}\n', b'{"show": "source", "state": "own"}\n',
]  # fmt: skip


def test_bad_questions_get_an_error_and_the_next_one_an_answer(daemon: Running) -> None:
    with peer(daemon) as one:
        for bad in BAD:
            one.say(bad)
            said = one.hear()
            assert said["error"], bad
            assert said["code"] in (USAGE, FAILED), bad
        one.say('{"show": "neighbour"}')
        assert len(one.hear_all()) == 1
    assert daemon.said == []


def test_an_endless_question_ends_the_conversation(daemon: Running) -> None:
    with peer(daemon) as one:
        with contextlib.suppress(ConnectionError):
            one.say(b"x" * 100_000)
        assert "at most" in one.hear()["error"]


def test_half_a_conversation_is_one(daemon: Running) -> None:
    """`echo … | socat` closes its sending side at once, and may leave the line's end out."""
    with peer(daemon) as one:
        one.say(b'{"show": "neighbour"}')
        one.socket.shutdown(socket.SHUT_WR)
        assert len(one.hear_all()) == 1
        assert one.hear() is None
    with peer(daemon) as one:
        one.say('{"monitor": ["route"]}')
        one.socket.shutdown(socket.SHUT_WR)
        assert len(one.hear_all()) == 4
        daemon.put(route(7))
        assert one.hear()["route"]["prefix"] == "10.0.7.0/24"


def test_a_fault_of_ours_is_told_and_ends_nothing(daemon: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Status:
        raise ZeroDivisionError

    monkeypatch.setattr(daemon.answers, "status", broken)
    with peer(daemon) as one:
        one.say('{"show": "status"}')
        assert "report it" in one.hear()["error"]
        assert one.hear() is None
    assert "ZeroDivisionError" in daemon.said[0]
    with peer(daemon) as one:
        one.say('{"show": "neighbour"}')
        assert len(one.hear_all()) == 1


# --- the daemon is not held up -------------------------------------------------------------------------------------


def test_who_asks_and_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    with running(tmp_path / "s", Fake(20_000)) as daemon, peer(daemon) as idle, peer(daemon) as one:
        idle.say('{"show": "route"}')
        one.say('{"show": "route", "state": "selected"}')
        assert len(one.hear_all()) == 20_000
        assert len(idle.hear_all()) == 20_001


def test_a_turn_ends_with_its_time_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitors, "TURN_S", 0.0)

    async def walk() -> list[list[int]]:
        rows = (None if number % 2 else number for number in range(100))
        return [piece async for piece in monitors.Turns().pieces(rows)]

    pieces = asyncio.run(walk())
    assert len(pieces) == 7
    assert [number for piece in pieces for number in piece] == list(range(0, 100, 2))


def test_a_table_may_change_while_it_is_walked_through(tmp_path: Path) -> None:
    with running(tmp_path / "s", Fake(5000)) as daemon, peer(daemon) as one:
        one.say('{"show": "route"}')
        one.hear()
        for number in range(4000, 5000):
            daemon.do(daemon.answers.table.pop, route(number).prefix)
        assert 4000 <= len(one.hear_rest()) <= 5000


def test_so_many_clients_and_no_more(daemon: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_CLIENTS", 3)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            one = stack.enter_context(peer(daemon))
            one.say('{"show": "about"}')
            one.hear_all()
        late = stack.enter_context(peer(daemon))
        assert "others ask already" in late.hear()["error"]
        assert late.hear() is None
        with pytest.raises(Refusal, match="others ask already"):
            list(client.ask({"show": "neighbour"}))
    wait_until(lambda: all_gone(daemon))
    with peer(daemon) as one:
        one.say('{"show": "about"}')
        assert len(one.hear_all()) == 1


def test_who_does_not_read_is_left(daemon: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_PATIENCE_S", 0.1)
    monkeypatch.setattr(control, "_BUFFER_OCTETS", 1000)
    for number in range(8000):
        daemon.answers.put(route(number))
    with peer(daemon) as one:
        one.say('{"show": "route"}')
        wait_until(lambda: daemon.answers.asked and all_gone(daemon))
    with peer(daemon) as one:
        one.say('{"show": "neighbour"}')
        assert len(one.hear_all()) == 1


def all_gone(daemon: Running) -> bool:
    return bool(daemon.do(lambda: not daemon.server._clients))


# --- monitors ------------------------------------------------------------------------------------------------------


def what(said: Any) -> tuple[str, str, Any]:
    kind = said["kind"]
    name = {"route": "prefix", "neighbour": "address", "interface": "interface"}[kind]
    return said["action"], kind, said[kind][name]


def test_first_the_state_then_each_change(daemon: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_LOOK_S", 0.05)
    with peer(daemon) as one:
        one.say('{"monitor": true}')
        state = [what(said) for said in one.hear_all()]
        assert state[:3] == [
            ("add", "interface", "eth1"),
            ("add", "interface", "eth2"),
            ("add", "neighbour", "fe80::2"),
        ]
        assert len(state) == 7
        assert daemon.watched == [True]
        daemon.put(route(0))  # the same again is no change
        daemon.put(route(1, 500))
        said = one.hear()
        assert what(said) == ("change", "route", "10.0.1.0/24")
        assert said["route"]["metric"] == 500
        daemon.put(route(9))
        assert what(one.hear()) == ("add", "route", "10.0.9.0/24")
        daemon.drop(route(9).prefix)
        assert what(one.hear()) == ("remove", "route", "10.0.9.0/24")
        daemon.do(daemon.answers.near.clear)
        assert what(one.hear()) == ("remove", "neighbour", "fe80::2")
        daemon.do(daemon.server.publish, "route", "change", route(2, 300))
        assert what(one.hear()) == ("change", "route", "10.0.2.0/24")
    wait_until(lambda: daemon.watched == [True, False])
    assert daemon.said == []


def test_a_monitor_of_one_kind(daemon: Running) -> None:
    with peer(daemon) as one:
        one.say('{"monitor": ["neighbour"]}')
        assert len(one.hear_all()) == 1
        daemon.put(route(9))
        daemon.do(daemon.server.publish, "route", "add", route(9))
        daemon.do(daemon.answers.near.clear)
        assert what(one.hear()) == ("remove", "neighbour", "fe80::2")


def test_what_a_later_monitor_sees_first_the_earlier_one_hears(daemon: Running) -> None:
    with peer(daemon) as one, peer(daemon) as two:
        one.say('{"monitor": ["route"]}')
        one.hear_all()
        daemon.do(daemon.answers.put, route(9))  # nobody has said so yet
        two.say('{"monitor": ["route"]}')
        assert len({said["route"]["prefix"] for said in two.hear_rest()}) == 5
        assert what(one.hear()) == ("add", "route", "10.0.9.0/24")
        daemon.put(route(9))
        daemon.put(route(8))
        assert what(one.hear()) == ("add", "route", "10.0.8.0/24")


def test_state_and_changes_add_up_to_the_table(tmp_path: Path) -> None:
    """Whatever changes while the state is being sent: at the end the monitor knows what the daemon knows."""
    fake = Fake(3000)
    with running(tmp_path / "s", fake) as daemon, peer(daemon) as one, peer(daemon) as two:
        one.say('{"monitor": ["route"]}')
        two.say('{"monitor": ["route"]}')
        for number in range(0, 3000, 7):
            daemon.put(route(number, 1000 + number))
            daemon.drop(route(number + 1).prefix) if number % 3 == 0 and number < 2990 else None
            daemon.put(route(3000 + number))
        heard = [one.hear_rest(), two.hear_rest()]
        daemon.put(route(9999))
        for watcher, lines in zip((one, two), heard, strict=True):
            while lines[-1]["route"]["prefix"] != "10.39.15.0/24":
                lines.append(watcher.hear())
            known: dict[str, Any] = {}
            for said in lines:
                info = said["route"]
                if said["action"] == "remove":
                    known.pop(info["prefix"], None)
                else:
                    known[info["prefix"]] = info["metric"]
            assert known == {str(info.prefix): info.metric for info in fake.routes()}


def test_a_slow_monitor_is_dropped_and_told(daemon: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitors, "LOG_OCTETS", 20_000)
    monkeypatch.setattr(control, "_BUFFER_OCTETS", 10_000)
    with peer(daemon) as one:
        one.say('{"monitor": ["route"]}')
        one.hear_all()

        def flood() -> int:
            for number in range(10_000):
                daemon.server.publish("route", "change", route(1, number))
            return daemon.server._watch._log._octets

        assert daemon.do(flood) <= 20_000
        rest = []
        while (said := one.hear()) is not None:
            rest.append(said)
        assert "too slow" in rest[-1]["error"]
        assert len(rest) < 5000
    wait_until(lambda: daemon.watched == [True, False])


def test_a_monitor_that_goes_is_noticed_without_a_change(daemon: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_LOOK_S", 0.05)
    with peer(daemon) as one:
        one.say('{"monitor": true}')
        one.hear_all()
        assert daemon.server.watched
    wait_until(lambda: not daemon.server.watched)
    daemon.do(daemon.server.publish, "route", "add", route(1))
    daemon.put(route(1))
    assert not daemon.server._watch._pending


def test_the_daemon_leaves(tmp_path: Path) -> None:
    with running(tmp_path / "s") as daemon:
        one = Peer(daemon.path)
        one.say('{"monitor": true}')
        one.hear_all()
    assert one.hear()["code"] == NO_DAEMON
    assert one.hear() is None
    one.close()
    assert not (tmp_path / "s").exists()


# --- where it listens ----------------------------------------------------------------------------------------------


def test_mode_of_the_file(daemon: Running) -> None:
    found = os.stat(daemon.path)
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o660


def test_a_stale_file_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a" / "s"
    path.parent.mkdir()
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.listen()
    dead.close()
    with running(path):
        with pytest.raises(Refusal, match=rf"another via6 \(pid {os.getpid()}\) listens on"):
            Running(path, Fake())
        assert path.exists()
        path.unlink()
        path.write_text("somebody else's")
    assert path.read_text() == "somebody else's"


def test_places_where_nothing_can_listen(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, told in (
        (tmp_path / "file", "no socket"), (tmp_path / "file" / "s", "cannot listen"),
        (tmp_path / ("x" * 120), "longer"), ("/tmp/a\0b", "NUL"), ("/proc/s", "cannot listen"),
    ):  # fmt: skip
        with pytest.raises(Refusal, match=told) as refused:
            Running(path, Fake())
        assert "\0" not in refused.value.message
    with running(tmp_path / "new" / "folder" / "s") as daemon:
        assert Path(daemon.path).exists()


def test_an_abstract_name_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"@via6-test-{os.getpid()}"
    monkeypatch.setenv("VIA6_SOCKET", name)
    with running(name):
        assert b'"fe80::2"' in next(client.ask({"show": "neighbour"}))[0]
        with pytest.raises(Refusal, match="somebody else listens on @via6-test"):
            Running(name, Fake())
    with pytest.raises(Refusal, match="no via6 daemon answers at @via6-test"):
        next(client.ask({"show": "neighbour"}))


def test_the_machines_own_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the abstract name and the file. Who cannot reach the name takes the file, if it is of this namespace."""
    names = tuple(f"\0via6-test-{os.getpid()}/{number}" for number in range(2))
    monkeypatch.setattr(client, "NAMES", names)
    monkeypatch.setattr(client, "PATH", str(tmp_path / "via6" / "control.sock"))
    monkeypatch.setattr(listen, "is_machines_own", lambda: True)
    monkeypatch.delenv("VIA6_SOCKET", raising=False)
    with pytest.raises(Refusal) as refused:
        client.connect()
    assert refused.value.message == "no via6 daemon runs in this network namespace"
    assert refused.value.code == NO_DAEMON
    with running(None) as daemon:
        assert daemon.notes == []
        assert (tmp_path / "via6" / "control.sock").exists()
        with client.connect() as peer:
            assert peer.getpeername() == names[0].encode()
        with pytest.raises(Refusal, match="another via6"):
            Running(None, Fake())
        monkeypatch.setattr(client, "believed", lambda _uid: False)
        with client.connect() as peer:
            assert peer.getpeername() == client.PATH
        # A second daemon where this one is not believed in: it gets the next name, and says what it did not get.
        with running(None) as second:
            assert "another via6" in second.notes[0]
        monkeypatch.setattr(control, "namespace", lambda: 1)
        with pytest.raises(Refusal, match="is of another") as refused:
            client.connect()
        assert refused.value.code == NO_DAEMON
    assert not (tmp_path / "via6" / "control.sock").exists()


@pytest.mark.root
def test_which_namespace_is_the_machines_own(nets: Nets) -> None:
    assert not nets.new().call(listen.is_machines_own)


def test_who_may_ask_over_an_abstract_name() -> None:
    class Caller:
        def __init__(self, uid: int, gid: int, groups: tuple[int, ...] = ()) -> None:
            self.ids, self.groups = (1, uid, gid), groups

        def getsockopt(self, _level: int, option: int, _size: int) -> bytes:
            import struct

            words = self.ids if option == socket.SO_PEERCRED else self.groups
            return struct.pack(f"={len(words)}i", *words)

    with socket.socket(socket.AF_UNIX) as any_socket:
        grouped, alone, file = (
            listen.Ear(any_socket, None, 77), listen.Ear(any_socket, None, None), listen.Ear(any_socket, ("x", 0), None)
        )  # fmt: skip
        stranger = os.getuid() + 4242
        for caller, expected in (
            (Caller(0, 5), (True, True)), (Caller(os.getuid(), 5), (True, True)), (Caller(stranger, 5), (False, False)),
            (Caller(stranger, 77), (True, False)), (Caller(stranger, 5, (3, 77)), (True, False)),
            (Caller(stranger, 0, (0,)), (False, False)),
        ):  # fmt: skip
            assert (grouped.admits(caller), alone.admits(caller)) == expected  # type: ignore[arg-type]
            assert file.admits(caller)  # type: ignore[arg-type]


# --- the command line ----------------------------------------------------------------------------------------------


def test_show_prints_text_and_json(daemon: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["show", "route", "root", "10.0.0.0/16"]) == OK
    assert capsys.readouterr().out.splitlines()[2] == (
        "10.0.2.0/24  via inet6 fe80::2  dev eth1  # selected  metric 96  advertised 0  seqno 1"
        "  router-id 02:00:aa:ff:fe:00:00:01  age 1s"
    )
    assert dispatch(["-j", "show", "route"]) == OK
    assert [row["state"] for row in json.loads(capsys.readouterr().out)] == ["own"] + ["selected"] * 3
    assert dispatch(["show", "-br", "neigh"]) == OK
    assert capsys.readouterr().out == "eth1  fe80::2  96  11\n"
    assert dispatch(["show"]) == OK
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.endswith(":")] == ["interface:", "neighbour:", "route:"]
    assert dispatch(["show", "-j"]) == OK
    assert [len(rows) for rows in json.loads(capsys.readouterr().out).values()] == [2, 1, 4]
    assert dispatch(["show", "route", "11/8"]) == OK
    assert capsys.readouterr().out == ""


def test_the_daemons_own_no(daemon: Running) -> None:
    with pytest.raises(Refusal, match="Babel is not spoken on 'eth9'") as refused:
        dispatch(["show", "route", "dev", "eth9"])
    assert (refused.value.code, refused.value.remedy) == (FAILED, "interfaces: eth1, eth2")


def test_status_prints_text_and_json(daemon: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["status"]) == OK
    assert "neighbours  1 of 1 reachable\nroutes      1 own, 3 selected\n" in capsys.readouterr().out
    assert dispatch(["status", "-j"]) == OK
    assert json.loads(capsys.readouterr().out)["warnings"] == ["no key"]


@pytest.mark.parametrize("options", [[], ["-j"]])
def test_monitor_prints_until_the_daemon_leaves(tmp_path: Path, options: list[str]) -> None:
    env = {**os.environ, "VIA6_SOCKET": str(tmp_path / "s")}
    with running(tmp_path / "s") as daemon:
        process = subprocess.Popen(
            [sys.executable, "-m", "via6", "monitor", "route", *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(5)]
            daemon.put(route(1, 500))
            lines.append(process.stdout.readline())
        except BaseException:
            process.kill()
            raise
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (NO_DAEMON, "via6: the daemon leaves\n")
    if options:
        assert [json.loads(line).get("action") for line in lines] == ["add"] * 4 + [None, "change"]
        assert json.loads(lines[4]) == {"end": 4}
    else:
        assert lines[4] == "--- 4 now, changes follow\n"
        assert lines[0].startswith("+ route     10.9.0.1/32")
        assert lines[5].startswith("~ route     10.0.1.0/24  via inet6 fe80::2  dev eth1  # selected  metric 500")


@pytest.mark.parametrize("verb", [["show", "route"], ["monitor"], ["status"]])
def test_no_daemon(tmp_path: Path, verb: list[str]) -> None:
    path = tmp_path / "none"
    code, out, err = via6(*verb, env={"VIA6_SOCKET": str(path)})
    assert (code, out) == (NO_DAEMON, "")
    assert err == (
        f"via6: no via6 daemon answers at {path} (VIA6_SOCKET): No such file or directory\n"
        "  `via6 up INTERFACE…` or `via6 run FILE` starts one; `via6 -n NAME …` asks that of a namespace\n"
    )


def test_something_else_that_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIA6_SOCKET", str(tmp_path / "s"))
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "s"))
        other.listen()

        def hang_up() -> None:
            other.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(Refusal, match="hung up") as refused:
            next(client.ask({"show": "route"}))
        thread.join()
    assert refused.value.code == NO_DAEMON


# --- network namespaces --------------------------------------------------------------------------------------------

ALONE = """
import asyncio, sys
sys.path[:0] = sys.argv[1:]
from test_control import Fake
from via6.daemon.control import Server
async def main():
    server = Server(None, Fake(int(sys.argv[2])))
    print("ready", await server.start(), flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.mark.root
def test_each_namespace_has_its_own_daemon(nets: Nets) -> None:
    """Without VIA6_SOCKET `-n` and `ip netns exec` find the daemon of the namespace, and only that."""
    folders = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    env = {name: value for name, value in os.environ.items() if name != "VIA6_SOCKET"}
    script = ALONE.replace("sys.argv[1:]", repr(folders)).replace("sys.argv[2]", "sys.argv[1]")
    here, there, neither = nets.new(), nets.new(), nets.new()
    for net, routes in ((here, 1), (there, 2)):
        process = net.spawn(sys.executable, "-c", script, routes, env=env)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready []\n"
    unset = {"VIA6_SOCKET": ""}
    for net, routes in ((here, 1), (there, 2)):
        code, out, err = via6("show", "route", "state", "selected", "-j", netns=net, env=unset)
        assert (code, err, len(json.loads(out))) == (OK, "", routes)
        done = run("ip", "netns", "exec", net, sys.executable, "-m", "via6", "show", "route", "-br", env=env)
        assert len(done.stdout.splitlines()) == routes + 1
        # A second one is refused.
        again = net.run(sys.executable, "-c", script, "1", env=env, check=False)
        assert "another via6 (pid" in again.stderr
    code, out, err = via6("show", netns=neither, env=unset)
    assert (code, out) == (NO_DAEMON, "")
    assert err.startswith("via6: no via6 daemon runs in this network namespace")


@pytest.mark.root
def test_a_stranger_on_the_name_is_passed_over(nets: Nets) -> None:
    """Any user may bind an abstract name: who sits there is not believed, and does not stand in the way."""
    net = nets.new()
    sitter = (
        "import socket, time; s = socket.socket(socket.AF_UNIX); s.bind('\\0via6/control'); s.listen();"
        "print('sits', flush=True); time.sleep(60)"
    )
    stranger = net.spawn("setpriv", "--reuid", "65534", "--clear-groups", sys.executable, "-c", sitter)
    assert stranger.stdout is not None
    assert stranger.stdout.readline() == "sits\n"
    unset = {"VIA6_SOCKET": ""}
    assert via6("show", netns=net, env=unset)[0] == NO_DAEMON
    folders = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    env = {name: value for name, value in os.environ.items() if name != "VIA6_SOCKET"}
    script = ALONE.replace("sys.argv[1:]", repr(folders)).replace("sys.argv[2]", "'1'")
    process = net.spawn(sys.executable, "-c", script, env=env)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready []\n"
    assert via6("show", netns=net, env=unset)[0] == OK
    # And he may not ask.
    asks = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('\\0via6/control/1'); print(s.recv(999))"
    done = net.run("setpriv", "--reuid", "65534", "--clear-groups", sys.executable, "-c", asks)
    assert "not allowed to talk to the daemon" in done.stdout
