"""`via6 lab up` and what belongs to it: labs that outlive the command that made them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from via6.errors import FAILED, Refusal
from via6.kernel.netns import setns
from via6.lab import desktop, sandbox, state
from via6.lab.libc import CLONE_NEWUTS, unshare
from via6.lab.namespaces import NETNS, Lab, some
from via6.lab.process import start_time
from via6.lab.state import LabState
from via6.lab.topology import Topology

WAIT_S: Final = 20.0  # for the routes of all routers, once their programs have started
_NOT_FOUND: Final = 127  # as a shell says it


def up(topology: Topology, file: str) -> str:
    """Brings a lab up and leaves it. Returns what is wrong with it (a router's program that ended, routes that are
    missing after a while), empty if nothing is. Raises Refusal if it cannot be brought up; nothing stays then."""
    with state.lock():
        old = state.read(topology.name)
        if old is not None and old.running:
            raise Refusal(f"lab {old.name} is up already", f"via6 lab down {old.name}")
        if old is not None:
            state.remove(old)
        note = LabState(
            topology.name, os.path.abspath(file), routers=len(topology.routers), links=len(topology.cables),
            desktops=[asdict(one) for one in desktop.listing(topology)],
        )  # fmt: skip
        if sandbox.privileged() and os.geteuid() == 0:
            return _up_here(topology, note)
        return _up_held(topology, note)


def _up_here(topology: Topology, note: LabState) -> str:
    lab = Lab(topology, prefix=f"{topology.name}.", folder=state.folder() / topology.name)
    lab.refuse_taken()
    nodes = {node: lab.namespace(node) for node in topology.nodes}
    note = replace(note, nodes=nodes, namespaces=dict.fromkeys(nodes.values(), 0))
    state.write(note)
    try:
        lab.build()
        note = replace(note, namespaces={name: (NETNS / name).stat().st_ino for name in note.namespaces})
        state.write(note)
        lab.start()
        trouble = _wait(lab)
        state.write(replace(note, status=state.UP))
    except BaseException:
        state.remove(note)
        raise
    return trouble


def _wait(lab: Lab) -> str:
    """What is wrong when the routes, and then the desktops, should be there."""
    desktop.start(lab)
    trouble = lab.wait_routes(WAIT_S + lab.topology.start_s)
    return "; ".join(filter(None, (trouble, "" if trouble else desktop.wait(lab))))


def _up_held(topology: Topology, note: LabState) -> str:
    troubles, telling = os.pipe()

    def work() -> None:
        lab = Lab(topology)
        lab.up()
        os.write(telling, _wait(lab).encode()[:4096])

    def noted(pid: int) -> None:
        nonlocal note
        note = replace(note, held=True, holder=(pid, start_time(pid) or 0), nodes={n: n for n in topology.nodes})
        state.write(note)

    try:
        with open(troubles, "rb") as words:
            try:
                sandbox.hold(work, noted)
            finally:
                os.close(telling)
            state.write(replace(note, status=state.UP))
            return words.read().decode(errors="replace")
    except BaseException:
        state.remove(note)
        raise


def down(name: str) -> None:
    """Takes a lab down. Raises Refusal if there is none of this name."""
    with state.lock():
        found = state.read(name)
        if found is None:
            known = ", ".join(lab.name for lab in state.read_all()) or "none"
            raise Refusal(f"lab {name} is not up", f"`via6 lab list` shows those that are ({known})")
        state.remove(found)


def sweep() -> tuple[list[LabState], list[str]]:
    """(the labs that are up, the names of those a killed command had left half made and that are gone now)."""
    with state.lock(wait=False) as mine:
        found = state.read_all()
        broken = [lab for lab in found if not lab.running]
        if mine:  # else somebody is just making one
            for lab in broken:
                state.remove(lab)
    return [lab for lab in found if lab.running], [lab.name for lab in broken if mine]


def execute(name: str, argv: Sequence[str]) -> int:
    """Runs a program in NODE or LAB/NODE of a running lab and returns its exit code. In a lab of root this process
    becomes the program."""
    found = state.find(name)
    if found is None:
        labs = ", ".join(f"{lab.name} ({some(lab.nodes)})" for lab in state.read_all() if lab.running)
        raise Refusal(f"no lab that is up has a node {name}", f"labs that are up: {labs or 'none; `via6 lab up FILE`'}")
    lab, node = found
    namespace = NETNS / lab.nodes[node]
    if not lab.held:
        return _become(namespace, node, argv)
    here = os.getcwd()
    state.join(lab, ("user", "mnt", "pid"))
    if Path(here).is_dir():
        os.chdir(here)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:  # only a child is in the pid namespace, and ends with the lab
        code = FAILED
        try:
            code = _become(namespace, node, argv)
        except Refusal as refusal:
            print(f"via6: {refusal}", file=sys.stderr)
            code = refusal.code
        finally:
            sys.stderr.flush()
            os._exit(code)
    for number in (signal.SIGINT, signal.SIGQUIT):  # Ctrl-C is for the program in the node
        signal.signal(number, signal.SIG_IGN)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return 128 - code if code < 0 else code


def _become(namespace: Path, node: str, argv: Sequence[str]) -> int:
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    setns(descriptor)
    with contextlib.suppress(OSError):  # the name of the machine, where we may give one
        unshare(CLONE_NEWUTS)
        socket.sethostname(node)
    sys.stdout.flush()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and the program would inherit that
    try:
        os.execvp(argv[0], list(argv))
    except OSError as error:
        raise Refusal(f"cannot run {argv[0]}: {error.strerror}", code=_NOT_FOUND) from None
