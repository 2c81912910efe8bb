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
from via6.observe.node import Node
from via6.prefix import format_address
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
        title = self.web.board.source.title
        common = {
            "title": self.web.veil().text(title) if glass else title,
            "glass": glass,
            "vendor": (HERE / "vendor" / "cytoscape" / "cytoscape.js").exists(),
            "desktops": [] if glass else self.web.desktops_json(),
            "version": __version__,
            "changes_allowed": self.web.deeds.allowed and not glass,
            "home": "/glass" if self.web.settings.glass else "/",
        }
        text = self._templates.get_template(template).render(common | context)
        return text.encode(errors="replace")  # half a surrogate pair has no octets

    def error(self, status: int, error: str, remedy: str, stranger: bool = False) -> bytes:
        """A page that says what is wrong; to a stranger nothing else."""
        context = {"status": status, "error": error, "remedy": remedy}
        if stranger:
            context |= {"title": "", "desktops": [], "stranger": True}
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
                to = query.get("to", "")
                known = address_of_node(self.web.board.nodes.get(to))
                trace = await self.web.desk.trace({**query, "to": known or to})
            except Bad as bad:
                trace_error = {"error": bad.error, "remedy": bad.remedy}
        failures = self.web.desk.failures()
        network = self.web.board.network()
        return {
            "network": network,
            "names": {one["id"]: one["name"] for one in network["nodes"]},
            "summary": summary(network),
            "query": {name: query.get(name, "") for name in _TRACE},
            "trace": trace,
            "trace_error": trace_error,
            "failures": failures if len(failures) <= _MOST_FAILURES else [],
        }

    async def glass(self, request: Request) -> Response:
        """What strangers may see, here with or without --glass."""
        query = self.web.may_ask(query_of(request, *_TRACE, "node", "match", "family"), glass=True)
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
        context["summary"] = summary(context["network"], doctor=False)
        context["query"] = {name: query.get(name, "") for name in (*_TRACE, "node", "match", "family")}
        return HTMLResponse(self._render("glass.html", True, context))

    async def node(self, request: Request) -> Response:
        """All about one node."""
        query = self.web.may_ask(query_of(request, "family", "match", "offset"))
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
            findings = None
        network = self.web.board.network()
        drawn = next(one for one in network["nodes"] if one["id"] == wanted)
        links = links_of(network, wanted)
        shown = self.web.shown(
            {"node": node, "drawn": drawn, "links": links, "routes": routes, "changes": desk.changes(wanted, "50")}
        )
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


# --- words of the network's page; summary.js says the same -----------------------------------------------------------


def summary(network: dict[str, Any], doctor: bool = True) -> dict[str, Any]:
    """Whether all is well, what is not, and what there is."""
    nodes = [one for one in network["nodes"] if one["software"] != "link"]
    names = {one["id"]: one["name"] for one in network["nodes"]}
    news = _down([one["name"] for one in nodes if one["state"] == "down"], "node", "#nodes-title")
    cut = [f"{names[one['a']['node']]} to {names[one['b']['node']]}" for one in network["links"] if _is_down(one)]
    news += _down(cut, "link", "#links-title")
    if doctor:
        news += _doctor([one["findings"] for one in nodes if one["findings"]])
    good = not any(one["bad"] for one in news)
    lead = "Not all is well." if not good else "All is up." if nodes else "No node is known yet."
    kinds = [counted(nodes, "kind", kind, word) for kind, word in _KINDS]
    links = [counted(network["links"], "ipv4", four, word) for four, word in _LINKS]
    islands = plural(len(network["islands"]), "IPv4 island")
    return {"good": good, "lead": lead, "news": news, "facts": [one for one in (*kinds, *links, islands) if one]}


_KINDS: Final = (("router", "router"), ("host", "host"), ("unknown", "other node"))
_LINKS: Final = ((False, "IPv6-only link"), (True, "link with IPv4"))
_NAMED: Final = 2


def _is_down(one: dict[str, Any]) -> bool:
    return bool(one["state"] == "down")


def _down(names: list[str], what: str, href: str) -> list[dict[str, Any]]:
    if len(names) > _NAMED:
        return [{"text": f"{plural(len(names), what)} are down.", "href": href, "bad": True}]
    return [{"text": f"The {what} {name} is down.", "href": href, "bad": True} for name in names]


def _doctor(found: list[dict[str, int]]) -> list[dict[str, Any]]:
    errors, warnings = (sum(one[kind] for one in found) for kind in ("error", "warning"))
    if not found:
        return []
    counts = [plural(number, word) for number, word in ((errors, "error"), (warnings, "warning")) if number]
    text = f"The doctor finds {' and '.join(counts) or 'nothing wrong'}."
    return [{"text": text, "href": "#problems-title", "bad": bool(errors)}]


def plural(number: int, word: str) -> str:
    """`2 links`, `1 link with IPv4`."""
    head, _, tail = word.partition(" with ")
    return f"{number} {head}{'' if number == 1 else 's'}{f' with {tail}' if tail else ''}"


def counted(things: list[dict[str, Any]], name: str, value: object, word: str) -> str:
    """How many have it so; nothing for none."""
    number = sum(one[name] == value for one in things)
    return plural(number, word) if number else ""


def address_of_node(node: Node | None) -> str:
    """The IPv4 address that the name of a node stands for, as path.js has it: the first that others may know."""
    for held in node.kernel.addresses if node is not None else ():
        text = format_address(held.address)
        if len(held.address) == 4 and not text.startswith(("127.", "169.254.")) and text != "192.0.0.8":
            return text
    return ""


def links_of(network: dict[str, Any], wanted: str) -> dict[str, list[dict[str, str]]]:
    """To whom the interfaces of a node lead: the nodes at the other ends, by the interface."""
    names = {one["id"]: one["name"] for one in network["nodes"]}
    found: dict[str, list[dict[str, str]]] = {}
    for link in network["links"]:
        for here, there in ((link["a"], link["b"]), (link["b"], link["a"])):
            if here["node"] == wanted:
                found.setdefault(here["dev"], []).append({"id": there["node"], "name": names[there["node"]]})
    return found
