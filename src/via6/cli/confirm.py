"""Keeps what the last `via6 apply --confirm SECONDS` did: it is not taken back any more (but by `via6 undo`).

examples:
  via6 confirm
"""

from __future__ import annotations

import argparse

from via6.errors import OK


def configure(parser: argparse.ArgumentParser) -> None:
    del parser


def run(args: argparse.Namespace) -> int:
    del args
    from via6.daemon.apply import confirm

    kept = confirm()
    print(f"kept: {len(kept.entries)} changes of {kept.file}")
    return OK
