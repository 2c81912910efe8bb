"""A desktop across the IPv6-only network: by VNC through the bridge of `via6 web`, and by RDP with FreeRDP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from rfb import Screen, Stream, colours, save_png
from support import PREFIX, ROOT, leftover_namespaces, run, via6, wait_until
from via6.collect.capture import Capture, Captured
from via6.errors import Refusal
from via6.kernel.netns import setns
from via6.lab import desktop, state
from via6.observe.packet import carried_ipv4
from via6.prefix import format_address
from via6.web.desktop import Bridge, Desktop, desktops_of_lab

pytestmark = pytest.mark.root

NAME = f"{PREFIX}desk"
EXAMPLE = ROOT / "examples/labs/desktop.toml"
H1, H3, H4 = "10.1.0.10", "10.3.0.10", "10.4.0.10"
WHITE = b"\xff\xff\xff"
ARTEFACTS = os.environ.get("VIA6_ARTEFACTS", "")

SERVER = """
import json, sys
import uvicorn
from starlette.applications import Starlette
from via6.web.desktop import MAX_MESSAGE, Bridge, Desktop, Limits
from via6.web.guard import Guard, plain
from via6.web.settings import Settings
descriptor, desktops, limits = int(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
bridge = Bridge([Desktop(**one) for one in desktops], Limits(**limits))
app = Guard(Starlette(routes=bridge.routes), Settings(), plain)
uvicorn.run(app, fd=descriptor, ws_per_message_deflate=False, ws_max_size=MAX_MESSAGE, ws_max_queue=4, log_level="warning")
"""  # noqa: E501


# --- the lab and the server ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[state.LabState]:
    """The lab of the example, up."""
    file = tmp_path_factory.mktemp("desktop") / "desktop.toml"
    file.write_text(EXAMPLE.read_text().replace('name = "desktop"', f'name = "{NAME}"'))
    try:
        code, out, err = via6("lab", "up", file)
        assert (code, err) == (0, "")
        assert f"desktop h3: vnc {H3}:5900, rdp {H3}:3389 in h1\n" in out
        found = state.read(NAME)
        assert found is not None
        yield found
    finally:
        via6("lab", "down", NAME)


@contextlib.contextmanager
def inside(node: str) -> Iterator[None]:
    with open("/proc/thread-self/ns/net") as home, Path(f"/run/netns/{NAME}.{node}").open() as there:
        setns(there.fileno())
        try:
            yield
        finally:
            setns(home.fileno())


@dataclass
class Served:
    """A server of this test, and its WebSockets."""

    process: subprocess.Popen[bytes]
    port: int

    def open(self, name: str, **options: Any) -> ClientConnection:
        options = {"subprotocols": ["binary"], "compression": None, "proxy": None, "max_size": 1 << 24} | options
        return connect(f"ws://[::1]:{self.port}/desktops/{name}/socket", **options)

    def helpers(self) -> list[int]:
        return [int(word) for word in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
                .read_text().split()]  # fmt: skip


@contextlib.contextmanager
def serving(desktops: tuple[Desktop, ...], **limits: float) -> Iterator[Served]:
    entries = [{"name": d.name, "host": d.host, "port": d.port, "near": d.near} for d in desktops]
    with socket.socket(socket.AF_INET6) as listener:
        listener.bind(("::1", 0))
        listener.listen()
        argv = [sys.executable, "-c", SERVER, str(listener.fileno()), json.dumps(entries), json.dumps(limits)]
        process = subprocess.Popen(argv, pass_fds=[listener.fileno()], stderr=subprocess.PIPE)
        try:
            yield Served(process, listener.getsockname()[1])
        finally:
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
    assert b"Traceback" not in err, err.decode()
    assert b"ERROR" not in err, err.decode()


@pytest.fixture(scope="module")
def served(lab: state.LabState) -> Iterator[Served]:
    with serving(desktops_of_lab(lab)) as server:
        yield server


def screen_of(websocket: ClientConnection) -> Screen:
    def receive() -> bytes:
        data = websocket.recv(timeout=10)
        assert isinstance(data, bytes)
        return data

    return Screen(Stream(websocket.send, receive))


def house(node: str) -> Path:
    """The root of the file system that a desktop sees."""
    for pid in run("ip", "netns", "pids", f"{NAME}.{node}").stdout.split():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text() in ("Xvnc\n", "Xtigervnc\n"):
                return Path(f"/proc/{pid}/root")
    raise AssertionError(f"no Xvnc in {node}")


def terminal(screen: Screen) -> bytes:
    """The screen as soon as the terminal's white window is on it."""

    def seen() -> bytes:
        pixels = screen.picture()
        return pixels if colours(pixels).get(WHITE, 0) > screen.width * screen.height // 10 else b""

    return bytes(wait_until(seen, timeout=15, every=0.2, what="a terminal on the screen"))


def keep(name: str, screen: Screen, pixels: bytes) -> None:
    if ARTEFACTS:
        Path(ARTEFACTS).mkdir(parents=True, exist_ok=True)
        save_png(Path(ARTEFACTS, f"{name}.png"), screen, pixels)


# --- VNC through the bridge ------------------------------------------------------------------------------------------


def test_picture_and_keys_cross_the_ipv6_only_routers(served: Served) -> None:
    before = passed("r2", "eth1")
    with inside("r2"):
        on_link = Capture("eth1")
    with on_link, served.open("h4") as websocket:
        assert websocket.subprotocol == "binary"
        screen = screen_of(websocket)
        assert (screen.greeting, screen.name) == (b"RFB 003.008\n", "h4")
        assert (screen.width, screen.height) == desktop.SIZE
        pixels = terminal(screen)
        assert len(colours(pixels)) > 8
        typed = house("h4") / "tmp/home/typed"
        screen.type("id -u >typed; hostname >>typed\n")
        wait_until(lambda: typed.exists() and typed.read_text().count("\n") == 2, timeout=10, what="what was typed")
        assert typed.read_text() == "65534\nh4\n"
        keep("vnc-h4", screen, screen.picture())
        seen = on_link.read(count=4000, timeout_s=1)
    ours = [frame for frame in seen if has_port(frame, desktop.VNC_PORT)]
    assert len(ours) > 10, "the capture holds the beginning, and the counters all of it"
    assert passed("r2", "eth1") - before > desktop.SIZE[0] * desktop.SIZE[1] * 4
    assert {between(frame) for frame in ours} == {(H1, H4), (H4, H1)}
    # Whatever else was on the link was IPv6: neighbour discovery and Babel.
    assert {frame.frame.ethertype for frame in seen} == {0x0800, 0x86DD}


def passed(node: str, device: str) -> int:
    """Octets that a device has sent."""
    (link,) = json.loads(run("ip", "-n", f"{NAME}.{node}", "-j", "-s", "link", "show", device).stdout)
    return int(link["stats64"]["tx"]["bytes"])


def has_port(captured: Captured, port: int) -> bool:
    """A frame that holds IPv4 at once, with TCP from or to this port."""
    packet = carried_ipv4(captured.frame)
    octets = port.to_bytes(2, "big")
    return packet is not None and packet.protocol == 6 and octets in (packet.payload[:2], packet.payload[2:4])


def between(captured: Captured) -> tuple[str, str]:
    packet = carried_ipv4(captured.frame)
    assert packet is not None
    return format_address(packet.source), format_address(packet.destination)


def test_no_link_has_an_ipv4_address(lab: state.LabState) -> None:
    for node, name in lab.nodes.items():
        for link in json.loads(run("ip", "-n", name, "-j", "-4", "address").stdout):
            assert not link["ifname"].startswith("eth") or node.startswith("h")


def test_two_look_at_one_screen(served: Served) -> None:
    with served.open("h4") as one, served.open("h4", subprotocols=None) as other:
        assert other.subprotocol is None
        assert terminal(screen_of(one)) == terminal(screen_of(other))


NOT_LISTED = (
    "h1",
    "r1",
    H4,
    f"{H4}:5900",
    "h4:5900",
    "h4%2F",
    "h4%00",
    "..",
    "%2e%2e",
    "h4/../h3",
    "H4",
    "*",
    "[::1]:22",
)


@pytest.mark.parametrize("name", NOT_LISTED)
def test_what_is_not_listed_is_refused_before_it_is_opened(served: Served, name: str) -> None:
    with pytest.raises(InvalidStatus) as caught:
        served.open(name)
    assert caught.value.response.status_code in (403, 404)


@pytest.mark.parametrize("origin", ["http://example.org", "http://[::1]:1", "null"])
def test_a_page_of_another_site_is_refused(served: Served, origin: str) -> None:
    with pytest.raises(InvalidStatus) as caught:
        served.open("h4", origin=origin)
    assert caught.value.response.status_code == 403


def test_a_page_of_our_own_is_not(served: Served) -> None:
    with served.open("h4", origin=f"http://[::1]:{served.port}") as websocket:
        assert websocket.recv(timeout=10) == b"RFB 003.008\n"


def test_the_helper_has_no_privileges_and_is_near(served: Served) -> None:
    with served.open("h4"):
        (pid,) = served.helpers()
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        assert set(status["Uid"].split()) | set(status["Gid"].split()) == {"65534"}
        assert status["Groups"].strip() == ""
        assert {status[key] for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {f"{0:016x}"}
        assert status["NoNewPrivs"] == "1"
        near = Path(f"/run/netns/{NAME}.h1").stat()
        assert os.stat(f"/proc/{pid}/ns/net").st_ino == near.st_ino


def test_the_helper_knows_names_only(lab: state.LabState) -> None:
    bridge = Bridge(desktops_of_lab(lab))
    try:
        (dialer,) = bridge._dialers.values()
        assert asyncio.run(dialer.dial(H4)) == "not in the list"
        assert asyncio.run(dialer.dial("h1")) == "not in the list"
        answer = asyncio.run(dialer.dial("h4"))
        assert isinstance(answer, socket.socket)
        with answer:
            assert answer.getpeername() == (H4, desktop.VNC_PORT)
    finally:
        bridge.close()


def test_a_namespace_that_is_not_there() -> None:
    with pytest.raises(Refusal, match="there is no network namespace"):
        Bridge([Desktop("x", H4, near=f"{PREFIX}none")])


# --- limits, and ends ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def listener_in(node: str, work: Callable[[socket.socket], object]) -> Iterator[int]:
    """A TCP server of our own in a node: `work` with each connection, in a thread. Gives its port."""
    with inside(node):
        listener = socket.create_server((H4, 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                with sock:
                    work(sock)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def own(port: int, name: str = "own") -> tuple[Desktop, ...]:
    return (Desktop(name, H4, port, near=f"{NAME}/h1"),)


def end_of(websocket: ClientConnection) -> tuple[int, str]:
    """How the server closes it."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            websocket.recv(timeout=15)
    return websocket.close_code or 0, websocket.close_reason or ""


@pytest.mark.usefixtures("lab")
def test_a_desktop_that_goes_is_told() -> None:
    with listener_in("h4", lambda sock: sock.sendall(b"hello")) as port, serving(own(port)) as server:  # noqa: SIM117
        with server.open("own") as websocket:
            assert websocket.recv(timeout=10) == b"hello"
            assert end_of(websocket) == (1001, "own has ended the connection")
    with serving(own(port)) as server, server.open("own") as websocket:
        assert end_of(websocket) == (1014, "own cannot be reached: connection refused")


@pytest.mark.usefixtures("lab")
def test_too_many_sessions() -> None:
    desktops = (Desktop("h4", H4, near=f"{NAME}/h1"), Desktop("h3", H3, near=f"{NAME}/h1"))
    with serving(desktops, sessions=3, each=2) as server:
        with server.open("h4") as first, server.open("h4") as second:
            assert {first.recv(timeout=10), second.recv(timeout=10)} == {b"RFB 003.008\n"}
            with server.open("h4") as third:
                assert end_of(third) == (1013, "2 sessions of h4 are open, 2 in all; close one")
            with server.open("h3") as other, server.open("h3") as fourth:
                assert other.recv(timeout=10) == b"RFB 003.008\n"
                assert end_of(fourth) == (1013, "1 sessions of h3 are open, 3 in all; close one")

        def again() -> bool:
            with server.open("h4") as websocket, contextlib.suppress(ConnectionClosed):
                return websocket.recv(timeout=10) == b"RFB 003.008\n"
            return False

        wait_until(again, what="a session after others have ended")


@pytest.mark.usefixtures("lab")
def test_a_session_in_which_nothing_happens_ends() -> None:
    def wait(sock: socket.socket) -> None:
        sock.recv(1)

    with listener_in("h4", wait) as port, serving(own(port), idle_s=0.6) as server, server.open("own") as websocket:
        assert end_of(websocket) == (1001, "nothing passed for 0.01 minutes")


@pytest.mark.usefixtures("lab")
def test_text_and_large_messages_end_a_session() -> None:
    with listener_in("h4", lambda sock: sock.recv(1)) as port, serving(own(port)) as server:
        with server.open("own") as websocket:
            websocket.send("text")
            assert end_of(websocket) == (1003, "a desktop takes binary messages")
        with server.open("own") as websocket:
            with contextlib.suppress(ConnectionClosed):
                websocket.send(bytes((1 << 20) + 1))
            assert end_of(websocket)[0] == 1009


def resident_kb(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0])


@pytest.mark.usefixtures("lab")
def test_a_browser_that_takes_nothing_costs_no_memory_and_is_let_go() -> None:
    sent = 0

    def flood(sock: socket.socket) -> None:
        nonlocal sent
        with contextlib.suppress(OSError):
            while True:
                sent += sock.send(bytes(1 << 16))

    with listener_in("h4", flood) as port, serving(own(port), stall_s=3) as server:  # noqa: SIM117
        with socket.create_connection(("::1", server.port)) as lazy:
            lazy.sendall(
                f"GET /desktops/own/socket HTTP/1.1\r\nHost: [::1]:{server.port}\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
            )
            assert lazy.recv(12) == b"HTTP/1.1 101"
            before = resident_kb(server.process.pid)
            wait_until(lambda: sent and not moves(lambda: sent), what="the sender is held up")
            assert resident_kb(server.process.pid) - before < 8 << 10
            # The server's buffers to us, those of the kernels on the way: some megabytes, and then it stands still.
            assert sent < 64 << 20
            held = sent
            wait_until(lambda: not connections(server.process.pid, port), timeout=10, what="it is let go")
            assert sent - held < 1 << 20


def moves(value: Callable[[], int], within_s: float = 0.5) -> bool:
    before = value()
    time.sleep(within_s)
    return value() != before


def connections(pid: int, port: int) -> list[str]:
    """TCP connections of the near host to a port, held by this process."""
    with inside("h1"):
        lines = Path("/proc/thread-self/net/tcp").read_text().splitlines()
    inodes = {
        line.split()[9] for line in lines[1:] if line.split()[2].endswith(f":{port:04X}") and line.split()[3] == "01"
    }
    held = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            held.append(os.readlink(descriptor))
    return [text for text in held if text.removeprefix("socket:[").removesuffix("]") in inodes]


@pytest.mark.usefixtures("lab")
def test_a_desktop_that_takes_nothing_holds_the_browser_up() -> None:
    enough = threading.Event()

    def deaf(_sock: socket.socket) -> None:
        enough.wait(30)

    taken = 0

    def push(websocket: ClientConnection) -> None:
        nonlocal taken
        with contextlib.suppress(ConnectionClosed):
            while True:
                websocket.send(bytes(1 << 18))
                taken += 1 << 18

    with listener_in("h4", deaf) as port, serving(own(port), stall_s=3) as server:
        with server.open("own") as websocket:
            before = resident_kb(server.process.pid)
            thread = threading.Thread(target=push, args=(websocket,), daemon=True)
            thread.start()
            wait_until(lambda: taken and not moves(lambda: taken), what="the browser is held up")
            assert resident_kb(server.process.pid) - before < 16 << 10
            assert end_of(websocket) == (1001, "own takes nothing any more")
            thread.join(10)
        enough.set()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_helper_ends_with_its_server(lab: state.LabState, number: signal.Signals) -> None:
    with serving(desktops_of_lab(lab)) as server:
        with server.open("h4"):
            (helper,) = server.helpers()
        server.process.send_signal(number)
        server.process.wait(10)
        wait_until(lambda: not Path(f"/proc/{helper}/stat").exists() or "Z" in Path(f"/proc/{helper}/stat").read_text(),
                   what="the helper has ended")  # fmt: skip


# --- RDP -------------------------------------------------------------------------------------------------------------

# FreeRDP wants an X server: a second Xvnc, in the near host, whose screen we look at. It has a /tmp of its own.
CLIENT = """
mount -t tmpfs tmpfs /tmp
export HOME=/tmp
Xvnc :9 -interface 127.0.0.1 -rfbport 5909 -SecurityTypes None -geometry 800x600 -depth 24 -nolisten tcp &
while [ ! -S /tmp/.X11-unix/X9 ]; do sleep 0.05; done
DISPLAY=:9 xfreerdp /v:$0 /u:lab /p:lab /cert:ignore /f /size:800x600 /log-level:WARN
echo "xfreerdp ended with $?"
"""


def test_freerdp_reaches_xrdp_across_the_network(lab: state.LabState, tmp_path: Path) -> None:
    assert {"name": "h3", "kind": "rdp", "address": H3, "near": "h1"} in lab.desktops
    with inside("r2"):
        on_link = Capture("eth2")
    argv = ["unshare", "-m", "-p", "-f", "--kill-child", "sh", "-euc", CLIENT, H3]
    log = tmp_path / "log"
    with log.open("w") as out, inside("h1"):
        client = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    try:
        with client_screen(log) as screen:
            pixels = terminal(screen)
            keep("rdp-h3", screen, pixels)
            typed = house("h3") / "tmp/home/typed"
            screen.type("hostname >typed\n")
            wait_until(lambda: typed.exists() and typed.read_text() == "h3\n", timeout=10, what=log.read_text())
            seen = on_link.read(count=4000, timeout_s=0.5)
    finally:
        client.kill()
        client.wait(10)
        on_link.close()
    ours = [frame for frame in seen if has_port(frame, desktop.RDP_PORT)]
    assert {between(frame) for frame in ours} == {(H1, H3), (H3, H1)}


@contextlib.contextmanager
def client_screen(log: Path) -> Iterator[Screen]:
    def reached() -> socket.socket | None:
        with inside("h1"), contextlib.suppress(OSError):
            return socket.create_connection(("127.0.0.1", 5909), timeout=10)
        return None

    with wait_until(reached, timeout=10, what=log.read_text()) as sock:
        yield Screen(Stream.of(sock))


# --- starting and ending ---------------------------------------------------------------------------------------------


def desktop_processes() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[0] == b"Xvnc" and os.path.samefile(entry / "ns/net", f"/run/netns/{NAME}2.h4"):
                found.append(int(entry.name))
    return found


def test_down_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "two.toml"
    text = EXAMPLE.read_text().replace('name = "desktop"', f'name = "{NAME}2"').replace('"rdp"', '"vnc"')
    file.write_text(text)
    code, _, err = via6("lab", "up", file)
    assert (code, err) == (0, "")
    (screen,) = desktop_processes()
    assert via6("lab", "down", f"{NAME}2") == (0, "", "")
    wait_until(lambda: not Path(f"/proc/{screen}").exists(), what="the desktop has ended")
    assert not [name for name in leftover_namespaces() if name.startswith(f"{NAME}2.")]
    assert not Path("/tmp/.X11-unix/X0").exists()
    assert not Path("/tmp/.X0-lock").exists()


def test_what_a_desktop_sees(lab: state.LabState) -> None:
    del lab
    root = house("h4")
    assert list((root / "root").iterdir()) == []
    assert list((root / "home").iterdir()) == []
    assert not (root / "run/netns").exists()
    assert not (root / "run/via6").exists()
    environment = (root.parent / "environ").read_bytes()
    assert b"SECRET" not in environment
    assert b"SESSION=" not in environment


# As an ordinary user's lab: one user only, who is root in there.
OWN = """
mount -t tmpfs tmpfs /run
mkdir /run/netns
mount -t proc proc /proc
"$0" -m via6 lab up "$1"
grep -H Cap /proc/$(pidof -s Xvnc)/status
"$0" -m via6 lab down desktop
pidof Xvnc || echo none
"""


def test_in_a_user_namespace() -> None:
    done = run("unshare", "-Urnmpf", "--kill-child", "sh", "-euc", OWN, sys.executable, EXAMPLE, check=False)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert "desktop h4: vnc 10.4.0.10:5900 in h1" in lines
    capabilities = [line.split()[-1] for line in lines if "Cap" in line]
    assert set(capabilities) == {f"{0:016x}"}
    assert len(capabilities) == 5
    assert lines[-1] == "none"


# --- the demo --------------------------------------------------------------------------------------------------------


def test_the_demo_with_a_desktop() -> None:
    argv = [sys.executable, "-m", "via6", "demo", "--desktop"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        lines = iter(demo.stdout.readline, "")
        opened = next(
            (found for line in lines if (found := re.search(r"http://(\S+)/desktops/h2\?token=(\S+)", line))), None
        )
        try:
            assert opened is not None, demo.stderr and demo.stderr.read()
            place, token = opened.groups()
            path = f"ws://{place}/desktops/h2/socket"
            with pytest.raises(InvalidStatus) as caught:
                connect(path, proxy=None)
            assert caught.value.response.status_code in (401, 403)
            with urllib.request.build_opener(urllib.request.HTTPCookieProcessor()).open(opened[0]) as page:
                assert b"h2" in page.read()
            bearer = {"Authorization": f"Bearer {token}"}
            with connect(path, proxy=None, additional_headers=bearer, max_size=1 << 24, compression=None) as websocket:
                screen = screen_of(websocket)
                keep("demo-h2", screen, terminal(screen))
        finally:
            demo.send_signal(signal.SIGINT)
            out, err = demo.communicate(timeout=20)
    assert (demo.returncode, err) == (0, "")
    assert "This network is gone again" in out


@pytest.mark.parametrize("words", [("--desktop", "-j")])
def test_what_the_demo_refuses(words: tuple[str, ...]) -> None:
    code, out, err = via6("demo", *words)
    assert (code, out) == (2, "")
    assert "there is no JSON of it" in err
