"""The one exception that a face shows to its user: what is wrong, where, and what mends it."""

from __future__ import annotations

from typing import Final

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
TROUBLE: Final = 3  # a test, doctor or verify found something wrong
NO_DAEMON: Final = 4


class Refusal(Exception):  # noqa: N818 - it is no accident but an answer
    """`message` names the place and the fault, `remedy` what to type instead; `code` becomes the exit code."""

    def __init__(self, message: str, remedy: str = "", code: int = FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.code = code

    def __str__(self) -> str:
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message
