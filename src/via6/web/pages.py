"""The pages, made here: each says what it has to say before any script runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from via6 import __version__
from via6.web.answers import Bad
from via6.web.api import query_of

if TYPE_CHECKING:
    from via6.web.app import Web

HERE: Final = Path(__file__).parent
_TRACE: Final = ("from", "to", "proto", "port", "fail")
_MOST_FAILURES: Final = 2000
_LIMIT: Final = 100


class Pages:
    """The pages of one server."""

    def __init__(self, web: Web) -> None:
        self.web = web
        loader = jinja2.FileSystemLoader(HERE / "templates")
        self._templates = jinja2.Environment(loader=loader, autoescape=True, auto_reload=False)
        self._templates.filters["urlencode"] = lambda text: quote(str(text), safe="", errors="replace")
        self._kept: tuple[Any, bytes] | None = None

    def routes(self) -> list[Route]:
        """Their paths."""
        glass = self.web.settings.glass
        found = [
            Route("/", self.home if glass else self.index),
            Route("/nodes/{id}", self.node),
            Route("/glass", self.glass),
        ]
        if not glass:
            found.append(Route("/desktops/{name}", self.desktop))
        return found

    # --- rendering -------------------------------------------------------------------------------------------------

    def _render(self, template: str, glass: bool, context: dict[str, Any]) -> bytes:
        common = {
            "title": self.web.board.source.title,
            "glass": glass,
            "vendor": (HERE / "vendor" / "cytoscape" / "cytoscape.js").exists(),
            "desktops": [] if glass else self.web.desktops_json(),
            "version": __version__,
            "home": "/glass" if self.web.settings.glass else "/",
        }
        text = self._templates.get_template(template).render(**common, **context)
        return text.encode(errors="replace")  # half a surrogate pair has no octets

    def error(self, status: int, error: str, remedy: str) -> bytes:
        """A page that says what is wrong."""
        context = {"status": status, "error": error, "remedy": remedy}
        return self._render("error.html", self.web.settings.glass, context)

    # --- pages -----------------------------------------------------------------------------------------------------

    async def home(self, _request: Request) -> Response:
        """At a looking glass there is nothing else."""
        return RedirectResponse("/glass", 307)

    async def index(self, request: Request) -> Response:
        """The picture, the tables, and a way if one is asked for."""
        query = query_of(request, *_TRACE)
        if query:
            return HTMLResponse(self._render("index.html", False, await self._network(query)))
        key = self.web.board.hub.version, self.web.board.edition
        if self._kept is None or self._kept[0] != key:
            self._kept = key, self._render("index.html", False, await self._network({}))
        return HTMLResponse(self._kept[1])

    async def _network(self, query: dict[str, str]) -> dict[str, Any]:
        trace = trace_error = None
        if query.get("from") or query.get("to"):
            try:
                trace = await self.web.desk.trace(query)
            except Bad as bad:
                trace_error = {"error": bad.error, "remedy": bad.remedy}
        failures = self.web.desk.failures()
        return {
            "network": self.web.board.network(),
            "query": {name: query.get(name, "") for name in _TRACE},
            "trace": trace,
            "trace_error": trace_error,
            "failures": failures if len(failures) <= _MOST_FAILURES else [],
        }

    async def glass(self, request: Request) -> Response:
        """What strangers may see, here with or without --glass."""
        query = query_of(request, *_TRACE, "node", "match", "family")
        context = await self._network(query)
        lookup = lookup_error = None
        if query.get("node") and query.get("match"):
            try:
                family = query.get("family", "")
                lookup = await self.web.desk.routes(query["node"], family, query["match"], "", "")
            except Bad as bad:
                lookup_error = {"error": bad.error, "remedy": bad.remedy}
        context |= {"lookup": lookup, "lookup_error": lookup_error}
        context = self.web.veil().value(context)
        context["network"]["nodes"] = [{**node, "findings": None} for node in context["network"]["nodes"]]
        context["query"] = {name: query.get(name, "") for name in (*_TRACE, "node", "match", "family")}
        return HTMLResponse(self._render("glass.html", True, context))

    async def node(self, request: Request) -> Response:
        """All about one node."""
        query = query_of(request, "family", "match", "offset")
        wanted, desk, glass = request.path_params["id"], self.web.desk, self.web.settings.glass
        node = desk.node(wanted)
        routes = route_error = None
        try:
            family, match, offset = (query.get(name, "") for name in ("family", "match", "offset"))
            routes = await desk.routes(wanted, family, match, offset, str(_LIMIT))
        except Bad as bad:
            route_error = {"error": bad.error, "remedy": bad.remedy}
        try:
            findings = [] if glass else desk.findings(wanted)
        except Bad:  # not looked yet
            findings = []
        shown = self.web.shown({"node": node, "routes": routes, "changes": desk.changes(wanted, "50")})
        context = {
            **shown,
            "state": desk.state_of(wanted),
            "query": {**query, "family": query.get("family") or ("6" if ":" in query.get("match", "") else "4")},
            "limit": _LIMIT,
            "route_error": route_error,
            "findings": findings,
        }
        return HTMLResponse(self._render("node.html", glass, context))

    async def desktop(self, request: Request) -> Response:
        """A desktop that is configured."""
        name = request.path_params["name"]
        for one in self.web.desktops_json():
            if one["name"] == name:
                return HTMLResponse(self._render("desktop.html", False, {"desktop": one}))
        raise Bad(404, "there is no such desktop", "desktops are named in the configuration, or in the lab's file")
