"""What routes hang on: nexthop objects, their ids, their life and death.

A path (the next hops of one unit, see `rib`) is carried by one nexthop object, or by a group if it has several next
hops. A carrier stands for that object. The facts behind the rules (net/ipv4/nexthop.c; STANDARDS.md section 4):

- Replacing an object moves every route on it and every group it is a member of. So a path's own object is never a
  member of anything; members of groups are objects of their own, one per next hop, shared by groups and never
  replaced. Moving a group means to replace the group.
- A single object cannot be replaced by a group, nor a group by a single one: then the path gets a new object, and the
  routes are rewritten.
- Carrier loss and the end of a device delete the objects on it, silently; groups lose that member, an emptied group
  dies. A down link is therefore not tried at all, and a group is put with those members that work.
- Ids only go up, also past those that an earlier run left, so that a late notification about a deleted object, or a
  deletion that has to be repeated, hits nothing new.

A failed object is retried with backoff, once for the path and not once for each of its routes: the routes wait. The
first time an object is put, its routes follow in the same plan without waiting for the answer; after a failure they
wait until the kernel has said yes.

Where nexthop objects are switched off, or the kernel has none (before 5.3), a carrier has nhid 0 and stands for the
next hops written into each route.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from errno import EEXIST, ENOENT
from math import inf
from typing import Final

from via6.model import (
    NH_ONLINK,
    PROTO_VIA6,
    Failure,
    Link,
    NextHop,
    NexthopObject,
    PutNexthop,
    Snapshot,
)
from via6.prefix import AF_INET, family_of
from via6.rib import Path, canonical

FIRST_NHID: Final = 0x76360000  # "v6" in front; what people number by hand begins at 1
LAST_NHID: Final = 0x7FFFFFFF

BACKOFF_FIRST_S: Final = 1.0
BACKOFF_LAST_S: Final = 60.0

Hops = tuple[NextHop, ...]


def backoff_s(attempts: int) -> float:
    """Seconds to wait after so many failures in a row: 1, doubling, at most 60."""
    return min(BACKOFF_FIRST_S * 2.0 ** min(attempts - 1, 10), BACKOFF_LAST_S)


class Carrier:
    """One nexthop object (nhid 0: the next hops themselves). `hops` is what it should stand for, `put` what the kernel
    has under this id (None: nothing), `sent` what is on its way there."""

    __slots__ = (
        "at", "attempts", "errno", "family", "group", "hops", "member", "nhid", "parts", "put", "sent", "text", "tried",
    )  # fmt: skip

    def __init__(self, nhid: int, hops: Hops, family: int, *, put: Hops | None = None, group: bool = False) -> None:
        self.nhid = nhid
        self.hops = hops
        self.family = family
        self.group = group
        self.member = False  # of a group, so it must never be replaced
        self.parts: frozenset[int] = frozenset()  # of a group: the ids the kernel may have in it
        self.put = put
        self.tried = put is not None  # the kernel may know the id even when we believe that the object has died
        self.sent: Hops | None = None
        self.attempts = 0
        self.at = 0.0
        self.errno = 0
        self.text = ""

    def rest(self) -> None:
        """No failure is remembered."""
        self.attempts, self.at, self.errno, self.text = 0, 0.0, 0, ""


@dataclass(frozen=True, slots=True)
class Sending:
    """A PutNexthop on its way: of which carrier and with what content."""

    carrier: Carrier
    hops: Hops


class Carriers:
    """All carriers of a Fib. Steps go into the list that `ready` is given, with a Sending for each."""

    def __init__(self, objects: bool) -> None:
        self.objects = objects
        self.down: dict[int, str] = {}
        """Links that carry nothing, and why."""
        self.doubt = False
        """Something happened to an object while it was on its way: only a dump tells what came of it."""
        self._off: set[int] = set()
        """Links that are gone or set down, not only without carrier."""
        self.restless: dict[Carrier, None] = {}
        """Installed, but not as they should be."""
        self._of: dict[Path, Carrier] = {}
        self._direct: dict[Hops, Carrier] = {}
        self._members: dict[tuple[NextHop, int], Carrier] = {}
        self._by_nhid: dict[int, Carrier] = {}
        self._loose: dict[Carrier, None] = {}
        """In the kernel and of no path: adopted, or left behind by one."""
        self._taken: set[int] = set()
        self._next = FIRST_NHID

    # --- which carrier ---------------------------------------------------------------------------------------------

    def of(self, path: Path, hint: Carrier | None = None) -> Carrier | None:
        """The carrier of a path; None if it has no next hops. A new path takes over a loose object of the same
        content, `hint` before all others, so that after a restart nothing has to be rewritten."""
        found = self._of.get(path)
        if found is not None or not path.next_hops:
            return found
        if not self.objects:
            found = self.direct(path.next_hops)
        else:
            found = self._claim(path, hint) or self._fresh(path.next_hops, path.family, len(path.next_hops) > 1)
        self._of[path] = found
        return found

    def direct(self, hops: Hops) -> Carrier:
        """The carrier that stands for next hops written into the route itself."""
        found = self._direct.get(hops)
        if found is None:
            found = self._direct[hops] = Carrier(0, hops, AF_INET, put=hops, group=len(hops) > 1)
        return found

    def by_nhid(self, nhid: int, hops: Hops) -> Carrier:
        """The carrier with this id; one that is not ours is made up and never touched."""
        if not nhid:
            return self.direct(hops)
        return self._by_nhid.get(nhid) or Carrier(nhid, hops, AF_INET, put=hops)

    def moved(self, path: Path) -> bool:
        """The path has other next hops. True: it has another carrier now, and its routes must be rewritten."""
        carrier = self._of.get(path)
        if carrier is None or carrier.hops == path.next_hops:
            return False
        if carrier.nhid and carrier.group == (len(path.next_hops) > 1):
            carrier.hops = path.next_hops
            carrier.rest()
            self.restless[carrier] = None
            return False
        del self._of[path]
        self._set_loose(carrier)
        self.of(path)
        return True

    def _claim(self, path: Path, hint: Carrier | None) -> Carrier | None:
        bare_device = any(hop.via is None for hop in path.next_hops)
        for carrier in ([hint] if hint in self._loose else []) + list(self._loose):
            fits = carrier is not None and carrier.put == path.next_hops
            # Without a gateway the object has the family of its routes.
            if (
                carrier is not None
                and fits
                and not carrier.member
                and (carrier.family == path.family or not bare_device)
            ):
                del self._loose[carrier]
                carrier.hops = path.next_hops
                return carrier
        return None

    def _fresh(self, hops: Hops, family: int, group: bool) -> Carrier:
        while self._next in self._taken or self._next in self._by_nhid:
            self._step()
        carrier = self._by_nhid[self._next] = Carrier(self._next, hops, family, group=group)
        self._step()
        return carrier

    def _step(self) -> None:
        self._next = self._next + 1 if self._next < LAST_NHID else FIRST_NHID

    def _member(self, hop: NextHop, family: int) -> Carrier:
        key = _member_key(hop, family)
        found = self._members.get(key)
        if found is None:
            found = self._members[key] = self._fresh((key[0],), key[1], False)
            found.member = True
        return found

    def _unsettle(self, carrier: Carrier) -> None:
        """Puts a path's object among the restless, or takes it off."""
        if carrier.put in (None, carrier.hops) or carrier.member or carrier in self._loose:
            self.restless.pop(carrier, None)
        else:
            self.restless[carrier] = None

    def _set_loose(self, carrier: Carrier) -> None:
        self.restless.pop(carrier, None)
        if carrier.nhid:
            self._loose[carrier] = None

    # --- putting ---------------------------------------------------------------------------------------------------

    def ready(self, carrier: Carrier, now: float, steps: list[PutNexthop], sendings: list[Sending]) -> bool:
        """Whether routes on this carrier may be sent now, behind the steps that this adds."""
        if not carrier.nhid:
            return any(hop.ifindex not in self.down for hop in carrier.hops)
        if carrier.sent is not None:
            return carrier.attempts == 0
        aim = tuple(hop for hop in carrier.hops if hop.ifindex not in self.down)
        if carrier.group and carrier.at <= now:
            aim = tuple(h for h in aim if self.ready(self._member(h, carrier.family), now, steps, sendings))
        if not aim or carrier.put == aim:
            return bool(aim)
        if carrier.at > now:
            return False
        steps.append(PutNexthop(self._object(carrier, aim), replace=carrier.put is not None))
        sendings.append(Sending(carrier, aim))
        carrier.sent = aim
        carrier.parts |= self._parts(carrier, aim)
        carrier.tried = True
        return carrier.attempts == 0

    def _object(self, carrier: Carrier, hops: Hops) -> NexthopObject:
        if carrier.group:
            group = tuple((self._member(hop, carrier.family).nhid, hop.weight) for hop in hops)
            return NexthopObject(carrier.nhid, group=group, family=0)
        hop = hops[0]
        family = carrier.family if hop.via is None else family_of(hop.via)
        return NexthopObject(carrier.nhid, hop.via, hop.ifindex, flags=hop.flags & NH_ONLINK, family=family)

    def _parts(self, carrier: Carrier, hops: Hops) -> frozenset[int]:
        return frozenset(self._member(hop, carrier.family).nhid for hop in hops) if carrier.group else frozenset()

    def settle(self, sending: Sending, failure: Failure | None, now: float) -> bool:
        """The kernel's answer to a PutNexthop. False: the kernel's state is not what we thought, a dump is needed."""
        carrier = sending.carrier
        carrier.sent = None
        if failure is None:
            carrier.put = sending.hops
            carrier.parts = self._parts(carrier, sending.hops)
            carrier.rest()
            self._unsettle(carrier)
            return True
        members = [self._member(hop, carrier.family) for hop in sending.hops] if carrier.group else []
        if any(member.attempts and member.put is None for member in members):
            return True  # the next try leaves that member out, so it need not wait
        carrier.attempts += 1
        carrier.at = now + backoff_s(carrier.attempts)
        carrier.errno, carrier.text = failure.errno, failure.text
        if failure.errno == EEXIST and carrier.put is None:
            self._taken.add(carrier.nhid)
            return False
        return failure.errno != ENOENT

    # --- what happens to links and objects ---------------------------------------------------------------------------

    def failing(self, path: Path) -> Carrier | None:
        """The carrier of the path if the kernel refused it and has nothing in its place."""
        carrier = self._of.get(path)
        return carrier if carrier is not None and carrier.attempts and carrier.put is None else None

    def link_fault(self, path: Path) -> str:
        """What is wrong with the links of a path of which none works, '' if one does."""
        if path.next_hops and all(hop.ifindex in self.down for hop in path.next_hops):
            return self.down[path.next_hops[0].ifindex]
        return ""

    def link(self, link: Link, gone: bool) -> tuple[list[Carrier], bool]:
        """A link as it is now: carriers that died with it, and whether it came back."""
        if link.up and not gone:
            self._off.discard(link.ifindex)
        else:
            self._off.add(link.ifindex)
        if link.carrier and not gone:
            came = self.down.pop(link.ifindex, None) is not None
            if came:
                self._wake(link.ifindex)
            return [], came
        fault = "is gone" if gone else "has no carrier" if link.up else "is down"
        self.down[link.ifindex] = f"{link.name} {fault}"
        dead = self._without(link.ifindex)
        if link.ifindex in self._off:
            # Routes with the next hops in them stay while the carrier alone is lost. One with several goes when the
            # last is down, or when the device of one is gone.
            some = any if gone else all
            dead += [c for c in self.direct_on(link.ifindex) if some(h.ifindex in self._off for h in c.hops)]
        return dead, False

    def direct_on(self, ifindex: int) -> list[Carrier]:
        """Carriers without an object that use this link."""
        return [c for c in self._direct.values() if any(hop.ifindex == ifindex for hop in c.hops)]

    def _wake(self, ifindex: int) -> None:
        for carrier in self._by_nhid.values():
            if any(hop.ifindex == ifindex for hop in carrier.hops):
                carrier.rest()
                self._unsettle(carrier)

    def _without(self, ifindex: int) -> list[Carrier]:
        """Objects lose what is on this link; those that have nothing left."""
        dead = []
        for carrier in self._by_nhid.values():
            content = carrier.put or ()
            if carrier.sent is not None and any(hop.ifindex == ifindex for hop in carrier.sent):
                self.doubt = True  # it may have died before it was put or after
            left = tuple(hop for hop in content if hop.ifindex != ifindex)
            if left == content:
                continue
            if left:
                carrier.put = left
            else:
                carrier.put = None
                dead.append(carrier)
        return dead

    def changed(self, seen: NexthopObject, gone: bool) -> list[Carrier]:
        """A notification about a nexthop object; the carriers that died by it."""
        carrier = self._by_nhid.get(seen.nhid)
        if carrier is None:
            if gone:
                self._taken.discard(seen.nhid)
            else:
                self._taken.add(seen.nhid)
            return []
        content = None if gone else self._content(seen)
        if carrier.sent is not None:
            self.doubt = self.doubt or content != carrier.sent
        elif content is None:
            return self._lose(carrier)
        elif carrier.put is not None and content != carrier.put:
            carrier.put = content
            self._unsettle(carrier)
        return []

    def _lose(self, carrier: Carrier) -> list[Carrier]:
        if carrier.put is None:
            return []
        dead = [carrier]
        carrier.put = None
        for group in self._by_nhid.values():
            self.doubt = self.doubt or (carrier.member and group.group and group.sent is not None)
            if group.group and group.put and carrier.member:
                left = tuple(h for h in group.put if self._members.get(_member_key(h, group.family)) is not carrier)
                if not left:
                    group.put = None
                    dead.append(group)
                elif left != group.put:
                    group.put = left
                    self._unsettle(group)
        return dead

    def _content(self, seen: NexthopObject) -> Hops:
        if not seen.group:
            return (NextHop(seen.via, seen.ifindex, 1, seen.flags & NH_ONLINK),)
        hops = []
        for nhid, weight in seen.group:
            member = self._by_nhid.get(nhid)
            if member is not None:
                hops += [replace(hop, weight=weight) for hop in member.hops]
        return canonical(hops)

    # --- the truth ---------------------------------------------------------------------------------------------------

    def synchronise(self, snapshot: Snapshot) -> list[Path]:
        """Takes links and nexthop objects from a dump. The paths that have another carrier now."""
        self.doubt = False
        if "links" in snapshot.parts:
            self.down = {}
            self._off = {link.ifindex for link in snapshot.links if not link.up}
            for link in snapshot.links:
                if not link.carrier:
                    self.down[link.ifindex] = f"{link.name} {'has no carrier' if link.up else 'is down'}"
        if "nexthops" not in snapshot.parts:
            return []
        seen = {o.nhid: o for o in snapshot.nexthops}
        ours = {nhid: o for nhid, o in seen.items() if o.protocol == PROTO_VIA6}
        self._taken = seen.keys() - ours.keys()
        for nhid, carrier in list(self._by_nhid.items()):
            carrier.sent = None
            carrier.tried = nhid in ours
            if nhid in ours:
                carrier.put = _content_of(ours[nhid], seen)
                carrier.parts = frozenset(member for member, _ in ours[nhid].group)
            elif carrier.put is not None:
                carrier.put = None
            if nhid in self._taken:
                self._disown(carrier)
        self._adopt(ours, seen)
        paths = [path for path, carrier in self._of.items() if carrier.nhid and carrier.put is None]
        swapped = [path for path in paths if self._swap(path)]
        self.restless = {c: None for c in self._of.values() if c.put is not None and c.put != c.hops}
        return swapped

    def _disown(self, carrier: Carrier) -> None:
        """Another hand owns this id: whoever needs the carrier gets one with another id."""
        del self._by_nhid[carrier.nhid]
        self._loose.pop(carrier, None)
        self._members = {k: c for k, c in self._members.items() if c is not carrier}
        for path in [p for p, c in self._of.items() if c is carrier]:
            del self._of[path]

    def _adopt(self, ours: dict[int, NexthopObject], seen: dict[int, NexthopObject]) -> None:
        members = {nhid for o in seen.values() for nhid, _ in o.group}
        for nhid, o in ours.items():
            if nhid in self._by_nhid or o.blackhole:
                continue
            hops = _content_of(o, seen)
            families = [seen[m].family for m, _ in o.group if m in seen and seen[m].via is None]
            carrier = Carrier(nhid, hops, families[0] if families else o.family, put=hops, group=bool(o.group))
            carrier.parts = frozenset(member for member, _ in o.group)
            self._by_nhid[nhid] = carrier
            if self._next <= nhid < LAST_NHID:
                self._next = nhid + 1
            if nhid in members:
                carrier.member = True
                key = (hops[0], o.family)
                if self._members.setdefault(key, carrier) is carrier:
                    continue
            self._loose[carrier] = None

    def _swap(self, path: Path) -> bool:
        """A path whose object is not in the kernel takes over a loose one that is."""
        carrier = self._claim(path, None)
        if carrier is None:
            return False
        del self._by_nhid[self._of[path].nhid]
        self._of[path] = carrier
        return True

    # --- the end -----------------------------------------------------------------------------------------------------

    def drops(self, paths: set[Path], carriers: set[Carrier], now: float) -> list[Carrier]:
        """Objects of ours that none of these paths and routes need any more, in the order in which they must go:
        groups, and when those are gone their members. They are forgotten; `keep` takes one back."""
        for path in [p for p in self._of if p not in paths]:
            self._set_loose(self._of.pop(path))
        used = carriers.union(self._of.values())
        self._direct = {hops: c for hops, c in self._direct.items() if c in used}
        out = [c for c in (*self._loose, *self._members.values()) if c not in carriers and c.at <= now]
        # Members stay while a group may have them, be it one that goes: without them it would shrink unseen.
        needed = {nhid for c in self._by_nhid.values() if c.group for nhid in (c.nhid, *c.parts)}
        unknown = [c for c in out if not c.tried]
        groups = [c for c in out if c.tried and c.group]
        dropped = groups or [c for c in out if c.tried and c.nhid not in needed]
        out = unknown + dropped
        self._members = {k: c for k, c in self._members.items() if c not in out}
        for carrier in out:
            self._loose.pop(carrier, None)
            del self._by_nhid[carrier.nhid]
        return dropped

    def keep(self, carrier: Carrier, failure: Failure, now: float) -> None:
        """The kernel refused to drop it: once more, later."""
        carrier.attempts += 1
        carrier.at = now + backoff_s(carrier.attempts)
        carrier.errno, carrier.text = failure.errno, failure.text
        self._by_nhid[carrier.nhid] = carrier
        self._loose[carrier] = None

    def postponed(self, now: float) -> bool:
        """Some object that should go has to wait."""
        return any(carrier.at > now for carrier in self._loose)

    def next_at(self, now: float) -> float:
        """When a failed object may be tried again; infinity if there is none."""
        return min((c.at for c in self._by_nhid.values() if c.at > now), default=inf)


def _member_key(hop: NextHop, family: int) -> tuple[NextHop, int]:
    """What groups share a member by; `family` is that of the routes and counts where there is no gateway."""
    return NextHop(hop.via, hop.ifindex, 1, hop.flags), family if hop.via is None else family_of(hop.via)


def _content_of(o: NexthopObject, seen: dict[int, NexthopObject]) -> Hops:
    """What an object of a dump stands for."""
    parts = [(seen[nhid], weight) for nhid, weight in o.group if nhid in seen] if o.group else [(o, 1)]
    return canonical(NextHop(p.via, p.ifindex, weight, p.flags & NH_ONLINK) for p, weight in parts)
