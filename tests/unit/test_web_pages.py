"""The words of the network's page that the server makes: is all well, and what is there?"""

from __future__ import annotations

from typing import Any

import verify_support
from via6.web.pages import address_of_node, links_of, plural, summary


def node(name: str, kind: str = "router", state: str = "up", **findings: int) -> dict[str, Any]:
    found = {"error": 0, "warning": 0, **findings} if findings else None
    return {"id": name, "name": name.upper(), "kind": kind, "software": "", "state": state, "findings": found}


def link(a: str, b: str, state: str = "up", ipv4: bool = False) -> dict[str, Any]:
    ends = {"a": {"node": a, "dev": f"to-{b}"}, "b": {"node": b, "dev": f"to-{a}"}}
    return {"id": f"{a}--{b}", **ends, "state": state, "ipv4": ipv4}


def network(nodes: list[dict[str, Any]], links: list[dict[str, Any]]) -> dict[str, Any]:
    return {"nodes": nodes, "links": links, "islands": [{"id": "10.0.0.0-24"}]}


def test_all_is_up() -> None:
    said = summary(network([node("r1", error=0), node("r2"), node("h1", "host")], [link("r1", "r2")]))
    assert said["good"]
    assert said["lead"] == "All is up."
    assert [one["text"] for one in said["news"]] == ["The doctor finds nothing wrong."]
    assert said["facts"] == ["2 routers", "1 host", "1 IPv6-only link", "1 IPv4 island"]


def test_what_is_down_is_named_until_there_is_much_of_it() -> None:
    nodes = [node(f"r{n}") for n in range(1, 6)]
    links = [link("r1", f"r{n}", "down" if n < 4 else "up", ipv4=n == 5) for n in range(2, 6)]
    said = summary(network(nodes, links))
    assert not said["good"]
    assert [one["text"] for one in said["news"]] == [
        "The link R1 to R2 is down.",
        "The link R1 to R3 is down.",
    ]
    assert "1 link with IPv4" in said["facts"]
    links[2]["state"] = "down"
    said = summary(network([*nodes, node("r6", state="down")], links))
    assert [one["text"] for one in said["news"]] == ["The node R6 is down.", "3 links are down."]
    assert all(one["bad"] for one in said["news"])


def test_errors_are_bad_and_warnings_are_told() -> None:
    said = summary(network([node("r1", warning=1), node("r2", error=2)], []))
    assert (said["good"], said["news"][0]["text"]) == (False, "The doctor finds 2 errors and 1 warning.")
    said = summary(network([node("r1", warning=1)], []))
    assert (said["good"], said["news"][0]["text"]) == (True, "The doctor finds 1 warning.")


def test_strangers_hear_nothing_of_the_doctor() -> None:
    said = summary(network([node("r1", error=2)], []), doctor=False)
    assert said["good"]
    assert said["news"] == []


def test_no_node_is_no_good_news() -> None:
    said = summary({"nodes": [], "links": [], "islands": []})
    assert said["lead"] == "No node is known yet."


def test_a_shared_link_is_no_node() -> None:
    shared = {**node("link-x", "unknown"), "software": "link"}
    assert summary(network([node("r1"), shared], []))["facts"] == ["1 router", "1 IPv4 island"]


def test_what_is_no_router_and_no_host_counts_too() -> None:
    said = summary(network([node("r1"), node("x1", "unknown"), node("x2", "unknown")], []))
    assert said["facts"] == ["1 router", "2 other nodes", "1 IPv4 island"]


def test_plural() -> None:
    assert [plural(n, "link with IPv4") for n in (0, 1, 2)] == [
        "0 links with IPv4",
        "1 link with IPv4",
        "2 links with IPv4",
    ]


def test_to_whom_interfaces_lead() -> None:
    found = links_of(network([node("r1"), node("r2"), node("r3")], [link("r1", "r2"), link("r3", "r1")]), "r1")
    assert found == {"to-r2": [{"id": "r2", "name": "R2"}], "to-r3": [{"id": "r3", "name": "R3"}]}


def test_the_name_of_a_node_stands_for_its_address() -> None:
    nodes = verify_support.network([("r1", "r2")])
    assert address_of_node(nodes["r2"]) == "10.2.0.1"
    assert address_of_node(None) == ""
