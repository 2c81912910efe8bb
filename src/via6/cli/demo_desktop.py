"""`via6 demo --desktop`: the network of the demo, with a desktop in it, in the user's browser.

The listening socket is made before the sandbox, so it belongs to the machine's network, where the browser is; the
server runs in the sandbox, where the network is. The sandbox has a /run of its own, and the lab is noted there as any
other is: the server finds what `via6 web --lab` would.
"""

from __future__ import annotations

import argparse
import secrets
import socket
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from via6.errors import OK, USAGE, Refusal

if TYPE_CHECKING:
    from via6.lab.namespaces import Lab
    from via6.lab.state import LabState
    from via6.web.app import Web

_HOSTS: Final = ("::1", "127.0.0.1")
_PARTS: Final = 3


def run(args: argparse.Namespace) -> int:
    """Serves until Ctrl-C."""
    from via6.cli.web import need_libraries
    from via6.lab import desktop, sandbox
    from via6.lab.demo import topology

    if args.json:
        raise Refusal("--desktop is to be looked at: there is no JSON of it", "via6 demo -j", USAGE)
    need_libraries()
    desktop.require(topology(desktop=True))
    with _listener() as sock:
        try:
            return sandbox.run(lambda: _stage(sock, args.color))
        except KeyboardInterrupt:  # the way to end it
            return OK


def _listener() -> socket.socket:
    """On a loopback address of this machine; where the usual port is taken, on another one."""
    from via6.web import serve
    from via6.web.settings import PORT

    for host in _HOSTS:
        for port in (PORT, 0):
            try:
                return serve.listener(host, port)
            except Refusal as refusal:
                why = refusal
    raise why


def _stage(sock: socket.socket, color: str | None) -> int:
    """Process 1 of the sandbox."""
    from via6.cli.demo import _console, _opening, _Teller, chapter_lines
    from via6.lab import desktop
    from via6.lab.demo import STORY, Scene, topology
    from via6.lab.namespaces import Lab
    from via6.web import serve

    net = topology(desktop=True)
    teller = _Teller(_console(color, silent=False), _PARTS)
    token = secrets.token_urlsafe(18)
    with teller.progress:
        teller.doing("starting the routers")
        teller.say(_opening(len(net.routers), len(net.hosts)))
        lab = Lab(net)
        lab.up()
        chapter = STORY[0]
        teller.doing(chapter.doing)
        teller.say(chapter_lines(chapter.key, chapter.work(Scene(lab))))
        teller.doing("starting the desktop")
        desktop.start(lab)
        if trouble := desktop.wait(lab):
            raise Refusal(trouble)
    # No `with Lab`: what is in the sandbox ends with it, and Ctrl-C has less to wait for.
    serve.serve(_web(_note(lab), token), sock, lambda address: teller.say(_where(lab, f"{address}desktops/", token)))
    teller.say(iter(("", "This network is gone again; that of the machine was not touched.")))
    return OK


def _note(lab: Lab) -> LabState:
    """Notes the lab down in the sandbox."""
    from via6.lab import desktop, state
    from via6.lab.namespaces import NETNS

    nodes = {node: lab.namespace(node) for node in lab.topology.nodes}
    note = state.LabState(
        lab.topology.name, "", state.UP, nodes, {name: (NETNS / name).stat().st_ino for name in nodes.values()},
        routers=len(lab.topology.routers), links=len(lab.topology.cables),
        desktops=[asdict(one) for one in desktop.listing(lab.topology)],
    )  # fmt: skip
    with state.lock():
        state.write(note)
    return note


def _web(note: LabState, token: str) -> Web:
    from via6.collect import local
    from via6.web.app import Web
    from via6.web.desktop import desktops_of_lab
    from via6.web.settings import Settings
    from via6.web.sources.lab import LabSource

    names = local.names()
    return Web(LabSource(note.name, names), Settings(token=token), names, desktops_of_lab(note))


def _where(lab: Lab, pages: str, token: str) -> Iterator[str]:
    """What to open, as rich markup."""
    from via6.lab import desktop

    (one,) = desktop.listing(lab.topology)
    yield ""
    yield f"[bold]2. A desktop on {one.name}[/bold]"
    yield f"   TigerVNC on {one.address}, seen from {one.near} at the other end of the network: every"
    yield "   pixel crosses the routers as IPv4, over links that have IPv6 only. Open"
    yield ""
    yield f"      [bold]{pages}{one.name}?token={token}[/bold]"
    yield ""
    yield "   The same server shows the network itself. Ctrl-C ends all of it."
