"""The wall before `via6 web`: names, origins, tokens, methods, sizes. Each line of defence by itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from verify_support import network
from via6.errors import Refusal
from via6.web import settings
from via6.web.guard import CSP, LONGEST_QUERY, Bucket, Guard, plain, who_of
from via6.web.settings import Settings
from web_support import Served, served

TOKEN = "0123456789abcdef"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "net", network([("r1", "r2")], babel=True).values()) as found:
        yield found


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Served]:
    made = Settings(token=TOKEN, loopback=False, hosts=("net.example",))
    with served(tmp_path / "net", network([("r1", "r2")], babel=True).values(), made) as found:
        yield found


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8046", "[::1]:8046", "127.0.0.1:80", "[::1]", "localhost."])
def test_loopback_is_called_by_its_names(web: Served, host: str) -> None:
    assert web.get("/api/network", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8046", "127.0.0.1.evil.example", "[::1].evil.example", "192.0.2.1", "[2001:db8::1]",
     "localhost:x", "localhost.evil", "", "127.0.0.1:", "[::1", "0.0.0.0", "::1", "a@localhost"],
)  # fmt: skip
def test_a_name_that_was_pointed_here_is_refused(web: Served, host: str) -> None:
    answer = web.get("/api/network", headers={"host": host})
    assert answer.status_code == 421
    assert set(answer.json()) == {"error", "remedy"}


def test_two_hosts_are_none(web: Served) -> None:
    assert raw(web, headers=[(b"host", b"localhost"), (b"host", b"evil.example")])[0] == 421
    assert raw(web, headers=[])[0] == 421


def test_elsewhere_addresses_and_configured_names_count(guarded: Served) -> None:
    bearer = {"authorization": f"Bearer {TOKEN}"}
    for host, status in (("192.0.2.1", 200), ("[2001:db8::1]:8046", 200), ("net.example", 200), ("evil.example", 421)):
        assert guarded.get("/api/network", headers={"host": host, **bearer}).status_code == status


# --- origins ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://[::1]:8046"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://[::1]:9999"}, 403),
        ({"origin": "http://[::1]:8046.evil.example"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, 403),
        ({"sec-fetch-site": "nonsense"}, 403),
    ],
)
def test_pages_of_others_do_not_read_the_api(web: Served, headers: dict[str, str], status: int) -> None:
    assert web.get("/api/network", headers=headers).status_code == status


def test_a_link_of_others_may_lead_to_a_page_and_not_into_a_frame(web: Served) -> None:
    there = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert web.get("/", headers={**there, "sec-fetch-dest": "document"}).status_code == 200
    assert web.get("/", headers={**there, "sec-fetch-dest": "iframe"}).status_code == 403
    assert "frame-ancestors 'none'" in web.get("/").headers["content-security-policy"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "PROPFIND"])
def test_nothing_is_changed(web: Served, method: str) -> None:
    answer = web.request(method, "/api/network", content=b"{}" if method == "POST" else b"")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
    crossed = web.request("POST", "/api/network", headers={"origin": "http://evil.example"})
    assert crossed.status_code == 403


def test_head_and_options(web: Served) -> None:
    for path in ("/", "/api/network", "/api/nodes/r1", "/healthz", "/api/events", "/nothing"):
        head = web.request("HEAD", path)
        assert head.content == b""
        assert head.status_code == (404 if path == "/nothing" else 200)
    options = web.request("OPTIONS", "/api/network", headers={"origin": "http://[::1]:8046"})
    assert options.status_code == 204
    assert not [name for name in options.headers if name.startswith("access-control")]


def test_headers_are_on_every_answer(web: Served) -> None:
    for path in ("/", "/api/network", "/nothing", "/api/nothing", "/static/css/app.css", "/api/trace"):
        headers = web.get(path).headers
        assert headers["content-security-policy"] == CSP
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-frame-options"] == "DENY"
        assert "server" not in headers
    assert "unsafe" not in CSP
    assert web.get("/api/network").headers["cache-control"] == "no-store"


# --- WebSockets ------------------------------------------------------------------------------------------------------


def websocket(web: Served, path: str, headers: list[tuple[bytes, bytes]]) -> list[dict[str, Any]]:
    """What is sent to a WebSocket that asks to be opened."""
    sent: list[dict[str, Any]] = []

    async def ask() -> None:
        waiting = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1005}]

        async def receive() -> dict[str, Any]:
            return waiting.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "websocket", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers,
            "scheme": "ws", "client": ("::1", 1), "subprotocols": [], "root_path": "", "http_version": "1.1",
            "extensions": {},
        }  # fmt: skip
        await web.app(scope, receive, send)

    web.runner.run(ask())
    return sent


def test_a_websocket_of_another_site_is_refused(web: Served, guarded: Served) -> None:
    host = (b"host", b"[::1]:8046")
    path = "/desktops/office/socket"
    for headers in (
        [host, (b"origin", b"http://evil.example")],
        [host, (b"sec-fetch-site", b"cross-site"), (b"sec-fetch-mode", b"websocket")],
        [(b"host", b"evil.example")],
    ):
        assert [one["type"] for one in websocket(web, path, headers)] == ["websocket.close"]
    assert websocket(guarded, path, [host, (b"origin", b"http://[::1]:8046")])[0]["code"] == 1008
    # With the right origin it gets as far as the list of desktops, where it is not.
    assert websocket(web, path, [host, (b"origin", b"http://[::1]:8046")])[0]["type"] == "websocket.close"


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_a_token_is_demanded_everywhere(guarded: Served) -> None:
    for path in ("/", "/api/network", "/api/events", "/metrics", "/nodes/r1", "/glass", "/static/js/dom.js", "/x"):
        answer = guarded.get(path)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"] == "Bearer"
    assert guarded.get("/healthz").status_code == 200
    assert guarded.get("/static/css/app.css").status_code == 200  # the page that asks for the token looks like one
    page = guarded.get("/", headers={"accept": "text/html"})
    assert page.status_code == 401
    assert guarded.web.board.source.title not in page.text
    for wrong in (f"Basic {TOKEN}", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer ä"):
        assert guarded.get("/api/network", headers={"authorization": wrong.encode()}).status_code in (401, 429)
    good = guarded.get("/api/network", headers={"authorization": f"bearer {TOKEN}"}, client="2001:db8:9::1")
    assert good.status_code == 200


def test_a_token_of_a_page_becomes_a_cookie(guarded: Served) -> None:
    answer = guarded.get(f"/nodes/r1?family=6&token={TOKEN}")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/nodes/r1?family=6"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in cookie
    value = cookie.split(";")[0]
    assert guarded.get("/api/network", headers={"cookie": f"other=1; {value}"}).status_code == 200
    assert guarded.get("/api/network", headers={"cookie": f"via6={TOKEN}"}).status_code == 401
    assert guarded.get(f"/api/network?token={TOKEN}").status_code == 401
    assert guarded.get("/?token=wrong-token-wrong").status_code == 401


def test_the_token_leads_to_no_other_server(guarded: Served) -> None:
    for path in (
        f"//evil.example/?token={TOKEN}",
        f"/%2f/evil.example?token={TOKEN}",
        f"/\\evil.example?token={TOKEN}",
    ):
        status, headers, _ = raw(guarded, path=path.partition("?")[0], query=path.partition("?")[2].encode())
        assert status == 303
        location = dict(headers)[b"location"]
        assert location.startswith(b"/")
        assert location[1:2] not in (b"/", b"\\")


def test_who_guesses_is_slowed_down(guarded: Served) -> None:
    guesses = [guarded.get("/", headers={"authorization": f"Bearer guess{n}"}).status_code for n in range(30)]
    assert guesses[0] == 401
    assert guesses[-1] == 429
    assert guarded.get("/api/network", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_no_token_without_a_place_to_come_from(tmp_path: Path) -> None:
    file = tmp_path / "token"
    for text, mode, fault in (
        ("short", 0o600, "at least 16"), (TOKEN, 0o644, "read by everybody"), (TOKEN + " x", 0o600, "spaces"),
        ("ä" * 20, 0o600, "ASCII"), ("", 0o600, "at least 16"),
    ):  # fmt: skip
        file.write_text(text)
        file.chmod(mode)
        with pytest.raises(Refusal, match=fault):
            settings.read_token(str(file))
    file.write_text(TOKEN + "\nmore\n")
    file.chmod(0o600)
    assert settings.read_token(str(file)) == TOKEN
    with pytest.raises(Refusal, match="cannot read"):
        settings.read_token(str(tmp_path / "none"))


# --- sizes and paths -------------------------------------------------------------------------------------------------


def test_long_questions_are_refused(web: Served) -> None:
    assert web.get("/api/trace?from=" + "x" * LONGEST_QUERY).status_code == 414
    assert web.get("/api/nodes/" + "x" * 2000).status_code == 414
    assert web.get("/api/trace?" + "&".join(f"a{n}=1" for n in range(300))).status_code == 400


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd",
     "/static/%2fetc/passwd", "/vendor/../../../pyproject.toml",
     "/static/css/../../guard.py", "/static/", "/static", "/static/\0", "/%00",
     "/static/%c0%ae%c0%ae/app.py", "/nodes/../api/network", "/nodes/%2e%2e", "/api/nodes/..", "/static/css"],
)  # fmt: skip
def test_no_file_outside_is_served(web: Served, path: str) -> None:
    status, _, body = raw(web, path=path)
    assert status in (200, 400, 404), body
    assert b"import" not in body
    assert b"root:" not in body
    assert status != 200 or b'"nodes"' in body


def raw(
    web: Served, path: str = "/api/network", headers: list[tuple[bytes, bytes]] | None = None, query: bytes = b"",
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:  # fmt: skip
    """A question that no client library would send."""
    from urllib.parse import unquote

    sent: list[Any] = []

    async def ask() -> None:
        async def receive() -> dict[str, Any]:
            await asyncio.sleep(0)
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        token = [(b"authorization", f"Bearer {TOKEN}".encode())]
        scope = {
            "type": "http", "method": "GET", "path": unquote(path), "raw_path": path.encode(), "query_string": query,
            "headers": [(b"host", b"localhost"), *token] if headers is None else headers, "scheme": "http",
            "client": ("::1", 1), "server": ("::1", 8046), "root_path": "", "http_version": "1.1",
        }  # fmt: skip
        await web.app(scope, receive, send)

    web.runner.run(ask())
    return sent[0]["status"], sent[0]["headers"], b"".join(one.get("body", b"") for one in sent[1:])


# --- buckets and addresses -------------------------------------------------------------------------------------------


def test_a_bucket_fills_again_and_forgets() -> None:
    bucket = Bucket(1.0, 3.0, most=2)
    assert [bucket.take("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take("a", 0.5)
    assert bucket.take("a", 1.6)
    for who in "bcd":
        assert bucket.take(who, 2.0)
    assert len(bucket._left) == 2


def test_one_customer_is_one_client() -> None:
    def of(address: str) -> str:
        return who_of({"type": "http", "client": (address, 1)})

    assert of("2001:db8:1:2::1") == of("2001:db8:1:2:ffff::9")
    assert of("2001:db8:1:2::1") != of("2001:db8:1:3::1")
    assert of("::ffff:192.0.2.1") == of("192.0.2.1")
    assert of("fe80::1%eth0") == of("fe80::2")
    assert who_of({"type": "http"}) == ""


def test_a_glass_is_rate_limited(tmp_path: Path) -> None:
    now = [0.0]
    with served(tmp_path / "net", network([("r1", "r2")]).values()) as web:
        web.app = Guard(web.app.app, Settings(glass=True), plain, lambda: now[0])
        statuses = [web.get("/healthz", client="2001:db8::1").status_code for _ in range(100)]
        assert statuses[0] == 200
        assert statuses[-1] == 429
        assert web.get("/healthz", client="2001:db8:1::1").status_code == 200
        now[0] += 3.0
        assert web.get("/healthz", client="2001:db8::1").status_code == 200


# --- where to listen -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[::1]:8046", ("::1", 8046)), ("[::1]", ("::1", 8046)), ("::1", ("::1", 8046)), ("localhost:1", ("::1", 1)),
        ("127.0.0.1:80", ("127.0.0.1", 80)), ("192.0.2.1", ("192.0.2.1", 8046)), ("[::]:0", ("::", 0)),
    ],
)  # fmt: skip
def test_places_to_listen(text: str, found: tuple[str, int]) -> None:
    assert settings.parse_listen(text) == found


@pytest.mark.parametrize(
    "text", ["", ":80", "[::1", "[::1]x", "host:80", "[::1]:65536", "[::1]:-1", "1.2.3:80", "[]:1"]
)
def test_places_that_are_none(text: str) -> None:
    with pytest.raises(Refusal, match="no address to listen on"):
        settings.parse_listen(text)


def test_what_is_loopback() -> None:
    assert all(map(settings.is_loopback, ["::1", "127.0.0.1", "127.9.9.9", "::ffff:127.0.0.1"]))
    assert not any(map(settings.is_loopback, ["::", "0.0.0.0", "192.0.2.1", "::ffff:192.0.2.1", "fe80::1"]))


def test_refusals_are_json_or_pages(web: Served) -> None:
    page = web.get("/nothing", headers={"accept": "text/html,*/*"})
    assert page.status_code == 404
    assert page.headers["content-type"].startswith("text/html")
    assert "there is nothing here" in page.text
    assert set(json.loads(web.get("/api/nothing", headers={"accept": "text/html"}).text)) == {"error", "remedy"}


def test_a_proxy_says_who_asks(tmp_path: Path) -> None:
    nodes = network([("r1", "r2")], babel=True)
    with served(tmp_path / "net", nodes.values(), Settings(glass=True, proxies=("::1",))) as web:

        def ask(number: int, client: str = "::1", before: str = "") -> int:
            headers = {"x-forwarded-for": f"{before}2001:db8:0:{number:x}::1"}
            return web.get("/api/network", client=client, headers=headers).status_code

        assert {ask(number) for number in range(200)} == {200}  # 200 strangers
        assert 429 in {
            ask(1, before=f"2001:db8:1:{number:x}::1, ") for number in range(120)
        }  # what one says of himself
        assert 429 in {ask(number, client="2001:db8::9") for number in range(120)}  # nobody's proxy
    with served(tmp_path / "net2", nodes.values(), Settings(token=TOKEN, proxies=("::1",))) as web:
        told = {"x-forwarded-for": "192.0.2.1", "x-forwarded-proto": "https"}
        assert "; Secure" in web.get(f"/?token={TOKEN}", headers=told).headers["set-cookie"]


# --- changes -----------------------------------------------------------------------------------------------------

MEANT = {"x-via6-change": "yes", "content-type": "application/json"}
PLACES = ["/api/links/r1.eth1--r2.eth1", "/api/nodes/r1/fix", "/api/nodes/r1/undo"]


@pytest.fixture
def changing(tmp_path: Path) -> Iterator[Served]:
    nodes = network([("r1", "r2")], babel=True)
    with served(tmp_path / "net", nodes.values(), Settings(token=TOKEN, changes=True)) as found:
        yield found


def bearer(**more: str) -> dict[str, str]:
    return {"authorization": f"Bearer {TOKEN}", **MEANT, **more}


@pytest.mark.parametrize("path", PLACES)
def test_a_change_wants_to_be_allowed(web: Served, path: str) -> None:
    assert web.request("POST", path, headers=MEANT, json={}).status_code == 405
    assert "deeds.js" not in web.get("/").text


@pytest.mark.parametrize("path", PLACES)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({**MEANT}, 401), (bearer(**{"x-via6-change": ""}), 403), (bearer(**{"x-via6-change": "no"}), 403),
        (bearer(origin="http://evil.example"), 403), (bearer(origin="null"), 403),
        (bearer(**{"sec-fetch-site": "cross-site"}), 403), (bearer(**{"sec-fetch-site": "same-site"}), 403),
        (bearer(host="evil.example"), 421), (bearer(**{"content-type": "text/plain"}), 415),
        (bearer(**{"content-type": "application/x-www-form-urlencoded"}), 415),
    ],
)  # fmt: skip
def test_a_change_by_a_page_of_others_is_refused(
    changing: Served, path: str, headers: dict[str, str], status: int
) -> None:  # fmt: skip
    answer = changing.request("POST", path, headers=headers, content=b'{"state": "down"}')
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error", "remedy"}


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"{", 400), (b"[]", 400), (b'{"state": 1}', 400), (b'{"state": "x", "y": "z"}', 400),
     (b'{"state": "sideways"}', 400), (b"[" * 3000, 400), (b" " * 5000, 413), (b"\xff\xfe", 400),
     (b'{"state": "down"}', 409)],
)  # fmt: skip
def test_what_is_sent_is_looked_at(changing: Served, body: bytes, status: int) -> None:
    """What is asked of snapshots rightly comes as far as that nothing can be done on paper."""
    answer = changing.request("POST", PLACES[0], headers=bearer(), content=body)
    assert answer.status_code == status, answer.text


def test_a_preflight_of_others_is_not_answered_with_leave(changing: Served) -> None:
    headers = {"origin": "http://evil.example", "access-control-request-method": "POST", **bearer()}
    answer = changing.request("OPTIONS", PLACES[0], headers=headers)
    assert answer.status_code == 403
    own = changing.request("OPTIONS", PLACES[0], headers=bearer())
    assert own.headers["allow"] == "OPTIONS, POST"
    assert "POST" not in changing.request("OPTIONS", "/api/network", headers=bearer()).headers["allow"]
    assert not [name for name in own.headers if name.startswith("access-control")]


def test_changes_are_not_made_in_a_hurry(changing: Served) -> None:
    codes = [changing.request("POST", PLACES[2], headers=bearer(), content=b"{}").status_code for _ in range(20)]
    assert codes[0] == 409
    assert 429 in codes


def test_a_glass_changes_nothing(tmp_path: Path) -> None:
    nodes = network([("r1", "r2")], babel=True)
    with served(tmp_path / "net", nodes.values(), Settings(glass=True, changes=True)) as web:
        for path in PLACES:
            assert web.request("POST", path, headers=MEANT, content=b"{}").status_code == 403
        assert "deeds.js" not in web.get("/glass").text
