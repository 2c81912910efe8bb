"""What the board tells of a network that changes while it is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

import verify_support
from via6.model import IFF_UP
from via6.observe import picture
from via6.observe.names import Names
from via6.observe.node import Node
from via6.web.board import Board
from via6.web.sources import Sink


class Still:
    """A source of which nothing comes by itself."""

    title, kind, live = "still", "lab", True

    async def start(self, sink: Sink) -> None:
        pass

    async def stop(self) -> None:
        pass

    def netns(self, name: str) -> str:
        return ""


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    made = Board(Still(), Names(), doctor=False)
    for node in verify_support.network([("r1", "r2"), ("r2", "r3")]).values():
        made.put(node)
    made._set(picture.draw(made.snapshots()))
    yield made
    made._pool.shutdown()


def cut(node: Node, dev: str) -> Node:
    links = tuple(replace(one, flags=IFF_UP) if one.name == dev else one for one in node.kernel.links)
    return replace(node, kernel=replace(node.kernel, links=links))


def test_a_link_that_came_back_while_it_was_drawn_is_up(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = board.nodes["r1"]
    shown: dict[str, str] = {}  # what a page that follows the events shows

    def publish(kind: str, data: Any) -> None:
        assert kind == "link"
        shown[data["id"]] = data["state"]

    monkeypatch.setattr(board.hub, "publish", publish)
    board.put(cut(whole, "eth1"))
    (link,) = shown
    assert shown[link] == picture.DOWN
    drawn = picture.draw(board.snapshots(), board.picture)
    assert next(one.state for one in drawn.links if one.id == link) == picture.DOWN
    board.put(whole)
    assert shown[link] == picture.UP
    board._take(drawn)
    assert shown[link] == picture.UP
    assert next(one.state for one in board.picture.links if one.id == link) == picture.UP
