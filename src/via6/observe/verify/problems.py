"""What is told of a network: problems, each with a packet that meets it, and how much was looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from via6.observe.verify.trace import Step
from via6.prefix import Address, Prefix

NO_WAY_BACK: Final = "no way back"
"""The kind of a problem whose packets do not arrive though those in the other direction do."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `node` is where the fate is decided; `source` and `destination` are those of a packet
    that meets it, which begins at the first step (`into`: comes in there). `prefix` is the destination that is hit, and
    `more` how many others are by the same cause. `sources` counts where such packets begin. `kind` is empty, or what
    else is to be said: `no way back`, or the rule of an expectation that is broken."""

    disposition: str
    node: str
    prefix: Prefix
    source: Address | None
    destination: Address
    steps: tuple[Step, ...]
    why: str = ""
    kind: str = ""
    sources: int = 1
    more: int = 0

    @property
    def path(self) -> tuple[str, ...]:
        """The nodes that the packet passes."""
        return tuple(step.node for step in self.steps)


@dataclass
class Report:
    """All that was found, and how much was looked at."""

    problems: list[Problem] = field(default_factory=list)
    nodes: int = 0
    classes: int = 0
    rows: int = 0
    pairs: int = 0
    arriving: int = 0
    asymmetric: int = 0
    examples: list[tuple[str, str, tuple[str, ...], tuple[str, ...]]] = field(default_factory=list)
    unnamed: int = 0
    """Pairs that reach each other and that no rule of the expectations names."""
