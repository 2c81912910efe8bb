"""Finds why IPv4 with IPv6 next hops does not work here, or soon will not: causes, what was seen, what mends them.

Looked at are this node's interfaces and addresses, forwarding and filters, routes and rules, next hops (they are asked
by Neighbour Discovery), WireGuard, Babel, the kernel, and other programs that manage interfaces. What follows from
another finding stands under it. On a healthy node nothing is found, and what could not be read is named.

--to ADDRESS looks at the way there and back as well. --lab asks every node of a lab that is up, --snapshots reads the
files of `via6 snapshot`; both compare the nodes with each other.

--fix does what is safe: it can be taken back, and loses no packet that passes now. It shows what it would do and asks
(--yes: it does not ask). What was there before is written down, and --undo puts it back.

examples:
  via6 doctor
  via6 doctor --to 10.1.2.3
  via6 -n r1 doctor --fix
  via6 doctor --undo
  via6 doctor --lab triangle
  via6 doctor --snapshots network/ -j

exit codes: 0 nothing is wrong (or only worth knowing), 3 an error or a warning was found
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from via6.errors import FAILED, OK, TROUBLE, USAGE, Refusal

if TYPE_CHECKING:
    from via6.model import RouteTable
    from via6.observe.doctor.finding import Case, Finding, Fix
    from via6.observe.doctor.measured import Measured
    from via6.observe.node import Node
    from via6.observe.trace.model import Trace
    from via6.prefix import Address

T = TypeVar("T")

_SETTLE_S: Final = 4.0  # an address that comes back waits for duplicate address detection first
_LOOK_AGAIN_S: Final = 0.5
_PARALLEL: Final = 16
_TRACE_S: Final = 0.9


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `via6 doctor`."""
    from via6.cli.main import add_output_options

    parser.usage = (
        "via6 doctor [--to ADDRESS] [--lab FILE|LAB | --snapshots FILE|DIR…] [--fix [--yes] | --undo] [-j] [-c]"
    )
    parser.add_argument("--to", metavar="ADDRESS", help="look at the way to this IPv4 address, too")
    parser.add_argument("--lab", metavar="FILE|LAB", help="every node of a lab that is up")
    parser.add_argument(
        "--snapshots", nargs="+", metavar="FILE|DIR", help="on paper: files and folders of snapshots; - is stdin"
    )
    parser.add_argument("--fix", action="store_true", help="do what is safe, having asked")
    parser.add_argument("-y", "--yes", action="store_true", help="with --fix: do not ask")
    parser.add_argument("--undo", action="store_true", help="take back what --fix did here")
    add_output_options(parser, "-j", "-c")


def run(args: argparse.Namespace) -> int:
    """Looks, and mends if told; TROUBLE if an error or a warning is (still) there."""
    _understand(args)
    where = _Place(args)
    if args.undo:
        return _undo(where, args.json)
    findings = _look(where, args)
    if args.fix:
        findings = _mend(where, findings, args)
    _print(findings, where, args)
    from via6.observe.doctor.registry import troubled

    return TROUBLE if troubled(findings) else OK


def _understand(args: argparse.Namespace) -> None:
    if args.lab and args.snapshots:
        raise Refusal("--lab or --snapshots, not both", code=USAGE)
    if args.fix and args.undo:
        raise Refusal("--fix or --undo, not both", code=USAGE)
    if args.yes and not args.fix:
        raise Refusal("--yes goes with --fix", code=USAGE)
    if args.snapshots and (args.fix or args.undo):
        raise Refusal("on paper nothing can be mended", "via6 doctor --fix on the node itself", USAGE)


def _target(text: str | None) -> Address | None:
    from via6.prefix import PrefixError, parse_address

    if text is None:
        return None
    try:
        found = parse_address(text)
    except PrefixError as error:
        raise Refusal(str(error), "--to takes one IPv4 address", USAGE) from None
    if len(found) != 4:
        raise Refusal(f"{text} is no IPv4 address", "--to takes one IPv4 address", USAGE)
    return found


# --- where ---------------------------------------------------------------------------------------------------------


@dataclass
class _Place:
    """What is looked at: this network namespace, the nodes of a lab, or paper."""

    args: argparse.Namespace

    def cases(self) -> list[Case]:
        """One per node."""
        from via6.observe.doctor.finding import cases
        from via6.observe.doctor.measured import Measured

        args = self.args
        target = _target(args.to)
        if args.snapshots:
            from via6.observe import snapshot

            nodes = snapshot.load(args.snapshots)
            found = [(node, Measured()) for node in nodes]
            if not found:
                raise Refusal("there is no snapshot", "via6 snapshot --lab LAB -o DIR/")
        elif args.lab:
            found = _ask_lab(args.lab, target)
        else:
            from via6.cli.snapshot import here, name_of
            from via6.collect import doctor

            began = doctor.dropped_by_rp_filter()
            node = here(name_of(args.netns))
            found = [(node, _measure(node, target, began))]
        trace = None if args.lab or args.snapshots else _traced(found[0][1], args)
        return cases(found, target, trace)

    def netns(self, node: str) -> str:
        """What -n takes to get to a node; empty where the reader is there already, or nobody is."""
        name = f"{_lab_name(self.args.lab)}/{node}" if self.args.lab else self.args.netns or ""
        if "/" not in name:
            return name
        from via6.kernel.netns import NAMED
        from via6.lab import state

        place = Path(name if os.path.isabs(name) else state.node_netns(name) or "")
        return place.name if place.parent == NAMED else name

    def at(self, node: str, work: Callable[[], T]) -> T:
        """The result of some work in a node's network namespace."""
        if not self.args.lab:
            return work()
        from concurrent.futures import ThreadPoolExecutor

        from via6.kernel.netns import enter

        place = self.netns(node)

        def there() -> T:
            enter(place)  # setns(2) moves this thread alone
            return work()

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(there).result()

    def names(self) -> list[str]:
        """The nodes of the lab; one without a name where there is none."""
        if not self.args.lab:
            return [""]
        from via6.cli.snapshot import lab_tasks

        return [name for name, _ in lab_tasks(self.args.lab)]


def _lab_name(word: str) -> str:
    if word.endswith((".toml", ".graphml")):
        from via6.lab.topology import load

        return load(word).name
    return word


def _measure(node: Node, target: Address | None, dropped: int | None = None) -> Measured:
    from via6.collect import doctor, doctor_path

    return doctor_path.measure(node, target, _show, _routes, doctor.measure(node, dropped))


def _routes() -> RouteTable:
    from via6.kernel.linux import LinuxKernel

    with LinuxKernel() as kernel:
        return kernel.dump(frozenset({"routes4", "routes6"})).routes


def _traced(measured: Measured, args: argparse.Namespace) -> Trace | None:
    """The way to the target and back, if probes say that something is wrong with it."""
    probed = measured.probed
    if probed is None or not (probed.silent or probed.large):
        return None
    from via6.cli import trace
    from via6.observe.trace.model import Flow
    from via6.prefix import format_address

    source = probed.silent[0].source if probed.silent else probed.answered[0]
    words = argparse.Namespace(source=format_address(source), netns=args.netns, max_hops=30, wait=_TRACE_S)
    try:
        return trace.live(words, Flow(probed.target))[0]
    except Refusal:
        return None


def _show(kind: str) -> list[Any]:
    from via6.daemon.client import ask

    return [json.loads(line) for lines in ask({"show": kind}) for line in lines]


def _ask_lab(lab: str, target: Address | None) -> list[tuple[Node, Measured]]:
    from via6.cli.snapshot import in_parallel, lab_tasks

    measured: dict[str, Measured] = {}

    def whole(name: str, work: Callable[[], Node]) -> Callable[[], Node]:
        def both() -> Node:
            node = work()  # which has moved this thread into the node
            measured[name] = _measure(node, target)
            return node

        return both

    tasks = [(name, whole(name, work)) for name, work in lab_tasks(lab)]
    nodes, failures = in_parallel(tasks, _PARALLEL)
    for name, refusal in failures:
        print(f"via6: {name}: {refusal}", file=sys.stderr)
    if failures:
        raise Refusal(f"{len(failures)} of the lab's nodes could not be asked", code=FAILED)
    return [(node, measured[node.name]) for node in nodes]


# --- looking -------------------------------------------------------------------------------------------------------


def _look(where: _Place, args: argparse.Namespace, quiet: bool = False) -> list[Finding]:
    from via6.observe.doctor import registry, report

    cases = where.cases()
    if not quiet:
        _say_unread([case.node for case in cases])
    found = registry.examine(*cases)
    if args.snapshots:
        return [replace(one, fixes=()) for one in found]
    return [
        replace(one, remedy=tuple(report.within(line, where.netns(one.node)) for line in one.remedy)) for one in found
    ]


def _say_unread(nodes: Sequence[Node]) -> None:
    """Once for all nodes of which the same was not read."""
    alike: dict[str, list[str]] = {}
    for node in nodes:
        if node.unread:
            parts = "; ".join(f"{part} ({why})" for part, why in sorted(node.unread.items()))
            alike.setdefault(parts, []).append(node.name)
    for parts, names in alike.items():
        print(f"{', '.join(names)}: not read, so not judged: {parts}", file=sys.stderr)


def _print(findings: Sequence[Finding], where: _Place, args: argparse.Namespace) -> None:
    from via6.observe.doctor import report

    if args.json:
        print(json.dumps(report.as_json(findings)))
        return
    from via6.cli.output import painter

    for line in report.lines(findings, painter(args.color)):
        print(line)


# --- mending -------------------------------------------------------------------------------------------------------


def _mend(where: _Place, findings: Sequence[Finding], args: argparse.Namespace) -> list[Finding]:
    """What is left to find after all that can be mended was."""
    from via6.daemon import mend

    todo: dict[str, list[Fix]] = {}
    for one in findings:
        if one.fixable:
            todo.setdefault(one.node, []).extend(one.fixes)
    if not todo:
        if findings:
            print("nothing of this can be mended safely by a program: see the remedies", file=sys.stderr)
        return list(findings)
    out = sys.stderr if args.json else sys.stdout
    for node, fixes in todo.items():
        for fix in dict.fromkeys(fixes):
            print(f"{node}: {_text(fix)}", file=out)
    if not args.yes:
        _ask()
    for node, fixes in todo.items():
        done, problems = where.at(node, lambda fixes=fixes: mend.fix(fixes))  # type: ignore[misc]
        for entry in done:
            print(f"{node}: done: {entry.text}", file=out)
        for problem in problems:
            print(f"via6: {node}: {problem}", file=sys.stderr)
    until = time.monotonic() + _SETTLE_S
    while True:
        left = _look(where, args, quiet=True)
        if not left or time.monotonic() > until:
            return left
        time.sleep(_LOOK_AGAIN_S)


def _text(fix: Fix) -> str:
    import shlex

    from via6.observe.doctor.finding import SetSysctl
    from via6.observe.doctor.look import sysctl_name

    return f"{sysctl_name(fix.path)} = {fix.value}" if isinstance(fix, SetSysctl) else shlex.join(fix.command)


def _ask() -> None:
    if sys.stdin is None or not sys.stdin.isatty():
        raise Refusal("nobody is there to be asked", "via6 doctor --fix --yes does it without asking")
    print("do this? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Refusal("nothing was changed")


def _undo(where: _Place, as_json: bool) -> int:
    from via6.daemon import mend

    told: dict[str, list[str]] = {"back": [], "left": [], "failed": []}
    empty: list[Refusal] = []
    names = where.names()
    for name in names:
        try:
            parts = where.at(name, mend.undo)
        except Refusal as refusal:
            empty.append(refusal)
            continue
        prefix = f"{name}: " if name else ""
        for key, lines in zip(told, parts, strict=True):
            told[key] += [prefix + line for line in lines]
    if len(empty) == len(names):
        raise empty[0]
    _say_undone(told, as_json)
    return FAILED if told["failed"] else OK


def _say_undone(told: dict[str, list[str]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(told))
        return
    _each("back: ", told["back"], sys.stdout)
    _each("left alone: ", told["left"], sys.stderr)
    _each("via6: ", told["failed"], sys.stderr)
    if not any(told.values()):
        print("all of it was as before already")


def _each(prefix: str, lines: Iterable[str], stream: object) -> None:
    for line in lines:
        print(prefix + line, file=stream)  # type: ignore[call-overload]
