"""How this node would send a packet, as its kernel decides it, and why. No packet is sent.

Without `iif` the packet is this node's own, and `oif` is the device its program is bound to. With `iif` it comes in
on that device, `from` somebody (if nobody is named, somebody whom the routes place there). `mark` is its fwmark.
Rules, VRFs and the choice among several next hops are the kernel's own.
What is wrong is named in a line, with its remedy behind it; the last word is the disposition:
  ACCEPTED, DELIVERED_TO_SUBNET, EXITS_NETWORK      it goes where it should (exit code 0, unless something is wrong)
  NO_ROUTE, NULL_ROUTED, NEIGHBOR_UNREACHABLE       it does not (exit code 1)

examples:
  via6 explain 10.1.2.3
  via6 explain 10.1.2.3 from 10.9.0.7 iif eth1
  via6 -n r1 explain 10.1.2.3 -j
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from via6.cli.main import add_output_options
from via6.cli.words import Devices
from via6.collect import local
from via6.errors import FAILED, OK, USAGE, Refusal
from via6.kernel.linux import LinuxKernel
from via6.model import TABLE_MAIN, Failure, Route, Snapshot
from via6.observe.explain import Facts, assumed_source, explain, first_match, sysctl_names, text
from via6.observe.names import number_of
from via6.prefix import Address, PrefixError, format_address, is_link_local, parse_scoped

_PARTS = frozenset({"links", "addresses", "rules", "nexthops", "neighbours"})


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `via6 explain`."""
    parser.usage = "via6 explain ADDRESS [from ADDRESS] [iif DEV] [oif DEV] [mark N] [-j]"
    words = parser.add_argument("words", nargs="*", metavar="WORD", help="an address, then words in pairs, as above")
    from via6.cli.completion import explain_words

    words.completer = explain_words  # type: ignore[attr-defined]
    add_output_options(parser, "-j", "-c")


def run(args: argparse.Namespace) -> int:
    """Asks the kernel and prints the answer; 0 if the packet arrives or leaves and nothing is wrong, else 1."""
    with LinuxKernel() as kernel:
        snapshot = kernel.dump(_PARTS)
        asked = parse_question(args.words, Devices(snapshot.by_name))
        facts = ask(kernel, snapshot, asked, args.netns or "")
    made = explain(facts, local.names())
    if args.json:
        from json import dumps

        print(dumps(made.data))
    else:
        from via6.cli.output import painter

        colour = painter(args.color)
        out = text(made)
        if colour:
            head, _, word = out.rpartition(" ")
            out = f"{head} {colour('good' if made.good else 'bad', word)}"
        sys.stdout.write(out + "\n")
    return OK if made.good else FAILED


class Question:
    """The words of the command line, understood. 0 and None: not said."""

    def __init__(self) -> None:
        self.destination: Address | None = None
        self.source: Address | None = None
        self.iif = 0
        self.oif = 0
        self.mark = 0


def parse_question(words: Sequence[str], devices: Devices) -> Question:
    """ADDRESS [from A] [iif DEV] [oif DEV] [mark N]; raises Refusal."""
    asked = Question()
    rest = iter(words)
    for word in rest:
        if word in ("from", "iif", "oif", "dev", "mark", "to"):
            value = next(rest, None)
            if value is None:
                raise Refusal(f"{word!r} lacks its value", "via6 explain ADDRESS [from A] [iif DEV]", USAGE)
            _understand(asked, word, value, devices)
        elif asked.destination is None:
            _understand(asked, "to", word, devices)
        else:
            raise Refusal(f"{word!r} is not understood here", "via6 explain ADDRESS [from A] [iif DEV]", USAGE)
    if asked.destination is None:
        raise Refusal("explain what? An address is missing", "via6 explain ADDRESS [from A] [iif DEV]", USAGE)
    if len(asked.destination) == 16 and is_link_local(asked.destination) and not asked.oif:
        address = format_address(asked.destination)
        which = (devices.candidates() or ["DEV"])[0]
        raise Refusal(f"{address} is link-local: on which link?", f"via6 explain {address}%{which}", USAGE)
    if asked.source and len(asked.source) != len(asked.destination):
        raise Refusal("`from` is of another family than the destination", code=USAGE)
    return asked


def _understand(asked: Question, word: str, value: str, devices: Devices) -> None:
    if word == "iif":
        asked.iif = devices.index(value)
    elif word in ("oif", "dev"):
        asked.oif = devices.index(value)
    elif word == "mark":
        mark = number_of(value, 0xFFFFFFFF, {})
        if mark is None:
            raise Refusal(f"mark {value!r}: a number is wanted", code=USAGE)
        asked.mark = mark
    else:
        try:
            address, zone = parse_scoped(value)
        except PrefixError as error:
            remedy = "explain takes one address; `via6 route show PREFIX` shows prefixes" if "/" in value else ""
            raise Refusal(str(error), remedy, USAGE) from None
        if word == "from":
            asked.source = address
        else:
            asked.destination = address
            asked.oif = devices.index(zone) if zone else asked.oif


def ask(kernel: LinuxKernel, snapshot: Snapshot, asked: Question, netns: str) -> Facts:
    """Everything that `observe.explain` wants to know; `netns` is what -n named, for commands that are advised."""
    assert asked.destination is not None
    to, source = asked.destination, asked.source
    if asked.iif and len(to) == 4 and source is None:
        routes = kernel.dump(frozenset({"routes4"}), table=TABLE_MAIN).routes
        source = assumed_source(replace(snapshot, routes=routes), asked.iif)

    def lookup(fib_match: bool) -> Route | Failure:
        return kernel.lookup(to, source=source, iif=asked.iif, oif=asked.oif, mark=asked.mark, fib_match=fib_match)

    answer = lookup(False)
    out = answer.next_hops[0].ifindex if isinstance(answer, Route) and answer.next_hops else asked.oif
    devices = tuple(sorted({snapshot.dev(index) for index in (out, asked.iif) if index}))
    facts = Facts(
        destination=to,
        answer=answer,
        entry=lookup(True),
        snapshot=snapshot,
        source=source,
        assumed=source is not asked.source,
        iif=asked.iif,
        mark=asked.mark,
        back=kernel.lookup(source) if source and asked.iif else None,
        sysctls=local.sysctls(sysctl_names(devices)),
        drops=_drops(snapshot, to, answer, netns),
    )
    if isinstance(answer, Failure):
        routes = kernel.dump(frozenset({"routes4" if len(to) == 4 else "routes6"})).routes
        facts = replace(facts, there=first_match(replace(facts, snapshot=replace(snapshot, routes=routes))))
    return facts


def _drops(snapshot: Snapshot, to: Address, answer: Route | Failure, netns: str) -> str:
    """Why a WireGuard device would drop the packet; empty if it would not, or if nobody can tell."""
    if isinstance(answer, Failure) or answer.type != "unicast" or not answer.next_hops:
        return ""
    hop = answer.next_hops[0]
    link = snapshot.by_index.get(hop.ifindex)
    if link is None or link.kind not in ("wireguard", "tun"):
        return ""
    from via6.collect import wireguard
    from via6.observe import allowedips
    from via6.prefix import Prefix

    if not wireguard.is_wireguard(link):
        return ""
    listed, problem = wireguard.allowed_ips(link.name)
    if problem:
        return ""
    return allowedips.advice(link.name, allowedips.parse(listed), hop.via, [Prefix(to, len(to) * 8)], netns)
