"""Proves what becomes of every IPv4 packet in a network, from snapshots of its nodes: no packet is sent.

The address space is cut at all prefix boundaries of all nodes, so what is said holds for every address. Found are
loops, black holes, next hops that do not answer, forwarding that is off, sources that are not believed, packet filters,
and islands that do not reach each other, there and back. Each problem comes with a packet that meets it, and its path.
What a snapshot does not say is UNKNOWN and never called proven.

Files are those of `via6 snapshot`; `--lab` asks the nodes of a lab that is up. Without --expect all islands (the IPv4
networks behind different nodes) are to reach each other; with it the file's rules hold:
  reach A B [via NODE]       packets from A arrive at B and B's at A, all of them through NODE
  isolate A B                nothing from A arrives at B, nor from B at A
  waypoint A B NODE          what arrives from A at B has passed NODE
  default reach|isolate      what holds for islands that no rule names
A and B are nodes, prefixes or addresses.

--fail asks the same after failures, with the routes that Babel would then choose, from the Babel state in the
snapshots: `--fail link r1-r2`, `--fail node r1`, `--fail link` (each one in turn), `--fail node`, `--fail any-1` (each
link and each node). `diff` lists the packets whose fate differs between two sets of snapshots.

examples:
  via6 verify network/
  via6 verify --lab triangle
  via6 verify network/ --expect rules.txt
  via6 verify network/ --fail any-1
  via6 verify diff before/ after/ -j

exit codes: 0 nothing is wrong (diff: nothing differs), 3 something is
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from via6.errors import FAILED, OK, TROUBLE, USAGE, Refusal

if TYPE_CHECKING:
    from via6.observe.node import Node
    from via6.observe.verify.expect import Expectations

_KINDS: Final = ("link", "node", "any-1")


class _Fail(argparse.Action):
    """`--fail link A-B`: takes what belongs to it and gives the rest back to the snapshots."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: Any = None) -> None:
        kind, rest = values[0], list(values[1:])
        if kind not in _KINDS:
            parser.error(f"--fail takes {', '.join(_KINDS)}, not {kind!r}")
        named = rest.pop(0) if kind != "any-1" and rest and not Path(rest[0]).exists() else ""
        namespace.fail = [*(namespace.fail or []), (kind, named)]
        namespace.rest = [*(getattr(namespace, "rest", None) or []), *rest]


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `via6 verify`."""
    from via6.cli.main import add_output_options

    parser.usage = (
        "via6 verify SNAPSHOT… [--lab FILE|LAB] [--expect FILE] [--fail link [A-B] | node [A] | any-1]… [-j]"
        " | diff BEFORE AFTER [-j]"
    )
    parser.add_argument("words", nargs="*", metavar="SNAPSHOT", help="files and folders of snapshots; - is stdin")
    parser.add_argument("--lab", metavar="FILE|LAB", help="the nodes of a lab that is up")
    parser.add_argument("--expect", metavar="FILE", help="rules that are to hold")
    parser.add_argument(
        "--fail", nargs="+", action=_Fail, metavar="WHAT", help="after failures: link [A-B], node [A] or any-1"
    )
    add_output_options(parser, "-j", "-c")


def run(args: argparse.Namespace) -> int:
    """Verifies or compares; TROUBLE if something is wrong or differs."""
    words = [*args.words, *(getattr(args, "rest", None) or [])]
    try:
        import numpy  # noqa: F401 - asked for once, here, so that the reason is clear
    except ImportError:
        raise Refusal("verify needs numpy", "install it: apt-get install python3-numpy, or pip install numpy") from None
    if words[:1] == ["diff"]:
        return _diff(args, words[1:])
    return _verify(args, words)


def _nodes(words: Sequence[str], lab: str | None) -> list[Node]:
    """The nodes of snapshots and of a lab; one that cannot be asked is an end: a proof without it would be none."""
    from via6.observe import snapshot

    nodes = snapshot.load(words) if words else []
    if lab:
        from via6.cli.snapshot import in_parallel, lab_tasks

        made, failures = in_parallel(lab_tasks(lab), 16)
        for name, refusal in failures:
            print(f"via6: {name}: {refusal}", file=sys.stderr)
        if failures:
            raise Refusal(f"{len(failures)} of the lab's nodes could not be asked", code=FAILED)
        nodes += made
    if not nodes:
        raise Refusal("verify what? Snapshots are missing", "via6 verify FILE…, or via6 verify --lab LAB", USAGE)
    return nodes


def _expectations(path: str | None, nodes: Sequence[Node]) -> Expectations | None:
    if not path:
        return None
    from via6.observe.verify.expect import parse

    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(errors="replace")
    except (OSError, ValueError) as error:
        raise Refusal(f"cannot read {path}: {getattr(error, 'strerror', None) or error}", "name a file") from None
    rules, problems = parse(text, "stdin" if path == "-" else path, [node.name for node in nodes])
    if problems:
        raise Refusal("\n".join(problems), "a rule is: reach A B, isolate A B, waypoint A B NODE, default …", USAGE)
    return rules


def _verify(args: argparse.Namespace, words: Sequence[str]) -> int:
    from via6.observe.verify import expect, report
    from via6.observe.verify.check import Checker
    from via6.observe.verify.network import Network
    from via6.observe.verify.survey import among

    nodes = _nodes(words, args.lab)
    rules = _expectations(args.expect, nodes)
    checker = Checker(Network(nodes, among(rules.prefixes()) if rules else ()))
    found = checker.report(expect.wanted(rules, checker.survey) if rules else None)
    if rules:
        expect.check(rules, checker, found)
    out = report.as_json(found)
    bad = bool(found.problems)
    text = list(report.lines(found))
    if args.fail:
        from via6.observe.verify import failure

        after = failure.examine(nodes, args.fail, rules, _progress if sys.stderr.isatty() else None)
        _progress(0, 0, "")
        out["failures"] = [one.as_json() for one in after]
        bad = bad or any(one.problems for one in after)
        text += failure.lines(after)
    _print(args, out, text)
    return TROUBLE if bad else OK


def _progress(done: int, count: int, name: str) -> None:
    """A line that is written over, on a terminal: where routes must be computed anew, failures take their time."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{done} of {count} failures, now {name}" if count else "\r\033[K")
        sys.stderr.flush()


def _diff(args: argparse.Namespace, words: Sequence[str]) -> int:
    if len(words) != 2 or args.lab or args.fail or args.expect:
        raise Refusal("diff takes two sets of snapshots", "via6 verify diff BEFORE AFTER", USAGE)
    from via6.observe.verify import diff

    before, after = _nodes(words[:1], None), _nodes(words[1:], None)
    found = diff.compare(before, after)
    _print(args, found.as_json(), list(found.lines()))
    return TROUBLE if found.changes or found.gone or found.new else OK


def _print(args: argparse.Namespace, out: Any, text: Sequence[str]) -> None:
    if args.json:
        print(json.dumps(out))
        return
    from via6.cli.output import painter, visible
    from via6.observe.verify.words import MEANINGS

    colour = painter(args.color)
    for line in map(visible, text):
        word, _, rest = line.partition(" ")
        fate = word in MEANINGS and word.isupper()
        print(f"{colour('bad', word)} {rest}" if fate and colour else line)
