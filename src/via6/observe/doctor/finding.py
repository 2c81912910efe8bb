"""A finding, and what it is found in.

A check is a function from a Case to findings; it reads values and sends nothing. It says a cause, not a symptom: what
follows from another finding names it in `depends_on`, and is folded under it. What a Case does not hold is no reason
for a finding: a healthy node has none, and a snapshot that says little finds little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from via6.observe.doctor.measured import Measured
from via6.observe.node import Node
from via6.observe.trace.model import Trace
from via6.observe.verify.links import Segments
from via6.observe.verify.table import Lookup, lookup
from via6.prefix import Address

ERROR: Final = "error"  # packets are lost now
WARNING: Final = "warning"  # some are, or will be
INFO: Final = "info"


@dataclass(frozen=True, slots=True)
class SetSysctl:
    """A mending that is a number under /proc/sys: `net/ipv4/conf/eth1/forwarding`."""

    path: str
    value: int


@dataclass(frozen=True, slots=True)
class RunCommand:
    """A mending that is a command, and the command that takes it back (empty: there is none, so it is not safe). What
    `look` prints is kept: if it prints something else by the time of the undo, another hand was there."""

    command: tuple[str, ...]
    undo: tuple[str, ...] = ()
    look: tuple[str, ...] = ()


Fix = SetSysctl | RunCommand


@dataclass(frozen=True, slots=True)
class Finding:
    """`code` is stable (`forwarding-off`), `subject` what it is about on this node (a device, a prefix, an address),
    `title` one sentence, `evidence` what was read or tried, `breaks` what does not work because of it, `remedy`
    commands that a person can paste (a line with `#` before it is an advice), `depends_on` the ids of the findings that
    it follows from, `fixes` what `--fix` does (only what is safe: it can be undone and loses no packet that passes).

    `places` are the (node, device) that it is about, for `registry.FOLLOWS`: a finding follows from one that has a
    place of it, if its code is one that can. A device "" is the whole node. None given: the whole node."""

    code: str
    severity: str
    title: str
    evidence: tuple[str, ...] = ()
    breaks: str = ""
    remedy: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    node: str = ""
    subject: str = ""
    fixes: tuple[Fix, ...] = ()
    places: tuple[tuple[str, str], ...] = ()

    @property
    def id(self) -> str:
        """Names this finding among all of a report."""
        return ":".join(filter(None, (self.code, self.node, self.subject)))

    @property
    def fixable(self) -> bool:
        """True if `--fix` mends it."""
        return bool(self.fixes)


class Company:
    """The nodes of a network, and what is dear to know of them all: the cases of one network share it."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = tuple(nodes)
        self._tables: dict[int, Lookup] = {}

    @cached_property
    def segments(self) -> Segments:
        """Who is on one link with whom."""
        return Segments(self.nodes)

    def table(self, at: int) -> Lookup:
        """The IPv4 lookup of a node."""
        if at not in self._tables:
            self._tables[at] = lookup(self.nodes[at])
        return self._tables[at]


@dataclass(frozen=True)
class Case:
    """What is examined: one node, what was tried there (nothing on paper), the other nodes as far as they are known,
    and where packets are to go, if that was asked (with the way there, if it was traced). `shared`: see `cases`."""

    node: Node
    measured: Measured = field(default_factory=Measured)
    others: tuple[Node, ...] = ()
    target: Address | None = None
    trace: Trace | None = None
    shared: Company | None = None

    @cached_property
    def company(self) -> Company:
        """The node and all others, in any order."""
        return self.shared or Company((self.node, *self.others))

    @cached_property
    def at(self) -> int:
        """The place of the node there."""
        return next(at for at, node in enumerate(self.company.nodes) if node is self.node)


def cases(
    found: Sequence[tuple[Node, Measured]], target: Address | None = None, trace: Trace | None = None
) -> list[Case]:
    """A case for each node of a network."""
    nodes = [node for node, _ in found]
    company = Company(nodes)
    return [
        Case(node, measured, tuple(other for other in nodes if other is not node), target, trace, company)
        for node, measured in found
    ]


Check = Callable[[Case], Iterable[Finding]]
