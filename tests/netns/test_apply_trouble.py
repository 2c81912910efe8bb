"""`via6 plan`, `apply`, `confirm` and `undo` when something is in the way; the plain cases are in test_apply.py."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import support
from daemon_support import declare, ours, router, running, state
from support import Net, Nets, wait_until

pytestmark = pytest.mark.root


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a configuration may be written; the journal lies beside it."""
    monkeypatch.setenv("VIA6_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    return tmp_path / "via6.toml"


def via6(*words: object, netns: Net, env: dict[str, str] | None = None, **options: Any) -> tuple[int, str, str]:
    code, out, err = support.via6(*words, netns=netns, env=env or {}, **options)
    assert "Traceback" not in err, err
    return code, out, err


def good(*words: object, netns: Net) -> str:
    code, out, err = via6(*words, netns=netns)
    assert code == 0, out + err
    return out


TWO = ("to=10.0.0.0/8 via=2001:db8:1::2", "to=10.1.0.0/16 via=['2001:db8:1::2','2001:db8:2::2']")


# --- plan -------------------------------------------------------------------------------------------------------------


def test_plan_after_apply_is_empty(nets: Nets, conf: Path) -> None:
    r, *_ = router(nets)
    declare(
        conf, *TWO, "to=10.2.0.0/16 type=blackhole", "to=2001:db8:9::/48 via=2001:db8:2::2", "to=10.3.0.0/16 dev=eth0"
    )
    good("apply", conf, netns=r)
    code, out, _ = via6("plan", "--exit-code", conf, netns=r)
    assert (code, out) == (0, "nothing to change\n")
    before = state(r)
    assert "nothing was changed" in good("apply", conf, netns=r)
    assert state(r) == before
    declare(conf, "to=10.0.0.0/8 via=2001:db8:2::2")
    out = via6("plan", conf, netns=r)[1]
    assert "~ 10.0.0.0/8 via inet6 2001:db8:2::2 dev eth1" in out
    assert "- 10.1.0.0/16" in out
    assert "0 to add, 1 to change, 4 to remove" in out


def test_plan_beside_a_daemon(nets: Nets, conf: Path) -> None:
    r, *_ = router(nets)
    declare(conf, *TWO)
    with running(r, conf):
        assert via6("plan", "--exit-code", conf, netns=r)[0] == 0
        for verb in (("apply", conf), ("undo",), ("confirm",)):
            code, _, err = via6(*verb, netns=r)
            assert code == 1
            assert "another via6 (pid " in err


# --- apply ------------------------------------------------------------------------------------------------------------


def test_multipath_is_all_or_nothing(nets: Nets, conf: Path) -> None:
    r, one, _ = router(nets)
    declare(conf, "to=10.0.0.0/8 via=['2001:db8:1::2','2001:db8:66::2']", "to=10.1.0.0/16 via=2001:db8:1::2")
    code, out, _ = via6("apply", conf, netns=r)
    assert code == 1
    assert "2001:db8:66::2" in out
    assert not r.ip("route show 10.0.0.0/8")
    assert r.ip("route show 10.1.0.0/16")
    one.ip("link set eth0 down")
    wait_until(lambda: "NO-CARRIER" in r.ip("link show eth0"))
    declare(conf, "to=10.0.0.0/8 via=['2001:db8:1::2','2001:db8:2::2']")
    code, out, _ = via6("apply", conf, netns=r)
    assert code == 1
    assert "no carrier" in out
    assert not r.ip("route show 10.0.0.0/8")


def test_a_bad_file_changes_nothing(nets: Nets, conf: Path) -> None:
    r, *_ = router(nets)
    declare(conf, *TWO)
    good("apply", conf, netns=r)
    before = state(r)
    for text in (
        "[[route]]\n",
        "x = [",
        "[[route]]\nto='10.0.0.1/8'\nvia='fe80::1%eth0'\n",
        "\0",
        "[[route]]\nto='::1.2.3.4/0'",
    ):
        conf.write_text(text)
        for verb in ("plan", "apply", "run"):
            code, _, err = via6(verb, conf, netns=r)
            assert code == 1, err
            assert str(conf) in err, err
        assert state(r) == before


def test_from_standard_input(nets: Nets, conf: Path) -> None:
    r, *_ = router(nets)
    text = declare(conf, *TWO).read_text()
    code, out, err = via6("apply -", netns=r, input=text)
    assert code == 0, err
    assert "2 added" in out, err
    assert via6("plan --exit-code -", netns=r, input=text)[0] == 0


# --- undo -------------------------------------------------------------------------------------------------------------


def test_undo_restores_exactly(nets: Nets, conf: Path) -> None:
    r, *_ = router(nets)
    r.ip("addr add 192.0.2.1/32 dev lo")
    declare(
        conf, *TWO, "to=10.2.0.0/16 via=2001:db8:2::2 metric=7 src=192.0.2.1 mtu=1400",
        "to=10.4.0.0/16 type=unreachable", "to=2001:db8:9::/48 via=2001:db8:2::2",
    )  # fmt: skip
    empty = without_ids(r)
    good("apply", conf, netns=r)
    before = without_ids(r)
    declare(
        conf,
        "to=10.0.0.0/8 via=['2001:db8:1::2','2001:db8:2::2']",
        "to=10.9.0.0/16 via=2001:db8:2::2",
        "to=2001:db8:9::/48 via=2001:db8:1::2",
    )
    good("apply", conf, netns=r)
    assert without_ids(r) != before
    out = good("undo", netns=r)
    assert "3 added, 2 changed, 1 removed" in out, out
    assert without_ids(r) == before
    code, _, err = via6("undo", netns=r)
    assert code == 1
    assert "no apply to take back" in err
    declare(conf)
    good("apply", conf, netns=r)
    assert without_ids(r) == empty


def without_ids(net: Net) -> list[str]:
    """All routes, sorted, without the numbers that the kernel's nexthop objects happen to have."""
    lines = []
    for family in ("-4", "-6"):
        for entry in net.json(f"{family} -d route show table all"):
            for hop in (entry, entry.get("nh_info", {}), *entry.get("nexthops", [])):
                hop.pop("nhid", None)
                hop.pop("id", None)
            lines.append(json.dumps(entry, sort_keys=True))
    hops = [{k: v for k, v in o.items() if k not in ("id", "group")} for o in net.json("-d nexthop")]
    return sorted(lines) + sorted(json.dumps(o, sort_keys=True) for o in hops)


def test_undo_leaves_alone_what_another_hand_changed(nets: Nets, conf: Path) -> None:
    r, *_ = router(nets)
    declare(conf, *TWO, "to=10.2.0.0/16 via=2001:db8:2::2", "to=10.3.0.0/16 via=2001:db8:2::2")
    good("apply", conf, netns=r)
    r.ip("route replace 10.0.0.0/8 via inet6 2001:db8:2::2 dev eth1 proto static")
    r.ip("route del 10.2.0.0/16")
    code, out, err = via6("undo", netns=r)
    assert "10.0.0.0/8 was changed by another hand since: left alone" in err
    assert code == 0
    assert "10.1.0.0/16" in out
    assert "10.3.0.0/16" in out
    assert "0 added, 0 changed, 2 removed" in out
    assert "eth1 proto static" in r.ip("route show 10.0.0.0/8")
    assert not ours(r)


def test_the_journal_of_a_dead_namespace_is_not_used(nets: Nets, conf: Path) -> None:
    """Inode numbers of namespaces are used again."""
    r, *_ = router(nets)
    declare(conf, *TWO)
    good("apply", conf, netns=r)
    declare(conf)
    good("apply", conf, netns=r)  # its undo would add two routes
    (journal,) = (conf.parent / "state").glob("apply-*.json")
    other, *_ = router(nets)
    inode = other.call(os.stat, "/proc/self/ns/net").st_ino
    shutil.copy(journal, journal.with_name(f"apply-{inode}.json"))
    code, _, err = via6("undo", netns=other)
    assert code == 1
    assert "namespace that is gone" in err
    assert not ours(other)


@pytest.mark.parametrize("garbage", [b"", b"{", b"null", b"\xff\xfe", b'{"file":1}', b"[" * 100_000])
def test_a_journal_of_garbage(nets: Nets, conf: Path, garbage: bytes) -> None:
    r, *_ = router(nets)
    declare(conf, *TWO)
    good("apply", conf, netns=r)
    (journal,) = (conf.parent / "state").glob("apply-*.json")
    journal.write_bytes(garbage)
    before = state(r)
    for verb in ("undo", "confirm"):
        code, _, err = via6(verb, netns=r)
        assert code == 1
        assert str(journal) in err
        assert "remove the file" in err
    assert state(r) == before
    declare(conf, TWO[0])
    good("apply", conf, netns=r)


# --- confirm ----------------------------------------------------------------------------------------------------------


def test_not_confirmed_is_taken_back_in_time(nets: Nets, conf: Path) -> None:
    r, *_ = router(nets)
    declare(conf, TWO[0])
    good("apply", conf, netns=r)
    before = without_ids(r)
    declare(conf, *TWO)
    start = time.monotonic()
    good("apply", "--confirm", "2", conf, netns=r)
    assert len(ours(r)) > 1
    wait_until(lambda: without_ids(r) == before, 6)
    assert 1.9 < time.monotonic() - start < 5
    wait_until(lambda: not watchers(conf), what="no process stays behind")


def watchers(conf: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and str(conf).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def test_taken_back_when_the_terminal_is_gone(nets: Nets, conf: Path) -> None:
    """The session's leader dies with its terminal, all of its processes get SIGHUP."""
    r, *_ = router(nets)
    declare(conf, *TWO)
    child, master = pty.fork()
    if child == 0:
        os.execv("/bin/sh", ["sh", "-c", f"{sys.executable} -m via6 -n {r.name} apply --confirm 3 {conf}; sleep 100"])
    try:
        wait_until(lambda: len(ours(r)) > 1 and watchers(conf), 20)
        time.sleep(0.5)
    finally:
        os.close(master)  # hang up
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ours(r)
    wait_until(lambda: not ours(r), 10)


def test_pending_refuses_others(nets: Nets, conf: Path) -> None:
    r, *_ = router(nets)
    declare(conf, TWO[0])
    good("apply", "--confirm", "60", conf, netns=r)
    declare(conf, *TWO)
    for verb in ("apply", "apply --confirm 5", "run"):
        code, _, err = via6(*verb.split(), conf, netns=r)
        assert code == 1
        assert "waits for confirmation" in err
        assert "via6 confirm" in err
    good("undo", netns=r)
    assert not ours(r)
    wait_until(lambda: not watchers(conf))
    good("apply", conf, netns=r)


def test_a_watcher_that_was_killed_blocks_nothing(nets: Nets, conf: Path) -> None:
    r, *_ = router(nets)
    declare(conf, TWO[0])
    good("apply", "--confirm", "60", conf, netns=r)
    for pid in watchers(conf):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not watchers(conf))
    assert via6("confirm", netns=r)[0] == 1
    good("undo", netns=r)
    assert not ours(r)


@pytest.mark.parametrize("seconds", ["0", "-1", "x", "", "9" * 50, "1.5", "١"])
def test_seconds(nets: Nets, conf: Path, seconds: str) -> None:
    r = nets.new()
    declare(conf)
    assert via6("apply", f"--confirm={seconds}", conf, netns=r)[0] == 2


# --- ssh --------------------------------------------------------------------------------------------------------------


CUTS = [
    ("2001:db8:f::1", "::/0", "2001:db8:2::2"),
    ("2001:db8:f::1", "2001:db8:f::/48", "2001:db8:2::2"),
    ("198.51.100.7", "198.51.100.0/24", "2001:db8:2::2"),
    ("198.51.100.7", "0.0.0.0/0", "2001:db8:2::2"),
    ("fe80::7%eth0", "fe80::7/128", "2001:db8:2::2"),
]


@pytest.mark.parametrize(("client", "to", "via"), CUTS)
def test_does_not_cut_the_ssh_session(nets: Nets, conf: Path, client: str, to: str, via: str) -> None:
    r, *_ = router(nets)
    r.ip("addr add 203.0.113.1/32 dev lo")
    r.ip("-6 route add default via 2001:db8:1::2 metric 2048")
    r.ip("-4 route add default via inet6 2001:db8:1::2 dev eth0 metric 5")
    server = "203.0.113.1" if "." in client else "2001:db8:1::1"
    if "%" in client:
        server = f"{support.link_local(r)}%eth0"
        client = client.partition("%")[0]
    env = {"SSH_CONNECTION": f"{client}{'%eth0' if 'eth0' in server else ''} 50000 {server} 22"}
    declare(conf, f"to={to} via={via}", "to=10.1.0.0/16 via=2001:db8:2::2")
    before = state(r)
    code, _, err = via6("apply", conf, netns=r, env=env)
    assert code == 1
    assert f"this would change the way to {client}" in err
    assert "--accept-risk=lose-ssh" in err
    assert state(r) == before
    code, out, err = via6("apply", "--accept-risk=lose-ssh", conf, netns=r, env=env)
    assert code == 0, out + err
    code, _, err = via6("apply", declare(conf.with_name("b.toml")), netns=r, env=env)
    assert code == 1
    assert "this would change the way" in err  # removing cuts, too


def test_what_leaves_the_way_to_the_client_is_done(nets: Nets, conf: Path) -> None:
    r, *_ = router(nets)
    env = {"SSH_CONNECTION": "198.51.100.7 50000 203.0.113.1 22"}
    r.ip("addr add 203.0.113.1/32 dev lo")
    r.ip("route add 198.51.100.0/24 via inet6 2001:db8:1::2 dev eth0")
    declare(
        conf, "to=0.0.0.0/0 via=2001:db8:2::2", "to=198.51.100.0/25 via=2001:db8:1::2",
        "to=198.51.100.0/24 via=2001:db8:2::2 metric=9",
        "to=198.51.100.7/32 via=2001:db8:2::2 table=100", "to=198.51.100.128/25 via=2001:db8:2::2",
    )  # fmt: skip
    code, out, err = via6("apply", conf, netns=r, env=env)
    assert code == 0, out + err
    # Into a slot that is taken the kernel adds nothing, so nothing is cut.
    declare(conf, "to=198.51.100.0/24 via=2001:db8:2::2", "to=198.51.100.0/25 via=2001:db8:1::2")
    code, out, err = via6("apply", conf, netns=r, env=env)
    assert code == 1, out + err
    assert "another hand's route" in out, out + err


def test_a_session_that_ends_elsewhere_does_not_count(nets: Nets, conf: Path) -> None:
    r, *_ = router(nets)
    declare(conf, "to=0.0.0.0/0 via=2001:db8:2::2")
    env = {"SSH_CONNECTION": "198.51.100.7 50000 203.0.113.99 22"}
    assert via6("apply", conf, netns=r, env=env)[0] == 0


@pytest.mark.parametrize("value", ["", "x", "1 2 3 4", "UNKNOWN 65535 UNKNOWN 65535", "fe80::1%% 1 ::1 2", "\x01 2 3"])
def test_an_odd_ssh_connection(nets: Nets, conf: Path, value: str) -> None:
    r, *_ = router(nets)
    declare(conf, TWO[0])
    assert via6("apply", conf, netns=r, env={"SSH_CONNECTION": value})[0] == 0


# --- without privilege ------------------------------------------------------------------------------------------------


def test_without_root(nets: Nets, conf: Path) -> None:
    r, *_ = router(nets)
    declare(conf, *TWO)
    before = state(r)
    conf.parent.chmod(0o755)
    for parent in list(conf.parents)[1:3]:
        if str(parent) != "/tmp" and str(parent) != "/":
            parent.chmod(0o755)
    mine = conf.parent / "mine"
    mine.mkdir()
    mine.chmod(0o777)
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    for verb in ("undo", "apply", "run", "plan"):
        words = [verb] if verb == "undo" else [verb, str(conf)]
        done = r.run(
            *drop, sys.executable, "-m", "via6", *words, check=False,
            env={**os.environ, "VIA6_STATE": str(mine), "HOME": "/"},
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        if verb == "plan":
            assert done.returncode == 0, done.stderr
            continue
        assert done.returncode == 1, (verb, done.stdout, done.stderr)
        assert done.stderr.startswith("via6: "), (verb, done.stdout, done.stderr)
        if verb != "undo":
            assert "run it as root" in done.stderr, (verb, done.stderr)
    code = support.run(*drop, sys.executable, "-m", "via6", "-n", r.name, "plan", conf, check=False)
    assert code.returncode == 1
    assert "run it as root" in code.stderr
    assert state(r) == before
