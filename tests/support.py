"""What tests share: throwaway network namespaces, the `via6` command, patience with a deadline.

    def test_it(nets):                       # the fixture `nets` of conftest.py; mark the test with @pytest.mark.root
        a, b = nets.pair()                   # two namespaces, joined by the veth pair eth0 - eth0, both ends up
        a.ip("addr add 2001:db8::1/64 dev eth0 nodad")
        code, out, err = via6("route show", netns=a)
        with a.inside():                     # this very thread, for LinuxKernel() and sockets
            kernel = LinuxKernel()
        a.call(os.listdir, "/sys/class/net") # in a forked child instead: result or exception comes back

Namespaces are called v6t-<pid>-<n>. Everything in them, processes included, goes when the test ends, however it ends.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pickle
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from via6.kernel.netns import setns
from via6.lab import sandbox

PREFIX = f"v6t-{os.getpid()}-"
RUN_MARK = "VIA6_TEST_RUN"
ROOT = Path(__file__).resolve().parent.parent
NETNS_DIR = Path("/run/netns")


def _words(words: tuple[object, ...]) -> list[str]:
    """One string is split as a shell would; several words are taken as they are."""
    if len(words) == 1 and isinstance(words[0], str):
        return shlex.split(words[0])
    return [str(w) for w in words]


def _split(words: tuple[object, ...]) -> list[str]:
    return [part for word in words for part in shlex.split(str(word))]


def run(*words: object, check: bool = True, timeout: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end with text output captured; a failure shows what it said."""
    argv = _words(words)
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False, **options)
    if check and done.returncode:
        raise AssertionError(f"{shlex.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def wait_until(predicate: Callable[[], Any], timeout: float = 5, every: float = 0.02, what: str = "") -> Any:
    """The first true value of `predicate`; an AssertionError after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {what or getattr(predicate, '__name__', predicate)}")
        time.sleep(every)
    return value


class Net:
    """One namespace of a test."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = NETNS_DIR / name

    def __str__(self) -> str:
        return self.name

    def ip(self, *words: object, check: bool = True) -> str:
        """`ip -n NAME …`, every word split; its output. With check=False the error text instead, if there is one."""
        done = run("ip", "-n", self.name, *_split(words), check=check)
        return done.stderr if done.returncode else done.stdout

    def json(self, *words: object) -> Any:
        """What `ip -n NAME -j …` prints, decoded; `ip -j` prints nothing at all for some empty tables."""
        return json.loads(run("ip", "-n", self.name, "-j", *_split(words)).stdout or "[]")

    def run(self, *words: object, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs a program inside."""
        return run("ip", "netns", "exec", self.name, *_words(words), **options)

    def spawn(self, *words: object, **options: Any) -> subprocess.Popen[str]:
        """Starts a program inside and leaves it running; the end of the test kills it."""
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.STDOUT)
        argv = ["ip", "netns", "exec", self.name, *_words(words)]
        process = subprocess.Popen(argv, text=True, **options)
        _children.append(process)
        return process

    def sysctl(self, key: str, value: object) -> None:
        """Sets net.… (given with dots or slashes) inside; a device name with a dot wants slashes."""
        path = "/proc/sys/" + (key if "/" in key else key.replace(".", "/"))
        with self.inside():
            Path(path).write_text(str(value))

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread works in the namespace; sockets opened here stay in it afterwards."""
        with open("/proc/thread-self/ns/net") as home, self.path.open() as there:
            setns(there.fileno())
            try:
                yield
            finally:
                setns(home.fileno())

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function(*args)` in a forked child inside the namespace; its result, or its exception raised here."""
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            _child(self, function, args, writer)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            data = pipe.read()
        os.waitpid(child, 0)
        good, value = pickle.loads(data)
        if not good:
            raise value
        return value

    def pids(self) -> list[int]:
        """Processes inside."""
        return [int(word) for word in run("ip", "netns", "pids", self.name, check=False).stdout.split()]


def _child(net: Net, function: Callable[..., Any], args: tuple[Any, ...], writer: int) -> None:
    try:
        with net.path.open() as there:
            setns(there.fileno())
        answer = (True, function(*args))
    except BaseException as error:
        answer = (False, error)
    try:
        data = pickle.dumps(answer)
    except Exception as error:
        data = pickle.dumps((False, AssertionError(f"{answer[1]!r} cannot be sent back: {error}")))
    with os.fdopen(writer, "wb") as pipe:
        pipe.write(data)
    # No pytest clean-up in the child.
    os._exit(0)


_children: list[subprocess.Popen[str]] = []


class Nets:
    """Makes namespaces and joins them. `close` removes them all with what runs inside."""

    _numbers = itertools.count(1)

    def __init__(self) -> None:
        self.made: list[Net] = []

    def new(self, lo: bool = True) -> Net:
        """An empty namespace; `lo` is set up, IPv6 addresses need no DAD."""
        net = Net(f"{PREFIX}{next(self._numbers)}")
        # Noted before it is made: an interrupt in between must find it.
        self.made.append(net)
        run("ip", "netns", "add", net.name)
        for scope in ("all", "default"):
            net.sysctl(f"net.ipv6.conf.{scope}.accept_dad", 0)
        if lo:
            net.ip("link set lo up")
        return net

    def veth(self, a: Net, dev_a: str, b: Net, dev_b: str, up: bool = True) -> None:
        """Joins dev_a in `a` with dev_b in `b`. `b` may be `a`."""
        a.ip("link", "add", dev_a, "type", "veth", "peer", "name", dev_b, "netns", b.name)
        if up:
            a.ip("link", "set", dev_a, "up")
            b.ip("link", "set", dev_b, "up")

    def pair(self) -> tuple[Net, Net]:
        """Two namespaces joined by eth0 - eth0."""
        a, b = self.new(), self.new()
        self.veth(a, "eth0", b, "eth0")
        return a, b

    def close(self) -> None:
        while _children:
            process = _children.pop()
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
        while self.made:
            remove(self.made.pop())


def remove(net: Net) -> None:
    """Ends what runs in a namespace and deletes it; a namespace that never came to be is no fault."""
    if not net.path.exists():
        return
    for pid in net.pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    run("ip", "netns", "del", net.name)


def link_local(net: Net, dev: str = "eth0") -> str:
    """The fe80:: address of a device, as soon as it can be used (DAD done)."""

    def usable() -> str:
        for entry in net.json("-6", "addr", "show", "dev", dev, "scope", "link"):
            for info in entry.get("addr_info", []):
                if "local" in info and not info.get("tentative"):
                    return str(info["local"])
        return ""

    return str(wait_until(usable, what=f"link-local address of {dev} in {net}"))


def via6(*words: object, netns: Net | str | None = None, timeout: float = 60, **options: Any) -> tuple[int, str, str]:
    """Runs `via6 [-n NETNS] …` as a user would: (exit code, stdout, stderr). `env` adds to the environment."""
    argv = [sys.executable, "-m", "via6", *(["-n", str(netns)] if netns else []), *_words(words)]
    options["env"] = {**os.environ, "PYTHONWARNINGS": "error", **options.get("env", {})}
    done = run(*argv, check=False, timeout=timeout, **options)
    return done.returncode, done.stdout, done.stderr


# --- after the session: has anything been left behind? ---------------------------------------------------------------


def namespaces() -> set[str]:
    """All named namespaces of this machine."""
    return set(os.listdir(NETNS_DIR)) if NETNS_DIR.is_dir() else set()


def leftover_namespaces(before: set[str] | None = None) -> list[str]:
    """Those of this run. With `before` and nobody else at work (CI): all that were not there then, such as a lab's.
    Of half a run (scripts/tests) the other half is at work: the script looks at the end."""
    anybody = before is not None and bool(os.environ.get("CI")) and not os.environ.get("VIA6_HALF")
    new = namespaces() - (before or set())
    return sorted(n for n in new if n.startswith(PREFIX) or (anybody and not n.startswith("v6t-")))


def leftover_processes() -> list[str]:
    """`pid command` of what this test run started (its environment says so) and what still lives."""
    mark = f"{RUN_MARK}={os.getpid()}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(f"{entry.name} {command.strip()}")
    return found


def in_sandbox(work: Callable[[], Any]) -> Any:
    """The result or the exception of `work` in a sandbox."""
    reading, writing = os.pipe()

    def run() -> int:
        try:
            answer = work()
        except BaseException as error:
            answer = error
        with open(writing, "wb") as stream:
            pickle.dump(answer, stream)
        return 0

    sandbox.run(run)
    os.close(writing)
    with open(reading, "rb") as stream:
        answer = pickle.load(stream)
    if isinstance(answer, BaseException):
        raise answer
    return answer
