#!/bin/sh
# Removes what install.sh has put there, and nothing else. May be repeated; see --help.
set -eu
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

usage() {
    cat <<'HELP'
packaging/uninstall.sh [PREFIX=DIR] [DESTDIR=DIR] [--dry-run]

Stops dbufd and removes what packaging/install.sh with the same PREFIX and DESTDIR has installed. It keeps the segments,
configuration that was changed, and the user dbufd, and says so.

  PREFIX=DIR   what was given to install.sh; default /usr/local
  DESTDIR=DIR  what was given to install.sh
  --dry-run    say what would be done, and do nothing
  --help       this

Example: sudo packaging/uninstall.sh
HELP
}

option_more() { return 1; }

# Configuration that the administrator has changed stays.
remove_file() {
    at=$DESTDIR$2
    [ -e "$at" ] || return 0
    case $2 in
    /etc/dbufd/*)
        if [ "$(sum_of "$at")" != "$1" ]; then
            echo "kept: $at, which was changed"
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
    # In one go: a service that is stopped alone is started again by the next event.
    run systemctl disable --now dbufd-metrics.timer dbufd.service dbufd.socket dbufd-control.socket
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
# Inner ones first, as their names are longer; one that others use too stays.
sed -n 's/^dir - //p' "$copy" | sort -r | while read -r path; do
    [ "$dry" ] || rmdir "$DESTDIR$path" 2>/dev/null || true
done
if live; then run systemctl daemon-reload; fi
[ "$DESTDIR" ] || run rm -rf /run/dbufd
[ "$dry" ] || rmdir "$DESTDIR/var/log/dbufd" 2>/dev/null || true
name_segments
