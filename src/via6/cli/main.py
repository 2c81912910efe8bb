# PYTHON_ARGCOMPLETE_OK
"""`via6 [OPTIONS] VERB …`: finds the verb, imports its module alone, turns every Refusal into one clear message.

A verb is a module with `configure(parser)`, which adds its arguments, and `run(args)`, which returns the exit code.
Options that `ip` takes before the object (-n, -j, -4, -6, -br, -c) are taken before the verb; what comes after the
verb is the verb's own.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from types import ModuleType
from typing import Any, Final

from via6 import __version__
from via6.errors import FAILED, OK, USAGE, Refusal

VERBS: Final = {
    "up": ("via6.cli.up", "speak Babel on these interfaces: IPv4 routes set themselves up"),
    "route": ("via6.cli.route", "show, add, replace or delete routes of either family"),
    "explain": ("via6.cli.explain", "how this node would send a packet, and why"),
    "check": ("via6.cli.check", "find every mistake of a configuration file"),
    "plan": ("via6.cli.plan", "print what apply would change"),
    "apply": ("via6.cli.apply", "make the declared routes so, once"),
    "confirm": ("via6.cli.confirm", "keep what `apply --confirm` did"),
    "undo": ("via6.cli.undo", "take the last apply back"),
    "run": ("via6.cli.run", "make the declared routes so and keep them so, or speak Babel"),
    "status": ("via6.cli.status", "how the daemon is, in a few lines"),
    "show": ("via6.cli.show", "the neighbours, routes, interfaces or sources of the daemon"),
    "monitor": ("via6.cli.monitor", "what the daemon has, then each change"),
    "host": ("via6.cli.host", "IPv4 for a machine whose link has IPv6 alone"),
    "snapshot": ("via6.cli.snapshot", "the whole state of one node or many, as JSON"),
    "doctor": ("via6.cli.doctor", "why packets are lost, or will be, and what mends it"),
    "trace": ("via6.cli.trace", "each hop of a packet by name, there and back"),
    "verify": ("via6.cli.verify", "prove what becomes of every IPv4 packet in a network"),
    "web": ("via6.cli.web", "the network in a browser, live"),
    "render": ("via6.cli.render", "print the declared routes in another system's words"),
    "lab": ("via6.cli.lab", "a network of namespaces from a file"),
    "demo": ("via6.cli.demo", "an IPv6-only network passes IPv4, before your eyes"),
    "completion": ("via6.cli.completion", "print the completion script of a shell"),
}

_WHEN: Final = ("auto", "always", "never")

EPILOG: Final = """\
examples:
  via6 route add 10.0.0.0/8 via fe80::22 dev eth1     an IPv4 route with an IPv6 next hop
  via6 up eth1 eth2 --export connected                neighbours find each other and agree on routes
  via6 -n r1 route                                    both tables of the namespace r1
  via6 explain 10.1.2.3                               what would happen to a packet, and why
  via6 demo                                           see it work, touching nothing of this machine

exit codes: 0 good, 1 failed, 2 usage, 3 a test found trouble, 4 daemon not reached
`via6 VERB -h` tells more of each verb.
"""


def _global_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "-netns", "--netns", metavar="NETNS", help="work in this network namespace, as `ip -n`")
    add_output_options(parser, *_OUTPUT, default=None)
    parser.add_argument(
        "-V", "--version", action="version", version=f"via6 {__version__}", help="print the version and exit"
    )


_OUTPUT: Final[dict[str, tuple[tuple[str, ...], dict[str, Any]]]] = {
    "-j": (("-j", "-json", "--json"), {"dest": "json", "action": "store_true", "help": "print JSON"}),
    "-4": (("-4",), {"dest": "family", "action": "store_const", "const": 4, "help": "IPv4 only"}),
    "-6": (("-6",), {"dest": "family", "action": "store_const", "const": 6, "help": "IPv6 only"}),
    "-br": (("-br", "-brief", "--brief"), {"dest": "brief", "action": "store_true", "help": "one short line each"}),
    "-c": (("-c", "-color", "--color"), {
        "dest": "color", "choices": _WHEN, "metavar": "WHEN",
        "help": "colours: auto (the same as -c alone; heeds NO_COLOR), always or never",
    }),
}  # fmt: skip


def add_output_options(parser: argparse.ArgumentParser, *wanted: str, default: object = argparse.SUPPRESS) -> None:
    """Those of -j -4 -6 -br -c that a verb heeds: all are taken before the verb, these after it as well."""
    for name in wanted:
        flags, how = _OUTPUT[name]
        parser.add_argument(*flags, default=default, **how)


def _formatter(prog: str) -> argparse.HelpFormatter:
    """With the width given: argparse would import shutil, and with it every compressor, to find it."""
    columns = os.environ.get("COLUMNS", "")
    try:
        width = int(columns) if columns.isdecimal() else os.get_terminal_size(1).columns
    except (OSError, ValueError):
        width = 80
    return argparse.RawDescriptionHelpFormatter(prog, width=max(width, 40) - 2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="via6",
        usage="via6 [-n NETNS] [-j] [-4|-6] [-br] [-c] VERB …",
        description="IPv4 routes with IPv6 next hops: set up, kept right, explained.",
        epilog="verbs:\n" + "".join(f"  {v:<11} {text}\n" for v, (_, text) in VERBS.items()) + "\n" + EPILOG,
        formatter_class=_formatter,
        allow_abbrev=False,
    )
    _global_options(parser)
    return parser


def leaf_parser(verb: str, module: ModuleType) -> argparse.ArgumentParser:
    """The parser of one verb; its description is the module's docstring up to `examples:`, the rest the epilog."""
    about, mark, examples = (module.__doc__ or "").partition("examples:")
    parser = argparse.ArgumentParser(
        prog=f"via6 {verb}",
        description=about.strip(),
        epilog=(mark + examples).rstrip() or None,
        formatter_class=_formatter,
        allow_abbrev=False,
    )
    module.configure(parser)
    return parser


def _split(argv: list[str]) -> int:
    """Index of the verb: the first word that is no option and no option's value."""
    index = 0
    while index < len(argv) and argv[index].startswith("-"):
        if argv[index] in ("-n", "-netns", "--netns"):
            index += 1
        index += 1
    return index


def _with_colour(argv: list[str]) -> list[str]:
    """`-c WHEN` as `-c=WHEN` and `-c` alone as `-c=auto`: argparse would take any next word, an address, for WHEN."""
    end = argv.index("--") if "--" in argv else len(argv)
    made: list[str] = []
    rest = iter(enumerate(argv[:end]))
    for at, word in rest:
        if word in _OUTPUT["-c"][0]:
            given = argv[at + 1 : at + 2]
            known = bool(given) and given[0] in _WHEN
            word += f"={given[0] if known else 'auto'}"
            if known:
                next(rest)
        made.append(word)
    return made + argv[end:]


def dispatch(argv: list[str]) -> int:
    """Runs one command line; raises Refusal, or SystemExit from argparse."""
    argv = _with_colour(argv)
    at = _split(argv)
    options = _parser().parse_args(argv[:at])
    if at >= len(argv):
        _parser().print_help(sys.stderr)
        return USAGE
    verb = argv[at]
    if verb == "help":
        _parser().print_help()
        return OK
    if verb not in VERBS:
        # As `ip` does, an unambiguous beginning of a verb is enough.
        near = [v for v in VERBS if v.startswith(verb)]
        if len(near) != 1:
            raise Refusal(f"unknown verb {verb!r}", "`via6 -h` lists the verbs", USAGE)
        verb = near[0]
    module = importlib.import_module(VERBS[verb][0])
    parser = leaf_parser(verb, module)
    # The options before the verb are the defaults of those behind it.
    args = parser.parse_intermixed_args(argv[at + 1 :], argparse.Namespace(**vars(options)))
    if args.netns:
        from via6.kernel.netns import enter

        if hasattr(module, "before_netns"):  # what belongs to the namespace that we come from
            module.before_netns(args)
        enter(args.netns)
    code: int = module.run(args)
    return code


def _complete() -> None:
    import argcomplete

    from via6.cli.completion import namespaces

    parser = _parser()
    for action in parser._actions:
        if action.dest == "netns":
            action.completer = namespaces  # type: ignore[attr-defined]
    verbs = parser.add_subparsers()
    # The module of a verb is imported when the verb has been typed: a completion must be quick.
    typed = os.environ.get("COMP_LINE", "").split()
    for verb, (name, text) in VERBS.items():
        leaf = verbs.add_parser(verb, help=text)
        if verb in typed:
            importlib.import_module(name).configure(leaf)
    argcomplete.autocomplete(parser)


def _fill_standard_streams() -> None:
    """A standard stream that was closed (`>&-`) is None, and its number would go to the next socket. Standard input
    stays None: an empty text is not what somebody meant to give."""
    for number, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)):
        if stream is None:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # takes the smallest free number
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - open for good
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def main(argv: list[str] | None = None) -> int:
    """The console script. Never a traceback for what a user, a file or the kernel can cause."""
    _fill_standard_streams()
    if "_ARGCOMPLETE" in os.environ:
        _complete()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What the terminal's character set lacks is shown as \x escapes, as Python does on stderr.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = dispatch(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except Refusal as refusal:
        print(f"via6: {refusal}", file=sys.stderr)
        return refusal.code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone: no fault. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return OK
    except PermissionError as error:
        print(f"via6: {error}\n  run it as root, or with CAP_NET_ADMIN", file=sys.stderr)
        return FAILED
    except OSError as error:
        # A disk that is full, most likely. Python would complain again when it flushes at exit.
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        print(f"via6: {error}", file=sys.stderr)
        return FAILED
