"""A place of its own for a lab: everything in it is gone when the process that asked for it is gone.

Three processes. The caller forks a middle one, which leaves for new namespaces (mount, network, pid; for an ordinary
user a user namespace as well, in which it is root) and forks again: a pid namespace takes in children only. The inner
one is process 1 in there. It puts an empty tmpfs over /run, so that `ip netns` finds and leaves nothing of the
machine's, and does the work.

    caller ──PDEATHSIG──> middle ──PDEATHSIG──> inner = pid 1 ──> routers, hosts, pings

Each asks the kernel for SIGKILL when the one before it ends; with process 1 the kernel kills all that runs in the pid
namespace; with the last process the namespaces go, and all interfaces with them. So no clean-up code has to run, and
`kill -9` of the caller cleans up as well as a normal end. Two traps: entering a user namespace forgets PDEATHSIG (ask
after it), and the one before may be gone already when we ask (look, after asking).

Ctrl-C reaches all three; the caller passes on one that reached it alone. The inner one ends by KeyboardInterrupt, so
that a progress bar can give the cursor back.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

from via6.errors import FAILED, OK, Refusal
from via6.kernel.netns import CLONE_NEWNET
from via6.lab.libc import (
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    die_with_parent,
    mount,
    stay_visible,
    unshare,
)
from via6.lab.process import fork, interruptible

INTERRUPTED: Final = 130
_GRACE_S: Final = 10.0  # for the inner process to end by itself after Ctrl-C
_CAP_NET_ADMIN: Final = 12  # linux/capability.h
_CAP_SYS_ADMIN: Final = 21
_MOST_WORDS: Final = 32768  # octets of one message to the caller: less than a pipe holds


Work = Callable[[int], int]
"""What process 1 does: takes the descriptor on which it can talk to the caller, returns an exit code."""


def privileged() -> bool:
    """True if this process may make namespaces without a user namespace: root, but not root of a plain container."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            capabilities = int(line.split()[1], 16)
            return bool(capabilities >> _CAP_SYS_ADMIN & 1 and capabilities >> _CAP_NET_ADMIN & 1)
    return os.geteuid() == 0


# --- why it may be forbidden ---------------------------------------------------------------------------------------


def _sysctl(name: str) -> str:
    try:
        return Path("/proc/sys", name.replace(".", "/")).read_text().strip()
    except OSError:
        return ""


def _forbidden(error: OSError) -> Refusal:
    """Names what on this machine forbids user namespaces, and the line that allows them."""
    for name, forbids, allows in (
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("user.max_user_namespaces", "0", "15000"),
        ("user.max_net_namespaces", "0", "15000"),
        ("user.max_pid_namespaces", "0", "15000"),
        ("user.max_mnt_namespaces", "0", "15000"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ):
        if _sysctl(name) == forbids:
            return Refusal(
                f"this system forbids namespaces to ordinary users: {name} is {forbids}",
                f"run it as root, or allow them: sudo sysctl -w {name}={allows}",
            )
    if error.errno == errno.ENOSPC:
        return Refusal(
            "no more namespaces: a limit of user.max_*_namespaces is reached, or they are nested too deep",
            "`sysctl user` shows the limits; `lsns` shows the namespaces there are",
        )
    return Refusal(
        f"this system forbids namespaces here: {error.strerror}" + (f" ({error.filename})" if error.filename else ""),
        "run it as root; in a container, start that with --privileged"
        " or with --security-opt seccomp=unconfined --security-opt apparmor=unconfined",
    )


# --- the three processes -------------------------------------------------------------------------------------------


def _tell(descriptor: int, **words: Any) -> None:
    """One line of JSON to the caller; a caller that has gone does not matter, for then we go too."""
    data = json.dumps(words).encode()[:_MOST_WORDS] + b"\n"
    with contextlib.suppress(OSError):
        os.write(descriptor, data)


def _tell_refusal(descriptor: int, refusal: Refusal) -> None:
    cut = _MOST_WORDS // 8  # a character becomes at most six octets in JSON
    _tell(descriptor, refusal=[refusal.message[:cut], refusal.remedy[:cut], refusal.code])


def _leave(with_user: bool, parent: int) -> None:
    """Into new namespaces, tied to the parent. Raises Refusal."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        unshare((CLONE_NEWUSER if with_user else 0) | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET)
        if with_user:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
            Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    except OSError as error:
        raise _forbidden(error) from None
    die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(FAILED)


def _furnish() -> None:
    """An empty /run with /run/netns, nothing of it seen outside; /proc of the pid namespace where that is allowed."""
    try:
        mount("none", "/", "", MS_REC | MS_PRIVATE)
        mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    except OSError as error:
        raise _forbidden(error) from None
    os.mkdir("/run/netns")
    # Containers hide parts of /proc, and then forbid a fresh one. Only what reads /proc/PID would miss it.
    with contextlib.suppress(OSError):
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    # The terminal and the middle process may both send it: one is enough.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _inner(work: Work, leash: int, words: int) -> NoReturn:
    """Process 1: does the work and ends. `leash` is a pipe that hangs up when the middle process ends."""
    code = FAILED
    try:
        signal.signal(signal.SIGINT, _interrupt)
        die_with_parent(signal.SIGKILL)
        hung_up = select.poll()
        hung_up.register(leash, select.POLLHUP)
        if not hung_up.poll(0):
            _furnish()
            code = work(words)
        sys.stdout.flush()
    except Refusal as refusal:
        _tell_refusal(words, refusal)
        code = refusal.code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone: no fault, and nothing to flush
        code = OK
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else FAILED
    except BaseException:  # a bug: the caller shall see it, not a process 1 that goes on in its code
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


def _middle(work: Work, with_user: bool, parent: int, words: int) -> NoReturn:
    code = FAILED
    try:
        interruptible(signal.SIG_IGN)
        _leave(with_user, parent)
        leash, held = os.pipe()
        inner = os.fork()
        if inner == 0:
            os.close(held)
            _inner(work, leash, words)
        signal.signal(signal.SIGINT, lambda *_: os.kill(inner, signal.SIGINT))
        _tell(words, inner=inner)
        code = _exit_code(os.waitpid(inner, 0)[1])
    except Refusal as refusal:
        _tell_refusal(words, refusal)
        code = refusal.code
    except OSError as error:
        _tell_refusal(words, Refusal(f"no new process: {error.strerror}", "`ulimit -u` and free memory limit them"))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _start(work: Work) -> tuple[int, int]:
    """Forks the middle process: (its pid, the end of a pipe on which the two others talk)."""
    sys.stdout.flush()
    sys.stderr.flush()
    with_user = not privileged()
    parent = os.getpid()
    reading, words = os.pipe()
    middle = fork()
    if middle == 0:
        os.close(reading)
        _middle(work, with_user, parent, words)
    os.close(words)
    return middle, reading


def _end(middle: int) -> None:
    """Kills the middle process, and with it all the others; waits until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(middle, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(middle, 0)


def _interrupted(middle: int) -> None:
    """After Ctrl-C: lets the inner process end by itself for a moment, then kills."""
    os.kill(middle, signal.SIGINT)
    deadline = time.monotonic() + _GRACE_S
    while time.monotonic() < deadline:
        if os.waitpid(middle, os.WNOHANG)[0]:
            return
        time.sleep(0.01)
    _end(middle)


def _raise_refusal(said: list[dict[str, Any]]) -> None:
    for words in said:
        if "refusal" in words:
            raise Refusal(*words["refusal"])


def run(work: Callable[[], int]) -> int:
    """Runs `work` as process 1 of a sandbox and returns its exit code (128 + N after signal N, 130 after Ctrl-C).

    Passes a Refusal on; raises KeyboardInterrupt after Ctrl-C here. Leaves nothing behind, whatever happens."""
    middle, reading = _start(lambda _: work())
    with open(reading, "rb") as answers:
        try:
            code = _exit_code(os.waitpid(middle, 0)[1])
        except KeyboardInterrupt:
            _interrupted(middle)
            raise
        except BaseException:
            _end(middle)
            raise
        _raise_refusal([json.loads(line) for line in answers])
    return code


# --- a sandbox that stays ------------------------------------------------------------------------------------------


def _stay(work: Callable[[], None], going: int, words: int) -> int:
    """Process 1 of a sandbox that outlives its caller: does the work when told to, then only keeps the house."""
    os.setsid()
    if not os.read(going, 1):  # the caller ended before it could note down who we are
        return FAILED
    stay_visible()
    work()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    _tell(words, ready=True)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2:
            with contextlib.suppress(OSError):  # the one that listed them is closed already
                os.close(descriptor)
    while True:  # process 1 inherits orphans and has to bury them
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        signal.sigwait({signal.SIGCHLD})


def hold(work: Callable[[], None], note: Callable[[int], None]) -> int:
    """Runs `work` in a sandbox whose process 1 then stays, and returns the pid of that.

    `note(pid)` is called before the work begins. Until the work is done everything is tied to the caller as in `run`;
    afterwards `kill -9` of that pid ends it all. Raises Refusal."""
    going, go = os.pipe()

    def first(words: int) -> int:
        os.close(go)
        return _stay(work, going, words)

    middle, reading = _start(first)
    os.close(going)
    said: list[dict[str, Any]] = []
    try:
        with open(reading, "rb") as answers:
            for line in answers:
                said.append(json.loads(line))
                if "inner" in said[-1]:
                    note(said[-1]["inner"])
                    os.write(go, b"g")
                if "ready" in said[-1]:
                    break
    finally:
        os.close(go)
        _end(middle)
    _raise_refusal(said)
    if not said or "ready" not in said[-1]:
        raise Refusal("the lab's process ended before the lab was up")
    return int(said[0]["inner"])
