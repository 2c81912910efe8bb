"""The endpoints of the API. All of them read only, but those of deeds.py. `openapi` describes them, `answers` makes
what they say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from via6.web.answers import Bad
from via6.web.guard import who_of
from via6.web.stream import MOST_CLIENTS, EventStream, dumps

if TYPE_CHECKING:
    from via6.web.app import Web

_STREAMS_OF_ONE: Final = 8  # of one stranger, at a looking glass


class Json(Response):
    """Octets that are JSON, or a value."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Octets as they are."""
        return content if isinstance(content, bytes) else dumps(content)


def query_of(request: Request, *allowed: str) -> dict[str, str]:
    """The query; what is not known is refused, so that a mistyped word is not passed over."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in allowed:
            raise Bad(400, f"there is no parameter {name[:40]!r}", f"those there are: {', '.join(allowed) or 'none'}")
        if name in found:
            raise Bad(400, f"{name} is there twice")
        if "\0" in value:
            raise Bad(400, f"{name} holds a NUL")
        found[name] = value
    return found


class Api:
    """The endpoints of one server."""

    def __init__(self, web: Web) -> None:
        self.web = web
        self.board = web.board
        self.desk = web.desk

    def routes(self) -> list[Route]:
        """All of them."""
        table: list[tuple[str, Callable[[Request], Awaitable[Response]]]] = [
            ("/api/network", self.network),
            ("/api/nodes/{id}", self.node),
            ("/api/nodes/{id}/routes", self.node_routes),
            ("/api/nodes/{id}/changes", self.node_changes),
            ("/api/nodes/{id}/findings", self.node_findings),
            ("/api/trace", self.trace),
            ("/api/failures", self.failures),
            ("/api/verify", self.verify),
            ("/api/desktops", self.desktops),
            ("/api/openapi.json", self.openapi),
            ("/api/events", self.events),
        ]
        deeds = [
            ("/api/links/{id}", self.link),
            ("/api/nodes/{id}/fix", self.fix),
            ("/api/nodes/{id}/undo", self.undo),
        ]
        found = [Route(path, endpoint, methods=["GET"]) for path, endpoint in table]
        return found + [Route(path, endpoint, methods=["POST"]) for path, endpoint in deeds]

    async def link(self, request: Request) -> Response:
        query_of(request)
        return Json(await self.web.deeds.link(request))

    async def fix(self, request: Request) -> Response:
        query_of(request)
        return Json(await self.web.deeds.fix(request, self.desk.name_of(request.path_params["id"])))

    async def undo(self, request: Request) -> Response:
        query_of(request)
        return Json(await self.web.deeds.undo(request, self.desk.name_of(request.path_params["id"])))

    def _said(self, value: Any) -> Json:
        return Json(self.web.shown(value))

    def _not_here(self) -> None:
        if self.web.settings.glass:
            raise Bad(403, "a looking glass does not show this")

    async def network(self, request: Request) -> Response:
        query_of(request)
        return Json(self.board.network_json)

    async def node(self, request: Request) -> Response:
        query_of(request)
        return self._said(self.desk.node(request.path_params["id"]))

    async def node_routes(self, request: Request) -> Response:
        query = self.web.may_ask(query_of(request, "family", "match", "offset", "limit"))
        family, match, offset, limit = (query.get(name, "") for name in ("family", "match", "offset", "limit"))
        return self._said(await self.desk.routes(request.path_params["id"], family, match, offset, limit))

    async def node_changes(self, request: Request) -> Response:
        query = query_of(request, "limit")
        return self._said(self.desk.changes(request.path_params["id"], query.get("limit", "")))

    async def node_findings(self, request: Request) -> Response:
        query_of(request)
        self._not_here()
        return self._said(self.desk.findings(request.path_params["id"]))

    async def trace(self, request: Request) -> Response:
        query = self.web.may_ask(query_of(request, "from", "to", "proto", "port", "fail"))
        return self._said(await self.desk.trace(query))

    async def failures(self, request: Request) -> Response:
        query_of(request)
        return self._said(self.desk.failures())

    async def verify(self, request: Request) -> Response:
        query_of(request)
        self._not_here()
        return self._said(await self.desk.verify())

    async def desktops(self, request: Request) -> Response:
        query_of(request)
        return Json(self.web.desktops_json())

    async def openapi(self, request: Request) -> Response:
        from via6.web.openapi import description

        return Json(description())

    async def events(self, request: Request) -> Response:
        query_of(request)
        hub = self.board.hub
        if len(hub.clients) >= MOST_CLIENTS or hub.closed:
            raise Bad(503, "too many listen already", "close other pages")
        who = who_of(request.scope)
        if self.web.settings.glass and sum(client.who == who for client in hub.clients) >= _STREAMS_OF_ONE:
            raise Bad(429, "you listen often enough already", "close other pages")
        word = request.headers.get("last-event-id", "")
        last = int(word) if word.isascii() and word.isdecimal() and len(word) < 18 else None
        return EventStream(hub, last, who)  # type: ignore[return-value] # an ASGI application is all that is asked for
