#!/bin/sh
# install.sh [--uninstall]: puts via6 on this machine, or takes it away. `make install` and `make uninstall` call it.
#
# What it makes: a virtual environment in PREFIX/lib/via6 (PREFIX is /usr/local), a link to its `via6` in PREFIX/bin,
# man pages and completions below PREFIX/share, systemd units in UNITS (PREFIX/lib/systemd/system), the name of protocol
# 46 in SYSCONF/iproute2/rt_protos.d (SYSCONF is /etc), and the group `via6`, whose members may ask a running daemon.
# It starts nothing. Configuration in /etc/via6 and state in /var/lib/via6 are never touched.
#
# PYTHON chooses the interpreter, PIP_ARGS is handed on to pip.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
PREFIX=${PREFIX:-/usr/local}
SYSCONF=${SYSCONF:-/etc}
UNITS=${UNITS:-$PREFIX/lib/systemd/system}
PYTHON=${PYTHON:-python3}
home=$PREFIX/lib/via6
protos=$SYSCONF/iproute2/rt_protos.d/via6.conf

say() { echo "via6: $*"; }
fail() { echo "via6: $*" >&2; exit 1; }

reload() {
  # Only where systemd runs, and looks there.
  [ -d /run/systemd/system ] && [ "$PREFIX" = /usr/local ] && systemctl daemon-reload || true
}

pages() { (cd "$root/docs/man" && find man1 man5 -type f | sort); }

put() { # FILE PLACE: a copy that everybody can read
  mkdir -p "$(dirname "$2")"
  install -m 644 "$1" "$2"
}

uninstall() {
  for unit in via6.service via6-host@.service; do rm -f "$UNITS/$unit"; done
  reload
  for page in $(pages); do rm -f "$PREFIX/share/man/$page"; done
  rm -f "$PREFIX/share/bash-completion/completions/via6" "$PREFIX/share/zsh/site-functions/_via6" \
    "$PREFIX/share/fish/vendor_completions.d/via6.fish" "$protos"
  # Only a link of ours.
  case $(readlink "$PREFIX/bin/via6" || true) in "$home"/*) rm -f "$PREFIX/bin/via6" ;; esac
  [ ! -e "$home/.via6-install" ] || rm -rf "$home"
  say "gone from $PREFIX; /etc/via6, /var/lib/via6 and the group via6 are left"
}

case "${1:-}" in
  --uninstall) uninstall; exit 0 ;;
  '') ;;
  *) fail "install.sh, or install.sh --uninstall" ;;
esac

command -v "$PYTHON" >/dev/null || fail "no $PYTHON here; on Debian: apt install python3 python3-venv"
"$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' ||
  fail "$PYTHON is too old or too new: Python 3.11, 3.12 or 3.13 is needed (choose one: PYTHON=python3.13)"
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || fail "$PYTHON has no venv; on Debian: apt install python3-venv"
[ ! -e "$home" ] || [ -e "$home/.via6-install" ] || fail "$home is there already and not from here: move it away"
[ ! -e "$PREFIX/bin/via6" ] || [ "$(readlink "$PREFIX/bin/via6" || true)" = "$home/bin/via6" ] ||
  fail "$PREFIX/bin/via6 is there already and not from here: move it away"
mkdir -p "$PREFIX/bin" "$home" 2>/dev/null || fail "cannot write to $PREFIX: run it as root"

umask 022
touch "$home/.via6-install"
# What does not belong to the new version goes.
"$PYTHON" -m venv --clear "$home" || fail "cannot make $home"
touch "$home/.via6-install"
# A router has no npm; it gets all but the picture of the live view.
sh "$root/web/build" || { say "so \`via6 web\` will show tables without the picture"; export VIA6_WITHOUT_WEB=1; }
# shellcheck disable=SC2086  # PIP_ARGS are words
"$home/bin/python" -m pip install -q --disable-pip-version-check ${PIP_ARGS:-} "$root[web]" ||
  fail "pip could not install via6 and what it needs (see pip's words above)"
ln -sfn "$home/bin/via6" "$PREFIX/bin/via6"

for page in $(pages); do put "$root/docs/man/$page" "$PREFIX/share/man/$page"; done
put "$root/packaging/completions/via6.bash" "$PREFIX/share/bash-completion/completions/via6"
put "$root/packaging/completions/_via6" "$PREFIX/share/zsh/site-functions/_via6"
put "$root/packaging/completions/via6.fish" "$PREFIX/share/fish/vendor_completions.d/via6.fish"
put "$root/packaging/rt_protos.d/via6.conf" "$protos"

for unit in via6.service via6-host@.service; do
  mkdir -p "$UNITS"
  sed "s#/usr/local/bin/via6#$PREFIX/bin/via6#" "$root/packaging/$unit" >"$UNITS/$unit"
  chmod 644 "$UNITS/$unit"
done
if [ "$(id -u)" = 0 ] && [ "$SYSCONF" = /etc ] && ! getent group via6 >/dev/null; then
  groupadd --system via6 || say "no group via6 could be made: the units need one (groupadd --system via6)"
fi
reload

say "$("$PREFIX/bin/via6" --version) is in $PREFIX/bin"
! [ -d /run/systemd/system ] || ! systemctl is-active -q via6 || say "restart the daemon: systemctl restart via6"
say "next: write /etc/via6/via6.toml (man via6.toml), then: systemctl enable --now via6"
