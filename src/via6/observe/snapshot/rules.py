"""Rules with all that they depend on.

`model.Rule` has what most rules use. One that asks for more (a port, a protocol, a TOS, suppress_prefixlength …) would
look as if it always applied. So its action says so, as `to_tbl with dport, ipproto`, and a goto says where to, as
`goto 32766`: whoever follows rules takes an action that it does not know for UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from via6.model import Rule
from via6.netlink.objects import RULEHDR, decode_rule
from via6.netlink.wire import U32, attributes, u32

_GOTO: Final = 4
_UNSET: Final = U32.pack(0xFFFFFFFF)
_MORE: Final = {
    12: "tun_id", 13: "suppress_ifgroup", 14: "suppress_prefixlength", 20: "uidrange", 22: "ipproto", 23: "sport",
    24: "dport", 25: "dscp", 26: "flowlabel", 27: "flowlabel",
}  # fmt: skip
"""FRA_* (linux/fib_rules.h) that restrict a rule or its outcome. The kernel tells 13 and 14 as -1 where they are not
set."""


def action_with(action: str, more: Iterable[str]) -> str:
    """The action of a rule that depends on more than `Rule` can say."""
    words = sorted(set(more))
    return f"{action} with {', '.join(words)}" if words else action


def decode(payload: bytes) -> tuple[Rule | None, str]:
    """RTM_NEWRULE, its action as above."""
    rule, problem = decode_rule(payload)
    if rule is None:
        return None, problem
    attrs = attributes(payload, 12)
    more = [name for kind, name in _MORE.items() if kind in attrs and attrs[kind] != _UNSET]
    if RULEHDR.unpack_from(payload)[3]:
        more.append("tos")
    action = f"goto {u32(attrs, _GOTO)}" if rule.action == "goto" else rule.action
    return replace(rule, action=action_with(action, more)), ""
