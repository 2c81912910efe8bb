"""A Topology Zoo file (GraphML) as a lab: every node is a router with its own IPv4 /24 and one host in it.

Node number n (from 1, in the order of the file) gets 10.X.Y.0/24 where X.Y are the octets of n. Names are made of the
labels (of a node's key `label`, or what the yEd editor draws in it, as the Zoo's own files have it): ASCII, small
letters, unique. Every edge is a link of cost 1, parallel edges are parallel links; an edge from a
node to itself is left out, with a note. Nothing else of the file is read.

The file is anybody's, so the parser is expat with a door shut: a document type is refused before any entity in it
exists (entity expansion, external entities), and expat itself needs no recursion for deep nesting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.parsers import expat

from via6.errors import Refusal
from via6.lab.topology import MAX_ROUTERS, Host, Router, Topology, cable_up, nth, slug, unique
from via6.prefix import Prefix

_HOST_OCTET = 10
_MAX_LABEL = 200


@dataclass
class _Reader:
    """What expat has told so far. Element names carry no namespace: prefixes are cut off."""

    where: str
    parser: expat.XMLParserType
    label_keys: set[str] = field(default_factory=set)
    labels: dict[str, str] = field(default_factory=dict)  # node id -> label, in the order of the file
    edges: list[tuple[str, str, int]] = field(default_factory=list)  # source, target, line
    node: str | None = None
    text: list[str] | None = None  # of a label that is being read, and the name of its element
    text_of: str = ""
    root: str = ""

    def refuse(self, message: str, line: int | None = None) -> Refusal:
        return Refusal(f"{self.where}:{line or self.parser.CurrentLineNumber}: {message}")

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        name = name.rpartition(":")[2]
        if not self.root:
            self.root = name
            if name != "graphml":
                raise self.refuse(f"this is <{name}>, not GraphML")
        if name == "key" and attributes.get("for") in ("node", "all") and attributes.get("attr.name") == "label":
            self.label_keys.add(attributes.get("id", ""))
        elif name == "node":
            self._start_node(attributes)
        elif name == "edge":
            source, target = attributes.get("source"), attributes.get("target")
            if source is None or target is None:
                raise self.refuse("an edge without source or target")
            self.edges.append((source, target, self.parser.CurrentLineNumber))
        elif self.node is not None and (
            (name == "data" and attributes.get("key") in self.label_keys)
            or (name == "NodeLabel" and not self.labels[self.node])
        ):
            self.text, self.text_of = [], name

    def _start_node(self, attributes: Mapping[str, str]) -> None:
        node = attributes.get("id")
        if not node:
            raise self.refuse("a node without id")
        if node in self.labels:
            raise self.refuse(f"a second node with the id {node!r}")
        if len(self.labels) == MAX_ROUTERS:
            raise self.refuse(f"more than {MAX_ROUTERS} nodes")
        self.labels[node] = ""
        self.node = node

    def characters(self, text: str) -> None:
        if self.text is not None and len(self.text) < _MAX_LABEL:
            self.text.append(text[:_MAX_LABEL])

    def end(self, name: str) -> None:
        name = name.rpartition(":")[2]
        if name == self.text_of and self.text is not None and self.node is not None:
            self.labels[self.node] = "".join(self.text).strip()[:_MAX_LABEL] or self.labels[self.node]
            self.text = None
        elif name == "node":
            self.node = None

    def doctype(self, *_: object) -> None:
        raise self.refuse("a document type (<!DOCTYPE>) is not taken: entities in it could fill the memory")


def _read(data: bytes, where: str) -> _Reader:
    parser = expat.ParserCreate()
    reader = _Reader(where, parser)
    parser.StartDoctypeDeclHandler = reader.doctype
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.characters
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise Refusal(f"{where}:{error.lineno}: not XML: {expat.ErrorString(error.code)}") from None
    except (ValueError, LookupError) as error:  # an encoding that Python does not know
        raise Refusal(f"{where}: not XML that can be read: {error}") from None
    return reader


def parse(data: bytes, where: str, name: str) -> Topology:
    """The lab of a GraphML file's octets. Raises Refusal with file and line."""
    reader = _read(data, where)
    if not reader.labels:
        raise Refusal(f"{where}: no node in it")
    taken: set[str] = set()
    names: dict[str, str] = {}
    routers: list[Router] = []
    for number, (node, label) in enumerate(reader.labels.items(), start=1):
        names[node] = unique(slug(label) or slug(node) or f"n{number}", taken)
        lan = Prefix(bytes((10, number >> 8, number & 0xFF, 0)), 24)
        routers.append(Router(names[node], number, label or node, lan=lan, gateway=nth(lan, 1)))
    links: list[tuple[str, str, int, int]] = []
    notes: list[str] = []
    for source, target, line in reader.edges:
        for end in (source, target):
            if end not in names:
                raise reader.refuse(f"an edge to the node {end!r}, which there is not", line)
        if source == target:
            notes.append(f"line {line}: an edge from {names[source]} to itself is left out")
        else:
            links.append((names[source], names[target], 1, 1500))
    hosts = [host_behind(router, taken) for router in routers]
    return Topology(name, tuple(routers), tuple(hosts), cable_up(links), tuple(notes))


def host_behind(router: Router, taken: set[str]) -> Host:
    """The host that a router with an island and without any host gets."""
    assert router.lan is not None
    assert router.gateway is not None
    address = nth(router.lan, min(_HOST_OCTET, (1 << (32 - router.lan.length)) - 2))
    return Host(unique(f"{router.name}-h", taken), router.name, address, router.lan.length, router.gateway)
