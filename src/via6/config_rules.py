"""Reads `export` and `import`: lists of rules, of which the first that fits a prefix decides.

A rule is a word (`connected`, `static`, `default`; for import `any`, `default`), a prefix, which means exactly it, or a
table {from=, prefix=, within=, length=, metric=, deny=}. What no rule fits is not exported, and not imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, Final

import msgspec

from via6.config_babel import Rule, is_martian
from via6.config_text import fits, noun, short, unknown
from via6.prefix import Prefix, PrefixError, is_v4_mapped, parse_prefix

ORIGINS: Final = ("connected", "static", "default")
DEFAULT: Final = Prefix(bytes(4), 0)

Tell = Callable[..., None]
"""(path below [babel], message, remedy, severity)"""


class RuleTable(msgspec.Struct):
    """A rule as written."""

    from_: str | None = msgspec.field(default=None, name="from")
    prefix: str | list[str] | None = None
    within: str | list[str] | None = None
    length: int | str | None = None
    metric: int | None = None
    deny: bool = False


_WANTED: Final = {
    "from": "a word in quotes: from = " + " or ".join(f'"{word}"' for word in ORIGINS),
    "prefix": 'a prefix in quotes, or a list of them: prefix = "10.0.0.0/8"',
    "within": 'a prefix in quotes, or a list of them: within = "10.0.0.0/8"',
    "length": 'a number or a range: length = 24, length = "16-24"',
    "metric": "a number without quotes: metric = 96",
    "deny": "true or false, without quotes",
}
_ALIASES: Final = {
    "source": "from", "proto": "from", "in": "within", "le": "length", "ge": "length", "eq": "prefix", "to": "prefix",
    "reject": "deny", "cost": "metric",
}  # fmt: skip


def explicit_default(found: Iterable[Rule]) -> bool:
    """One of these announces the IPv4 default route."""
    return any(DEFAULT in rule.prefixes and not rule.deny for rule in found)


def rules(tell: Tell, key: str, value: Any, families: frozenset[int]) -> tuple[Rule, ...] | None:
    """The rules of `export` or `import` (`key`); None if it was not given. What is wrong is told and left out."""
    if value is None:
        return None
    elements = value if isinstance(value, list) else [value]
    found: list[tuple[str, Rule]] = []
    wrong = False
    for index, element in enumerate(elements):
        at = f"{key}[{index}]" if isinstance(value, list) else key
        rule: Rule | None = None
        if isinstance(element, str):
            rule = _word(tell, key, at, element, families)
        elif isinstance(element, dict):
            rule = _table(tell, key, at, element, families)
        else:
            tell(at, f"is {noun(element)}", f"wanted: {_words(key)}, a prefix in quotes, or a table")
        wrong = wrong or rule is None
        if rule is not None:
            found.append((at, rule))
    if not wrong:
        _order(tell, key, found)
    return tuple(rule for _, rule in found)


def _words(key: str) -> str:
    return ", ".join(f'"{word}"' for word in (ORIGINS if key == "export" else ("any", "default")))


def _word(tell: Tell, key: str, at: str, text: str, families: frozenset[int]) -> Rule | None:
    if text == "any" and key == "import":
        return Rule()
    if text in ORIGINS[:2] and key == "export":
        return Rule(text)
    if text in ("any", "all", "connected", "static"):
        remedy = "say what: " if key == "export" else "write one of "
        tell(at, f"{text!r} cannot be {key}ed", f"{remedy}{_words(key)} or a prefix")
        return None
    words = ORIGINS if key == "export" else ("any", "default")
    if not re.search(r"[0-9:.]", text) and text not in words:
        near = get_close_matches(text[:64], words, 1)
        tell(at, f"{text[:80]!r} is no prefix and none of {_words(key)}",
             f'did you mean "{near[0]}"?' if near else 'a prefix is written "10.0.0.0/8"')  # fmt: skip
        return None
    prefix = _prefix(tell, at, text, families, f'write {_words(key)}, or a prefix such as "10.0.0.0/8"')
    return Rule("prefix" if key == "export" else "any", (prefix,)) if prefix is not None else None


def _prefix(tell: Tell, at: str, text: str, families: frozenset[int], remedy: str) -> Prefix | None:
    try:
        prefix = parse_prefix(text)
    except PrefixError as error:
        message, found, better = str(error).partition(": write ")
        tell(at, message, f"write {better}" if found else remedy)
        return None
    if prefix.length >= 96 and is_v4_mapped(prefix.packed):
        tell(at, f"{text!r} is IPv4-mapped: no packet has such a destination",
             f"write {Prefix(prefix.packed[12:], prefix.length - 96)}")  # fmt: skip
    elif len(prefix.packed) not in families:
        family, other = ("IPv6", "::/0") if prefix.family != 2 else ("IPv4", "0.0.0.0/0")
        same = " (the default route of IPv6 is written ::/0)" if other == "0.0.0.0/0" and not prefix.length else ""
        tell(at, f"{prefix}: {family} is not carried{same}", 'write families = ["ipv4", "ipv6"], or leave it out')
    elif is_martian(prefix):
        tell(at, f"{prefix} is not for other routers: loopback, link-local, multicast, reserved",
             "leave it out: it is never exported nor imported")  # fmt: skip
    else:
        return prefix
    return None


def _prefixes(
    tell: Tell, at: str, given: str | list[str] | None, families: frozenset[int]
) -> tuple[Prefix, ...] | None:
    """None if one is wrong."""
    texts = [given] if isinstance(given, str) else given or []
    if given == []:
        tell(at, "is an empty list", f"wanted: {_WANTED[at.rpartition('.')[2]]}")
        return None
    remedy = 'write a prefix such as "10.0.0.0/8"'
    found = []
    for index, text in enumerate(texts):
        place = f"{at}[{index}]" if isinstance(given, list) else at
        found.append(_prefix(tell, place, text, families, remedy))
    good = tuple(prefix for prefix in found if prefix is not None)
    return good if len(good) == len(found) else None


def _lengths(tell: Tell, at: str, value: int | str | None, longest: int) -> tuple[int, int] | None:
    """(shortest, longest), both included; None if they are wrong."""
    if value is None:
        return 0, 128
    text = short(value) if isinstance(value, int) else value
    match = re.fullmatch(r"([0-9]{1,3})(?: *- *([0-9]{1,3}))?", text)
    if match is None:
        tell(at, f"{text[:80]!r} is no length of a prefix", f"wanted: {_WANTED['length']}")
        return None
    low, high = int(match[1]), int(match[2] or match[1])
    if low > high or high > longest:
        why = "ends before it begins" if low > high else f"is longer than {longest}"
        tell(at, f"the range of lengths {low}-{high} {why}", f'from 0 to {longest}, as in length = "16-24"')
        return None
    return low, high


def _table(tell: Tell, key: str, at: str, raw: dict[str, Any], families: frozenset[int]) -> Rule | None:
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(RuleTable)}
    if key == "import":
        fields = {name: kind for name, kind in fields.items() if name not in ("from", "metric")}
    bad = False
    for name, value in raw.items():
        if name not in fields:
            message, remedy = unknown(name, fields, _ALIASES)
            tell(f"{at}.{name}", message if name not in _WANTED else f"{name!r} is for export", remedy)
            bad = True
        elif not fits(value, fields[name]):
            kind = noun(value) if not isinstance(value, list | dict) else "of the wrong form"
            tell(f"{at}.{name}", f"is {kind}", f"wanted: {_WANTED[name]}")
            bad = True
    if bad:
        return None
    table = msgspec.convert(raw, RuleTable)
    prefixes = _prefixes(tell, f"{at}.prefix", table.prefix, families)
    within = _prefixes(tell, f"{at}.within", table.within, families)
    lengths = _lengths(tell, f"{at}.length", table.length, 128 if 16 in families else 32)
    if prefixes is None or within is None or lengths is None:
        return None
    if table.metric is not None and not 0 <= table.metric <= 65534:
        tell(f"{at}.metric", f"metric {short(table.metric)} is out of range", "a number from 0 to 65534")
        return None
    if table.metric is not None and table.deny:
        tell(f"{at}.metric", "a rule that denies has no metric", "leave out metric or deny")
        return None
    rule = Rule("any", prefixes, within, *lengths, table.metric or 0, table.deny)
    return _meaning(tell, key, at, rule, table.from_)


def _meaning(tell: Tell, key: str, at: str, rule: Rule, origin: str | None) -> Rule | None:
    """The rule with its source, if it makes sense."""
    filtered = bool(rule.within) or (rule.shortest, rule.longest) != (0, 128)
    if origin is not None and origin not in ORIGINS:
        tell(f"{at}.from", f"unknown origin {origin[:80]!r}", f"wanted: {_WANTED['from']}")
    elif origin == "default" and (rule.prefixes or filtered):
        tell(f"{at}.from", "the default route is one prefix: there is nothing to filter", 'keep from = "default" alone')
    elif rule.prefixes and filtered:
        tell(f"{at}.prefix", "`prefix` means exactly this prefix: there is nothing to filter",
             "write within = for a prefix and all that is in it, or leave out within and length")  # fmt: skip
    elif rule.within and not any(rule.longest >= outer.length for outer in rule.within):
        tell(f"{at}.length", f"no prefix of {rule.longest} bits lies in {rule.within[0]}", "write a longer length")
    elif rule.deny and not (origin or rule.prefixes or filtered):
        tell(at, "denies all, as the end of the list does", "leave it out")
    elif key == "export" and not rule.deny and not (origin or rule.prefixes):
        tell(at, "does not say what is exported", f"add {_WANTED['from'].partition(': ')[2]}, or prefix =")
    elif origin == "default":
        return replace(rule, source="any" if rule.deny else "prefix", prefixes=(DEFAULT,))
    elif origin is not None:
        return replace(rule, source=origin)
    else:
        return replace(rule, source="prefix") if key == "export" and not rule.deny else rule
    return None


def _order(tell: Tell, key: str, found: list[tuple[str, Rule]]) -> None:
    """Tells of rules that can never decide anything."""
    first: dict[Rule, tuple[str, Rule]] = {}
    taken: dict[str, str] = {}
    last_allowed = max((index for index, (_, rule) in enumerate(found) if not rule.deny), default=-1)
    for index, (at, rule) in enumerate(found):
        condition = replace(rule, metric=0, deny=False)
        before, same = first.setdefault(condition, (at, rule))
        hidden = taken.get("any") or taken.get(rule.source) or (before if same != rule else "")
        if before != at and same == rule:
            tell(at, f"stands already at {before}", "leave one of the two out", "warning")
        elif hidden:
            tell(at, f"is never reached: {hidden} fits first",
                 "the first rule that fits decides: put it before that, or leave it out")  # fmt: skip
        elif rule.deny and index > last_allowed:
            remedy = "the first rule that fits decides: put it before the rule that it shall limit"
            if key == "import":
                remedy = 'end the list with "any" to take the rest; import = [] takes nothing'
            tell(at, "denies nothing: no rule behind it takes anything", remedy)
        if condition == Rule(rule.source):
            taken.setdefault(rule.source, at)
