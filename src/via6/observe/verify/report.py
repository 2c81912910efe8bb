"""A report as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from via6.observe.verify.problems import NO_WAY_BACK, Problem, Report
from via6.prefix import format_address

_SHOWN: Final = 40


def counts(report: Report) -> str:
    """What was looked at."""
    return (
        f"{report.nodes} nodes, {report.classes} classes of packets ({report.rows} different), {report.arriving} of"
        f" {report.pairs} ways between islands work"
    )


def problem_json(problem: Problem) -> dict[str, Any]:
    """The keys of a problem in -j."""
    source = format_address(problem.source) if problem.source else None
    return {
        "disposition": problem.disposition,
        "node": problem.node,
        "prefix": str(problem.prefix),
        "packet": {"source": source, "destination": format_address(problem.destination)},
        "path": list(problem.path),
        "hops": [{"node": s.node, "in": s.into, "out": s.out, "next_hop": s.via} for s in problem.steps],
        "why": problem.why,
        "kind": problem.kind,
        "sources": problem.sources,
        "more": problem.more,
    }


def problem_lines(problem: Problem) -> Iterator[str]:
    """The same to read."""
    head = f"{problem.disposition} at {problem.node or '?'} for {problem.prefix}"
    head += f" and {problem.more} more prefixes" if problem.more else ""
    yield head + (f": {problem.why}" if problem.why else "")
    if problem.kind:
        yield f"  {problem.kind}" + (": packets the other way arrive" if problem.kind == NO_WAY_BACK else "")
    source = format_address(problem.source) if problem.source else "any source"
    if problem.steps:
        yield f"  packet {source} > {format_address(problem.destination)}: {way(problem)}"


def way(problem: Problem) -> str:
    """`h1 eth0 > lan r1 eth2 > eth1 r3`: the nodes with the interfaces between them."""
    return " > ".join(" ".join(filter(None, (step.into, step.node, step.out))) for step in problem.steps)


def as_json(report: Report) -> dict[str, Any]:
    """The keys of `via6 verify -j`."""
    return {
        "nodes": report.nodes,
        "classes": report.classes,
        "different": report.rows,
        "pairs": report.pairs,
        "arriving": report.arriving,
        "asymmetric": report.asymmetric,
        "asymmetric_examples": [
            {"a": a, "b": b, "there": list(there), "back": list(back)} for a, b, there, back in report.examples
        ],
        "unnamed": report.unnamed,
        "problems": [problem_json(problem) for problem in report.problems],
    }


def lines(report: Report) -> Iterator[str]:
    """The report to read: what is wrong, then what was looked at."""
    for problem in report.problems[:_SHOWN]:
        yield from problem_lines(problem)
    if len(report.problems) > _SHOWN:
        yield f"… and {len(report.problems) - _SHOWN} more (-j lists all)"
    yield counts(report)
    if report.asymmetric:
        a, b, there, back = report.examples[0]
        yield (
            f"{report.asymmetric} pairs take another way back, which is no fault: {a} > {b} by {' '.join(there)},"
            f" back by {' '.join(back)}"
        )
    if report.unnamed:
        yield f"{report.unnamed} ways between islands work that no rule names (`default isolate` forbids them)"
    count = len(report.problems)
    yield f"{count} problem{'' if count == 1 else 's'}" if count else "nothing is wrong: this holds for every address"
