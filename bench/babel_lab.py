"""What the Babel benches share: programs to compare, labs made of TOML text, clocks on processes and FIBs.

Everything here runs inside `lab.sandbox`: namespaces, /run and processes of its own, all gone at its end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from common import Row
from via6.collect.probe import ping_many
from via6.kernel.linux import LinuxKernel
from via6.kernel.netns import setns
from via6.lab import sandbox, speakers
from via6.lab.labfile import parse
from via6.lab.namespaces import Lab, ip_batch
from via6.lab.routes import static_routes
from via6.lab.run import wait_links
from via6.lab.software import Daemon, control_socket, spawn
from via6.lab.topology import Cable, Router, Topology
from via6.model import PROTO_STATIC
from via6.prefix import Address, Prefix

PORT_HEX: Final = ":1A28"
OURS: Final = "via6"
PEERS: Final = ("babeld", "babeld-13", "bird", "bird3")
_HERTZ: Final = os.sysconf("SC_CLK_TCK")
_RMEM: Final = Path("/proc/sys/net/core/rmem_default")
RAISED: Final = 16 << 20
_FIRST: Final = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)  # the namespace the bench was started in


def inside(work: Callable[[], list[Row]]) -> list[Row]:
    """Does the work in a sandbox and prints its rows; raises SystemExit if it failed."""

    def run() -> int:
        print("\n".join(row.line() for row in work()), flush=True)
        return 0

    code = sandbox.run(run)
    if code:
        raise SystemExit(code)
    return []


# --- programs ------------------------------------------------------------------------------------------------------


def title(kind: str) -> str:
    """`BIRD 2.17.5` of `bird`."""
    if kind == OURS:
        return OURS
    path = speakers.program(kind)
    if kind.startswith("bird"):
        return "BIRD " + ".".join(map(str, speakers.bird_version(path)))
    return f"babeld {_babeld_version(path)}"


def _babeld_version(path: str) -> str:
    done = subprocess.run([path, "-V"], capture_output=True, text=True, check=False)
    return (done.stderr + done.stdout).strip().removeprefix("babeld-")


def cpu_s(daemon: Daemon) -> float:
    """Processor seconds, user and system, so far."""
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _HERTZ


def memory_mb(daemon: Daemon, key: str = "VmHWM") -> float:
    """VmHWM is the most there ever was, VmRSS what is there now."""
    for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    return 0.0


def wait_for(what: Callable[[], object], timeout_s: float, step_s: float = 0.01) -> bool:
    """Whether it came true in time."""
    end = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(step_s)
    return True


@contextlib.contextmanager
def raised_buffers(wanted: bool) -> Iterator[None]:
    """Sockets that are made within the block get a larger receive buffer by default. That setting is the machine's,
    which can be written in its first network namespace alone: it is put back at once."""
    if not wanted:
        yield
        return
    before = _RMEM.read_text()
    try:
        _write_rmem(str(RAISED))
        yield
    finally:
        _write_rmem(before)


def _write_rmem(text: str) -> None:
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(_FIRST)
        _RMEM.write_text(text)
    finally:
        setns(here)
        os.close(here)


# --- labs ----------------------------------------------------------------------------------------------------------


def topology(routers: list[str], links: list[tuple[str, str]], lans: bool, kind: str = OURS) -> Topology:
    """Routers with these links; with `lans` each has an island 10.x.y.0/24 and a host in it."""
    lines = ["[lab]", 'name = "bench"', f'software = "{kind}"']
    for number, name in enumerate(routers, 1):
        lines.append(f"[router.{name}]")
        if lans:
            lines.append(f'lan = "10.{number >> 8}.{number & 255}.0/24"')
    lines += [f'[[link]]\nends = ["{a}", "{b}"]' for a, b in links]
    return parse("\n".join(lines).encode(), "bench.toml", "bench")


def listens(lab: Lab, node: str) -> bool:
    """A Babel port is bound in the namespace of a node."""
    with lab.inside(node):
        text = Path("/proc/thread-self/net/udp6").read_text()
    return any(PORT_HEX in line.split()[1] for line in text.splitlines()[1:])


def wait_listening(lab: Lab, timeout_s: float = 60.0) -> float:
    """Monotonic time at which the last daemon was seen to listen. Raises SystemExit if one does not."""
    todo = list(lab.topology.router)
    end = time.monotonic() + timeout_s
    while todo:
        todo = [node for node in todo if not listens(lab, node)]
        if time.monotonic() > end:
            raise SystemExit(f"{todo[:3]} do not listen: {lab.troubles()}")
        if todo:
            time.sleep(0.002)
    return time.monotonic()


class Reader:
    """How many prefixes the kernel of a node has, without a dump: one line of /proc."""

    def __init__(self, lab: Lab, node: str) -> None:
        with lab.inside(node):
            self._file = open("/proc/thread-self/net/fib_triestat")  # noqa: SIM115
            self._kernel = LinuxKernel(receive_buffer=64 << 20)

    def leaves(self) -> int:
        """Different addresses in the main table, whatever their routes are (those of one length: prefixes)."""
        self._file.seek(0)
        main = self._file.read().partition("Main:")[2].partition("Local:")[0]
        return next((int(line.split()[1]) for line in main.splitlines() if "Leaves:" in line), 0)

    def usable(self, length: int) -> int:
        """Different prefixes of this length with a unicast route, by a dump."""
        found: set[Address] = set()
        for block in self._kernel.dump(frozenset({"routes4"})).routes.blocks:
            if block.template.prefix.length == length and block.template.type == "unicast":
                found.update(block.destinations)
        return len(found)


class Paths:
    """Which routers of a lab reach which, read from the kernels' tables: no packet disturbs the speakers."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._kernels: dict[str, LinuxKernel] = {}
        self._far: dict[str, dict[int, str]] = {}
        for name, ports in lab.topology.ports.items():
            with lab.inside(name):
                self._kernels[name] = LinuxKernel(receive_buffer=1 << 18)
                links = {link.name: link.ifindex for link in self._kernels[name].dump(frozenset({"links"})).links}
            self._far[name] = {links[device]: far.router for device, far, _ in ports}
        self._lans = {router.lan: router.name for router in lab.topology.routers if router.lan}
        self._packed = {lan.packed for lan in self._lans}

    def _next(self, name: str) -> dict[Prefix, str]:
        """Per island the router that this one would send to."""
        found: dict[Prefix, tuple[int, str]] = {}
        for block in self._kernels[name].dump(frozenset({"routes4"})).routes.blocks:
            template = block.template
            far = self._far[name].get(template.next_hops[0].ifindex) if template.next_hops else None
            if template.type != "unicast" or not far:
                continue
            for packed in self._packed.intersection(block.destinations):
                prefix = Prefix(packed, template.prefix.length)
                if prefix not in found or template.metric < found[prefix][0]:
                    found[prefix] = template.metric, far
        return {prefix: far for prefix, (_, far) in found.items()}

    def missing(self) -> int:
        """Ordered pairs of routers between which packets would be lost."""
        tables = {name: self._next(name) for name in self._kernels}
        short = 0
        for prefix, owner in self._lans.items():
            good = {owner}
            for start in tables:
                way, name = [], start
                while name not in good and name not in way:
                    way.append(name)
                    name = tables[name].get(prefix, "")
                    if not name:
                        break
                if name in good:
                    good.update(way)
            short += len(tables) - len(good)
        return short

    def wait(self, timeout_s: float, step_s: float = 0.02) -> tuple[float, int]:
        """(monotonic time at which all pairs were whole, pairs that still are not)."""
        end = time.monotonic() + timeout_s
        while (short := self.missing()) and time.monotonic() < end:
            time.sleep(step_s)
        return time.monotonic(), short


def ping_pairs(lab: Lab) -> int:
    """Pairs of hosts that do not answer, three rounds tried: the proof of what was read from the kernels."""
    hosts = lab.topology.hosts

    def work(node: str) -> int:
        todo = [host.address for host in hosts if host.name != node]
        for _ in range(3):
            came = {ping.target for ping in ping_many(todo, timeout_s=1.0) if ping.rtts_s} if todo else set()
            todo = [target for target in todo if target not in came]
        return len(todo)

    return sum(lab.each(lab.topology.host, work).values())


# --- links ---------------------------------------------------------------------------------------------------------


def cable_between(lab: Lab, a: str, b: str) -> Cable:
    """The cable of two routers."""
    return next(c for c in lab.topology.cables if {c.a.router, c.b.router} == {a, b})


class Wire:
    """A cable with a joint in its middle: a bridge in a namespace of its own. Where it is cut, both routers lose their
    carrier, as with a real cable. To set the far interface down instead would be unfair: that router takes its routes
    out under a lock of the whole machine (RTNL), and in a lab the near one waits for it to hear of its own carrier."""

    def __init__(self, lab: Lab, cable: Cable) -> None:
        self._namespace = f"wire-{cable.a.router}-{cable.b.router}"
        subprocess.run(["ip", "netns", "add", self._namespace], check=True)
        for number, port in enumerate((cable.a, cable.b)):
            router, space = lab.topology.router[port.router], lab.namespace(port.router)
            if not number:
                ip_batch([f"link delete {port.device}"], space)
            address = f"fe80::{router.number:x}/64"
            ends = f"{port.device} index {500 + number} netns {space}", f"{port.router} netns {self._namespace}"
            ip_batch([f"link add name {ends[0]} type veth peer name {ends[1]}"])
            ip_batch([f"address add {address} dev {port.device} nodad", f"link set {port.device} up"], space)
        ends = (cable.a.router, cable.b.router)
        lines = ["link add name bridge type bridge mcast_snooping 0", "link set bridge up"]
        ip_batch(lines + [f"link set {end} master bridge up" for end in ends], self._namespace)

    def cut(self, near: str, far: str) -> None:
        """Both ends lose their carrier, the near one first."""
        ip_batch([f"link set {near} down", f"link set {far} down"], self._namespace)

    def heal(self, near: str, far: str) -> None:
        ip_batch([f"link set {near} up", f"link set {far} up"], self._namespace)


_DROP: Final = """table inet bench {{
  chain in {{ type filter hook prerouting priority -450; policy accept; iifname "{device}" drop; }}
  chain out {{ type filter hook postrouting priority 450; policy accept; oifname "{device}" drop; }}
}}
"""


def silence(lab: Lab, cable: Cable) -> None:
    """Both ends drop whatever comes in or leaves there; the link stays up."""
    for port in (cable.a, cable.b):
        done = lab.exec(port.router, ["nft", "-f", "-"], text=_DROP.format(device=port.device))
        if done.returncode:
            raise SystemExit(f"nft: {done.stderr}")


def unsilence(lab: Lab, cable: Cable) -> None:
    """Takes the rules away."""
    for port in (cable.a, cable.b):
        lab.exec(port.router, ["nft", "delete", "table", "inet", "bench"])


def via6_words(*words: str) -> list[str]:
    """A command line of via6. BENCH_PYTHON may name a script that comes before `-m via6`, such as a profiler."""
    return [sys.executable, "-P", *os.environ.get("BENCH_PYTHON", "").split(), "-m", "via6", *words]


def start_all(lab: Lab, static_at: str = "", link_detect: bool = False) -> float:
    """Starts the software of all routers as the lab does; one of them announces its static routes as well. Returns when
    the last of them listened."""
    wait_links(lab)
    lab.routes = static_routes(lab.topology)
    lab.started_s = time.monotonic()
    for router in lab.topology.routers:
        _start(lab, router, router.name == static_at, link_detect)
    return wait_listening(lab)


def _start(lab: Lab, router: Router, static: bool, link_detect: bool) -> None:
    top, stem = lab.topology, lab.folder / router.name
    config = stem.with_suffix(".conf")
    socket = str(control_socket(lab.folder, router.name))
    environment: dict[str, str] = {}
    kind = router.software
    if kind == OURS:
        text = speakers.via6_config(top, router, stem)
        text = text.replace('export = ["connected"', 'export = ["static", "connected"') if static else text
        words = via6_words("run", str(config))
        environment = {"VIA6_SOCKET": socket, "VIA6_STATE": f"{stem}.state"}
    elif kind.startswith("babeld"):
        text = speakers.babeld_config(top, router)
        text = (f"redistribute ip 0.0.0.0/0 proto {PROTO_STATIC} allow\n" if static else "") + text
        text = ("link-detect true\n" if link_detect else "") + text
        words = [speakers.program(kind), "-c", str(config), "-I", f"{stem}.pid", "-S", f"{stem}.state"]
    else:
        text = speakers.bird_config(top, router)
        if static:
            text = text.replace("protocol kernel {", "protocol kernel { learn;").replace("import none;", "import all;")
            text = text.replace("RTS_DEVICE, RTS_BABEL", "RTS_DEVICE, RTS_INHERIT, RTS_BABEL")
        words = [speakers.program(kind), "-f", "-c", str(config), "-s", socket]
    config.write_text(text)
    with lab.inside(router.name):
        lab.daemons[router.name] = spawn(words, stem.with_suffix(".log"), environment)


def stop_all(lab: Lab) -> None:
    """Ends the daemons as an operator would."""
    for daemon in lab.daemons.values():
        daemon.kill(signal.SIGTERM)
    lab.down()


def extra(**values: Any) -> dict[str, Any]:
    """Rounded numbers for a row."""
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in values.items()}
