"""Shows what the running daemon knows: its neighbours, interfaces, routes and sources.

  via6 show                                    interfaces, neighbours and routes
  via6 show neighbour|interface [dev DEV]
  via6 show route [ADDRESS | [exact|root|match] PREFIX] [dev DEV] [state STATE]
  via6 show source [ADDRESS | [exact|root|match] PREFIX]

An ADDRESS means its longest match, a PREFIX exactly that one, `root` what is inside it, `match` what covers it.
STATE: own, selected, backup, feasible, unfeasible, retracted. The words may be cut short.
What the kernel has is shown by `via6 route`, what a packet would meet by `via6 explain`.

examples:
  via6 show neighbour
  via6 show route state selected
  via6 show route 10.1.2.3
  via6 -n r1 show route root 10.0.0.0/8 -j
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from via6.cli.main import add_output_options
from via6.errors import OK, USAGE, Refusal

_WHAT: Final = {
    "interface": "interface", "interfaces": "interface", "iface": "interface",
    "neighbour": "neighbour", "neighbours": "neighbour", "neighbor": "neighbour", "neighbors": "neighbour",
    "neigh": "neighbour", "route": "route", "routes": "route", "source": "source", "sources": "source",
}  # fmt: skip
_OVERVIEW: Final = ("interface", "neighbour", "route")
_HOWS: Final = ("exact", "root", "match")
_STATES: Final = ("own", "selected", "backup", "feasible", "unfeasible", "retracted")
_PREFIXED: Final = ("route", "source")


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `via6 show`."""
    parser.usage = "via6 show [interface|neighbour|route|source] [WORD…] [-j] [-br]"
    words = parser.add_argument("words", nargs="*", metavar="WORD", help="what to show and which of it, see above")
    words.completer = complete  # type: ignore[attr-defined]
    add_output_options(parser, "-j", "-4", "-6", "-br", "-c")


def complete(prefix: str, parsed_args: argparse.Namespace, **_: object) -> Sequence[str]:
    """What may follow the words typed so far."""
    words: list[str] = getattr(parsed_args, "words", None) or []
    if not words:
        return ("interface", "neighbour", "route", "source")
    if words[-1] == "dev":
        from via6.cli.completion import devices

        return devices(getattr(parsed_args, "netns", None))
    if words[-1] == "state":
        return _STATES
    return ("dev", "exact", "match", "root", "state")


def run(args: argparse.Namespace) -> int:
    """Asks and prints."""
    from via6.cli.output import painter, write_lines

    questions = understood(args.words, args.family)
    if args.json:
        parts = ((question["show"], json_lines(answer(question))) for question in questions)
        write_lines(_joined(parts) if len(questions) > 1 else next(parts)[1])
        return OK
    from via6.observe.babel_text import sections, table

    colour = painter(args.color)
    tables = (
        (question["show"], table(question["show"], _decoded(answer(question)), bool(args.brief), colour))
        for question in questions
    )
    write_lines(sections(tables) if len(questions) > 1 else next(tables)[1])
    return OK


def understood(words: Sequence[str], family: int | None) -> list[dict[str, Any]]:
    """The questions that these words are; raises Refusal."""
    asked: dict[str, Any] = {"family": family} if family else {}
    if not words:
        return [{"show": what, **(asked if what == "route" else {})} for what in _OVERVIEW]
    kind = what(words[0])
    question: dict[str, Any] = {"show": kind}
    if kind in _PREFIXED:
        question |= asked
    rest = iter(words[1:])
    for word in rest:
        if word in ("dev", "oif") and kind != "source":
            question["dev"] = _value(word, rest)
        elif word == "state" and kind == "route":
            question["state"] = _state(_value(word, rest))
        elif kind not in _PREFIXED:
            raise Refusal(f"{word!r} says nothing of {kind}s", f"via6 show {kind} [dev DEV]", USAGE)
        elif "prefix" in question:
            raise Refusal(f"{word!r} is one too many", f"via6 show {kind} [exact|root|match] PREFIX", USAGE)
        elif word in _HOWS:
            question |= {"prefix": _prefix(_value(word, rest), family), "how": word}
        else:
            question |= {"prefix": _prefix(word, family), "how": "exact" if _is_prefix(word) else "longest"}
    return [question]


def what(word: str, verb: str = "show", kinds: str = "interface, neighbour, route and source") -> str:
    """The kind that a word names or begins; raises Refusal."""
    found = {kind for name, kind in _WHAT.items() if name.startswith(word)} if word else set()
    if len(found) != 1:
        raise Refusal(
            f"via6 {verb} does not know {word!r}",
            f"it knows {kinds}; what the kernel has is shown by `via6 route`",
            USAGE,
        )
    return found.pop()


def _value(word: str, rest: Iterator[str]) -> str:
    value = next(rest, None)
    if value is None:
        raise Refusal(f"{word!r} lacks its value", "`via6 show -h` has examples", USAGE)
    return value


def _state(word: str) -> str:
    found = [state for state in _STATES if word and state.startswith(word)]
    if len(found) != 1:
        raise Refusal(f"no route has the state {word!r}", f"states: {', '.join(_STATES)}", USAGE)
    return found[0]


def _is_prefix(word: str) -> bool:
    return "/" in word or word in ("default", "any", "all")


def _prefix(word: str, family: int | None) -> str:
    from via6.prefix import AF_INET, AF_INET6, PrefixError, parse_prefix

    try:
        return str(parse_prefix(word, AF_INET6 if family == 6 else AF_INET))
    except PrefixError as error:
        raise Refusal(str(error), "via6 show route 10.0.0.0/8", USAGE) from None


def answer(question: dict[str, Any]) -> Iterator[bytes]:
    """The daemon's objects, each as it came."""
    from via6.daemon.client import ask

    for lines in ask(question):
        yield from lines


def _decoded(lines: Iterable[bytes]) -> Iterator[Any]:
    from json import loads

    return map(loads, lines)


def json_lines(lines: Iterable[bytes]) -> Iterator[str]:
    """A JSON array in lines, one object on each, as `via6 route -j` prints it."""
    line = "["
    for following in lines:
        yield line if line == "[" else f"{line},"
        line = following.decode()
    yield "[]" if line == "[" else f"{line}\n]"


def _joined(parts: Iterable[tuple[str, Iterable[str]]]) -> Iterator[str]:
    """One object with an array for each kind."""
    mark = "{"
    for name, lines in parts:
        for at, line in enumerate(lines):
            yield line if at else f'{mark}"{name}": {line}'
        mark = ","
    yield "}"
