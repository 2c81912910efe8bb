"""Who this router is, across restarts: its router-id, its sequence number, its feasibility distances (RFC 8966).

**The router-id** is made once, by chance, and kept. It is not made from a MAC address: those of virtual machines and
laboratories are alike more often than 64 random bits. A disk that is copied to another machine would copy it; so the
file knows the machine (a hash of machine-id(5)) and elsewhere a new one is made.

**The seqno** says which of our announcements is the newer one. A router that comes back with an older one is not
believed until its neighbours have forgotten it, which takes three minutes. So a seqno is on disk before it is used:
the file holds the first that is *not* reserved, and the next run begins there, even after a kill -9. They are reserved
in blocks, for a write costs a disk some milliseconds; half a block is kept in hand.

**Feasibility distances** keep a restart from making a loop: a neighbour may still send through us what we would
accept from it. They fall with time, and one that is too large is no protection. So what was saved at a clean end is
taken away when it is read: after a crash there is none rather than an old one, and then the speaker leaves an adopted
route where it is until it has a newer seqno. The time that has passed is counted by the clock of the boot where the
boot is the same one, for the clock on the wall may be set at any time.

The files lie in the state folder: `babel.json` for the machine's own network namespace, `babel-NAME.json` for one of
`ip netns`, which has its name again after a reboot. A nameless namespace is gone when it is gone: its inode and its
identity (see journal) say whether a file is its own. They are locked while they are in use, because two routers with
one router-id do not hear each other.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import struct
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from via6.babel.model import ROUTER_ID_OCTETS, SourceInfo
from via6.daemon.journal import identity, state_folder
from via6.errors import Refusal
from via6.prefix import Prefix

BLOCK: Final = 64
"""Seqnos reserved at a time. A restart skips as many at most; RFC 8966 compares them modulo 2^16, so 500 restarts
within the three minutes that a source lives are still no step back."""
KEPT_S: Final = 180.0
"""RFC 8966 appendix B: the source garbage-collection time."""

_NAMED: Final = Path("/run/netns")
_MACHINE: Final = Path("/etc/machine-id")
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_REMEDY: Final = "via6 needs a folder that it can write to (as root, or its own): VIA6_STATE=~/.local/state/via6"
_MAGIC: Final = b"via6fd1\n"
_HEAD: Final = struct.Struct("!8s36sddII")  # magic, boot, its clock, the clock on the wall, entries of IPv4, of IPv6
_CHECKSUM: Final = struct.Struct("!I")  # of all that stands before it
_ENTRY: Final = {4: struct.Struct("!4sB8sHHH"), 16: struct.Struct("!16sB8sHHH")}  # …, router-id, seqno, metric, age


class _Stored(msgspec.Struct, forbid_unknown_fields=False):
    """`end` is the first seqno that no run has been allowed to use."""

    router_id: str
    end: int
    namespace: str = ""
    machine: str = ""


class Identity:
    """`router_id` (8 octets) and `seqno`, the first that this run may use. A configured router-id goes before the
    stored one. `problems`: what was wrong with the files, for the log. Raises Refusal when they cannot be written or
    another via6 has them."""

    def __init__(self, router_id: bytes | None = None) -> None:
        folder, stem, self._namespace = state_folder(), *_stem()
        self._path = folder / f"{stem}.json"
        self._distances = folder / f"{stem}.distances"
        self._machine = _machine()
        self.problems: list[str] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder / f"{stem}.lock")
        except OSError as error:
            raise Refusal(f"{error.filename or folder}: {error.strerror}", _REMEDY) from None
        try:
            stored = self._read()
            self.seqno = stored.end if stored else 0
            self.router_id = router_id or (bytes.fromhex(stored.router_id) if stored else _new_router_id())
            self._end = self.seqno
            problem = self.reserve(self.seqno)
            if problem:
                raise Refusal(problem, _REMEDY)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Identity:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the files."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def reserve(self, seqno: int) -> str:
        """To be called with the speaker's own seqno before anything that carries it is sent: sees to it that no later
        run uses it. Mostly a comparison. "" or what went wrong: then the seqno may be used all the same (not to
        answer would cost the route), but after a crash neighbours would wait for a newer one."""
        if BLOCK // 2 < (self._end - seqno) & 0xFFFF <= BLOCK:
            return ""
        end = (seqno + BLOCK) & 0xFFFF
        stored = _Stored(self.router_id.hex(), end, self._namespace, self._machine)
        problem = _replace(self._path, msgspec.json.encode(stored))
        if not problem:
            self._end = end
        return problem

    def save_distances(self, sources: Iterable[SourceInfo]) -> str:
        """Writes the source table down, at the end of a run. "" or what went wrong."""
        packed: dict[int, list[bytes]] = {4: [], 16: []}
        for prefix, router_id, seqno, metric, age_s in map(_fields, sources):
            if age_s < KEPT_S:
                size = len(prefix.packed)
                packed[size].append(
                    _ENTRY[size].pack(prefix.packed, prefix.length, router_id, seqno, metric, max(0, int(age_s)))
                )
        body = b"".join(packed[4]) + b"".join(packed[16])
        clocks = _boot(), time.clock_gettime(time.CLOCK_BOOTTIME), time.time()
        data = _HEAD.pack(_MAGIC, *clocks, len(packed[4]), len(packed[16])) + body
        return _replace(self._distances, data + _CHECKSUM.pack(zlib.crc32(data)))

    def load_distances(self) -> list[SourceInfo]:
        """What the last run saved, without what is too old by now; once, for the file goes. A damaged file is told in
        `problems`, and passed over."""
        try:
            data = self._distances.read_bytes()
            self._distances.unlink()
        except FileNotFoundError:
            return []
        except OSError as error:
            # One that stays would be read again after a crash.
            self.problems.append(f"{self._distances}: {error.strerror}; the feasibility distances in it are not used")
            return []
        try:
            return _decode(data)
        except (ValueError, struct.error) as error:
            self.problems.append(f"{self._distances}: {error}; the feasibility distances in it are not used")
            return []

    def _read(self) -> _Stored | None:
        try:
            stored = msgspec.json.decode(self._path.read_bytes(), type=_Stored)
            if not _is_router_id(bytes.fromhex(stored.router_id)) or not 0 <= stored.end <= 0xFFFF:
                raise ValueError("router-id or seqno out of range")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Refusal(f"{self._path}: {error.strerror}", _REMEDY) from None
        except ValueError as error:  # msgspec's errors are of this kind
            self.problems.append(f"{self._path}: {error}; a new router-id is made")
            return None
        if stored.namespace != self._namespace:
            return None
        if stored.machine and self._machine and stored.machine != self._machine:
            self.problems.append(f"{self._path} is of another machine; a new router-id is made")
            return None
        return stored


def _fields(source: SourceInfo) -> tuple[Prefix, bytes, int, int, float]:
    return source.prefix, source.router_id, source.seqno, source.metric, source.age_s


def _decode(data: bytes) -> list[SourceInfo]:
    """Raises ValueError or struct.error on damage."""
    magic, boot, clock, wall, few, many = _HEAD.unpack_from(data)
    whole, body = memoryview(data)[: -_CHECKSUM.size], memoryview(data)[_HEAD.size : -_CHECKSUM.size]
    middle = few * _ENTRY[4].size
    if (
        magic != _MAGIC
        or len(body) != middle + many * _ENTRY[16].size
        or data[len(whole) :] != _CHECKSUM.pack(zlib.crc32(whole))
    ):
        raise ValueError("damaged")
    if boot == _boot():
        passed = time.clock_gettime(time.CLOCK_BOOTTIME) - clock
    else:
        passed = time.time() - wall
    passed = max(0.0, passed)  # a clock that was set back: rather keep than lose
    found: list[SourceInfo] = []
    for size, part in ((4, body[:middle]), (16, body[middle:])):
        for packed, length, router_id, seqno, metric, age in _ENTRY[size].iter_unpack(part):
            if length > size * 8:
                raise ValueError("a prefix longer than an address")
            if age + passed < KEPT_S:
                found.append(SourceInfo(Prefix(packed, length), router_id, seqno, metric, age + passed))
    return found


def _stem() -> tuple[str, str]:
    """Name of the files of this network namespace, and the identity that must stand in them ("": none)."""
    own = os.stat("/proc/thread-self/ns/net")
    with contextlib.suppress(OSError):
        for entry in sorted(os.scandir(_NAMED), key=lambda entry: entry.name):
            there = os.stat(entry.path)
            if (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino):
                return f"babel-{entry.name}", ""
    if not os.environ.get("VIA6_STATE"):  # a folder of the operator's choice is for this daemon
        with contextlib.suppress(OSError):
            if os.stat("/proc/1/ns/net").st_ino != own.st_ino:
                return f"babel-{own.st_ino}", identity()
    return "babel", ""


def _lock(path: Path) -> int:
    """A descriptor that holds the lock. Raises Refusal, and OSError when the file cannot be opened."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        pid = os.read(descriptor, 20).decode("ascii", "replace").strip()
        if error.errno in (errno.EAGAIN, errno.EACCES):
            os.close(descriptor)
            raise Refusal(
                f"another via6 (pid {pid}) has its router-id and seqno in {path.parent}",
                "give each daemon a folder of its own: VIA6_STATE=/var/lib/via6/NAME",
            ) from None
        return descriptor  # a file system without locks
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _replace(path: Path, data: bytes) -> str:
    """A file that is the old one or the new one, whatever happens. "" or what went wrong."""
    new = path.with_name(path.name + ".new")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(new, path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        return f"{path}: {error.strerror}"
    return ""


def _is_router_id(octets: bytes) -> bool:
    """RFC 8966 section 4.1.3: neither all zeros nor all ones."""
    return len(octets) == ROUTER_ID_OCTETS and octets not in (bytes(8), b"\xff" * 8)


def _new_router_id() -> bytes:
    """Random, with the universal bit of a modified EUI-64 cleared: never equal to one made from a MAC address."""
    while True:
        octets = os.urandom(ROUTER_ID_OCTETS)
        octets = bytes([octets[0] & 0xFD]) + octets[1:]
        if _is_router_id(octets):
            return octets


def _machine() -> str:
    """A hash, for machine-id(5) asks not to show the id itself; "" where there is none."""
    try:
        text = _MACHINE.read_text().strip()
    except (OSError, ValueError):
        return ""
    return hashlib.sha256(b"via6 " + text.encode()).hexdigest()[:16] if len(text) == 32 else ""


def _boot() -> bytes:
    try:
        return _BOOT.read_bytes().strip().ljust(36)[:36]
    except OSError:
        return bytes(36)
