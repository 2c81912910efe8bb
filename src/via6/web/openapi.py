"""The API as OpenAPI 3.1 describes it. Tests put questions to the server by it, and compare the answers with it."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from via6 import __version__
from via6.web.answers import MOST_OFFSET, MOST_ROUTES
from via6.web.board import KEPT

Json = dict[str, Any]

TEXT: Final[Json] = {"type": "string"}
MAYBE: Final[Json] = {"type": ["string", "null"]}
WHOLE: Final[Json] = {"type": "integer"}
STATE: Final[Json] = {"type": "string", "enum": ["up", "down", "unknown"]}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(of: Json) -> Json:
    return {"type": "array", "items": of}


def _object(optional: tuple[str, ...] = (), **fields: Json) -> Json:
    names = {name.rstrip("_"): field for name, field in fields.items()}
    return {
        "type": "object",
        "properties": names,
        "required": [name for name in names if name not in optional],
        "additionalProperties": False,
    }


def _open(*required: str) -> Json:
    """An object of which more is told elsewhere."""
    return {"type": "object", "required": list(required)}


def _schemas() -> Json:
    return {
        "Error": _object(error=TEXT, remedy=TEXT),
        "Counts": _object(error=WHOLE, warning=WHOLE),
        "Node": _object(
            id=TEXT, name=TEXT, kind={"type": "string", "enum": ["router", "host", "unknown"]}, software=TEXT,
            state=STATE, islands=_list(TEXT), findings={"anyOf": [_ref("Counts"), {"type": "null"}]}, desktop=MAYBE,
        ),
        "End": _object(node=TEXT, dev=TEXT),
        "Link": _object(
            id=TEXT, a=_ref("End"), b=_ref("End"), state=STATE, kind=TEXT, ipv4={"type": "boolean"},
            cost={"type": ["integer", "null"]},
        ),
        "Island": _object(id=TEXT, prefix=TEXT, nodes=_list(TEXT)),
        "Network": _object(
            title=TEXT, source={"type": "string", "enum": ["lab", "daemon", "inventory", "snapshots"]},
            live={"type": "boolean"}, time={"type": "number"}, version=WHOLE, nodes=_list(_ref("Node")),
            links=_list(_ref("Link")), islands=_list(_ref("Island")),
        ),
        "Interface": _object(name=TEXT, state=STATE, mtu=WHOLE, addresses=_list(TEXT), kind=TEXT),
        "Neighbour": _object(
            address=TEXT, interface=TEXT, cost=WHOLE, rxcost={"type": ["integer", "null"]},
            txcost={"type": ["integer", "null"]}, reach=TEXT, signed={"type": "boolean"},
        ),
        "NodeDetail": _object(
            id=TEXT, name=TEXT, system=MAYBE, release=MAYBE, interfaces=_list(_ref("Interface")),
            neighbours=_list(_ref("Neighbour")), counts=_object(routes4=WHOLE, routes6=WHOLE),
            unread={"type": "object", "additionalProperties": TEXT}, time={"type": "number"},
        ),
        "NextHop": _object(via=MAYBE, dev=MAYBE),
        "Route": _object(
            prefix=TEXT, text=TEXT, type=TEXT, next_hops=_list(_ref("NextHop")), protocol=TEXT, metric=WHOLE,
            table=TEXT, src=MAYBE,
        ),
        "Routes": _object(total=WHOLE, offset=WHOLE, longest=MAYBE, routes=_list(_ref("Route"))),
        "Change": _object(
            time={"type": "number"},
            kind={"type": "string", "enum": ["link", "route", "neighbour", "address", "finding"]},
            text=TEXT, good={"type": ["boolean", "null"]},
        ),
        "Finding": _object(
            id=TEXT, code=TEXT, severity={"type": "string", "enum": ["error", "warning", "info"]}, node=TEXT,
            subject=TEXT, title=TEXT, evidence=TEXT, breaks=TEXT, remedy=TEXT, depends_on=_list(TEXT),
            fixable={"type": "boolean"},
        ),
        "Hop": _object(
            ("seen",), node=MAYBE, in_=MAYBE, route=MAYBE, next_hop=MAYBE, out=MAYBE,
            rtt_ms={"type": ["number", "null"]}, icmp_source=MAYBE, seen={"type": ["array", "null"], "items": TEXT},
            mtu={"type": ["integer", "null"]}, notes=_list(TEXT), ends=MAYBE, why=MAYBE, node_id=MAYBE, link_id=MAYBE,
        ),
        "Trace": _object(
            flow=_open("destination", "source", "proto"), hops=_list(_ref("Hop")), disposition=TEXT,
            asymmetric={"type": "boolean"}, remarks=_list(TEXT), back={"anyOf": [_ref("Trace"), {"type": "null"}]},
        ),
        "Failure": _object(id=TEXT, kind={"type": "string", "enum": ["link", "node"]}, name=TEXT),
        "Verify": _open("nodes", "classes", "pairs", "arriving", "problems"),
        "Done": _object(done=_list(TEXT), problems=_list(TEXT)),
        "Desktop": _object(name=TEXT, kind=TEXT, node=MAYBE, path=TEXT),
    }  # fmt: skip


def _query(name: str, about: str, required: bool = False, **schema: Any) -> Json:
    return {
        "name": name, "in": "query", "required": required, "description": about,
        "schema": {"type": "string", "maxLength": 300, **schema},
    }  # fmt: skip


def _number(name: str, about: str, least: int, most: int) -> Json:
    schema = {"type": "integer", "minimum": least, "maximum": most}
    return {"name": name, "in": "query", "required": False, "description": about, "schema": schema}


_ID: Final[Json] = {
    "name": "id", "in": "path", "required": True, "description": "an id of /api/network",
    "schema": {"type": "string", "minLength": 1, "maxLength": 120, "pattern": "^[A-Za-z0-9._~-]+$"},
}  # fmt: skip
_BAD: Final = {
    "400": "the question is wrong", "401": "a token is needed", "403": "not shown here", "404": "there is none",
    "405": "nothing can be changed here", "414": "the question is too long", "421": "the server is not called so",
    "429": "too many questions", "503": "not now",
}  # fmt: skip
_BAD_CHANGE: Final = _BAD | {
    "403": "it is not said that it is meant, or who asks is not let in", "405": "--allow-changes was not given",
    "408": "it took too long to come", "409": "as things stand this cannot be done", "413": "too much was sent",
    "415": "not JSON",
}  # fmt: skip


_MEANT: Final[Json] = {
    "name": "X-Via6-Change", "in": "header", "required": True, "description": "that it is meant",
    "schema": {"type": "string", "enum": ["yes"]},
}  # fmt: skip


def _post(about: str, **fields: Json) -> Json:
    answers: Json = {"200": {"description": "what was done", "content": {"application/json": {"schema": _ref("Done")}}}}
    for status, text in _BAD_CHANGE.items():
        answers[status] = {"description": text, "content": {"application/json": {"schema": _ref("Error")}}}
    body = {"required": True, "content": {"application/json": {"schema": _object((), **fields)}}}
    return {"post": {"summary": about, "parameters": [_ID, _MEANT], "requestBody": body, "responses": answers}}


def _get(about: str, schema: Json, *parameters: Json, kind: str = "application/json") -> Json:
    answers: Json = {"200": {"description": about, "content": {kind: {"schema": schema}}}}
    for status, text in _BAD.items():
        answers[status] = {"description": text, "content": {"application/json": {"schema": _ref("Error")}}}
    return {"get": {"summary": about, "parameters": list(parameters), "responses": answers}}


def _paths() -> Json:
    return {
        "/api/network": _get("nodes, links, islands", _ref("Network")),
        "/api/nodes/{id}": _get("a node", _ref("NodeDetail"), _ID),
        "/api/nodes/{id}/routes": _get(
            "its routes in order, or those that an address could take, the longest first", _ref("Routes"), _ID,
            _query("family", "4 (the default) or 6", enum=["4", "6"]),
            _query("match", "an address", maxLength=64, anyOf=[{"format": "ipv4"}, {"format": "ipv6"}]),
            _number("offset", "pass over so many", 0, MOST_OFFSET), _number("limit", "at most so many", 1, MOST_ROUTES),
        ),
        "/api/nodes/{id}/changes": _get(
            "what happened to it, the newest first", _list(_ref("Change")), _ID,
            _number("limit", "at most so many", 1, KEPT),
        ),
        "/api/nodes/{id}/findings": _get("what the doctor finds, as `via6 doctor -j`", _list(_ref("Finding")), _ID),
        "/api/trace": _get(
            "the way of a packet there and back by the tables, as `via6 trace -j`", _ref("Trace"),
            _query("from", "a node (id or name) or an IPv4 address", True, minLength=1),
            _query("to", "an IPv4 address", True, maxLength=64, format="ipv4"),
            _query("proto", "icmp, udp or tcp", enum=["icmp", "udp", "tcp"]),
            _number("port", "of udp or tcp", 1, 65535),
            _query("fail", "an id of /api/failures: the way after that failure"),
        ),
        "/api/failures": _get("the links and nodes that `fail` takes", _list(_ref("Failure"))),
        "/api/verify": _get("what is wrong in the whole network, as `via6 verify -j`", _ref("Verify")),
        "/api/nodes/{id}/fix": _post(
            "does what `via6 doctor --fix` does about one finding", finding={**TEXT, "minLength": 1, "maxLength": 1000}
        ),
        "/api/nodes/{id}/undo": _post("takes back what was mended there, as `via6 doctor --undo`"),
        "/api/links/{id}": _post(
            "cuts a link between two routers of a lab, or mends it", state={**TEXT, "enum": ["up", "down"]}
        ),
        "/api/desktops": _get("desktops that can be looked at", _list(_ref("Desktop"))),
        "/api/openapi.json": _get("this", _open("openapi", "paths")),
        "/api/events": _get(
            "events `network`, `link`, `node`, `route`, `findings`; the data are JSON", TEXT, kind="text/event-stream"
        ),
    }  # fmt: skip


@cache
def description() -> Json:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "via6 web",
            "version": __version__,
            "description": "What is known of a network. Read-only but for POST, which --allow-changes allows. "
            "An unknown parameter is refused.",
        },
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }
