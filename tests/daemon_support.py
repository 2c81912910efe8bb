"""What the tests of `run` and `apply` share: a running daemon, and a small IPv6-only network to run it in."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from support import Net, Nets, wait_until

PROTOCOL = "46"


class Run:
    """`via6 -n NET run FILE` in the background; `log` is what it said on stderr so far."""

    def __init__(
        self, net: Net, file: Path, *options: str, wait: bool = True, env: dict[str, str] | None = None
    ) -> None:
        self.net = net
        self.file = file
        self._log = file.with_suffix(f".{time.monotonic_ns()}.log")
        with self._log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "via6", "-n", net.name, "run", *options, str(file)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                env={**os.environ, "PYTHONWARNINGS": "error", "VIA6_STATE": str(file.parent / "state"), **(env or {})},
            )  # fmt: skip
        if wait:
            wait_until(
                lambda: "ready:" in self.log or self.process.poll() is not None, timeout=30, what="daemon is ready"
            )
            assert self.process.poll() is None, self.log

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self._log.read_text()

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def says(self, text: str, timeout: float = 10) -> None:
        wait_until(lambda: text in self.log, timeout, what=f"{text!r} in {self.log!r}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Exit code after a signal (negative: killed)."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(30)
        if number != signal.SIGKILL:
            assert "Traceback" not in self.log, self.log
        return code

    def cpu_s(self) -> float:
        """Processor time used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def switches(self) -> int:
        """Voluntary context switches: how often it woke and slept again."""
        found = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    found += int(line.split()[1])
        return found


@contextlib.contextmanager
def running(net: Net, file: Path, *options: str, wait: bool = True) -> Iterator[Run]:
    """A daemon that is ended with the block; a traceback in what it said is a fault."""
    run = Run(net, file, *options, wait=wait)
    try:
        yield run
    finally:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait(30)
    assert "Traceback" not in run.log, run.log


def declare(file: Path, *routes: str) -> Path:
    """Writes a configuration; each route as `to=… via=… metric=…`, values taken as they are."""
    tables = []
    for route in routes:
        lines = ["[[route]]"]
        for word in route.split():
            key, _, value = word.partition("=")
            lines.append(f"{key} = {value if value.isdecimal() or value.startswith('[') else repr(value)}")
        tables.append("\n".join(lines))
    file.write_text("\n\n".join(tables) + "\n")
    return file


def router(nets: Nets) -> tuple[Net, Net, Net]:
    """A router with two neighbours: eth0 to the first (2001:db8:1::/64, it is ::1), eth1 to the second
    (2001:db8:2::/64). The neighbours are ::2 there."""
    r, one, two = nets.new(), nets.new(), nets.new()
    for number, other in ((1, one), (2, two)):
        nets.veth(r, f"eth{number - 1}", other, "eth0")
        r.ip(f"addr add 2001:db8:{number}::1/64 dev eth{number - 1} nodad")
        other.ip(f"addr add 2001:db8:{number}::2/64 dev eth0 nodad")
    return r, one, two


def ours(net: Net, *words: str) -> list[str]:
    """Lines of `ip route` with protocol 46."""
    text = net.ip("route", "show", "proto", PROTOCOL, *words)
    return [entry.strip() for entry in text.splitlines()]


def objects(net: Net) -> list[str]:
    """Lines of `ip nexthop`."""
    return [entry.strip() for entry in net.ip("nexthop").splitlines()]


def state(net: Net) -> str:
    """Everything about routes and nexthop objects, as `ip` tells it, without what changes with time."""
    keep = [
        net.ip(w) for w in ("-d route show table all", "-6 -d route show table all", "-d nexthop", "rule", "-6 rule")
    ]
    return "\n".join(keep)
