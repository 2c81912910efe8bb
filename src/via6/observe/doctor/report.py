"""Findings as text and as JSON values."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from via6.observe.doctor.finding import ERROR, INFO, WARNING, Finding
from via6.observe.doctor.registry import followers

Colour = Callable[[str, str], str]
_KINDS: Final = {ERROR: "bad", WARNING: "bad", INFO: "inet6"}
_OWN_OPTION: Final = ("ip", "bridge", "tc", "via6")  # take -n themselves
_IN_SHELL: Final = re.compile(r"[|><;&]")


def within(command: str, netns: str) -> str:
    """A command as it is to be typed outside of the network namespace that it is meant for."""
    if not netns or command.startswith("#"):
        return command
    program, _, rest = command.partition(" ")
    if "/" in netns and program != "via6":  # a node of a lab that has no name for `ip netns`
        shell = f"sh -c {shlex.quote(command)}" if _IN_SHELL.search(command) else command
        return f"via6 lab exec {shlex.quote(netns)} -- {shell}"
    if _IN_SHELL.search(command):
        return f"ip netns exec {shlex.quote(netns)} sh -c {shlex.quote(command)}"
    if program in _OWN_OPTION:
        return f"{program} -n {shlex.quote(netns)} {rest}"
    return f"ip netns exec {shlex.quote(netns)} {command}"


def as_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """One object each, in the order given."""
    return [
        {
            "id": one.id,
            "code": one.code,
            "severity": one.severity,
            "node": one.node,
            "subject": one.subject,
            "title": one.title,
            "evidence": "\n".join(one.evidence),
            "breaks": one.breaks,
            "remedy": "\n".join(one.remedy),
            "depends_on": list(one.depends_on),
            "fixable": one.fixable,
        }
        for one in findings
    ]


def lines(findings: Sequence[Finding], colour: Colour | None = None) -> Iterator[str]:
    """Roots, each with its followers under it. What follows from two roots stands under the first."""
    several = len({one.node for one in findings}) > 1
    shown: set[str] = set()
    for root in findings:
        if root.depends_on or root.id in shown:
            continue
        shown.add(root.id)
        yield from _whole(root, several, colour)
        below = [one for one in followers(root, findings) if one.id not in shown]
        if below:
            yield "    and so:"
        for one in below:
            shown.add(one.id)
            yield f"      {_head(one, several, colour)}"
        yield ""
    yield summary(findings)


def _head(one: Finding, several: bool, colour: Colour | None) -> str:
    word = colour(_KINDS.get(one.severity, ""), one.severity) if colour else one.severity
    return f"{one.node + ': ' if several and one.node else ''}{word} {one.code}: {one.title}"


def _whole(one: Finding, several: bool, colour: Colour | None) -> Iterator[str]:
    yield _head(one, several, colour)
    for label, texts in (("seen", one.evidence), ("breaks", (one.breaks,)), ("mend", one.remedy)):
        for at, text in enumerate(line for given in texts for line in given.splitlines()):
            yield f"    {label if not at else '':<7} {text}"


def summary(findings: Sequence[Finding]) -> str:
    """`2 errors, 1 warning, of one cause; `via6 doctor --fix` mends 1`."""
    if not findings:
        return "nothing is wrong"
    counts = {word: sum(one.severity == word for one in findings) for word in (ERROR, WARNING, INFO)}
    parts = [f"{n} {word}{'s' if n > 1 and word != INFO else ''}" for word, n in counts.items() if n]
    roots = sum(not one.depends_on for one in findings)
    causes = "" if roots == len(findings) else f", of {'one cause' if roots == 1 else f'{roots} causes'}"
    fixable = sum(one.fixable for one in findings)
    mends = f"; `via6 doctor --fix` mends {fixable}" if fixable else ""
    return ", ".join(parts) + causes + mends
