"""What another machine is asked: one script for its /bin/sh, which needs iproute2 and nothing else.

It writes to its standard output alone, part by part, each between two marks that nobody else can know:

    MARK begin PART SECONDS-SINCE-1970
    … what the command printed …
    MARK end PART EXIT-CODE WHAT IT SAID ON STDERR

Sums (cksum) over all that routing rests on are taken before and after the reading; where they differ, something changed
in between, and all is read again, three times at most. A part that is read again comes again: the last one counts.
`wg show all dump` and `wg showconf` would print private keys, and are not used; nothing else here prints secrets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from via6.observe.snapshot.answers import SYSCTLS, Answer

DONE: Final = "done"

_SCRIPT: Final = r"""
m='@MARK@'
LC_ALL=C PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin
export LC_ALL PATH
umask 077
exec 3>&1

part() { # NAME COMMAND…
  name=$1
  shift
  printf '\n%s begin %s %s\n' "$m" "$name" "$(date +%s)"
  said=$("$@" 2>&1 >&3 </dev/null)
  code=$?
  printf '\n%s end %s %s %s\n' "$m" "$name" "$code" "$(printf %s "$said" | tr '\n' ' ' | cut -c1-300)"
}

have() { command -v "$1" >/dev/null 2>&1; }

part uname eval 'uname -s; uname -r; uname -n'

if [ "$(uname -s)" = OpenBSD ]; then
  part ifconfig ifconfig -a
  part netstat netstat -rn
  part sysctl sysctl net.inet.ip.forwarding net.inet6.ip6.forwarding
  part done true
  exit 0
fi

ask() { # PART OPTION…
  of=$1
  shift
  case $of in
    links) ip "$@" link show ;;
    addresses) ip "$@" address show ;;
    routes4) ip "$@" -4 route show table all ;;
    routes6) ip "$@" -6 route show table all ;;
    rules4) ip "$@" -4 rule show ;;
    rules6) ip "$@" -6 rule show ;;
    nexthops) ip "$@" nexthop show ;;
    neighbours) ip "$@" neighbour show nud all ;;
  esac
}

sums() { # lifetimes run down without anything having changed
  have cksum || return 0
  for each in links addresses rules4 rules6 nexthops routes4 routes6; do
    printf '%s %s\n' "$each" "$(ask $each -o 2>/dev/null | sed 's/[0-9][0-9]*sec//g' | cksum)"
  done
}

tries=0
while :; do
  before=$(sums)
  for each in links addresses rules4 rules6 nexthops routes4 routes6 neighbours; do
    part $each ask $each -j -d
  done
  after=$(sums)
  tries=$((tries + 1))
  if [ "$before" = "$after" ] || [ $tries -ge 3 ]; then break; fi
done
part before printf '%s\n' "$before"
part after printf '%s\n' "$after"

names() { # rt_tables and the like, as ip reads them
  for place in /usr/lib /usr/share /etc; do
    for file in "$place/iproute2/$1" "$place/iproute2/$1.d/"*.conf; do
      if [ -r "$file" ]; then cat "$file"; fi
    done
  done
}
part tables names rt_tables
part protos names rt_protos
part dsfield names rt_dsfield

sysctls() {
  cd /proc/sys || return
  grep -s '^-\{0,1\}[0-9][0-9]*$' /dev/null @SYSCTLS@ || :
}
part sysctls sysctls
part wireguard wg show all allowed-ips

filters() { # which packet filters this kernel has at all; its symbols are there for everybody
  grep -q . /proc/kallsyms || return
  echo known
  if grep -q ' nf_tables_newtable' /proc/kallsyms; then echo nf_tables; fi
  if grep -q ' ip6\{0,1\}t_do_table' /proc/kallsyms; then echo ip_tables; fi
}
legacy() { # tables of the older one that are in use; there is no such file where it never was
  for file in /proc/net/ip_tables_names /proc/net/ip6_tables_names; do
    if [ -e $file ]; then cat $file; fi
  done
}
have nft || part filters filters
part nft nft -j list ruleset
part chains nft list chains
part iptables iptables-save
part ip6tables ip6tables-save
part iptables-legacy iptables-legacy-save
part ip6tables-legacy ip6tables-legacy-save
part legacy legacy

part udp6 cat /proc/net/udp6
if have via6; then
  part status via6 status -j
  part neighbour via6 show neighbour -j
  part route via6 show route -j
  part interface via6 show interface -j
fi
part done true
"""


def script(mark: str) -> str:
    """The script with its mark, some letters and digits made for this one use."""
    return _SCRIPT.replace("@MARK@", f"@{mark}").replace("@SYSCTLS@", " ".join(SYSCTLS))


def answers(output: bytes, mark: str) -> dict[str, Answer]:
    """The parts of its output by name, those that came to their end."""
    found: dict[str, Answer] = {}
    for name, time, body, code, said in _sections(output, mark):
        found[name] = Answer(body, code, said, time)
    return found


def _sections(output: bytes, mark: str) -> Iterator[tuple[str, float, bytes, int, str]]:
    name, time, body = "", 0.0, b""
    for piece in output.split(f"\n@{mark} ".encode())[1:]:
        head, _, rest = piece.partition(b"\n")
        words = head.decode(errors="replace").split(" ", 3)
        if words[0] == "begin" and len(words) >= 3:
            name, body = words[1], rest
            time = float(words[2]) if re.fullmatch(r"\d+", words[2]) else 0.0
        elif words[0] == "end" and len(words) >= 3 and words[1] == name:
            code = int(words[2]) if words[2].isdecimal() else 1
            yield name, time, body, code, (words[3] if len(words) > 3 else "").strip()
