#!/bin/sh
# Removes what install.sh installed, and nothing else. It can be run again; see --help.
set -eu
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

usage() {
    cat <<'HELP'
packaging/uninstall.sh [PREFIX=DIR] [DESTDIR=DIR] [--dry-run]

Stops dbufd and removes what packaging/install.sh installed with the same PREFIX and DESTDIR. The segments in
/var/log/dbufd, changed configuration and the user dbufd stay; they are listed.

  PREFIX=DIR   as given to install.sh; default /usr/local
  DESTDIR=DIR  as given to install.sh
  --dry-run    print what would be done, and change nothing
  --help       print this help

Example: sudo packaging/uninstall.sh
HELP
}

option_more() { return 1; }

# Removes a file, unless it is configuration that was changed.
remove_file() {
    at=$DESTDIR$2
    [ -e "$at" ] || return 0
    case $2 in
    /etc/dbufd/*)
        if [ "$(sum_of "$at")" != "$1" ]; then
            echo "kept: $at, because it was changed"
            return 0
        fi
        ;;
    esac
    say "remove $at"
    [ "$dry" ] || rm -f "$at"
}

options "$@"
if [ ! -f "$DESTDIR$record" ]; then
    echo "nothing is installed in $DESTDIR$PREFIX: there is no $DESTDIR$record"
    exit 0
fi
if live; then
    # All in one command: if only the service is stopped, the next event starts it again. An earlier version, or an
    # installation that was interrupted, may have no timer.
    timer=$(systemctl list-unit-files --no-legend dbufd-metrics.timer | cut -d ' ' -f 1)
    # shellcheck disable=SC2086 # none or one
    run systemctl disable --now $timer dbufd.service dbufd.socket dbufd-control.socket
fi
copy=$(mktemp)
trap 'rm -f "$copy"' EXIT
trap 'exit 1' HUP INT TERM
cp "$DESTDIR$record" "$copy"
while read -r kind sum path; do
    [ "$kind" = dir ] || remove_file "$sum" "$path"
done <"$copy"
say "remove $DESTDIR$record"
[ "$dry" ] || rm -f "$DESTDIR$record"
# Inner directories first. One that others use as well is not empty, and stays.
sed -n 's/^dir - //p' "$copy" | sort -r | while read -r path; do
    [ "$dry" ] || rmdir "$DESTDIR$path" 2>/dev/null || true
done
if live; then run systemctl daemon-reload; fi
[ "$DESTDIR" ] || run rm -rf /run/dbufd
# What the timer wrote last: the node exporter would export it for ever.
[ "$DESTDIR" ] || run rm -f /var/lib/prometheus/node-exporter/dbufd.prom
[ "$dry" ] || rmdir "$DESTDIR/var/log/dbufd" 2>/dev/null || true
name_segments
