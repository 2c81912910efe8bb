"""Router-id, seqno and feasibility distances on disk: what one run leaves for the next."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from via6.babel.model import SourceInfo
from via6.daemon import identity
from via6.daemon.identity import BLOCK, KEPT_S, Identity
from via6.errors import Refusal
from via6.prefix import Prefix, mask, parse_prefix


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("VIA6_STATE", str(tmp_path / "state"))
    yield tmp_path / "state"
    shutil.rmtree(tmp_path / "state", ignore_errors=True)


def file(folder: Path, ending: str) -> Path:
    (found,) = folder.glob(f"babel*.{ending}")
    return found


def source(prefix: str, seqno: int = 1, metric: int = 96, age_s: float = 0.0) -> SourceInfo:
    return SourceInfo(parse_prefix(prefix), b"\2" + bytes(6) + b"\1", seqno, metric, age_s)


# --- router-id and seqno ----------------------------------------------------------------------------------------------


def test_it_is_the_same_router_after_a_restart(folder: Path) -> None:
    with Identity() as first:
        router_id = first.router_id
        assert len(router_id) == 8
        assert not router_id[0] & 2, "looks like made from a MAC address"
        assert first.problems == []
    with Identity() as second:
        assert second.router_id == router_id
        assert second.problems == []
    shutil.rmtree(folder)
    with Identity() as third:
        assert third.router_id != router_id


def test_a_configured_router_id_goes_first(folder: Path) -> None:
    with Identity(b"\1" * 8) as first:
        assert first.router_id == b"\1" * 8
        used = first.seqno
    with Identity() as second:
        assert second.router_id == b"\1" * 8
        assert second.seqno == used + BLOCK


@given(st.lists(st.lists(st.integers(0, 3 * BLOCK), max_size=6), min_size=1, max_size=8), st.integers(0, 0xFFFF))
@settings(max_examples=60)
def test_no_seqno_is_used_twice(runs: list[list[int]], begin: int) -> None:
    """Each run raises its seqno, reserves it and dies without a word."""
    path = Path(os.environ["VIA6_STATE"])
    shutil.rmtree(path, ignore_errors=True)
    Identity().close()
    stored = file(path, "json")
    stored.write_text(stored.read_text().replace(f'"end":{BLOCK}', f'"end":{begin}'))
    newest = (begin - 1) & 0xFFFF
    for steps in runs:
        with Identity() as run:
            assert 1 <= (run.seqno - newest) & 0xFFFF <= BLOCK + 1, "not newer, or too far ahead"
            newest = run.seqno
            for step in steps:
                newest = (newest + step) & 0xFFFF
                assert run.reserve(newest) == ""


def test_reserving_is_mostly_a_comparison(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = []
    write = os.replace

    def replace(old: Path, new: Path) -> None:
        writes.append(new)
        write(old, new)

    with Identity() as run:
        monkeypatch.setattr(os, "replace", replace)
        for seqno in range(run.seqno, run.seqno + 10 * BLOCK):
            for _ in range(3):
                assert run.reserve(seqno) == ""
    assert 10 <= len(writes) <= 20


def test_a_disk_that_fails_is_told_and_the_seqno_may_be_used(folder: Path) -> None:
    with Identity() as run:
        path = file(folder, "json")
        (folder / f"{path.name}.new").mkdir()
        assert run.reserve(run.seqno) == "", "reserved already: nothing to write"
        assert "babel" in run.reserve(run.seqno + BLOCK)
        (folder / f"{path.name}.new").rmdir()
        assert run.reserve(run.seqno + BLOCK) == ""


@pytest.mark.parametrize(
    "garbage",
    [
        b"", b"{", b"null", b"[]", b"{}", b"\xff\xfe", b'{"router_id": "zz", "end": 1}', b'{"router_id": 5, "end": 1}',
        b'{"router_id": "0000000000000000", "end": 1}', b'{"router_id": "ffffffffffffffff", "end": 1}',
        b'{"router_id": "01", "end": 1}', b'{"router_id": "0102030405060708", "end": 65536}',
        b'{"router_id": "0102030405060708", "end": -1}', b'{"router_id": "0102030405060708", "end": 1.5}',
    ],
)  # fmt: skip
def test_a_damaged_file_is_told_and_made_anew(folder: Path, garbage: bytes) -> None:
    Identity().close()
    path = file(folder, "json")
    path.write_bytes(garbage)
    with Identity() as run:
        assert any(path.name in problem and "new router-id" in problem for problem in run.problems)
        router_id = run.router_id
    with Identity() as run:
        assert run.problems == []
        assert run.router_id == router_id


def test_a_copied_disk(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = tmp_path / "machine-id"
    monkeypatch.setattr(identity, "_MACHINE", machine)
    machine.write_text("0123456789abcdef0123456789abcdef\n")
    with Identity() as original:
        router_id = original.router_id
    assert "0123456789abcdef" not in file(folder, "json").read_text()
    machine.write_text("00000000000000000000000000000001\n")
    with Identity() as copy:
        assert copy.router_id != router_id
        assert "another machine" in copy.problems[0]
        router_id = copy.router_id
    for nothing in ("", "uninitialized\n"):  # says nothing about the machine
        machine.write_text(nothing)
        with Identity() as again:
            assert again.router_id == router_id


def test_two_daemons_with_one_folder(folder: Path) -> None:
    with Identity(), pytest.raises(Refusal, match=rf"another via6 \(pid {os.getpid()}\)") as caught:
        Identity()
    assert "VIA6_STATE" in caught.value.remedy
    Identity().close()


def test_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VIA6_STATE", str(tmp_path / "file" / "below"))
    with pytest.raises(Refusal, match="file") as caught:
        Identity()
    assert "VIA6_STATE" in caught.value.remedy


def test_nothing_but_its_own_files(folder: Path) -> None:
    with Identity() as run:
        run.save_distances([source("10.0.0.0/8")])
    assert {path.suffix for path in folder.iterdir()} == {".json", ".lock", ".distances"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


# --- feasibility distances --------------------------------------------------------------------------------------------

lengths = st.tuples(st.binary(min_size=4, max_size=4), st.integers(0, 32)) | st.tuples(
    st.binary(min_size=16, max_size=16), st.integers(0, 128)
)
entries = st.builds(
    SourceInfo,
    lengths.map(lambda made: Prefix(mask(*made), made[1])),
    st.binary(min_size=8, max_size=8),
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFF),
    st.integers(0, 100).map(float),
)


@given(st.lists(entries, max_size=20))
@settings(max_examples=50)
def test_what_is_saved_is_loaded(saved: list[SourceInfo]) -> None:
    with Identity() as run:
        assert run.save_distances(iter(saved)) == ""
        found = run.load_distances()
        assert run.problems == []

    def key(entry: SourceInfo) -> tuple[object, ...]:
        return len(entry.prefix.packed), entry.prefix, entry.router_id, entry.seqno, entry.metric

    assert sorted(map(key, found)) == sorted(map(key, saved))
    ages = sorted(entry.age_s for entry in found)
    assert all(0 <= new - old < 60 for new, old in zip(ages, sorted(e.age_s for e in saved), strict=True))


def test_they_are_read_once(folder: Path) -> None:
    """After a crash an old distance, which may be too large, is worse than none."""
    with Identity() as run:
        assert run.load_distances() == []
        run.save_distances([source("10.0.0.0/8")])
    with Identity() as run:
        assert [str(entry.prefix) for entry in run.load_distances()] == ["10.0.0.0/8"]
        assert run.load_distances() == []
    with Identity() as run:
        assert run.load_distances() == []
        assert run.problems == []


def test_the_old_ones_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """170 s old when saved: 9 s later still good, 11 s later not. The clock on the wall does not matter here."""
    made = [source("10.0.0.0/8", age_s=170), source("10.1.0.0/16"), source("10.2.0.0/16", age_s=KEPT_S + 1)]
    begin = time.clock_gettime(time.CLOCK_BOOTTIME)
    for passed, expected in ((9, ["10.0.0.0/8", "10.1.0.0/16"]), (11, ["10.1.0.0/16"]), (181, [])):
        with Identity() as run:
            monkeypatch.setattr(time, "clock_gettime", lambda _clock: begin)
            run.save_distances(made)
            monkeypatch.setattr(time, "clock_gettime", lambda _clock, passed=passed: begin + passed)
            assert [str(entry.prefix) for entry in run.load_distances()] == expected
            monkeypatch.undo()


@pytest.mark.parametrize(("passed", "expected"), [(100.0, 1), (200.0, 0), (-50_000.0, 1)])
def test_after_a_reboot_the_wall_clock_counts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, passed: float, expected: int
) -> None:
    boot = tmp_path / "boot_id"
    boot.write_text("a" * 36)
    monkeypatch.setattr(identity, "_BOOT", boot)
    now = time.time()
    with Identity() as run:
        monkeypatch.setattr(time, "time", lambda: now)
        run.save_distances([source("10.0.0.0/8")])
        boot.write_text("b" * 36)
        monkeypatch.setattr(time, "time", lambda: now + passed)
        assert len(run.load_distances()) == expected


def test_damage_is_told_and_passed_over(folder: Path) -> None:
    chance = random.Random(1)
    for turn in range(60):
        with Identity() as run:
            run.save_distances([source(f"10.{n}.0.0/16") for n in range(5)] + [source("2001:db8::/32")])
            path = file(folder, "distances")
            data = bytearray(path.read_bytes())
            if turn % 2:
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            else:
                del data[chance.randrange(len(data)) :]
            path.write_bytes(data)
            assert run.load_distances() == []
            assert len(run.problems) == 1
            assert path.name in run.problems[0]
            assert not path.exists()


@given(st.binary(max_size=200))
@settings(max_examples=100)
def test_any_octets(garbage: bytes) -> None:
    with Identity() as run:
        run.save_distances([])
        file(Path(os.environ["VIA6_STATE"]), "distances").write_bytes(garbage)
        assert run.load_distances() == []


def test_a_folder_that_cannot_be_written(folder: Path) -> None:
    with Identity() as run:
        run.save_distances([])
        (folder / f"{file(folder, 'distances').name}.new").mkdir()
        assert "distances" in run.save_distances([])
