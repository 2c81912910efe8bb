"""Prints the completion script of a shell: verbs, options, devices, namespaces, tables and protocols complete.

examples:
  via6 completion bash > /etc/bash_completion.d/via6      or, for now: eval "$(via6 completion bash)"
  via6 completion zsh > /usr/share/zsh/site-functions/_via6
  via6 completion fish > ~/.config/fish/completions/via6.fish
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from via6.cli.words import OPS, TYPES
from via6.errors import OK, Refusal


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `via6 completion`."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell to complete in")


def run(args: argparse.Namespace) -> int:
    """Prints the script."""
    from argcomplete.shell_integration import shellcode

    print(shellcode(["via6"], shell=args.shell))
    return OK


def devices(netns: str | None = None) -> list[str]:
    """Names of the devices of a network namespace, of the own one if it must not be entered.

    A completion is a process of its own that ends with its answer: it may go into another namespace.
    """
    import contextlib
    import socket

    if netns:
        from via6.kernel.netns import enter

        with contextlib.suppress(Refusal):
            enter(netns)
    return sorted(name for _, name in socket.if_nameindex())


def namespaces(**_: object) -> list[str]:
    """Names that `-n` takes."""
    from via6.kernel.netns import names

    return names()


def route_words(prefix: str, parsed_args: argparse.Namespace, **_: object) -> Sequence[str]:
    """What may follow the words of `via6 route` typed so far."""
    from via6.collect import local

    words: list[str] = getattr(parsed_args, "words", None) or []
    last = words[-1] if words else ""
    if last in ("dev", "oif"):
        return devices(getattr(parsed_args, "netns", None))
    if last in ("proto", "protocol"):
        return ["via6", *local.names().protocols.values()]
    if last == "table":
        return ["all", *local.names().tables.values()]
    if last == "type":
        return TYPES
    if last in ("via", "src", "metric", "weight", "mtu"):
        return ["inet6"] if last == "via" else []
    if not words:
        return ["show", *OPS]
    if words[0] in OPS:
        return ["via", "dev", "src", "metric", "table", "proto", "weight", "mtu", "onlink", "nexthop", *TYPES]
    return ["exact", "root", "match", "table", "dev", "proto", "type"]


def explain_words(prefix: str, parsed_args: argparse.Namespace, **_: object) -> Sequence[str]:
    """What may follow the words of `via6 explain` typed so far."""
    words: list[str] = getattr(parsed_args, "words", None) or []
    last = words[-1] if words else ""
    if last in ("iif", "oif"):
        return devices(getattr(parsed_args, "netns", None))
    return [] if last in ("from", "mark") else ["from", "iif", "oif", "mark"]
