"""What a router runs. A runner starts it and returns the process, or None if there is none to look after."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from via6.lab.routes import StaticRoute, as_config, as_ip_batch
from via6.lab.topology import Router

if TYPE_CHECKING:
    from via6.lab.namespaces import Lab

_STOP_S: Final = 5.0


@dataclass
class Daemon:
    """A program that runs on a router, a child of this process. `code` is set once it has ended."""

    pid: int
    log: Path
    code: int | None = None

    def poll(self) -> int | None:
        """Its exit code (negative: the signal), None while it runs."""
        if self.code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self.code = 0
            else:
                self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Sends a signal; nothing if it has ended. Its pid is ours until it is waited for, so no other gets it."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def stop(self, number: int) -> None:
        """Sends a signal and waits for the end; after some seconds the signal is SIGKILL."""
        self.kill(number)
        deadline = time.monotonic() + _STOP_S
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
            time.sleep(0.002)

    def last_words(self) -> str:
        """How it ended and the last line it wrote; empty while it runs."""
        code = self.poll()
        if code is None:
            return ""
        lines = self.log.read_text(errors="replace").split("\n") if self.log.exists() else []
        said = next((line for line in reversed(lines) if line.strip()), "without a word")
        return f"ended with {code}: {said}"


def spawn(argv: list[str], log: Path, environment: dict[str, str] | None = None) -> Daemon:
    """Starts a program in a session of its own (Ctrl-C is not for it), its output in a file."""
    pid = os.posix_spawn(
        argv[0],
        argv,
        {**os.environ, **(environment or {})},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigdef=[signal.SIGINT],
    )
    return Daemon(pid, log)


def _via6(lab: Lab, router: Router, routes: tuple[StaticRoute, ...]) -> Daemon:
    config = lab.folder / f"{router.name}.toml"
    config.write_text(as_config(routes, f"router {router.name} of the lab {lab.topology.name}"))
    # -P: a folder `via6` where the user stands is not the program.
    argv = [sys.executable, "-P", "-m", "via6", "run", str(config)]
    with lab.inside(router.name):
        return spawn(argv, lab.folder / f"{router.name}.log")


def _static(lab: Lab, router: Router, routes: tuple[StaticRoute, ...]) -> None:
    from via6.lab.namespaces import ip_batch

    ip_batch(as_ip_batch(routes).splitlines(), lab.namespace(router.name))


def _none(_lab: Lab, _router: Router, _routes: tuple[StaticRoute, ...]) -> None:
    return None


Runner = Callable[["Lab", Router, tuple[StaticRoute, ...]], Daemon | None]
RUNNERS: Final[dict[str, Runner]] = {"via6": _via6, "static": _static, "none": _none}
