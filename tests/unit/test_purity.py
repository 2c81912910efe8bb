"""The rooms: what is pure stays pure, and dependencies point one way (DESIGN.md)."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "via6"

WORLDLY = {"socket", "asyncio", "time", "os", "subprocess", "random", "logging"}
"""What a pure room may not import: the network, the clock, the machine, chance."""

# Packages and modules directly below via6, the lowest first. A room may import itself and what stands in lower
# lines; rooms of one line are the parts of one thing.
LAYERS = [
    {"prefix", "errors", "__init__"},
    {"model"},
    {"netlink", "rib"},
    {"babel"},
    {"config_text", "config_shape", "config_babel", "config_rules", "config_tables"},
    {"config"},
    {"view"},
    {"carriers", "resolve", "policy"},
    {"lots", "fib", "fib_watch", "static", "observe", "render"},
    {"engine"},
    {"sim"},
    {"collect"},
    {"kernel"},
    {"daemon"},
    {"lab"},
    {"cli", "web", "__main__"},
]

EXCEPTIONS = {("kernel.netns", "lab.state")}
"""`-n` takes the node of a lab for a namespace, and only the lab knows where that is; imported when it is needed."""

PURE = {room for layer in LAYERS[:11] for room in layer}

FILES = sorted(SOURCE.rglob("*.py"))


def name_of(file: Path) -> str:
    """Dotted name below via6; that of a package is its folder."""
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def room_of(name: str) -> str:
    return name.partition(".")[0]


@cache
def imports(file: Path) -> frozenset[str]:
    """Every module that a file imports, also within functions, but not for types alone."""
    found: set[str] = set()
    queue: list[ast.AST] = [ast.parse(file.read_text())]
    while queue:
        node = queue.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            queue += node.orelse
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{file}: relative imports hide where a dependency points"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        queue += ast.iter_child_nodes(node)
    return frozenset(found)


def inner(file: Path) -> set[str]:
    """Modules of via6 that a file imports, by their names below via6."""
    return {name.removeprefix("via6.") for name in imports(file) if name.startswith("via6.")} & set(map(name_of, FILES))


def rank(name: str) -> int:
    for index, layer in enumerate(LAYERS):
        if room_of(name) in layer:
            return index
    raise AssertionError(f"{name} has no place in LAYERS")


@pytest.mark.parametrize("file", [f for f in FILES if room_of(name_of(f)) in PURE], ids=name_of)
def test_pure_rooms_touch_nothing(file: Path) -> None:
    outside = {name.partition(".")[0] for name in imports(file)}
    assert not outside & WORLDLY
    assert {room_of(name) for name in inner(file)} <= PURE


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_dependencies_point_one_way(file: Path) -> None:
    name = name_of(file)
    mine = rank(name)
    upwards = {other for other in inner(file) if rank(other) > mine and (name, other) not in EXCEPTIONS}
    assert not upwards
