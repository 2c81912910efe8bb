"""What labs are up, and where: one JSON file per lab, written before anything of the lab exists.

    root            /run/via6/labs/LAB.json             namespaces in /run/netns, named LAB.NODE
    anybody else    $XDG_RUNTIME_DIR/via6/labs/LAB.json  (without it /tmp/via6-UID/labs), namespaces in a sandbox

A lab of an ordinary user lives in a sandbox whose process 1, the holder, is noted with its start time: as long as just
this process lives the lab is up, and killing it takes the lab down. A lab of root is namespaces, noted with their
inodes, and processes in them. So whatever `kill -9` left half made is found again, and nothing is touched that
has the same name or number by chance.

`via6 -n NODE` asks here, so this module imports little.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from via6.errors import Refusal
from via6.lab.process import alive, kill, start_time

if TYPE_CHECKING:
    from io import TextIOWrapper

NETNS: Final = Path("/run/netns")
STARTING: Final = "starting"
UP: Final = "up"


@dataclass(frozen=True)
class LabState:
    """One lab. `namespaces` maps the names in /run/netns to inodes (0: not yet known), `nodes` the nodes to those
    names; `holder` is (pid, start time) of process 1 of the sandbox, (0, 0) for a lab of root. `desktops` are the
    fields of lab.desktop.Desktop, one entry for each."""

    name: str
    file: str
    status: str = STARTING
    nodes: dict[str, str] = field(default_factory=dict)
    namespaces: dict[str, int] = field(default_factory=dict)
    holder: tuple[int, int] = (0, 0)
    held: bool = False
    routers: int = 0
    links: int = 0
    desktops: list[dict[str, str]] = field(default_factory=list)

    @property
    def running(self) -> bool:
        """True if the lab is up and complete."""
        if self.status != UP:
            return False
        return alive(*self.holder) if self.held else all((NETNS / name).exists() for name in self.namespaces)


def folder() -> Path:
    """Where this user's labs are noted; it need not exist. Raises Refusal if it is somebody else's."""
    uid = os.geteuid()
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if uid == 0:
        return Path("/run/via6/labs")
    if runtime and os.access(runtime, os.W_OK):
        return Path(runtime, "via6", "labs")
    base = Path(f"/tmp/via6-{uid}")
    # /tmp is everybody's: what another user put there, or a link to elsewhere, is not to be trusted.
    with contextlib.suppress(FileNotFoundError):
        if base.is_symlink() or base.stat().st_uid != uid:
            raise Refusal(f"{base} belongs to somebody else", "set XDG_RUNTIME_DIR to a folder of your own")
    return base / "labs"


def _make_folder() -> Path:
    path = folder()
    try:
        path.parent.mkdir(mode=0o755 if os.geteuid() == 0 else 0o700, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise Refusal(f"{path}: {error.strerror}", "set XDG_RUNTIME_DIR to a folder of your own") from None
    return folder()


def _locked_file(path: Path, how: int) -> TextIOWrapper:
    """The lock file, open and locked: the one that has this name now, for the last lab takes the file away."""
    import fcntl

    while True:
        try:
            file = path.open("w")
        except FileNotFoundError:
            _make_folder()
            continue
        try:
            fcntl.flock(file, how)
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()


@contextlib.contextmanager
def lock(*, wait: bool = True) -> Iterator[bool]:
    """One at a time makes or removes labs. Gives False if that is another one and `wait` is not wanted."""
    import fcntl

    path = _make_folder() / ".lock"
    try:
        file = _locked_file(path, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        yield False
        return
    with file:
        try:
            yield True
        finally:
            if not read_all():  # leave nothing
                path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    path.parent.rmdir()
                    path.parent.parent.rmdir()
            # A child may still have the file open: without this it would keep the lock.
            fcntl.flock(file, fcntl.LOCK_UN)


def write(state: LabState) -> None:
    """Notes a lab; whoever reads sees the old note or the new one, whole."""
    path = folder() / f"{state.name}.json"
    new = path.with_suffix(".new")
    new.write_text(json.dumps(asdict(state)))
    new.replace(path)


def read(name: str) -> LabState | None:
    """The note of one lab."""
    try:
        return _decode((folder() / f"{name}.json").read_text())
    except FileNotFoundError:
        return None


def read_all() -> list[LabState]:
    """All labs of this user, by name."""
    found = []
    for path in sorted(folder().glob("*.json")):
        with contextlib.suppress(FileNotFoundError):
            found.append(_decode(path.read_text()))
    return found


def _decode(text: str) -> LabState:
    known = {one.name for one in fields(LabState)}  # another version may have noted more
    state = LabState(**{key: value for key, value in json.loads(text).items() if key in known})
    return replace(state, holder=(int(state.holder[0]), int(state.holder[1])))


# --- taking down ---------------------------------------------------------------------------------------------------


def remove(state: LabState) -> None:
    """Ends everything that is noted as the lab's, and then forgets it. Call it with the lock held."""
    if state.held:
        kill(*state.holder)
    else:
        _remove_namespaces(state)
    import shutil

    shutil.rmtree(folder() / state.name, ignore_errors=True)
    (folder() / f"{state.name}.json").unlink(missing_ok=True)


def _remove_namespaces(state: LabState) -> None:
    """Also ends what runs in the namespaces, as they would live on in it."""
    ours = {}
    for name, inode in state.namespaces.items():
        with contextlib.suppress(FileNotFoundError):
            found = (NETNS / name).stat()
            if inode in (0, found.st_ino):
                ours[found.st_dev, found.st_ino] = name
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        started = start_time(pid)
        with contextlib.suppress(OSError):
            where = os.stat(f"/proc/{pid}/ns/net")
            if started is not None and (where.st_dev, where.st_ino) in ours and pid != os.getpid():
                kill(pid, started, signal.SIGKILL)
    if ours:
        from via6.lab.namespaces import ip_batch

        ip_batch([f"netns delete {name}" for name in ours.values()], force=True)


# --- finding a node ------------------------------------------------------------------------------------------------


def find(name: str) -> tuple[LabState, str] | None:
    """The running lab and the node in it that NODE or LAB/NODE means; None if there is none.

    Raises Refusal if NODE is in several labs."""
    lab, slash, node = name.rpartition("/")
    labs = [state for state in read_all() if node in state.nodes and (not slash or state.name == lab)]
    labs = [state for state in labs if state.running]
    if len(labs) > 1:
        names = " or ".join(f"{state.name}/{node}" for state in labs)
        raise Refusal(f"there is a node {node} in {len(labs)} labs", f"say {names}")
    return (labs[0], node) if labs else None


def node_netns(name: str) -> str | None:
    """Path of the network namespace of NODE or LAB/NODE, for setns; None if no running lab has it.

    Where the lab lives in a sandbox this process is moved into the sandbox's user namespace on the way: without it
    neither may the path be opened nor the namespace be entered."""
    found = find(name)
    if found is None:
        return None
    state, node = found
    if not state.held:
        return str(NETNS / state.nodes[node])
    join(state, ("user",))
    return f"/proc/{state.holder[0]}/root{NETNS}/{state.nodes[node]}"


_KINDS: Final = {"user": 0x10000000, "mnt": 0x00020000, "pid": 0x20000000}  # CLONE_NEW*, linux/sched.h


def join(state: LabState, kinds: tuple[str, ...]) -> None:
    """Moves this process into the holder's namespaces of these kinds (`pid` counts for children only)."""
    from via6.kernel.netns import setns

    pid, started = state.holder
    opened: list[tuple[int, str]] = []
    try:
        for kind in kinds:
            # The first user namespace of root is one that root need not, and must not, enter again.
            theirs, own = f"/proc/{pid}/ns/{kind}", f"/proc/self/ns/{kind}"
            if kind != "user" or os.stat(theirs).st_ino != os.stat(own).st_ino:
                opened.append((os.open(theirs, os.O_RDONLY | os.O_CLOEXEC), kind))
        if not alive(pid, started):
            raise Refusal(f"lab {state.name} has just ended", f"via6 lab up {state.file}")
        for descriptor, kind in opened:
            setns(descriptor, _KINDS[kind])
    except OSError as error:
        raise Refusal(f"cannot enter lab {state.name}: {error.strerror}", f"via6 lab down {state.name}") from None
    finally:
        for descriptor, _ in opened:
            os.close(descriptor)
