"""/metrics: the newest snapshots as numbers for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily

from via6.observe.picture import UP
from via6.prefix import AF_INET, format_address
from via6.web.board import Board, counts

KIND: Final = "text/plain; version=0.0.4; charset=utf-8"
_INFINITY: Final = 65535


def exposition(board: Board) -> tuple[bytes, str]:
    """(text, content type). A name that is no UTF-8 is shown with ? in its place."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(board))
    return generate_latest(registry), KIND


def _plain(text: str) -> str:
    return text.encode(errors="replace").decode()


class _Collector:
    def __init__(self, board: Board) -> None:
        self._board = board

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """All metrics."""
        yield from self._links()
        yield from self._nodes()
        yield from self._babel()
        yield GaugeMetricFamily("via6_web_streams", "Pages that listen to events", len(self._board.hub.clients))

    def _links(self) -> Iterator[GaugeMetricFamily]:
        up = GaugeMetricFamily("via6_link_up", "1 if both ends of the link carry", labels=["link"])
        for link in self._board.picture.links:
            up.add_metric([link.id], float(link.state == UP))
        yield up

    def _nodes(self) -> Iterator[GaugeMetricFamily]:
        board = self._board
        up = GaugeMetricFamily("via6_node_up", "1 if the node answers", labels=["node"])
        age = GaugeMetricFamily("via6_snapshot_age_seconds", "Since the node was read", labels=["node"])
        routes = GaugeMetricFamily("via6_routes", "Routes in the kernel, by family", labels=["node", "family"])
        findings = GaugeMetricFamily("via6_findings", "What the doctor finds", labels=["node", "severity"])
        now = time.time()
        for name, node in board.nodes.items():
            label = _plain(name)
            up.add_metric([label], float(name not in board.down))
            if node.times:
                age.add_metric([label], max(0.0, now - max(node.times.values())))
            count = {"4": 0, "6": 0}
            for block in node.kernel.routes.blocks:
                count["4" if block.template.family == AF_INET else "6"] += len(block)
            for family, number in count.items():
                routes.add_metric([label, family], number)
            for severity, number in counts((board.findings or {}).get(name, [])).items():
                if board.findings is not None:
                    findings.add_metric([label, severity], number)
        yield from (up, age, routes, findings)

    def _babel(self) -> Iterator[GaugeMetricFamily]:
        labels = ["node", "interface", "neighbour"]
        cost = GaugeMetricFamily("via6_babel_neighbour_cost", "Cost, where it can be used", labels=labels)
        up = GaugeMetricFamily("via6_babel_neighbour_up", "1 if the neighbour can be used", labels=labels)
        for node in self._board.nodes.values():
            for one in node.babel.neighbours if node.babel is not None else ():
                where = [_plain(node.name), _plain(node.kernel.dev(one.ifindex)), format_address(one.address)]
                up.add_metric(where, float(one.cost < _INFINITY))
                if one.cost < _INFINITY:
                    cost.add_metric(where, one.cost)
        yield from (up, cost)
