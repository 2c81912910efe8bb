"""What the tests of hosts and gateways share: a via6 of any verb in the background, and a ping."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from support import Net, via6, wait_until
from via6.collect.probe import ping_many
from via6.prefix import parse_address


class Running:
    """`via6 -n NET VERB …` in the background; `log` is what it said so far."""

    def __init__(self, net: Net, folder: Path, *words: str) -> None:
        self._log = folder / f"{net}-{time.monotonic_ns()}.log"
        with self._log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "via6", "-n", net.name, *words],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                env={**os.environ, "PYTHONWARNINGS": "error", **places(net, folder)},
            )  # fmt: skip
        self.says("ready:")

    @property
    def log(self) -> str:
        return self._log.read_text()

    def says(self, text: str, timeout: float = 10) -> None:
        def so() -> bool:
            assert self.process.poll() is None or text in self.log, self.log
            return text in self.log

        wait_until(so, timeout, what=f"{text!r}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(20)
        assert "Traceback" not in self.log, self.log
        return code


def places(net: Net, folder: Path) -> dict[str, str]:
    """Where its state and its control socket are."""
    return {"VIA6_STATE": str(folder / f"state-{net}"), "VIA6_SOCKET": str(folder / f"{net}.sock")}


def neighbours(net: Net, folder: Path) -> str:
    return via6("show neighbour", netns=net, env=places(net, folder))[1]


def hosting(net: Net, folder: Path, *words: str) -> AbstractContextManager[Running]:
    return speaking(net, folder, "host", *words)


@contextmanager
def speaking(net: Net, folder: Path, *words: str) -> Iterator[Running]:
    host = Running(net, folder, *words)
    try:
        yield host
    finally:
        if host.process.poll() is None:
            host.process.kill()
            host.process.wait(20)
    assert "Traceback" not in host.log, host.log


def ping(target: str) -> int:
    return ping_many([parse_address(target)], timeout_s=3)[0].received
