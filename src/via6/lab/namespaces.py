"""A lab in network namespaces: one per router and per host, veth pairs between them.

How it is used (the demo and `via6 lab test` do so inside `sandbox.run`, `via6 lab up` as root without it):

    topology = load("examples/labs/triangle.toml")
    with Lab(topology) as lab:                      # up() on the way in, down() on the way out
        lab.wait_ready()                            # seconds until every host reaches every other
        lab.exec("r1", ["ip", "route"]).stdout      # a program in a node
        lab.call("h1", ping_many, [address])        # a function of ours in a node, in this process
        lab.each(["h1", "h2"], measure)             # {node: measure(node)}, all at once, each in a child
        lab.trail("h1", "h3").nodes                 # what a packet passes, as the kernels of the routers decide it
        lab.stop_router("r2"), lab.start_router("r2")   # the program on it

The namespace of a node is /run/netns/PREFIX + NODE, so `ip -n NODE …` works within a sandbox. Everything is made with
a handful of processes: one `ip -batch` makes all namespaces, one all cables, one per node its addresses. Settings are
written to `conf/default` of a namespace before its interfaces come, which inherit them. Link-local addresses are
set by us (fe80::NUMBER, no duplicate detection): they are there at once and the same in every run.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from via6.errors import FAILED, Refusal
from via6.kernel.netns import setns
from via6.lab.process import fork, interruptible
from via6.lab.routes import StaticRoute, static_routes
from via6.lab.software import RUNNERS, Daemon
from via6.lab.topology import HOST_DEVICE, LAN, Host, Router, Topology
from via6.prefix import Prefix, format_address

if TYPE_CHECKING:
    from via6.lab.reach import Trail

T = TypeVar("T")

NETNS: Final = Path("/run/netns")
FOLDER: Final = Path("/run/via6-lab")
_POLL_S: Final = 0.02
_NAMED: Final = 5  # nodes named in a message
_SYSTEM_PATHS: Final = "/usr/sbin:/sbin:/usr/bin:/bin"
_FIRST_INDEX: Final = 11

# Written in this order; paths below /proc/sys/net.
_COMMON: Final = (
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/addr_gen_mode", "1"),  # no link-local address but ours
)
_ROUTER: Final = (
    *_COMMON,
    ("ipv4/ip_forward", "1"),  # first: it resets the other IPv4 settings to those of a router
    ("ipv4/conf/default/forwarding", "1"),
    # Equal-cost paths there and back may differ, which strict filtering takes for a lie.
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv6/conf/all/forwarding", "1"),
)
_HOST: Final = (*_COMMON, ("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/default/rp_filter", "0"))


class Lab:
    """A topology made real. `prefix` goes before each node's name in /run/netns; `folder` takes configs and logs."""

    def __init__(self, topology: Topology, *, prefix: str = "", folder: Path = FOLDER) -> None:
        self.topology = topology
        self.prefix = prefix
        self.folder = folder
        self.daemons: dict[str, Daemon] = {}
        self.routes: dict[str, tuple[StaticRoute, ...]] = {}
        self.started_s = 0.0
        """Monotonic time at which the routers' programs began to start."""
        self._made: list[str] = []

    def __enter__(self) -> Lab:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def namespace(self, node: str) -> str:
        """The name of a node's namespace, as `ip netns` shows it. Raises Refusal for a node there is not."""
        if node not in self.topology.router and node not in self.topology.host:
            near = ", ".join(self.topology.nodes[:12])
            raise Refusal(f"lab {self.topology.name} has no node {node!r}", f"its nodes: {near}")
        return self.prefix + node

    # --- up and down -----------------------------------------------------------------------------------------------

    def up(self) -> None:
        """Makes everything and starts the routers' programs. Raises Refusal, having taken down what there was."""
        try:
            self.build()
            self.start()
        except BaseException:
            self.down()
            raise

    def build(self) -> None:
        """Namespaces, cables, addresses: the network with all links up, and no route in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._make_namespaces()
        for node in self.topology.nodes:
            with self.inside(node):
                self._write_settings(node)
        ip_batch(_cables(self.topology, self.prefix))
        for router in self.topology.routers:
            ip_batch(_router_lines(self.topology, router), self.namespace(router.name))
        for host in self.topology.hosts:
            ip_batch(_host_lines(host), self.namespace(host.name))

    def start(self) -> None:
        """Starts each router's software."""
        self.routes = static_routes(self.topology)
        self.started_s = time.monotonic()
        for router in self.topology.routers:
            self.start_router(router.name)

    def start_router(self, node: str) -> None:
        """Starts the software of one router (again)."""
        router = self.topology.router[node]
        daemon = RUNNERS[router.software](self, router, self.routes[node])
        if daemon is not None:
            self.daemons[node] = daemon

    def stop_router(self, node: str, number: int = signal.SIGTERM) -> None:
        """Sends a signal to the program of a router and waits for its end (SIGKILL after some seconds)."""
        daemon = self.daemons.pop(node, None)
        if daemon is not None:
            daemon.stop(number)

    def down(self) -> None:
        """Ends the routers' programs and removes the namespaces and the folder. Never fails, may be called again."""
        for daemon in self.daemons.values():
            daemon.kill()
        for daemon in self.daemons.values():
            daemon.stop(signal.SIGKILL)
        self.daemons.clear()
        if self._made:
            with contextlib.suppress(Refusal):
                ip_batch([f"netns delete {name}" for name in self._made], force=True)
            self._made.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def refuse_taken(self) -> None:
        """Raises Refusal if a namespace that the lab would make is there already."""
        taken = [name for node in self.topology.nodes if (NETNS / (name := self.namespace(node))).exists()]
        if taken:
            raise Refusal(
                f"there is a network namespace {taken[0]!r} already, and this lab did not make it",
                f"`ip netns delete {taken[0]}` if nobody needs it, or name the lab otherwise",
            )

    def _make_namespaces(self) -> None:
        self.refuse_taken()
        self._made = [self.namespace(node) for node in self.topology.nodes]
        ip_batch([f"netns add {name}" for name in self._made])

    def _write_settings(self, node: str) -> None:
        for name, value in _ROUTER if node in self.topology.router else _HOST:
            path = Path("/proc/sys/net", name)
            try:
                path.write_text(value)
            except FileNotFoundError:
                raise Refusal(f"this kernel has no {path}", "labs need IPv4 and IPv6 in the kernel") from None
            except OSError as error:
                raise Refusal(
                    f"{path} cannot be written here: {error.strerror}",
                    "in a container, start that with --privileged, so that /proc/sys is writable",
                ) from None

    # --- inside ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def inside(self, node: str) -> Iterator[None]:
        """This thread is in the node's network namespace within the block: sockets and processes made there stay."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.enter(node)
            try:
                yield
            finally:
                setns(home)
        finally:
            os.close(home)

    def enter(self, node: str) -> None:
        """Moves this thread into the node's network namespace for good."""
        path = NETNS / self.namespace(node)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise Refusal(f"namespace {path}: {error.strerror}", "the lab is not up") from None
        try:
            setns(descriptor)
        except OSError as error:
            raise Refusal(f"namespace {path}: {error.strerror}") from None
        finally:
            os.close(descriptor)

    def call(self, node: str, function: Callable[..., T], *args: Any, **named: Any) -> T:
        """function(*args, **named), called in the node's namespace by this thread."""
        with self.inside(node):
            return function(*args, **named)

    def exec(
        self, node: str, argv: Sequence[str], *, text: str | None = None, timeout_s: float | None = 60
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program in a node to its end, `text` as its input; output and errors come back as text."""
        with self.inside(node):
            return subprocess.run(
                argv, input=text, stdin=None if text is not None else subprocess.DEVNULL, capture_output=True,
                text=True, timeout=timeout_s, check=False,
            )  # fmt: skip

    def popen(self, node: str, argv: Sequence[str], **named: Any) -> subprocess.Popen[Any]:
        """Starts a program in a node; the arguments are those of subprocess.Popen."""
        with self.inside(node):
            return subprocess.Popen(argv, **named)

    def each(self, nodes: Iterable[str], work: Callable[[str], T]) -> dict[str, T]:
        """work(node) for all nodes at once, each in a child process in its node; answers come back pickled.

        Raises the Refusal of a child, and Refusal for a child that died."""
        children: dict[str, tuple[int, int]] = {}
        try:
            for node in nodes:
                reading, writing = os.pipe()
                pid = fork()
                if pid == 0:
                    os.close(reading)
                    self._child(node, work, writing)
                os.close(writing)
                children[node] = pid, reading
            return {node: self._answer(node, children) for node in list(children)}
        finally:
            for pid, reading in children.values():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                os.close(reading)

    def _child(self, node: str, work: Callable[[str], T], writing: int) -> NoReturn:
        code = FAILED
        try:
            interruptible(signal.SIG_DFL)
            try:
                self.enter(node)
                answer: tuple[bool, Any] = True, work(node)
            except Refusal as refusal:
                answer = False, (refusal.message, refusal.remedy, refusal.code)
            with open(writing, "wb") as stream:
                pickle.dump(answer, stream)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)

    def _answer(self, node: str, children: dict[str, tuple[int, int]]) -> Any:
        """What one child wrote; the child is done with and no longer in `children`."""
        with open(children[node][1], "rb", closefd=False) as stream:
            data = stream.read()
        pid, reading = children.pop(node)
        os.close(reading)
        os.waitpid(pid, 0)
        if not data:
            raise Refusal(f"the process in node {node} died")
        good, value = pickle.loads(data)
        if not good:
            raise Refusal(*value)
        return value

    # --- what the lab is for ---------------------------------------------------------------------------------------

    def wait_routes(self, timeout_s: float = 30.0) -> str:
        """Waits until every router has a route to every island that it can have one to; a router whose program has
        ended, or that runs none, is not waited for. Says what is wrong, empty if nothing is."""
        from via6.kernel.linux import LinuxKernel

        def installed() -> set[Prefix]:
            with LinuxKernel(receive_buffer=1 << 18) as kernel:
                return {route.prefix for route in kernel.dump(frozenset({"routes4"})).routes}

        waiting = {
            router.name: {route.prefix for route in self.routes[router.name]}
            for router in self.topology.routers
            if router.software != "none"
        }
        deadline = self.started_s + timeout_s
        while waiting and time.monotonic() <= deadline:
            # All must have theirs, so it is enough to ask one until it has, and then the next.
            node, wanted = next(iter(waiting.items()))
            ended = node in self.daemons and self.daemons[node].poll() is not None
            if ended or wanted <= self.call(node, installed):
                del waiting[node]
            else:
                time.sleep(_POLL_S)
        late = f"routes are missing after {timeout_s:g} s in {some(waiting)}" if waiting else ""
        return "; ".join(filter(None, (self.troubles(), late)))

    def wait_ready(self, timeout_s: float = 30.0) -> float:
        """Seconds from the start of the routers' software until every host had reached every other.

        Raises Refusal if that does not come to pass."""
        from via6.lab.reach import measure

        reach = measure(self, timeout_s)
        if reach.missing:
            first = reach.missing[0]
            raise Refusal(f"{len(reach.missing)} pairs are not reachable: {first}", self.troubles() or "")
        return reach.seconds or 0.0

    def trail(self, source: str, destination: str) -> Trail:
        """The nodes that a packet between two hosts passes, as the kernels of the routers decide it."""
        from via6.lab.reach import trail

        return trail(self, source, destination)

    def troubles(self) -> str:
        """What the routers' programs that have ended said last, and in which nodes; empty if all run."""
        found: dict[str, list[str]] = {}
        for node, daemon in self.daemons.items():
            if words := daemon.last_words():
                found.setdefault(words, []).append(node)
        return "; ".join(f"{words} (in {some(nodes)})" for words, nodes in found.items())


def some(names: Collection[str]) -> str:
    """A few of the names, and how many more there are."""
    return ", ".join(list(names)[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


# --- what `ip` is told ---------------------------------------------------------------------------------------------


def ip_program() -> str:
    """Where `ip` is; the folders of the system count even if PATH of an ordinary user leaves them out."""
    found = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:{_SYSTEM_PATHS}")
    if found is None:
        raise Refusal("there is no `ip` on this machine", "install iproute2 (apt-get install iproute2)")
    return found


def ip_batch(lines: Sequence[str], namespace: str = "", *, force: bool = False) -> None:
    """Runs lines through one `ip -batch`, `force` to go on after a failure. Raises Refusal with ip's own words."""
    argv = [ip_program(), *(["-force"] if force else []), *(["-n", namespace] if namespace else []), "-batch", "-"]
    done = subprocess.run(
        argv, input="".join(f"{line}\n" for line in lines), text=True, capture_output=True, check=False
    )
    if done.returncode == 0:
        return
    words = [line for line in done.stderr.splitlines() if line and not line.startswith("Command failed")]
    at = done.stderr.rpartition("Command failed -:")[2].strip()
    line = lines[int(at) - 1] if at.isdecimal() and 0 < int(at) <= len(lines) else ""
    where = f" in {namespace}" if namespace else ""
    remedy = "`modprobe veth` as root" if "Unknown device type" in done.stderr else ""
    raise Refusal(f"ip {line}{where}: {words[0] if words else 'failed'}", remedy)


def _cables(topology: Topology, prefix: str) -> list[str]:
    # Numbers of interfaces are given, because the two ends of a cable must not have the same: Linux would take them for
    # devices without a lower one and may say a second late that the carrier is lost (linkwatch_urgent_event).
    lines = [
        f"link add name {cable.a.device} index {_FIRST_INDEX + 2 * number} mtu {cable.mtu}"
        f" netns {prefix}{cable.a.router} type veth peer name {cable.b.device}"
        f" index {_FIRST_INDEX + 2 * number + 1} mtu {cable.mtu} netns {prefix}{cable.b.router}"
        for number, cable in enumerate(topology.cables)
    ]
    for router in topology.routers:
        for device, host in zip(_lan_devices(topology, router), topology.hosts_of(router.name), strict=True):
            lines.append(
                f"link add name {device} netns {prefix}{router.name} type veth"
                f" peer name {HOST_DEVICE} netns {prefix}{host.name}"
            )
    return lines


def _lan_devices(topology: Topology, router: Router) -> list[str]:
    """The router's ends of the cables to its hosts: `lan` itself for one host, else ports of a bridge `lan`."""
    count = len(topology.hosts_of(router.name))
    return [LAN] if count == 1 else [f"{LAN}{number}" for number in range(1, count + 1)]


def _router_lines(topology: Topology, router: Router) -> list[str]:
    lines = ["link set lo up"]
    if router.address:
        lines.append(f"address add {format_address(router.address)}/32 dev lo")
    for device, _, _ in topology.ports[router.name]:
        lines += [f"address add {format_address(router.link_local)}/64 dev {device} nodad", f"link set {device} up"]
    ports = _lan_devices(topology, router)
    if len(ports) > 1:
        lines.append(f"link add name {LAN} type bridge")
        lines += [f"link set {port} master {LAN} up" for port in ports]
    if ports and router.lan and router.gateway:
        lines += [f"link set {LAN} up", f"address add {format_address(router.gateway)}/{router.lan.length} dev {LAN}"]
    return lines


def _host_lines(host: Host) -> list[str]:
    return [
        "link set lo up",
        f"link set {HOST_DEVICE} up",
        f"address add {format_address(host.address)}/{host.length} dev {HOST_DEVICE}",
        f"route add default via {format_address(host.gateway)}",
    ]
