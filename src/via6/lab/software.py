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

from via6.lab.libc import hostname
from via6.lab.routes import StaticRoute, as_config, as_ip_batch
from via6.lab.topology import Router

if TYPE_CHECKING:
    from via6.lab.namespaces import Lab

_STOP_S: Final = 5.0
_RTPROT_BABEL: Final = 42


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


def _via6_command(*words: str) -> list[str]:
    # -P: a folder `via6` where the user stands is not the program.
    return [sys.executable, "-P", "-m", "via6", *words]


def _via6(lab: Lab, router: Router, _routes: tuple[StaticRoute, ...]) -> Daemon:
    from via6.lab import speakers

    key_file = lab.folder / f"{router.name}.key"
    if router.key:
        key_file.touch(0o600)
        key_file.write_text(speakers.via6_key_file(router))
    words = speakers.via6_words(lab.topology, router, key_file)
    if any(cable.cost != 1 for _, _, cable in lab.topology.ports[router.name]):
        config = lab.folder / f"{router.name}.toml"
        config.write_text(speakers.via6_config(lab.topology, router, key_file))
        words = ["run", str(config)]
    # Its control socket has a name in the router's network namespace: `via6 -n ROUTER show` finds it.
    environment = {"VIA6_SOCKET": "", "VIA6_STATE": str(lab.folder / f"{router.name}.state")}
    with lab.inside(router.name), hostname(router.name):
        return spawn(_via6_command(*words), lab.folder / f"{router.name}.log", environment)


def _via6_static(lab: Lab, router: Router, routes: tuple[StaticRoute, ...]) -> Daemon:
    config = lab.folder / f"{router.name}.toml"
    config.write_text(as_config(routes, f"router {router.name} of the lab {lab.topology.name}"))
    with lab.inside(router.name), hostname(router.name):
        return spawn(_via6_command("run", str(config)), lab.folder / f"{router.name}.log")


def _babeld(lab: Lab, router: Router, _routes: tuple[StaticRoute, ...]) -> Daemon:
    from via6.lab import speakers
    from via6.lab.namespaces import ip_program

    path = speakers.program(router.software)
    stem = lab.folder / router.name
    stem.with_suffix(".conf").write_text(speakers.babeld_config(lab.topology, router))
    control = control_socket(lab.folder, router.name)
    pid_file = stem.with_suffix(".pid")
    if pid_file.exists():  # one was killed here: babeld does not start then, and takes its stale routes for good ones
        lab.exec(router.name, [ip_program(), "-4", "route", "flush", "proto", str(_RTPROT_BABEL)])
    for left in (pid_file, control):
        left.unlink(missing_ok=True)
    argv = [path, "-c", f"{stem}.conf", "-I", f"{stem}.pid", "-S", f"{stem}.state", "-G", str(control)]
    with lab.inside(router.name):
        return spawn(argv, lab.folder / f"{router.name}.log")


def _bird(lab: Lab, router: Router, _routes: tuple[StaticRoute, ...]) -> Daemon:
    from via6.lab import speakers

    path = speakers.program(router.software)
    config = lab.folder / f"{router.name}.conf"
    config.write_text(speakers.bird_config(lab.topology, router))
    argv = [path, "-f", "-c", str(config), "-s", str(control_socket(lab.folder, router.name))]
    with lab.inside(router.name):
        return spawn(argv, lab.folder / f"{router.name}.log")


def control_socket(folder: Path, node: str) -> Path:
    """Where babeld (as with its -G) or BIRD (for birdc -s) listens for questions."""
    return folder / f"{node}.sock"


def _static(lab: Lab, router: Router, routes: tuple[StaticRoute, ...]) -> None:
    from via6.lab.namespaces import ip_batch

    ip_batch(as_ip_batch(routes).splitlines(), lab.namespace(router.name))


def _none(_lab: Lab, _router: Router, _routes: tuple[StaticRoute, ...]) -> None:
    return None


Runner = Callable[["Lab", Router, tuple[StaticRoute, ...]], Daemon | None]
RUNNERS: Final[dict[str, Runner]] = {
    "via6": _via6, "via6-static": _via6_static, "babeld": _babeld, "babeld-13": _babeld, "bird": _bird, "bird3": _bird,
    "static": _static, "none": _none,
}  # fmt: skip
