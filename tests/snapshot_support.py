"""A namespace as a snapshot: read here by netlink, and as another machine would be told of it."""

from __future__ import annotations

import subprocess
from typing import Any

from support import Net
from via6.cli import snapshot as verb
from via6.collect import snapshot_script
from via6.observe.node import Node
from via6.observe.snapshot import answers


def here(net: Net) -> Node:
    """What `via6 snapshot` reads there."""
    return net.call(verb.here, "node")


def by_script(net: Net, user: int | None = None) -> Node:
    """What another machine would be told by this namespace; as root, or as another user."""
    options: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if user else {}

    def ask() -> bytes:
        done = subprocess.run(
            ["sh", "-s"], input=snapshot_script.script("mark").encode(), capture_output=True, check=False, **options
        )  # fmt: skip
        assert not done.stderr, done.stderr
        return done.stdout

    return answers.node_of("node", snapshot_script.answers(net.call(ask), "mark"))
