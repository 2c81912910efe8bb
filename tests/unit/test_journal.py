"""What the last apply changed, on disk; sysctls that come back; the ssh session."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from via6.daemon import journal, ssh
from via6.daemon.journal import Entry, Journal
from via6.daemon.sysctl import Sysctls
from via6.errors import Refusal
from via6.model import NextHop, Route
from via6.prefix import Prefix, parse_address, parse_prefix


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIA6_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


ONE = Route(
    parse_prefix("10.0.0.0/8"), (NextHop(parse_address("fe80::1"), 2, 7), NextHop(None, 3)),
    src=parse_address("192.0.2.1"), metrics=((2, 1400),), metric=4_294_967_295, table=4_294_967_294,
)  # fmt: skip

routes = st.builds(
    lambda packed, length, via, index: Route(Prefix(packed, length), (NextHop(via, index),)),
    st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16), st.integers(0, 32),
    st.none() | st.binary(min_size=16, max_size=16), st.integers(0, 2**31),
)  # fmt: skip


def test_what_is_written_is_read(folder: Path) -> None:
    written = Journal("a.toml", (Entry(None, ONE), Entry(ONE, None)), journal.identity())
    journal.write(written)
    assert journal.read() == written
    assert [p.suffix for p in folder.iterdir()] == [".json"]
    journal.forget()
    with pytest.raises(Refusal, match="no apply to take back"):
        journal.read()
    journal.forget()


@given(st.lists(st.tuples(st.none() | routes, routes), max_size=5), st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_route_survives(folder: Path, entries: list[tuple[Route | None, Route]], name: str) -> None:
    name = name.encode("utf-8", "backslashreplace").decode()
    written = Journal(name, tuple(Entry(*e) for e in entries), journal.identity())
    journal.write(written)
    assert journal.read() == written


@given(st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_refused(folder: Path, garbage: bytes) -> None:
    folder.mkdir(exist_ok=True)
    journal.state_file("apply").write_bytes(garbage)
    with pytest.raises(Refusal, match=r"apply-\d+\.json"):
        journal.read()


def test_of_another_namespace_or_boot(folder: Path) -> None:
    journal.write(Journal("a.toml", (), "another boot"))
    with pytest.raises(Refusal, match="before this boot or in a namespace that is gone"):
        journal.read()
    assert not list(folder.iterdir())


def test_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VIA6_STATE", str(tmp_path / "file" / "below"))
    with pytest.raises(Refusal, match="without a journal there is no undo"):
        journal.write(Journal("a.toml", (), journal.identity()))


def test_pending(folder: Path) -> None:
    me, start = os.getpid(), journal.start_time(os.getpid())
    assert start > 0
    waiting = Journal("a.toml", (), journal.identity(), me, start)
    assert journal.pending(waiting)
    journal.refuse_pending()
    journal.write(waiting)
    with pytest.raises(Refusal, match=r"a\.toml waits for confirmation"):
        journal.refuse_pending()
    for pid, at in ((0, 0), (me, start + 1), (1 << 22, start), (me, 0)):
        assert not journal.pending(Journal("a.toml", (), "", pid, at))


def test_a_zombie_does_not_wait() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert journal.start_time(child) == 0
    os.waitpid(child, 0)


# --- sysctls ----------------------------------------------------------------------------------------------------------


def test_sysctls_garbage(folder: Path) -> None:
    Sysctls().restore()
    folder.mkdir()
    path = journal.state_file("sysctl")
    for garbage in (
        "",
        "{",
        "[]",
        "null",
        '{"namespace": "%s"}' % journal.identity(),
        '{"namespace": "%s", "old": 5}' % journal.identity(),
    ):
        path.write_text(garbage)
        assert "is damaged" in Sysctls().problem
        assert not path.exists()
        assert path.with_suffix(".bad").read_text() == garbage
    path.write_text('{"namespace": "another", "old": {"net/ipv4/none": "1"}}')
    Sysctls().restore()
    assert not path.exists()


# --- ssh --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("192.0.2.1 50000 198.51.100.1 22", ("192.0.2.1", "198.51.100.1")),
        ("2001:db8::1 50000 2001:db8::2 22", ("2001:db8::1", "2001:db8::2")),
        ("fe80::1%eth0 50000 fe80::2%eth0 22", ("fe80::1", "fe80::2")),
        ("UNKNOWN 65535 UNKNOWN 65535", None),
        ("192.0.2.1 50000", None),
        ("a b c d", None),
    ],
)
def test_the_session(monkeypatch: pytest.MonkeyPatch, value: str, expected: tuple[str, str] | None) -> None:
    monkeypatch.setenv("SSH_CONNECTION", value)
    assert ssh.session() == (expected and tuple(map(parse_address, expected)))


def test_the_session_of_an_ancestor() -> None:
    """Two generations up, and the process in between has a clean environment."""
    ask = "from via6.daemon import ssh; print(ssh.session())"
    inner = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ask!r}], env={{}})"
    middle = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}], env={{}})"
    env = {"SSH_CONNECTION": "192.0.2.1 50000 198.51.100.1 22"}
    done = subprocess.run([sys.executable, "-c", middle], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str((parse_address("192.0.2.1"), parse_address("198.51.100.1")))
