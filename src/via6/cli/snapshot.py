"""Writes down a node's whole state as one JSON value: what the other tools reason about.

Links, addresses, routes of all tables and both families, rules, nexthop objects, neighbours, sysctls that matter to
routing, WireGuard peers with their AllowedIPs, what the packet filter does, and the Babel of a via6 daemon. No secrets:
no private or preshared key is read. What this account may not read is named, as unread, in the snapshot and here.

Without --host, --inventory, --lab or --read it is this machine (this network namespace; `via6 -n r1 snapshot`). Other
machines are asked through ssh; they need iproute2 and nothing of via6. Their host keys must be known, nothing is asked,
no agent is forwarded. A node that fails is named, the others go on, and the exit code is 1.

One node is a line of JSON, several are a line each (JSON Lines). `-o FILE` puts them into a file, `-o DIR/` into a
folder, a NAME.json each: both are what `via6 verify`, `trace` and `doctor` read.

examples:
  via6 snapshot
  via6 snapshot -o before.json
  via6 snapshot --host admin@r1 --host admin@r2 -o network/
  via6 snapshot --inventory hosts.txt -o network.jsonl
  via6 snapshot --lab examples/labs/triangle.toml -o triangle/
  via6 snapshot --read netstat.txt --name obsd1 --mask
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from via6.errors import FAILED, OK, USAGE, Refusal

if TYPE_CHECKING:
    from via6.collect.snapshot_ssh import Host
    from via6.observe.node import Node

Task = tuple[str, "Callable[[], Node]"]

_PARALLEL: Final = 16
_TIMEOUT_S: Final = 60.0
_STATUS_S: Final = 5.0
_SHORTEST_KEY: Final = 16


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `via6 snapshot`."""
    parser.usage = (
        "via6 snapshot [--host [USER@]HOST]… [--inventory FILE] [--lab FILE|LAB] [--read FILE]… [-o FILE|DIR/] [--mask]"
    )
    parser.add_argument("-o", "--output", metavar="FILE|DIR/", default="-", help="where to (else standard output)")
    parser.add_argument(
        "--host", action="append", default=[], metavar="[USER@]HOST", help="ask this machine with ssh; may be repeated"
    )
    parser.add_argument("--inventory", metavar="FILE", help="ask the machines of a file with ssh: lines HOST [NAME]")
    parser.add_argument("--lab", metavar="FILE|LAB", help="all nodes of a lab that is up")
    parser.add_argument(
        "--read", action="append", default=[], metavar="FILE",
        help="take snapshots that are there, or text of OpenBSD's `netstat -rn`, `route -n get`, `ifconfig -a`",
    )  # fmt: skip
    parser.add_argument("--name", metavar="NAME", help="call the node so (else as its host or namespace is called)")
    parser.add_argument("--mask", action="store_true", help="hide addresses, equal ones equally")
    parser.add_argument(
        "--mask-key", metavar="FILE", help="hide as every time with this key, so that snapshots can be compared"
    )
    parser.add_argument("-F", "--ssh-config", default="", metavar="FILE", help="ssh's configuration, as for ssh -F")
    parser.add_argument(
        "--parallel", type=int, default=_PARALLEL, metavar="N", help=f"ask so many at a time (default {_PARALLEL})"
    )
    parser.add_argument(
        "--timeout", type=float, default=_TIMEOUT_S, metavar="SECONDS",
        help=f"how long one machine may take (default {_TIMEOUT_S:.0f})",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Collects and writes; 1 if a node failed."""
    if args.name is not None and not (args.name and args.name.isprintable()):
        raise Refusal("--name is a name, of characters that can be seen", "via6 snapshot --name r1", USAGE)
    if args.parallel < 1 or not args.timeout > 0:
        raise Refusal("--parallel and --timeout are numbers above 0", code=USAGE)
    mask = _mask(args)
    nodes, failures = _collect(args)
    nodes = [mask(node) for node in nodes] if mask else nodes
    _unique(nodes)
    for node in nodes:
        _say_unread(node)
    for name, refusal in failures:
        print(f"via6: {name}: {refusal}", file=sys.stderr)
    if nodes:
        _write(nodes, args.output)
    return FAILED if failures else OK


def _say_unread(node: Node) -> None:
    from via6.cli.output import visible

    if node.unread:
        parts = "; ".join(f"{part} ({why})" for part, why in sorted(node.unread.items()))
        print(visible(f"{node.name}: not read: {parts}"), file=sys.stderr)
    if node.unsteady:
        print(f"{node.name}: changed all the time: {', '.join(sorted(node.unsteady))}", file=sys.stderr)


# --- what is to be read --------------------------------------------------------------------------------------------


def _collect(args: argparse.Namespace) -> tuple[list[Node], list[tuple[str, Refusal]]]:
    from via6.observe import snapshot

    nodes: list[Node] = []
    if args.read:
        nodes = snapshot.load(args.read)
    hosts = _hosts(args)
    tasks = [_ssh_task(host, args) for host in hosts] + (lab_tasks(args.lab) if args.lab else [])
    if args.name and len(tasks) + len(nodes) > 1:
        raise Refusal("--name is for one node", "an --inventory gives names to several: lines HOST NAME", USAGE)
    if tasks:
        made, failures = in_parallel(tasks, args.parallel)
        nodes += made
    elif not nodes:
        return [here(args.name or name_of(args.netns))], []
    else:
        failures = []
    if args.name:
        from dataclasses import replace

        nodes = [replace(node, name=args.name) for node in nodes]
    return nodes, failures


def name_of(netns: str | None) -> str:
    """What the node of this network namespace is called: as -n does (`LAB/NODE`: NODE), else as the machine is."""
    from via6.cli.output import visible

    return visible((netns or "").rstrip("/").rpartition("/")[2] or os.uname().nodename)


def here(name: str) -> Node:
    """The network namespace of this thread."""
    from via6.collect import snapshot_local
    from via6.daemon.client import ask
    from via6.kernel.linux import LinuxKernel

    def show(kind: str) -> list[Any]:
        from json import loads

        # How it is takes no time to say: one that has not said it by then hangs.
        answer = ask({"show": kind}, patience_s=_STATUS_S) if kind == "status" else ask({"show": kind})
        return [loads(line) for lines in answer for line in lines]

    with LinuxKernel() as kernel:
        return snapshot_local.read(name, kernel, show)


def _hosts(args: argparse.Namespace) -> list[Host]:
    if not args.host and not args.inventory:
        return []
    from via6.collect import snapshot_ssh

    hosts = [snapshot_ssh.host(word) for word in args.host]
    if args.inventory:
        try:
            text = sys.stdin.read() if args.inventory == "-" else Path(args.inventory).read_text(errors="replace")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise Refusal(f"cannot read {args.inventory}: {reason}", "a line of it is HOST [NAME]") from None
        hosts += snapshot_ssh.inventory(text, args.inventory)
    return snapshot_ssh.unique(hosts)


def _ssh_task(host: Host, args: argparse.Namespace) -> Task:
    from via6.collect import snapshot_ssh

    return host.name, lambda: snapshot_ssh.read(host, config=args.ssh_config, timeout_s=args.timeout)


def lab_tasks(word: str) -> list[Task]:
    """One for each node of a lab that is up, named or by its file."""
    from via6.kernel.netns import enter
    from via6.lab import state

    name = word
    if Path(word).suffix in (".toml", ".graphml"):
        from via6.lab.topology import load

        name = load(word).name
    lab = state.read(name)
    if lab is None or not lab.running:
        raise Refusal(f"the lab {name} is not up", f"`via6 lab up {word}`; `via6 lab list` names those that are")
    # Looked up here and not by the threads: the way into an ordinary user's lab is one for a single thread.
    places = {node: state.node_netns(f"{name}/{node}") or "" for node in lab.nodes}

    def task(node: str) -> Task:
        def work() -> Node:
            enter(places[node])  # setns(2) moves this thread alone
            return here(node)

        return node, work

    return [task(node) for node in sorted(lab.nodes)]


# --- many at a time ------------------------------------------------------------------------------------------------


def in_parallel(tasks: list[Task], most: int) -> tuple[list[Node], list[tuple[str, Refusal]]]:
    """What became of the tasks, in their order."""
    from concurrent.futures import ThreadPoolExecutor, as_completed

    nodes: dict[int, Node] = {}
    failures: dict[int, Refusal] = {}
    pool = ThreadPoolExecutor(min(most, len(tasks)))
    try:
        futures = {pool.submit(_carefully, work): at for at, (_, work) in enumerate(tasks)}
        for future in _watched(as_completed(futures), len(tasks), lambda f: tasks[futures[f]][0]):
            result = future.result()
            if isinstance(result, Refusal):
                failures[futures[future]] = result
            else:
                nodes[futures[future]] = result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return [nodes[at] for at in sorted(nodes)], [(tasks[at][0], failures[at]) for at in sorted(failures)]


def _carefully(work: Callable[[], Node]) -> Node | Refusal:
    try:
        return work()
    except Refusal as refusal:
        return refusal
    except OSError as error:
        return Refusal(str(error), "run it as root" if isinstance(error, PermissionError) else "try again")


def _watched(done: Iterator[Any], total: int, name: Callable[[Any], str]) -> Iterator[Any]:
    """The futures as they end, with a progress bar on a terminal."""
    if total < 2 or not sys.stderr.isatty():
        yield from done
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=total)
        for future in done:
            yield future
            progress.update(bar, advance=1, description=name(future))


# --- writing -------------------------------------------------------------------------------------------------------


def _mask(args: argparse.Namespace) -> Callable[[Node], Node] | None:
    if not args.mask and not args.mask_key:
        return None
    import secrets
    from hashlib import blake2s

    from via6.observe.snapshot.mask import Mask

    key = secrets.token_bytes(32)
    if args.mask_key:
        make = f"(umask 077; head -c 32 /dev/urandom | base64 > {args.mask_key})"
        try:
            said = Path(args.mask_key).read_bytes().strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise Refusal(f"cannot read {args.mask_key}: {reason}", make) from None
        if len(said) < _SHORTEST_KEY:
            raise Refusal(f"{args.mask_key}: a key has at least {_SHORTEST_KEY} octets", make)
        key = blake2s(said).digest()
    return Mask(key).node


def _unique(nodes: list[Node]) -> None:
    names = [node.name for node in nodes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise Refusal(f"two nodes are named {twice[0]!r}", "an --inventory gives them names: lines HOST NAME")


def _write(nodes: list[Node], output: str) -> None:
    from via6.observe import snapshot

    if output == "-":
        sys.stdout.flush()
        for node in nodes:
            sys.stdout.buffer.write(snapshot.encode(node))
        sys.stdout.buffer.flush()
        return
    try:
        if not output.endswith("/") and not Path(output).is_dir():
            _put(Path(output), (snapshot.encode(node) for node in nodes))
            return
        Path(output).mkdir(parents=True, exist_ok=True)
        for node in nodes:
            _put(Path(output) / f"{node.name.replace('/', '_')}.json", (snapshot.encode(node),))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Refusal(f"cannot write {output}: {reason}", "-o names a file, or a folder with / at its end") from None


def _put(path: Path, lines: Any) -> None:
    """Writes the whole file or leaves the one that was there."""
    if path.exists() and not path.is_file():  # /dev/stdout, a pipe
        with path.open("wb") as file:
            file.writelines(lines)
        return
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with new.open("wb") as file:
            file.writelines(lines)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
