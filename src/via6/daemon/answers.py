"""What the daemon answers to `via6 show`, `monitor` and `status`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from via6.babel.model import InterfaceInfo, NeighbourInfo, RouteInfo, SourceInfo
from via6.daemon.sysctl import Sysctls, path, read
from via6.engine import Engine
from via6.observe.babel import Status
from via6.prefix import Prefix

if TYPE_CHECKING:
    from via6.daemon.babel import Babel


class AnswersOf:
    """Implements `control.Answers`; without Babel the tables are empty."""

    def __init__(self, engine: Engine, babel: Babel | None, sysctls: Sysctls, file: str) -> None:
        self._engine = engine
        self._babel = babel
        self._sysctls = sysctls
        self._file = file

    def neighbours(self) -> Iterable[NeighbourInfo]:
        return self._babel.neighbours() if self._babel else ()

    def interfaces(self) -> Iterable[InterfaceInfo]:
        return self._babel.interfaces() if self._babel else ()

    def routes(self) -> Iterable[RouteInfo]:
        return self._babel.routes() if self._babel else ()

    def routes_of(self, prefix: Prefix) -> Iterable[RouteInfo]:
        return self._babel.routes_of(prefix) if self._babel else ()

    def sources(self) -> Iterable[SourceInfo]:
        return self._babel.sources() if self._babel else ()

    def status(self) -> Status:
        speaker = self._babel.speaker if self._babel else None
        waiting = sum(len(unmet.specs) for unmet in self._engine.unmet if not unmet.partial)
        return Status(
            router_id=speaker.router_id if speaker else b"",
            seqno=speaker.seqno if speaker else 0,
            file=self._file,
            fib=self._engine.fib.counts(),
            waiting=waiting,
            warnings=self._babel.warnings() if self._babel else (),
            sysctls=tuple(self._sysctl(name, old) for name, old in self._sysctls.changed.items()),
            counters=dict(sorted(speaker.counters.items())) if speaker else {},
            policy=self._babel.policy() if self._babel else None,
        )

    def _sysctl(self, name: str, old: str) -> tuple[str, str, str]:
        place = path(name)
        shown = str(place).removeprefix("/proc/sys/").replace("/", ".") if place else name
        return shown, old, read(name) or "gone"
