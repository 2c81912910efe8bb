"""Reading a configuration file: bounded, `-` is standard input."""

from __future__ import annotations

import os
import sys
from typing import Final

from via6.config import Config, Problem, parse
from via6.config_text import MAX_OCTETS
from via6.errors import Refusal

_SHOWN: Final = 20  # problems; `via6 check` shows all


def read(path: str) -> tuple[bytes, str]:
    """The octets of a file, at most one more than are allowed (so that `parse` sees that it is too large), and the
    name for messages. Raises Refusal."""
    if path == "-":
        if sys.stdin is None:
            raise Refusal("standard input is closed", "name a file")
        return sys.stdin.buffer.read(MAX_OCTETS + 1), "stdin"
    shown = os.fsencode(path).decode(errors="backslashreplace")  # a name need not be UTF-8, a message must
    try:
        with open(path, "rb") as file:
            return file.read(MAX_OCTETS + 1), shown
    except IsADirectoryError:
        raise Refusal(f"{shown} is a folder", "name the .toml file in it") from None
    except PermissionError:
        raise Refusal(f"{shown}: not allowed to read it", "run it as root, or change the file's owner") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise Refusal(f"cannot read {shown}: {reason}", "`via6 check -` reads standard input") from None


def describe(problem: Problem) -> str:
    """`FILE:LINE: place: message` and the remedy, indented."""
    warning = "warning: " if problem.severity == "warning" else ""
    where, _, _ = str(problem).rpartition(problem.message)
    return f"{where}{warning}{problem.message}\n  {problem.remedy}"


def load(path: str) -> Config:
    """For verbs that need a good file: the first things that `parse` has to say go to stderr; with an error comes a
    Refusal."""
    config, problems = parse(*read(path))
    for problem in problems[:_SHOWN]:
        print(describe(problem), file=sys.stderr)
    if len(problems) > _SHOWN:
        print(f"… and {len(problems) - _SHOWN} more", file=sys.stderr)
    if config is None:
        errors = sum(problem.severity == "error" for problem in problems)
        count = "a mistake" if errors == 1 else f"{errors} mistakes"
        raise Refusal(
            f"{problems[0].file} has {count}: nothing was done", "`via6 check FILE` tells when all are mended"
        )
    return config
