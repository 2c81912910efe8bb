"""The way back of a trace, by what daemons say of it and by the answer that came.

An answer proves that there is a way, tells by its TTL how long it is, and has come in by one of this node's interfaces.
Where daemons say something else, the answer is right. Where no daemon answers at the far end, what the last one on the
way there says of an answer that comes back to it is shown, unless the answer came by another interface.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from via6.observe.trace.model import GOOD, PROBE, Flow, Hop, Trace
from via6.observe.trace.probe import Answer
from via6.prefix import format_address

NO_VIA6_BACK: Final = "the way back is not known: no via6 answers at the far end"

_FIRST_TTLS: Final = (64, 128, 255)


@dataclass(frozen=True, slots=True)
class Seen:
    """`there` is the merged way there, `back` what daemons say of the way back, `reached` the destination's answer,
    `counted`: its hop is known. `partly`: daemons have lost the way there at a silent hop, so `back` begins before it.
    `lost` is how the way there ends."""

    flow: Flow
    there: Sequence[Hop]
    back: Sequence[Hop]
    reached: Answer | None = None
    counted: bool = False
    partly: bool = False
    lost: str = ""

    @property
    def device(self) -> str:
        """By which interface of this node the answer came in; empty: not known."""
        return self.reached.device if self.reached is not None else ""


def distance(ttl: int) -> int:
    """How many links an answer has passed, by its TTL; 0: not known."""
    first = next((one for one in _FIRST_TTLS if one >= ttl), 0)
    return first - ttl + 1 if ttl and first else 0


def ends_of(back: Sequence[Hop]) -> str:
    """How daemons say that the way back ends; empty: they do not say."""
    return back[-1].ends or "UNKNOWN" if back else ""


def way_back(seen: Seen) -> Trace | None:
    """The way back, or None where nobody can answer."""
    if seen.flow.source is None:
        return None
    partly = seen.partly and bool(seen.back)
    if partly and (_refuted(seen) or _too_near(seen)):
        seen, partly = replace(seen, back=()), False
    ends = ends_of(seen.back)
    hops, remarks = list(seen.back), [] if seen.back else [_nobody_knows(seen)]
    if seen.reached is not None:
        hops, remarks = _came_back(seen, ends)
    elif partly and ends in GOOD:  # so far it is good; what lies before decides as well
        hops[-1] = replace(hops[-1], ends="")
        ends = "UNKNOWN"
    if partly:
        name, device = seen.back[0].node, seen.back[0].in_device
        hops.insert(0, _gap(seen, name))
        remarks.insert(0, f"from {name} on this holds for an answer that comes in by {device}" + _expected(seen))
    disposition = "ACCEPTED" if seen.reached is not None else ends or "UNKNOWN"
    return Trace(seen.flow.back(), tuple(hops), disposition, remarks=tuple(remarks))


def _gap(seen: Seen, name: str) -> Hop:
    who = format_address(seen.flow.destination)
    return Hop(notes=(f"{who}, and what lies between it and {name}: not known",))


def _here(seen: Seen) -> Hop:
    """This node, where the answer has come in."""
    return Hop(seen.there[0].node, seen.device, ends="ACCEPTED", seen=frozenset({PROBE}))


def _from_the_neighbour(seen: Seen, last: Hop) -> bool:
    """The last hop of the way back is the first of the way there, and sends the answer over the same link."""
    near = seen.there[1] if len(seen.there) > 1 else Hop()
    return bool(last.node and last.out_device) and (last.node, last.out_device) == (near.node, near.in_device)


def _refuted(seen: Seen) -> bool:
    """The answer came in elsewhere than it would have by this way."""
    last = seen.back[-1]
    would = last.in_device if last.ends == "ACCEPTED" else ""
    if _from_the_neighbour(seen, last):
        would = seen.there[0].out_device
    return bool(would and seen.device) and would != seen.device


def _too_near(seen: Seen) -> bool:
    """The answer has passed fewer links than there are on this way."""
    links = len(seen.back) + (seen.back[-1].ends != "ACCEPTED")
    return 0 < distance(_ttl(seen)) < links


def _came_back(seen: Seen, ends: str) -> tuple[list[Hop], list[str]]:
    """The way back of an answer that has come: whatever daemons say, it did."""
    hops, remarks = list(seen.back), []
    if not hops:
        return [_gap(seen, "here"), _here(seen)] if seen.device else [], [_nobody_knows(seen)]
    last = hops[-1]
    if ends == "ACCEPTED":
        if _refuted(seen):
            remarks.append(
                f"the answer came in by {seen.device}, daemons say {last.in_device}: it changed, or another way is used"
            )
            note = f"contradicted by the answer: daemons say {last.in_device}"
            hops[-1] = replace(last, in_device=seen.device, notes=(*last.notes, note))
        return hops, remarks
    if ends != "UNKNOWN" and ends not in GOOD:
        name = last.node or "its last node"
        remarks.append(f"{name} says {ends}, yet an answer came back: by another way, or it changed meanwhile")
        hops[-1] = replace(last, ends="", notes=(*last.notes, f"contradicted: it says {ends}"))
        return hops, remarks
    hops[-1] = replace(last, ends="", why="")
    by_neighbour = _from_the_neighbour(seen, last) and bool(seen.device) and not _refuted(seen)
    if not by_neighbour and (seen.partly or distance(_ttl(seen)) != len(hops)):
        remarks.append("an answer came back: the way goes on, by nodes that are not known")
        hops += [Hop(notes=("what lies between it and here: not known",))] if seen.device else []
    if seen.device and last.node != seen.there[0].node:
        hops.append(_here(seen))
    return hops, remarks


def _ttl(seen: Seen) -> int:
    return seen.reached.ttl_back if seen.reached is not None else 0


def _nobody_knows(seen: Seen) -> str:
    if seen.reached is None:
        arrives = seen.lost in (*GOOD, "UNKNOWN")
        return NO_VIA6_BACK if arrives else "the packet does not arrive, so nobody answers it"
    return f"an answer came back; which way is not known: no via6 answers at the far end{_expected(seen)}"


def _expected(seen: Seen) -> str:
    """How many hops there are on the way back, by the TTL of the answer."""
    count = distance(seen.reached.ttl_back) if seen.reached is not None else 0
    if seen.reached is None or not count:
        return ""
    words = f". Its TTL of {seen.reached.ttl_back} lets expect {count} hop{'s' * (count > 1)}"
    return f"{words}, {seen.reached.ttl} there" if seen.counted else words


# --- both ways -----------------------------------------------------------------------------------------------------


def differing(only_there: Sequence[str], only_back: Sequence[str]) -> str:
    """How the two ways differ, by their nodes."""
    ways = (only_there, "there"), (only_back, "back")
    return "the ways differ: " + ", ".join(f"{' '.join(names)} only {way}" for names, way in ways if names)


def compare(seen: Seen, back: Trace | None) -> tuple[bool, list[str]]:
    """(the way back is another one, remarks), as far as both are known."""
    if back is None or not back.hops or len(seen.there) < 2:
        return False, []
    there, home = [h.node for h in seen.there], [h.node for h in reversed(back.hops)]
    if seen.there[0].in_device and there[0] in home:  # it came from elsewhere: what lies before is not followed
        home = home[home.index(there[0]) :]
    if any(len(set(filter(None, names))) < len(list(filter(None, names))) for names in (there, home)):
        return False, []  # nodes of one name: who is who?
    whole = all(there) or (all(there[:-1]) and seen.there[-1].ends == "ACCEPTED")
    home_whole = all(home) and back.hops[-1].ends == "ACCEPTED"
    only_there = [name for name in there if name and name not in home] if home_whole else []
    only_back = [name for name in home if name and name not in there] if whole else []
    if only_there or only_back:
        return True, [differing(only_there, only_back)]
    out = seen.there[0].out_device
    known = there[1] and len(home) > 1 and there[1] == home[1]
    if seen.device and out and seen.device != out and not known:
        return True, [f"the answer came in by {seen.device}, and the packet left by {out}: another way"]
    return False, _links(seen.there, back.hops)


def _links(there: Sequence[Hop], back: Sequence[Hop]) -> list[str]:
    """Nodes alike, but not the links between them."""
    out = {hop.node: hop.out_device for hop in there if hop.node}
    differ = [h.node for h in back if h.node in out and h.in_device and out[h.node] and out[h.node] != h.in_device]
    return [f"the way back comes by another link at {', '.join(differ)}"] if differ else []
