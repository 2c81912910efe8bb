"""What can be changed from the browser, where `--allow-changes` lets it: in a lab a link between two routers is cut and
mended, and on any node what `via6 doctor --fix` would do is done, and taken back.

Nothing that a page says becomes a command: it names a link or a finding, and what is done is made here from what was
read of the network. Who may ask, guard.py decides. One thing is done at a time; each is said on standard error and in
the timeline of the node, and what the doctor mends is in his journal (daemon/mend.py) before it is done.

A link is cut as a cable is: one end goes down, and the other loses its carrier. Linux forgets the IPv6 addresses of an
interface that goes down, and those of a lab are given, not made by the kernel; so they are put back when it is mended.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from starlette.requests import Request

from via6.errors import Refusal
from via6.kernel.linux import LinuxKernel
from via6.observe.doctor.finding import Finding
from via6.observe.node import Node
from via6.observe.picture import DOWN, ROUTER, DrawnLink
from via6.prefix import format_address, is_link_local
from via6.web.answers import Bad
from via6.web.board import Board
from via6.web.changes import Entry
from via6.web.guard import Bucket, who_of

T = TypeVar("T")

LONGEST_BODY: Final = 4096
_BODY_S: Final = 5.0
_PATIENCE_S: Final = 10.0
_PACE: Final = (1.0, 10.0)  # a second, at once


class Deeds:
    """The changes of one server. `allowed` False: none."""

    def __init__(self, board: Board, allowed: bool) -> None:
        self.board = board
        self.allowed = allowed
        self._one = asyncio.Lock()
        self._pace = Bucket(*_PACE)
        self._lost: dict[tuple[str, str], list[str]] = {}
        """The addresses that an end had when it was set down, by node and device."""

    # --- what is asked ---------------------------------------------------------------------------------------------

    async def link(self, request: Request) -> dict[str, Any]:
        """/api/links/{id}: {"state": "down"} cuts it, "up" mends it."""
        self._may(request)
        wanted = (await body_of(request, "state"))["state"]
        if wanted not in ("up", "down"):
            raise Bad(400, "state is up or down", 'send {"state": "down"} to cut the link, "up" to mend it')
        link = self._link(request.path_params["id"])
        async with self._one:
            done = await (self._cut(link) if wanted == "down" else self._mend(link))
        self._say(request, [name for name, _ in link.ports], "link", done, wanted == "up")
        return {"done": done, "problems": []}

    async def fix(self, request: Request, name: str) -> dict[str, Any]:
        """/api/nodes/{id}/fix: what the doctor would do about one finding."""
        from via6.daemon import mend

        self._may(request)
        wanted = (await body_of(request, "finding"))["finding"]
        finding = self._finding(name, wanted)
        if not finding.fixable:
            raise Bad(409, "this cannot be mended safely by a program", "its remedy says what helps")
        async with self._one:
            done, problems = await self._at(name, lambda: mend.fix(finding.fixes))
        self.board.source.look(name)
        said = [entry.text for entry in done]
        self._say(request, [name], "finding", said, True)
        return {"done": said, "problems": problems}

    async def undo(self, request: Request, name: str) -> dict[str, Any]:
        """/api/nodes/{id}/undo: takes back what was mended there, from here or by `via6 doctor --fix`."""
        from via6.daemon import mend

        self._may(request)
        await body_of(request)
        async with self._one:
            done, left, problems = await self._at(name, mend.undo)
        self.board.source.look(name)
        self._say(request, [name], "finding", [f"taken back: {one}" for one in done], None)
        return {"done": done, "problems": [*left, *problems]}

    # --- who, and what is meant ------------------------------------------------------------------------------------

    def _may(self, request: Request) -> None:
        if not self.allowed:
            raise Bad(403, "nothing can be changed here", "via6 web --allow-changes")
        if not self._pace.take(who_of(request.scope), time.monotonic()):
            raise Bad(429, "too many changes at a time", "wait some seconds")

    def _link(self, wanted: str) -> DrawnLink:
        drawn = self.board.picture
        link = next((one for one in drawn.links if one.id == wanted), None)
        if link is None:
            raise Bad(404, "there is no such link", "/api/network lists the links with their ids")
        kinds = {node.id: node.kind for node in drawn.nodes}
        between = len(link.ports) == 2 and {kinds.get(link.a.node), kinds.get(link.b.node)} == {ROUTER}
        if self.board.source.kind != "lab" or not between:
            raise Bad(409, "this link is not cut from here", "only those between two routers of a lab are")
        return link

    def _finding(self, name: str, wanted: str) -> Finding:
        for one in (self.board.findings or {}).get(name, []):
            if one.id == wanted:
                return one
        raise Bad(404, "there is no such finding any more", "/api/nodes/{id}/findings lists them")

    async def _at(self, name: str, work: Callable[[], T]) -> T:
        try:
            return await self.board.source.at(name, work)
        except Refusal as refusal:
            raise Bad(409, refusal.message, refusal.remedy) from None
        except OSError as error:
            raise Bad(409, f"{name}: {error.strerror or error}", "") from None

    def _say(self, request: Request, names: Sequence[str], kind: str, done: Sequence[str], good: bool | None) -> None:
        who = request.client.host if request.client is not None else "?"
        for one in done:
            print(f"via6 web: {who} changed: {', '.join(names)}: {one}", file=sys.stderr, flush=True)
            for name in names:
                self.board.note(name, Entry(kind, f"from the browser: {one}", good))

    # --- links -----------------------------------------------------------------------------------------------------

    async def _cut(self, link: DrawnLink) -> list[str]:
        if link.state == DOWN:
            raise Bad(409, "the link is down already", 'send {"state": "up"} to mend it')
        name, dev = self._ends(link)[-1]
        self._lost[name, dev] = addresses_of(self.board.nodes[name], dev)
        await self._at(name, lambda: ip("link", "set", "dev", dev, "down"))
        return [f"{dev} of {name} set down"]

    async def _mend(self, link: DrawnLink) -> list[str]:
        done: list[str] = []
        for name, dev in self._ends(link):
            node = self.board.nodes[name]
            held = node.kernel.by_name[dev]
            missing = self._lost.pop((name, dev), None) or _siblings(node, dev)
            words = await self._at(name, lambda dev=dev, missing=missing: raised(dev, missing))  # type: ignore[misc]
            if words or not held.up:
                done.append(f"{dev} of {name} set up{', ' if words else ''}{words}")
        if not done:
            raise Bad(409, "both ends of the link are up already", "")
        return done

    def _ends(self, link: DrawnLink) -> list[tuple[str, str]]:
        found = []
        for name, ifindex in link.ports:
            node = self.board.nodes.get(name)
            port = node.kernel.by_index.get(ifindex) if node is not None and name not in self.board.down else None
            if port is None:
                raise Bad(409, f"an end of the link is gone, that at {name}", "")
            found.append((name, port.name))
        return found


# --- in the namespace of a node --------------------------------------------------------------------------------------


def ip(*words: str) -> None:
    """`ip …` in this thread's network namespace. Raises OSError with what it complained of."""
    try:
        done = subprocess.run(
            ["ip", *words], capture_output=True, text=True, timeout=_PATIENCE_S, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise OSError(0, "ip did not end in time") from None
    if done.returncode:
        raise OSError(done.returncode, (done.stderr.strip().splitlines() or ["ip failed"])[-1])


def raised(dev: str, missing: Sequence[str]) -> str:
    """Sets an interface up, and gives it these IPv6 addresses where it has no link-local one; says what of it there
    was to do."""
    with LinuxKernel(receive_buffer=1 << 18) as kernel:
        held = kernel.dump(frozenset({"links", "addresses"}))
    link = held.by_name.get(dev)
    if link is None:
        raise Refusal(f"{dev} is gone")
    if not link.up:
        ip("link", "set", "dev", dev, "up")
    if any(is_link_local(one.address) for one in held.addresses if one.ifindex == link.ifindex):
        return ""
    for address in missing:
        ip("address", "replace", address, "dev", dev, "nodad")
    return " and ".join(missing)


def addresses_of(node: Node, dev: str) -> list[str]:
    """The IPv6 addresses of a device, as `ip address add` takes them."""
    link = node.kernel.by_name.get(dev)
    held = [one for one in node.kernel.addresses if link is not None and one.ifindex == link.ifindex]
    return [f"{format_address(one.address)}/{one.length}" for one in held if len(one.address) == 16]


def _siblings(node: Node, dev: str) -> list[str]:
    """The link-local address of its other interfaces: in a lab a router has the same on all its links."""
    for link in node.kernel.links:
        if link.name.startswith("eth") and link.name != dev:
            found = [one for one in addresses_of(node, link.name) if one.startswith("fe80:")]
            if found:
                return found[:1]
    return []


# --- words -----------------------------------------------------------------------------------------------------------


async def body_of(request: Request, *names: str) -> dict[str, str]:
    """The JSON object of a request: these names and no others, all of them texts."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Bad(415, "what is sent is to be JSON", "Content-Type: application/json")
    octets = b""
    try:
        async with asyncio.timeout(_BODY_S):
            async for chunk in request.stream():
                octets += chunk
                if len(octets) > LONGEST_BODY:
                    raise Bad(413, f"that is more than {LONGEST_BODY} octets", "")
    except TimeoutError:
        raise Bad(408, "it took too long to come", "") from None
    try:
        found = json.loads(octets or b"{}")
    except (ValueError, RecursionError):
        raise Bad(400, "what was sent is no JSON", "") from None
    wanted = ", ".join(names) or "nothing"
    if not isinstance(found, dict) or set(found) != set(names):
        raise Bad(400, f"what is sent is an object with {wanted} in it", "")
    if not all(isinstance(value, str) and len(value) <= 1000 for value in found.values()):
        raise Bad(400, f"{wanted}: a text of at most 1000 characters", "")
    return found
