"""Who may ask, and how: a wall before everything else, for pages, the API, streams and WebSockets alike.

A browser that shows somebody else's page is the likeliest attacker: it runs where the server can be reached. So the
Host must be one that we are called by (a name that was pointed at this address is none: DNS rebinding), an Origin must
be our own, and what other sites cause a browser to fetch is refused. Whoever may come from elsewhere than this machine
needs a token: as `Authorization: Bearer`, or once as `?token=` of a page, which becomes a cookie. The cookie is not the
token, so it is of no use to another server.

Where changes are allowed (deeds.py) a POST to the API has to carry the header X-Via6-Change beside all this: a browser
does not send it for a page of another site without asking first, and the answer to that is no.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from via6.web.settings import Settings
from via6.web.stream import dumps

CSP: Final = "; ".join((
    "default-src 'self'", "script-src 'self'", "style-src 'self'", "img-src 'self' data: blob:", "connect-src 'self'",
    "object-src 'none'", "base-uri 'none'", "form-action 'self'", "frame-ancestors 'none'",
))  # fmt: skip
HEADERS: Final = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
COOKIE: Final = "via6"
METHODS: Final = ("GET", "HEAD", "OPTIONS")
MEANT: Final = "x-via6-change"
LONGEST_QUERY: Final = 2048
LONGEST_PATH: Final = 1024

_CHANGED: Final = re.compile(r"/api/(?:links/[^/]+|nodes/[^/]+/(?:fix|undo))")
_FREE: Final = frozenset({"/healthz", "/static/css/app.css", "/static/img/icon.svg"})  # the look of a refusal
_NAMES: Final = frozenset({"localhost", "ip6-localhost"})
_WRONG_TOKENS: Final = (1.0, 10.0)  # a second, at once
_STRANGERS: Final = (10.0, 80.0)

Say = Callable[[Scope, int, str, str], tuple[bytes, str]]
"""Makes the answer to what is refused: (octets, content type)."""


class Bucket:
    """How much each address may ask: `rate` a second, `burst` at once. Bounded: the longest unseen is forgotten."""

    def __init__(self, rate: float, burst: float, most: int = 4096) -> None:
        self._rate, self._burst, self._most = rate, burst, most
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, who: str, now: float, amount: float = 1.0) -> bool:
        """Whether it may, and if so it counts."""
        left, at = self._left.pop(who, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._rate)
        good = left >= amount
        self._left[who] = (left - amount if good else left), now
        while len(self._left) > self._most:
            self._left.popitem(last=False)
        return good


def who_of(scope: Scope) -> str:
    """The client; of an IPv6 address its /64, which is one customer."""
    client = scope.get("client")
    try:
        address = ipaddress.ip_address(client[0].partition("%")[0]) if client else None
    except ValueError:
        address = None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return address.packed[:8].hex()
    return str(address or "")


class Guard:
    """The wall, as ASGI middleware. `say` words what is refused."""

    def __init__(self, app: ASGIApp, settings: Settings, say: Say, clock: Callable[[], float] = time.monotonic) -> None:
        self.app = app
        self.settings = settings
        self._say = say
        self._clock = clock
        self._token = settings.token.encode()
        self._cookie = hashlib.sha256(b"via6 web cookie\0" + self._token).hexdigest().encode()
        self._wrong = Bucket(*_WRONG_TOKENS)
        self._asked = Bucket(*_STRANGERS)
        self._own = {name.lower().rstrip(".") for name in settings.hosts} | _NAMES
        if not settings.loopback:
            self._own.add(os.uname().nodename.lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self.settings.proxies:
            scope = self._behind(scope, headers)
        refused = self._judge(scope, headers)
        if refused is not None:
            await self._refuse(scope, receive, send, *refused)
        elif scope["type"] == "websocket":
            await self.app(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            await _answer(send, 204, b"", "", {"allow": self._allowed(scope)}, True)
        elif self._token and b"token=" in scope["query_string"] and not scope["path"].startswith("/api/"):
            await self._welcome(scope, send)
        else:
            await self.app(scope, receive, _dressed(scope, send))

    def _behind(self, scope: Scope, headers: Headers) -> Scope:
        """What a reverse proxy of ours says of who asks. Of X-Forwarded-For the last entry is the one that it wrote."""
        client = scope.get("client")
        try:
            if client is None or str(ipaddress.ip_address(client[0].partition("%")[0])) not in self.settings.proxies:
                return scope
            told = headers.getlist("x-forwarded-for")
            who = str(ipaddress.ip_address(told[-1].rpartition(",")[2].strip())) if told else client[0]
        except ValueError:
            return scope
        scheme = scope.get("scheme", "http")
        if headers.get("x-forwarded-proto", "").lower() == "https":
            scheme = {"http": "https", "ws": "wss"}.get(scheme, scheme)
        return {**scope, "client": (who, 0), "scheme": scheme}

    def _judge(self, scope: Scope, headers: Headers) -> tuple[int, str, str] | None:
        """Why it is refused: status, what is wrong, what helps."""
        if len(scope.get("raw_path") or scope["path"].encode(errors="replace")) > LONGEST_PATH:
            return 414, "the address is too long", ""
        if len(scope["query_string"]) > LONGEST_QUERY:
            return 414, f"the query is longer than {LONGEST_QUERY} octets", "ask for less at a time"
        host = headers.getlist("host")
        if len(host) != 1 or not self._called(host[0]):
            return 421, "this server is not called so", "ask for it by its address, or name it in `hosts` of --config"
        foreign = self._foreign(scope, headers, host[0])
        if foreign:
            return 403, foreign, "open it in a page of its own"
        if scope["type"] == "http" and scope["method"] not in METHODS:
            if scope["method"] != "POST" or not self.settings.changes:
                return 405, f"nothing can be changed here: {', '.join(METHODS)} are answered", ""
            if headers.getlist(MEANT) != ["yes"]:
                return 403, "a change has to be meant", "send the header X-Via6-Change: yes"
        if self.settings.glass and not self._asked.take(who_of(scope), self._clock()):
            return 429, "that was too much at a time", "wait some seconds"
        if self._token and scope["path"] not in _FREE:
            return self._knows(scope, headers)
        return None

    def _called(self, host: str) -> bool:
        """A literal address cannot be pointed elsewhere by somebody's DNS; of names only our own count."""
        name = host.lower()
        if name.startswith("["):
            name, bracket, port = name[1:].partition("]")
            if not bracket or (port and not (port[0] == ":" and port[1:].isdecimal())):
                return False
        else:
            name, colon, port = name.partition(":")
            if colon and not port.isdecimal():
                return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name.rstrip(".") in self._own
        return address.is_loopback if self.settings.loopback else True

    @staticmethod
    def _foreign(scope: Scope, headers: Headers, host: str) -> str:
        """What shows that another site is behind a request; empty if nothing does."""
        origins = headers.getlist("origin")
        scheme = {"ws": "http", "wss": "https"}.get(scope.get("scheme", "http"), scope.get("scheme", "http"))
        own = {f"{one}://{host.lower()}" for one in {scheme, "https"}}  # https: a proxy may stand before us
        if any(origin.lower() not in own for origin in origins):
            return "a page of another site asks"
        site = headers.get("sec-fetch-site", "none")
        if site not in ("none", "same-origin"):
            # Following a link to us is allowed, to a page; what a page of others embeds or fetches is not.
            page = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
            if scope["type"] == "websocket" or not page or scope["path"].startswith("/api/"):
                return "a page of another site asks"
        return ""

    def _knows(self, scope: Scope, headers: Headers) -> tuple[int, str, str] | None:
        given = []
        for value in headers.getlist("authorization"):
            kind, _, word = value.partition(" ")
            if kind.lower() == "bearer":
                given.append((word.strip(), self._token))
        for value in headers.getlist("cookie"):
            for pair in value.split(";")[:50]:
                name, _, word = pair.strip().partition("=")
                if name == COOKIE:
                    given.append((word, self._cookie))
        if scope["type"] == "http" and not scope["path"].startswith("/api/"):
            given += [(word, self._token) for name, word in _pairs(scope) if name == "token"]
        good = [hmac.compare_digest(word.encode(errors="replace"), wanted) for word, wanted in given[:8]]
        if any(good):
            return None
        if good and not self._wrong.take(who_of(scope), self._clock()):
            return 429, "too many wrong tokens", "wait some seconds"
        wrong = "this is not the token" if good else "a token is needed"
        return 401, wrong, "open /?token=TOKEN, or send `Authorization: Bearer TOKEN`"

    def _allowed(self, scope: Scope) -> str:
        """The methods of a path."""
        changes = self.settings.changes and _CHANGED.fullmatch(scope["path"])
        return "OPTIONS, POST" if changes else ", ".join(METHODS)

    async def _welcome(self, scope: Scope, send: Send) -> None:
        """Puts the token into a cookie and out of the address, which histories keep."""
        rest = urlencode([(name, word) for name, word in _pairs(scope) if name != "token"])
        path = "/" + scope.get("raw_path", scope["path"].encode()).decode("ascii", "replace").lstrip("/\\")
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        cookie = f"{COOKIE}={self._cookie.decode()}; Path=/; HttpOnly; SameSite=Strict; Max-Age=2592000{secure}"
        location = path + (f"?{rest}" if rest else "")
        await _answer(send, 303, b"", "", {"location": location, "set-cookie": cookie}, True)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, status: int, error: str, remedy: str) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": error[:100]})
            return
        body, kind = self._say(scope, status, error, remedy)
        more = {"allow": self._allowed(scope)} if status == 405 else {}
        more |= {"www-authenticate": "Bearer"} if status == 401 else {}
        more |= {"retry-after": "5"} if status == 429 else {}
        await _answer(send, status, body, kind, more, scope["method"] == "HEAD")


def _pairs(scope: Scope) -> list[tuple[str, str]]:
    try:
        return parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=100)
    except ValueError:
        return []


async def _answer(send: Send, status: int, body: bytes, kind: str, more: dict[str, str], empty: bool) -> None:
    headers = {**HEADERS, "cache-control": "no-store", **more}
    if status != 204:
        headers["content-length"] = str(len(body))
    if kind:
        headers["content-type"] = kind
    made = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": made})
    await send({"type": "http.response.body", "body": b"" if empty else body})


def _dressed(scope: Scope, send: Send) -> Send:
    """`send` that adds the headers, and no body for HEAD."""
    head = scope["method"] == "HEAD"

    async def dressed(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("cache-control", "no-store")
        elif head and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return dressed


def plain(scope: Scope, status: int, error: str, remedy: str) -> tuple[bytes, str]:
    """The JSON of a refusal."""
    return dumps({"error": error, "remedy": remedy}), "application/json"
