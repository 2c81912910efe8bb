"""The server as one ASGI application."""

from __future__ import annotations

import contextlib
import mimetypes
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Scope

from via6.observe.names import Names
from via6.web import pages
from via6.web.answers import Bad, Desk
from via6.web.api import Api, Json
from via6.web.board import Board
from via6.web.deeds import Deeds
from via6.web.desktop import Bridge, Desktop
from via6.web.glass import Veil
from via6.web.guard import Guard, plain
from via6.web.settings import Settings
from via6.web.sources import Source

HERE: Final = Path(__file__).parent
_TITLES: Final = {404: "there is nothing here", 405: "nothing can be changed here"}


class Web:
    """What all parts of one server share. Made while the process may still enter the namespaces that `desktops` are
    looked at from. Raises Refusal."""

    def __init__(self, source: Source, settings: Settings, names: Names, desktops: Sequence[Desktop] = ()) -> None:
        if settings.title:
            source.title = settings.title
        self.settings = settings
        self.board = Board(source, names, doctor=not settings.glass)
        self.desk = Desk(self.board)
        self.bridge = Bridge(desktops) if desktops and not settings.glass else None
        self.desktops = tuple(desktops) if self.bridge is not None else ()
        self.board.desktops = {one.node: one.name for one in self.desktops if one.node}
        self.deeds = Deeds(self.board, settings.changes and not settings.glass)
        self.pages = pages.Pages(self)
        self._veil: tuple[int, Veil] | None = None
        self.board.shown = self.shown

    def veil(self) -> Veil:
        """What strangers do not see, now."""
        if self._veil is None or self._veil[0] != self.board.edition:
            self._veil = self.board.edition, Veil(self.settings.hide, self.board.nodes.values())
        return self._veil[1]

    def shown(self, value: Any) -> Any:
        """A JSON value as it may go out."""
        return self.veil().value(value) if self.settings.glass else value

    def may_ask(self, query: dict[str, str], glass: bool | None = None) -> dict[str, str]:
        """The query, unless a stranger asks for what is hidden from him."""
        glass = self.settings.glass if glass is None else glass
        if glass and self.veil().asked(*query.values()):
            raise Bad(403, "an address of management is not told of here", "ask for one of the network's hosts")
        return query

    def desktops_json(self) -> list[dict[str, Any]]:
        """/api/desktops."""
        ids = self.board.picture.ids
        return [{**one.as_json(), "node": ids.get(one.node)} for one in self.desktops]

    async def stop(self) -> None:
        """Ends everything."""
        await self.board.stop()
        self.desk.close()
        if self.bridge is not None:
            self.bridge.close()

    # --- errors ----------------------------------------------------------------------------------------------------

    def turned_away(self, scope: Scope, status: int, error: str, remedy: str) -> tuple[bytes, str]:
        """For who has not come in: where a token is wanted it says nothing of what is here."""
        return self.refusal(scope, status, error, remedy, stranger=bool(self.settings.token))

    def refusal(
        self, scope: Scope, status: int, error: str, remedy: str, stranger: bool = False
    ) -> tuple[bytes, str]:  # fmt: skip
        """JSON for the API, else a page."""
        path = scope.get("path", "")
        accept = dict(scope.get("headers", ())).get(b"accept", b"")
        if path.startswith(("/api", "/metrics", "/healthz")) or b"text/html" not in accept:
            return plain(scope, status, error, remedy)
        return self.pages.error(status, error, remedy, stranger), "text/html; charset=utf-8"

    async def on_bad(self, request: Request, error: Exception) -> Response:
        """A question that is refused."""
        if isinstance(error, Bad):
            status, said, remedy = error.status, error.error, error.remedy
        elif isinstance(error, HTTPException):
            status = error.status_code
            said, remedy = _TITLES.get(status, str(error.detail)), ""
        else:
            status, said, remedy = 500, "via6 web made a mistake", "please report it, with what its terminal says"
        body, kind = self.refusal(request.scope, status, str(self.shown(said)), str(self.shown(remedy)))
        headers = error.headers if isinstance(error, HTTPException) else None  # Allow
        return Response(body, status, headers, media_type=kind)

    # --- the rest --------------------------------------------------------------------------------------------------

    async def healthz(self, _request: Request) -> Response:
        """Alive, and how many nodes answer."""
        return Json({"nodes": len(self.board.nodes), "down": len(self.board.down)})

    async def metrics(self, _request: Request) -> Response:
        """For Prometheus."""
        from via6.web.metrics import exposition

        if self.settings.glass:
            raise Bad(403, "a looking glass does not show this")
        body, kind = exposition(self.board)
        return Response(body, media_type=kind)

    async def robots(self, _request: Request) -> Response:
        """Nothing for search engines."""
        return PlainTextResponse("User-agent: *\nDisallow: /\n")


class _Files(StaticFiles):
    """Files that a browser asks for again, with their ETag."""

    def file_response(self, *args: Any, **named: Any) -> Response:
        response = super().file_response(*args, **named)
        response.headers["cache-control"] = "no-cache"
        return response


def routes_of(web: Web) -> list[BaseRoute]:
    """All paths."""
    found: list[BaseRoute] = [*Api(web).routes(), *web.pages.routes()]
    found += web.bridge.routes if web.bridge is not None else []
    found += [
        Route("/healthz", web.healthz, methods=["GET"]),
        Route("/metrics", web.metrics, methods=["GET"]),
        Route("/robots.txt", web.robots, methods=["GET"]),
    ]
    for name in ("static", "vendor"):
        if (HERE / name).is_dir():
            found.append(Mount(f"/{name}", _Files(directory=HERE / name)))
    return found


def build(web: Web) -> ASGIApp:
    """The application of a Web whose board is started by somebody else, or by the lifespan."""
    mimetypes.add_type("text/javascript", ".js")

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await web.board.start()
        try:
            yield
        finally:
            await web.stop()

    app = Starlette(
        routes=routes_of(web),
        lifespan=lifespan,
        exception_handlers={Bad: web.on_bad, HTTPException: web.on_bad, Exception: web.on_bad},
    )
    app.router.redirect_slashes = False
    return Guard(app, web.settings, web.turned_away)


def make_app(source: Source, settings: Settings, names: Names | None = None) -> ASGIApp:
    """The application; its lifespan starts and stops the source."""
    return build(Web(source, settings, names or Names()))
