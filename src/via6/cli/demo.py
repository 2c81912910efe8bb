"""Shows IPv4 crossing a network that has IPv6 only: six real routers, two hosts, no tunnel, no translation.

Nothing is configured but names and exports. A link is cut under a running stream, and what that cost is counted.
Everything happens in network namespaces of its own, as root and as an ordinary user; nothing of this machine is
touched, and nothing stays behind.

--desktop shows something to look at instead: the second host gets a desktop, and `via6 web` shows that and the network
in your browser until you press Ctrl-C.

examples:
  via6 demo            the story, as it happens
  via6 demo -j         the same facts as one JSON object
  via6 demo --desktop  a desktop across the network, in the browser
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from via6.errors import FAILED, OK

if TYPE_CHECKING:
    from rich.console import Console

Facts = dict[str, Any]

_WIDTH: Final = 80
_FEW: Final = 0.02
# What a terminal without UTF-8 is shown instead.
_ASCII: Final = str.maketrans({"─": "-", "│": "|", "┌": ".", "┐": ".", "└": "'", "┘": "'", "═": "=", "→": ">"})


def configure(parser: argparse.ArgumentParser) -> None:
    from via6.cli.main import add_output_options

    parser.add_argument("--desktop", action="store_true", help="a desktop across the network, in the browser")
    add_output_options(parser, "-j", "-c")


def run(args: argparse.Namespace) -> int:
    """Builds the network in a sandbox and tells the story; FAILED if any part of it is not as it should be."""
    from via6.lab import sandbox

    if args.desktop:
        from via6.cli import demo_desktop

        return demo_desktop.run(args)
    began = time.monotonic()
    return sandbox.run(lambda: _stage(bool(args.json), args.color, began))


def _console(color: str | None, silent: bool) -> Console:
    """A rich console: plain where the output is no terminal or NO_COLOR is set, unless `-c always`."""
    from rich.console import Console

    class Plain(Console):
        """`via6 demo | head` is no failure: rich would make it one, the sandbox does not."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    wanted = color == "always" or (color != "never" and not os.environ.get("NO_COLOR"))
    return Plain(
        force_terminal=True if color == "always" else None,
        color_system="auto" if wanted else None,
        no_color=not wanted,
        highlight=False,
        emoji=False,
        soft_wrap=True,
        quiet=silent,
    )


def chapter_lines(key: str, facts: Facts) -> Iterator[str]:
    """A chapter of the story as lines of rich markup, from the facts found so far."""
    return _CHAPTERS[key](facts)


def _stage(as_json: bool, color: str | None, began: float) -> int:
    """Process 1 of the sandbox: the network, the chapters, the end."""
    from via6.lab.demo import STORY, Scene, topology
    from via6.lab.namespaces import Lab

    net = topology()
    teller = _Teller(_console(color, as_json), len(STORY) + 1)
    facts: Facts = {}
    with teller.progress:
        teller.doing("starting the routers")
        teller.say(_opening(len(net.routers), len(net.hosts)))
        with Lab(net) as lab:
            scene = Scene(lab)
            for chapter in STORY:
                teller.doing(chapter.doing)
                facts |= chapter.work(scene)
                teller.say(chapter_lines(chapter.key, facts))
    facts["faults"] = scene.faults
    facts["seconds"] = round(time.monotonic() - began, 3)
    facts["ok"] = not scene.faults
    teller.say(_closing(facts))
    if as_json:
        import json

        print(json.dumps(facts))
    return OK if facts["ok"] else FAILED


class _Teller:
    """Prints lines as they come, and on a terminal what is being done, with a bar, below them."""

    def __init__(self, console: Console, parts: int) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self.console = console
        self.utf8 = (console.encoding or "").lower().replace("-", "") == "utf8"
        # No refreshing by a thread: the lab forks while the bar stands.
        self.progress = Progress(
            TextColumn("  "), BarColumn(24), TextColumn("{task.description}"), console=console, transient=True,
            auto_refresh=False, redirect_stdout=False, redirect_stderr=False, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self.progress.add_task("", total=parts)

    def doing(self, what: str) -> None:
        self.progress.update(self._task, advance=1, description=what, refresh=True)

    def say(self, lines: Iterator[str]) -> None:
        text = "\n".join(lines)
        self.console.print(text if self.utf8 else text.translate(_ASCII))
        sys.stdout.flush()


# --- the chapters, as lines of rich markup -------------------------------------------------------------------------


def _title(number: int, text: str) -> Iterator[str]:
    yield ""
    yield f"[bold]{number}. {text}[/bold]"


def _good(text: str, good: bool = True) -> str:
    return f"   [green]{text}[/green]" if good else f"   [bold red]{text}[/bold red]"


def _opening(routers: int, hosts: int) -> Iterator[str]:
    yield "[bold]via6: IPv4 across a network that has IPv6 only[/bold]"
    yield "Real Linux routers in network namespaces. No tunnel, no translation."
    yield from _title(1, f"The network: {routers} routers, {hosts} IPv4 hosts")
    yield from _PICTURE.splitlines()


_PICTURE: Final = """\
                      [cyan]┌────── r2 ────── r3 ──────┐[/cyan]
                      [cyan]│                          │[/cyan]
   h1 [yellow]═══════════════[/yellow] [cyan]r1        IPv6 only        r4[/cyan] [yellow]═══════════════[/yellow] h2
   [yellow]10.1.0.10   IPv4[/yellow]   [cyan]│                          │[/cyan]   [yellow]IPv4   10.4.0.10[/yellow]
                      [cyan]└────── r5 ────── r6 ──────┘[/cyan]"""


def _network(facts: Facts) -> Iterator[str]:
    typed: dict[str, list[str]] = {}
    for node, words in facts["typed"].items():
        typed.setdefault(words, []).append(node)
    yield ""
    yield "   Typed on the routers, and nothing else. eth1 and eth2 lead to other routers;"
    yield "   `--export connected` announces to them the IPv4 networks of one's own links:"
    for words, nodes in typed.items():
        yield f"      [dim]{', '.join(nodes)} #[/dim]  [bold]{words}[/bold]"
    yield _good(f"{facts['ready_seconds']:.1f} s later the hosts reached each other.")


def _neighbours(facts: Facts) -> Iterator[str]:
    for node, lines in facts["neighbours_text"].items():
        yield from _title(2, f"The neighbours of {node}, as `via6 show neighbour` prints them there")
        for line in lines:
            yield from _folded(line)
        yield ""
        yield "   Found by Babel (RFC 8966), a routing protocol that speaks IPv6 on each link."
        yield "   fe80::2 is router r2. Each 1 in `reach` is a greeting (Hello) that came. The"
        yield "   costs of the links on a way add up, and the cheapest way is taken."


def _folded(line: str) -> Iterator[str]:
    """A line of a table, cut between its columns where a terminal of 80 would cut it anywhere."""
    from rich.markup import escape

    indent = "   "
    while len(indent) + len(line) > _WIDTH:
        at = line.rfind("  ", 0, _WIDTH - len(indent))
        if at < 0:
            break
        yield f"{indent}[cyan]{escape(line[:at].rstrip())}[/cyan]"
        line, indent = line[at:].strip(), "      "
    yield f"{indent}[cyan]{escape(line)}[/cyan]"


def _addresses(facts: Facts) -> Iterator[str]:
    yield from _title(3, "No link between routers has an IPv4 address")
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in facts["link_interfaces"]:
        rows.setdefault(row["node"], []).append(row)
    yield "   [dim]router  interfaces and neighbours   IPv6 there   IPv4 there[/dim]"
    for node, found in rows.items():
        where = ", ".join(f"{row['dev']} to {row['to']}" for row in found)
        ipv6, ipv4 = (" ".join(dict.fromkeys(a for row in found for a in row[f])) for f in ("ipv6", "ipv4"))
        yield f"   {node:<7} {where:<27} [cyan]{ipv6:<12}[/cyan] {ipv4 or 'none'}"
    count = len(facts["ipv4_link_addresses"])
    asked = f"Asked of the kernels: {len(facts['link_interfaces'])} link interfaces, {count} IPv4 addresses."
    yield ""
    yield _good(asked, not count)
    lans = " and ".join(f"{i['node']} has {i['ipv4'][0]}" for i in facts["lan_interfaces"])
    yield f"   Towards its host {lans}; the others: none."


def _table(lines: list[str]) -> Iterator[str]:
    from rich.markup import escape

    for line in lines:
        text = escape(line.rstrip())
        yield f"   [cyan]{text}[/cyan]" if "inet6" in line else f"   {text}"


def _routes(facts: Facts) -> Iterator[str]:
    for node, lines in facts["routes_text"].items():
        yield from _title(4, f"The IPv4 routes of {node}, as `via6 route -4` prints them there")
        yield from _table(lines)
        yield ""
        yield "   IPv4 destinations with IPv6 next hops: the router finds its neighbour by IPv6"
        yield "   (neighbour discovery) and sends it the IPv4 packet as it is. `proto 46` marks"
        yield "   what via6 installed; `unreachable` only counts when the way is lost."


def _pings(facts: Facts) -> Iterator[str]:
    yield from _title(5, "IPv4 pings, both ways")
    for p in facts["pings"]:
        rtt = "" if p["rtt_ms"] is None else f", {p['rtt_ms']:.2f} ms"
        text = f"{p['source']} {p['from']} → {p['target']} {p['to']}   {p['received']} of {p['sent']} came back{rtt}"
        yield _good(text, p["sent"] == p["received"])


def _trace(facts: Facts) -> Iterator[str]:
    hops = facts["traceroute"]["hops"]
    yield from _title(6, f"The way from {facts['traceroute']['from']} to {facts['traceroute']['to']}, hop by hop")
    yield "   [dim]hop  node  its route     next hop                    traceroute hears[/dim]"
    for hop in hops:
        route = "default" if hop["route"] == "0.0.0.0/0" else hop["route"] or ""
        via = f"{hop['via'] or 'on link'} dev {hop['dev']}" if hop["dev"] else "(arrived)"
        style = "cyan" if ":" in via else "default"
        to = f"→ {hop['next']}" if hop["next"] else ""
        heard = (hop["answered"] or "nothing") if hop["ttl"] else ""
        row = f"   {hop['ttl'] or '':<4} {hop['node']:<5} {route:<13} [{style}]{via:<21}[/{style}] {to:<5} {heard}"
        yield row.rstrip()
    yield ""
    yield "   192.0.0.8 is how every router without an IPv4 address signs (RFC 7600). The"
    yield "   names come from asking the kernel of each node where it sends this packet."


def _capture(facts: Facts) -> Iterator[str]:
    seen = facts["capture"]
    if seen is None:
        yield from _title(7, "A ping on a link in the middle")
        yield _good("none was seen", False)
        return
    yield from _title(7, f"The ping on the link from {seen['node']} to {seen['next']}")
    head, mark, rest = seen["line"].partition("  IPv4 ")
    yield f"   {head}"
    yield f"   [yellow]{(mark + rest).strip()}[/yellow]"
    yield ""
    yield "   [dim]                source      destination  TTL  header checksum[/dim]"
    for where, ttl, total in (
        ("sent by h1", seen["ttl_sent"], seen["checksum_sent"]),
        ("seen here", seen["ttl_seen"], seen["checksum_seen"]),
    ):
        yield f"   {where:<15} {seen['source']:<11} {seen['destination']:<12} {ttl:<4} {total}"
    same = f"{seen['octets_same']} of {seen['packet_octets']} octets are as sent"
    changed = _list(["TTL" if name == "ttl" else name for name in seen["changed"]])
    untouched = seen["untouched"]
    yield ""
    yield _good(f"{same}; {changed} differ{', as after any router' if untouched else ''}.", untouched)
    if untouched:
        yield "   Not translated: the addresses are those of the hosts. Not in a tunnel:"
        yield "   ethertype 0x0800 says that IPv4 follows at once (IPv6 would be 0x86dd)."


def _cut(facts: Facts) -> Iterator[str]:
    seen = facts["cut"]
    if seen is None:
        yield from _title(8, "A link is cut")
        yield _good("there was none", False)
        return
    node, far = seen["node"], seen["next"]
    yield from _title(8, f"The link from {node} to {far} is cut under a running stream")
    at = f"`via6 route {seen['prefix']}` on {node}:"
    yield f"   {seen['from']} sends {seen['to']} {seen['rate_hz']:,} UDP packets a second. {at}"
    yield from _table(seen["before"])
    yield ""
    yield "   The least metric wins: 460 is the route in use. 461 is the next best one free"
    yield "   of loops, and stands ready. Now, at the other end of the link:"
    yield f"      [dim]{far} #[/dim]  [bold]ip link set {seen['next_dev']} down[/bold]"
    yield f"   A second later, on {node}:"
    yield from _table(seen["after"])
    yield ""
    yield _passed(seen, "since the cut", seen["outage_ms"])
    if seen["lost"] < seen["sent"] * _FEW:
        why = "so few" if seen["lost"] else "none"
        yield f"   Why {why}: the kernel itself drops a route with its link and finds the next"
        yield "   one in place, without waiting for any program. via6 then tells the others."


def _heal(facts: Facts) -> Iterator[str]:
    seen, gone = facts["heal"], facts["cut"]
    yield from _title(9, "The link heals")
    if seen is None:
        yield _good("there was none", False)
        return
    node, far = gone["node"], gone["next"]
    yield f"      [dim]{far} #[/dim]  [bold]ip link set {gone['next_dev']} up[/bold]"
    if seen["healed_s"] is None:
        yield _good(f"{node} has no route by {far} again.", False)
    else:
        yield f"   {_time(seen['healed_s'])} later {node} had a route by {far} again:"
    yield from _table(seen["after"])
    yield _passed(seen, "since the link came back")


def _passed(seen: Facts, when: str, outage_ms: float = 0.0) -> str:
    """`0 of 1,012 packets sent since the cut were lost.`"""
    text = f"{seen['lost']:,} of {seen['sent']:,} packets sent {when} were lost"
    text += f", within {_time(outage_ms / 1000)}." if outage_ms else "."
    few = seen["lost"] < seen["sent"] * _FEW
    return f"   {text}" if few and seen["lost"] else _good(text, few)


def _time(seconds: float) -> str:
    """`38 ms` or `1.2 s`."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def _closing(facts: Facts) -> Iterator[str]:
    from rich.markup import escape

    yield ""
    if facts["faults"]:
        yield "[bold red]Not as it should be:[/bold red]"
        yield from (f"   {escape(fault)}" for fault in facts["faults"])
        return
    sent = sum(p["sent"] for p in facts["pings"])
    stream = facts["stream"]
    yield f"[bold green]Shown in {facts['seconds']:.1f} s[/bold green]"
    yield f"   {sent} of {sent} IPv4 pings came back, over links without an IPv4 address."
    yield f"   {stream['lost']:,} of {stream['sent']:,} packets were lost while a link was cut and healed."
    yield "   This network is gone again; that of the machine was not touched."
    yield ""
    yield "[bold]Try next[/bold]"
    name = _own_name()
    width = max(len(words) for words, _ in _NEXT) + 2
    for words, why in _NEXT:
        yield f"   {name} {words:<{width}} {why}"


_NEXT: Final = (
    ("up -h", "the same on routers of your own"),
    ("route", "this machine's own routing tables"),
    ("explain 192.0.2.1", "how it would send there, and why"),
    ("lab -h", "networks of your own, from a file"),
    ("demo -j", "what you saw, as JSON"),
    ("-h", "everything else"),
)


def _own_name() -> str:
    """What to type for via6: with `make demo` it is not in PATH."""
    if shutil.which("via6"):
        return "via6"
    path = os.path.join(os.path.dirname(sys.executable), "via6")
    if not os.path.exists(path):
        return "python3 -m via6"
    near = os.path.relpath(path)
    return path if near.startswith("..") else near


def _list(words: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join(part for part in (", ".join(words[:-1]), "".join(words[-1:])) if part)


_CHAPTERS: Final[dict[str, Callable[[Facts], Iterator[str]]]] = {
    "network": _network,
    "neighbours": _neighbours,
    "addresses": _addresses,
    "routes": _routes,
    "pings": _pings,
    "trace": _trace,
    "capture": _capture,
    "cut": _cut,
    "heal": _heal,
}
