"""apply, confirm, undo: a change with a journal, and with a way back if nobody says that it was good."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from via6.config import RouteSpec
from via6.daemon import journal, ssh
from via6.daemon.change import Difference, Refused, Slot, declared, difference, occupied, ours, settle, slot, steps
from via6.daemon.journal import Entry, Journal
from via6.daemon.lock import FibLock
from via6.engine import NEEDED_PARTS
from via6.errors import Refusal
from via6.fib import Status
from via6.kernel.linux import LinuxKernel, release, require
from via6.model import Plan, Route, Snapshot
from via6.observe.cut import cuts
from via6.prefix import format_address

_OBJECTS_FROM = (5, 3)


@dataclass(frozen=True)
class Proposal:
    """What a file comes to on this node. `occupied` are other hands' routes in slots that are to be added."""

    snapshot: Snapshot
    wanted: Mapping[Slot, Route]
    difference: Difference
    refused: tuple[Refused, ...]
    occupied: Mapping[Slot, Route]


@dataclass(frozen=True)
class Report:
    """What became of it: `done` is the difference that the kernel shows, `failed` what it refused."""

    proposal: Proposal
    done: Difference
    failed: tuple[Status, ...]


def propose(kernel: LinuxKernel, routes: tuple[RouteSpec, ...]) -> Proposal:
    """Changes nothing."""
    snapshot = kernel.dump(NEEDED_PARTS)
    wanted, refused = declared(routes, snapshot)
    found = difference(ours(snapshot), wanted)
    return Proposal(snapshot, wanted, found, tuple(refused), occupied(snapshot, found.add))


def guard_session(snapshot: Snapshot, plan: Plan, *, in_namespace: bool) -> None:
    """Refuses a plan that changes the way to the ssh client this was typed by. In another namespace (-n) it counts
    only if the session ends there."""
    found = ssh.session()
    if found is None:
        return
    client, server = found
    if in_namespace and server not in {a.address for a in snapshot.addresses}:
        return
    if cuts(client, snapshot.routes, plan):
        raise Refusal(
            f"this would change the way to {format_address(client)}, from where you are logged in by ssh",
            "type it on the console, or add --accept-risk=lose-ssh (best with --confirm SECONDS); nothing was changed",
        )


def apply(
    routes: tuple[RouteSpec, ...],
    name: str,
    *,
    accept_ssh: bool = False,
    confirm_s: int = 0,
    in_namespace: bool = False,
) -> Report:
    """Makes the declared routes so, once. With `confirm_s` a process stays behind that takes it back."""
    require()
    objects = release() >= _OBJECTS_FROM
    with FibLock("apply"), LinuxKernel() as kernel:
        journal.refuse_pending()
        proposal = propose(kernel, routes)
        if not proposal.difference:
            return Report(proposal, Difference(), ())
        before = ours(proposal.snapshot)
        if not accept_ssh:
            plan = steps(proposal.snapshot, proposal.wanted, objects=objects)
            guard_session(proposal.snapshot, plan, in_namespace=in_namespace)
        if confirm_s:
            # A terminal that dies by this very change must not end it before there is who takes it back.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        # Written first, so that a kill in the middle can be taken back; and again as what it came to.
        _write(name, before, proposal.wanted)
        failed = settle(kernel, proposal.snapshot, proposal.wanted, objects=objects)
        after = ours(kernel.dump(NEEDED_PARTS))
        written = _write(name, before, after)
    report = Report(proposal, difference(before, after), tuple(failed))
    if confirm_s:
        _watch_over(written, confirm_s)
    return report


def _write(name: str, before: Mapping[Slot, Route], after: Mapping[Slot, Route]) -> Journal:
    found = difference(before, after)
    entries = [Entry(None, r) for r in found.add]
    entries += [Entry(old, new) for old, new in found.replace]
    entries += [Entry(r, None) for r in found.delete]
    written = Journal(name, tuple(entries), journal.identity())
    journal.write(written)
    return written


def undo() -> tuple[Difference, list[Route], list[Status]]:
    """Takes the last apply back: what was changed, the routes that another hand has changed since and that are left
    alone, and what the kernel refused."""
    with FibLock("undo"), LinuxKernel() as kernel:
        last = journal.read()
        snapshot = kernel.dump(NEEDED_PARTS)
        held = ours(snapshot)
        wanted = dict(held)
        changed: list[Route] = []
        theirs = occupied(snapshot, [entry.after for entry in last.entries if entry.after])
        for entry in last.entries:
            route = entry.after or entry.before
            assert route is not None
            key = slot(route)
            if held.get(key) == entry.before and key not in theirs:
                continue  # taken back already, by hand
            if held.get(key) != entry.after:
                changed.append(route)
            elif entry.before is not None:
                wanted[key] = entry.before
            else:
                del wanted[key]
        failed = settle(kernel, snapshot, wanted, objects=release() >= _OBJECTS_FROM)
        journal.forget()
        _stop_watcher(last)
        return difference(held, ours(kernel.dump(NEEDED_PARTS))), changed, failed


def confirm() -> Journal:
    """Keeps what the last `apply --confirm` did. The lock, because it may just be taken back."""
    with FibLock("confirm"):
        last = journal.read()
        if not journal.pending(last):
            raise Refusal("nothing waits for confirmation here", "`via6 apply --confirm SECONDS FILE` does")
        _stop_watcher(last)
        kept = replace(last, confirm_pid=0, confirm_start=0)
        journal.write(kept)
        return kept


# --- the process that takes it back --------------------------------------------------------------------------------


def _stop_watcher(last: Journal) -> None:
    if journal.pending(last) and last.confirm_pid != os.getpid():
        with contextlib.suppress(ProcessLookupError):
            os.kill(last.confirm_pid, signal.SIGTERM)


def _watch_over(written: Journal, seconds: int) -> None:
    """Leaves a process behind, in a session of its own: a terminal that dies must not take it along."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    first = os.fork()
    if first == 0:
        os.close(reader)
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        _take_back(written, seconds, writer)
    os.close(writer)
    os.waitpid(first, 0)
    with os.fdopen(reader, "rb") as pipe:
        if not pipe.read():  # the watcher says so once the journal names it
            undo()
            raise Refusal("no process could be left behind to take it back: it was taken back at once", "try again")


def _take_back(written: Journal, seconds: int, writer: int) -> None:
    """In the process that stays: waits, then undoes. Ended by `confirm` and `undo` with SIGTERM."""
    import syslog

    code = 1
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        pid = os.getpid()
        journal.write(replace(written, confirm_pid=pid, confirm_start=journal.start_time(pid)))
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.write(writer, b"1")
        os.close(writer)
        time.sleep(seconds)
        syslog.openlog("via6")
        syslog.syslog(f"the apply of {written.file} was not confirmed within {seconds} s: taking it back")
        _, changed, failed = undo()
        for route in changed:
            syslog.syslog(f"{route.prefix} was changed by another hand since: left alone")
        for status in failed:
            syslog.syslog(f"{status.prefix}: {status.text}")
        code = 0
    except Refusal as refusal:
        syslog.syslog(f"could not take it back: {refusal.message}")
    finally:
        # No clean-up of the command this was forked from.
        os._exit(code)
