"""The place that is gone when its process is gone: as root and as an ordinary user, however it ends."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import wait_until
from via6.errors import Refusal
from via6.kernel.netns import CLONE_NEWNET
from via6.lab import sandbox
from via6.lab.libc import CLONE_NEWNS, CLONE_NEWUSER, stay_visible, unshare

NOBODY = 65534

# What a process does that sits in a sandbox until somebody ends it; it says what it can see.
SITTER = """
import os, subprocess, sys, time
from via6.lab import sandbox
def work():
    subprocess.Popen(["sleep", "98765"])
    subprocess.Popen(["sleep", "98765"], start_new_session=True)
    try:
        print("ready", flush=True)  # from here on Ctrl-C may come
        time.sleep(60)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        raise
    return 0
try:
    sys.exit(sandbox.run(work))
except KeyboardInterrupt:
    sys.exit(130)
"""


def forked(work: Callable[[], Any], uid: int = 0) -> Any:
    """The result or the exception of `work` in a child, as another user if `uid` says so."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if uid:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                stay_visible()
            answer = work()
        except BaseException as error:
            answer = error
        with open(writing, "wb") as stream:
            stream.write(pickle.dumps(answer))
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as stream:
        answer = pickle.loads(stream.read())
    os.waitpid(child, 0)
    if isinstance(answer, BaseException):
        raise answer
    return answer


def look() -> int:
    """In a sandbox: sees that it is one."""
    assert os.getpid() == 1
    assert os.getuid() == 0
    assert os.listdir("/run") == ["netns"]
    for words in ("netns add x", "link add name eth1 netns x type veth peer name eth2", "-n x link set dev eth1 up"):
        subprocess.run(["ip", *words.split()], check=True)
    assert sorted(os.listdir("/run/netns")) == ["x"]
    return 7


def test_a_sandbox() -> None:
    assert sandbox.run(look) == 7
    assert not Path("/run/netns/x").exists()


@pytest.mark.root
def test_a_sandbox_of_an_ordinary_user() -> None:
    assert forked(lambda: (os.getuid(), sandbox.privileged(), sandbox.run(look)), NOBODY) == (NOBODY, False, 7)


@pytest.mark.root
def test_a_lab_of_an_ordinary_user(tmp_path: Path) -> None:
    from via6.lab.routes import static_routes
    from via6.lab.run import examine
    from via6.lab.topology import load

    file = tmp_path / "x.toml"
    file.write_text(
        '[lab]\nsoftware="static"\n[router.a]\nlan="10.1.0.0/24"\n[router.b]\nlan="10.2.0.0/24"\n[[link]]\nends=["a","b"]'
    )
    topology = load(str(file))
    # An ordinary user may not be able to read the modules that are imported on the way.
    static_routes(topology)
    sandbox.run(lambda: len(str(examine(topology, 5, lambda _: None))) and 0)
    import via6.collect.probe
    import via6.kernel.linux
    import via6.lab.reach  # noqa: F401

    def work() -> int:
        report = examine(topology, 5, lambda _: None)
        return 0 if report.good and report.reach.reachable == 2 else 1

    assert forked(lambda: sandbox.run(work), NOBODY) == 0


def test_a_refusal_comes_through() -> None:
    def work() -> int:
        raise Refusal("no", "do this", 4)

    with pytest.raises(Refusal) as caught:
        sandbox.run(work)
    assert (caught.value.message, caught.value.remedy, caught.value.code) == ("no", "do this", 4)


def test_exit_codes() -> None:
    def killed() -> int:
        child = os.fork()
        if not child:
            os.kill(os.getpid(), signal.SIGTERM)
        return sandbox._exit_code(os.waitpid(child, 0)[1])

    def leave() -> int:
        sys.exit(9)

    assert sandbox.run(killed) == 128 + signal.SIGTERM
    assert sandbox.run(leave) == 9
    assert sandbox.run(lambda: 0) == 0


def test_a_bug_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise ZeroDivisionError("a bug")

    assert sandbox.run(work) == 1
    assert "ZeroDivisionError: a bug" in capfd.readouterr().err


def sleepers() -> set[int]:
    """The processes of SITTER that live."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and b"98765" in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def sitter(**options: Any) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", SITTER], stdout=subprocess.PIPE, text=True, **options)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_killed_it_leaves_nothing(number: signal.Signals) -> None:
    before = sleepers()
    with sitter() as process:
        assert len(sleepers() - before) >= 2
        process.send_signal(number)
        assert process.wait(5) == -number
    wait_until(lambda: not sleepers() - before, what="the processes of the sandbox are gone")


@pytest.mark.parametrize("whole_group", [False, True])
def test_interrupted_it_ends_cleanly(whole_group: bool) -> None:
    before = sleepers()
    with sitter(start_new_session=True, stderr=subprocess.PIPE) as process:
        began = time.monotonic()
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=10)
        assert (process.returncode, out, err) == (130, "interrupted\n", "")
        assert time.monotonic() - began < 8  # it was not killed after its time of grace
    wait_until(lambda: not sleepers() - before, what="the processes of the sandbox are gone")


def test_where_it_is_forbidden() -> None:
    def work() -> int:
        uid, gid = os.getuid(), os.getgid()
        unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
        Path("/proc/sys/user/max_net_namespaces").write_text("0")
        return sandbox.run(lambda: 0)

    with pytest.raises(Refusal) as caught:
        forked(work)
    assert "user.max_net_namespaces is 0" in caught.value.message
    assert "sudo sysctl -w user.max_net_namespaces=15000" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("kernel.unprivileged_userns_clone", "0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"),
        ("user.max_user_namespaces", "0", "sudo sysctl -w user.max_user_namespaces=15000"),
        ("", "", "--security-opt seccomp=unconfined"),
    ],
)  # fmt: skip
def test_what_forbids_it_is_named(name: str, value: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_sysctl", lambda asked: value if asked == name else "")
    refusal = sandbox._forbidden(OSError(errno.EPERM, "Operation not permitted", "unshare"))
    assert name in refusal.message
    assert remedy in refusal.remedy


def test_a_sandbox_that_stays() -> None:
    noted: list[int] = []
    reading, writing = os.pipe()
    holder = sandbox.hold(lambda: os.write(writing, b"done") and None, noted.append)
    try:
        assert noted == [holder]
        os.close(writing)
        assert os.read(reading, 9) == b"done"
        assert os.readlink(f"/proc/{holder}/ns/net") != os.readlink("/proc/self/ns/net")
        assert os.listdir(f"/proc/{holder}/root/run") == ["netns"]
        assert len(os.listdir(f"/proc/{holder}/fd")) == 3
    finally:
        os.close(reading)
        os.kill(holder, signal.SIGKILL)


def test_a_sandbox_that_was_to_stay_and_failed() -> None:
    def work() -> None:
        raise Refusal("not today")

    noted: list[int] = []
    with pytest.raises(Refusal, match="not today"):
        sandbox.hold(work, noted.append)
    assert len(noted) == 1
