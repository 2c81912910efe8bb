#!/bin/sh
# The network that via6 grew from, in network namespaces: IPv4 by an IPv6 next hop, through WireGuard and on a plain
# link. ../../docs/wireguard.md tells what to look at. Needs root, iproute2, wireguard-tools, and a kernel with
# WireGuard or else wireguard-go (on Debian: apt install wireguard-tools wireguard-go --no-install-recommends).
#
#     seed.sh up        builds the network and puts in no route of via6
#     seed.sh routes    types the `via6` commands
#     seed.sh show      shows the IPv4 tables and what WireGuard lets through
#     seed.sh down      removes it all
#
#   diamond === wgungleich ======= wgrouter === router --- fe80::1  fe80::42 --- host     10.0.8.42/32, no other IPv4
#      |      2a0a:e5c1:137::42/48     ::22/48   |  |
#      |                                         |  '---- 10.1.2.1/24 ---- server         10.1.2.3, knows IPv4 alone
#   192.0.2.10 ----------- isp ---------- 198.51.100.22
#   default via 192.0.2.1
#
# A second one beside the first wants other names: SEED_NS (what namespaces begin with), SEED_WG and SEED_WG_ROUTER
# (the WireGuard devices). VIA6 is the via6 to use.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
via6=${VIA6:-$(command -v via6 || echo "$here/../../.venv/bin/via6")}
diamond=${SEED_NS:-}diamond isp=${SEED_NS:-}isp router=${SEED_NS:-}router server=${SEED_NS:-}server host=${SEED_NS:-}host
wg=${SEED_WG:-wgungleich} wg_router=${SEED_WG_ROUTER:-wgrouter}
# Tells a namespace of ours from another that has the same name: the alias of its lo.
mark='via6 examples/wireguard'
# wireguard-go keeps the control sockets of all network namespaces here, under the names of the devices.
sockets=/var/run/wireguard

die() {
  echo "seed.sh: $*" >&2
  exit 1
}

ours() {
  ip -n "$1" -d link show dev lo 2>/dev/null | grep -q "alias $mark"
}

namespace() {
  ip netns add "$1"
  ip -n "$1" link set dev lo alias "$mark" up
}

cable() { # NETNS DEV NETNS DEV
  ip -n "$1" link add "$2" type veth peer name "$4" netns "$3"
  ip -n "$1" link set dev "$2" up
  ip -n "$3" link set dev "$4" up
}

forwarding() {
  ip netns exec "$1" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
}

wireguard() { # NETNS DEV ADDRESS PRIVATE-KEY, then words of `wg set`
  at=$1 dev=$2 address=$3 private=$4
  shift 4
  ip -n "$at" link add "$dev" type wireguard 2>/dev/null ||
    # With LOG_LEVEL it would hold on to our end of the pipe for as long as it runs.
    said=$(ip netns exec "$at" env -u WG_PROCESS_FOREGROUND -u LOG_LEVEL wireguard-go "$dev" 2>&1) ||
    die "no WireGuard in this kernel, and wireguard-go does not start: $(echo "$said" | grep -v -e '│' -e '──')"
  # printf is the shell's own: the key is in no list of processes, and in no file.
  printf '%s\n' "$private" | ip netns exec "$at" wg set "$dev" private-key /dev/stdin "$@"
  ip -n "$at" address add "$address" dev "$dev" nodad
  ip -n "$at" link set dev "$dev" up
}

up() {
  [ "$(id -u)" = 0 ] || die "run it as root"
  command -v wg >/dev/null || die "no wg here; on Debian: apt install wireguard-tools --no-install-recommends"
  for name in "$diamond" "$isp" "$router" "$server" "$host"; do
    [ ! -e "/run/netns/$name" ] || die "there is a namespace $name already: seed.sh down, or other names by SEED_NS"
  done
  for name in "$wg" "$wg_router"; do
    [ ! -e "$sockets/$name.sock" ] || die "another wireguard-go has a device $name: other names by SEED_WG…"
  done
  # Half a network is of no use to anybody.
  trap down EXIT
  trap 'exit 1' INT TERM HUP
  for name in "$diamond" "$isp" "$router" "$server" "$host"; do namespace "$name"; done

  # What carries the WireGuard packets: ordinary IPv4.
  cable "$diamond" eth0 "$isp" diamond
  cable "$router" isp "$isp" router
  ip -n "$diamond" address add 192.0.2.10/24 dev eth0
  ip -n "$isp" address add 192.0.2.1/24 dev diamond
  ip -n "$isp" address add 198.51.100.1/24 dev router
  ip -n "$router" address add 198.51.100.22/24 dev isp
  ip -n "$diamond" route add default via 192.0.2.1
  ip -n "$router" route add default via 198.51.100.1
  forwarding "$isp"

  # Behind the router: a server that knows IPv4 alone, and a host on a link without IPv4.
  cable "$router" server "$server" eth0
  ip -n "$router" address add 10.1.2.1/24 dev server
  ip -n "$server" address add 10.1.2.3/24 dev eth0
  ip -n "$server" route add default via 10.1.2.1
  cable "$router" host "$host" eth0
  ip -n "$router" address add fe80::1/64 dev host nodad
  ip -n "$host" address add fe80::42/64 dev eth0 nodad
  ip -n "$host" address add 10.0.8.42/32 dev eth0
  forwarding "$router"

  # The router lets diamond's IPv4 address in; diamond does not let 10.0.0.0/8 out yet: `via6 route add` will say so.
  key_diamond=$(wg genkey)
  key_router=$(wg genkey)
  wireguard "$router" "$wg_router" 2a0a:e5c1:137::22/48 "$key_router" listen-port 51820 \
    peer "$(echo "$key_diamond" | wg pubkey)" allowed-ips 2a0a:e5c1:137::42/128,192.0.2.10/32
  wireguard "$diamond" "$wg" 2a0a:e5c1:137::42/48 "$key_diamond" \
    peer "$(echo "$key_router" | wg pubkey)" allowed-ips 2a0a:e5c1:137::/48 \
    endpoint 198.51.100.22:51820 persistent-keepalive 25
  trap - EXIT INT TERM HUP
}

typed() {
  echo "# $*"
  "$@"
}

routes() {
  ours "$diamond" || die "there is no network: seed.sh up"
  # shellcheck disable=SC2086  # VIA6 may be several words
  {
    typed $via6 -n "$diamond" route add 10.0.0.0/8 via 2a0a:e5c1:137::22
    typed $via6 -n "$router" route add 192.0.2.10/32 via 2a0a:e5c1:137::42
    typed $via6 -n "$host" route add 0/0 via fe80::1 dev eth0 src 10.0.8.42
    typed $via6 -n "$router" route add 10.0.8.42/32 via fe80::42 dev host
  }
}

show() {
  ours "$diamond" || die "there is no network: seed.sh up"
  for name in "$diamond" "$router" "$host"; do typed ip -n "$name" -4 route; done
  typed ip netns exec "$diamond" wg show "$wg" allowed-ips
  typed ip netns exec "$router" wg show "$wg_router" allowed-ips
}

undo_wireguard() { # NETNS DEV
  ours "$1" || return 0
  if ip -n "$1" link del dev "$2" 2>/dev/null; then
    # wireguard-go ends with its device, in its own time, and keeps the namespace alive until then.
    for _ in 1 2 3 4 5 6 7 8 9 10; do
      [ -e "$sockets/$2.sock" ] || return 0
      sleep 0.2
    done
  fi
  # wireguard-go was killed, and could not tidy up.
  rm -f "$sockets/$2.sock"
}

down() {
  undo_wireguard "$diamond" "$wg"
  undo_wireguard "$router" "$wg_router"
  for name in "$diamond" "$isp" "$router" "$server" "$host"; do
    ! ours "$name" || ip netns del "$name"
  done
}

case "${1:-}" in
  up | routes | show | down) "$1" ;;
  *) die "up, routes, show or down?" ;;
esac
