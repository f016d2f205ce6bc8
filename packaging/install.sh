#!/bin/sh
# Installs what cargo has built from this source tree. It can be run again; see --help.
set -eu
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

usage() {
    cat <<'HELP'
packaging/install.sh [PREFIX=DIR] [DESTDIR=DIR] [--profile NAME] [--dry-run]

Installs dbufd, dbufctl, dbuf.h, the units, the manual and the completions, after `cargo build --release`. A running
daemon is restarted; its senders keep their connections. Existing configuration stays: if it differs, the new file is
installed next to it as FILE.new. To remove everything: packaging/uninstall.sh with the same PREFIX and DESTDIR.

  PREFIX=DIR      destination of everything but /etc/dbufd; default /usr/local
  DESTDIR=DIR     install below DIR, change nothing outside of it, and do not call systemd
  --profile NAME  install what cargo built with this profile; default release
  --dry-run       print what would be done, and change nothing
  --help          print this help

Example: cargo build --release && sudo packaging/install.sh && sudo systemctl enable --now dbufd
HELP
}

profile=release
option_more() {
    case $1 in
    --profile=*) profile=${1#*=} ;;
    --profile)
        [ $# -ge 2 ] || fail "--profile needs a name" 2
        profile=$2
        # shellcheck disable=SC2034
        used=2
        ;;
    *) return 1 ;;
    esac
}

# Reads the list; writes a line `mode, source, destination` for each file, split by tabs.
plan() {
    while read -r mode source destination; do
        case $mode in "" | "#"*) continue ;; esac
        destination=$(printf '%s' "$destination" |
            sed "s|@prefix@|$PREFIX|; s|@systemd@|$systemd|; s|@zsh@|$PREFIX/share/zsh/site-functions|")
        case $source in
        @build@/*) source=$build/${source#*/} ;;
        @made@/*) source=$made/${source#*/} ;;
        *) source=$root/$source ;;
        esac
        directory=${source%/*}
        for file in "$directory"/${source##*/}; do
            [ -f "$file" ] || fail "$file is missing"
            case $destination in
            */) to=$destination${file##*/} ;;
            *) to=$destination ;;
            esac
            printf '%s\t%s\t%s\n' "$mode" "$file" "$to"
        done
    done <"$root/packaging/files"
}

# Decides for each file: a file in /etc/dbufd that exists and differs stays, and the new one gets the name FILE.new.
decide() {
    while IFS=$tab read -r mode file to; do
        at=$DESTDIR$to
        case $to in
        *.service) file=$(with_prefix "$file") ;;
        /etc/dbufd/*)
            if [ -e "$at" ]; then
                was=$(recorded "$to")
                [ -z "$was" ] || echo "file $was $to" >>"$made/record"
                cmp -s "$file" "$at" && continue
                to=$to.new
            fi
            ;;
        esac
        echo "file $(sum_of "$file") $to" >>"$made/record"
        printf '%s\t%s\t%s\n' "$mode" "$file" "$to"
    done
}

# The unit, with the programs' paths below PREFIX.
with_prefix() {
    sed "s|/usr/bin/dbuf|$PREFIX/bin/dbuf|" "$1" >"$made/${1##*/}"
    echo "$made/${1##*/}"
}

# The missing directories, outermost first, and those that an earlier installation created.
directories() {
    {
        cut -d' ' -f3- "$made/record"
        echo "$record"
    } | while read -r path; do
        while path=${path%/*} && [ "$path" ] && [ ! -d "$DESTDIR$path" ]; do
            echo "dir - $path"
        done
    done
    [ ! -f "$made/before" ] || grep '^dir ' "$made/before" || true
}

# Installs a file under another name and renames it: a running program keeps its file, and none is ever incomplete.
put() {
    at=$DESTDIR$3
    if cmp -s "$2" "$at" && [ "$(stat -c %a "$at")" = "$1" ]; then return; fi
    say "install $at"
    [ -z "$dry" ] || return 0
    mkdir -p "${at%/*}"
    install -m "$1" "$2" "$at.dbufd-install"
    mv -f "$at.dbufd-install" "$at"
    case $3 in *.new) echo "note: ${at%.new} stays as it is; the new file is $at" ;; esac
}

# Removes files of an earlier installation that are not in this one.
drop_old() {
    [ -f "$made/before" ] || return 0
    awk 'NR == FNR { now[$3]; next } $1 == "file" && !($3 in now) { print $3 }' "$made/record" "$made/before" |
        while read -r path; do
            [ -e "$DESTDIR$path" ] || continue
            say "remove $DESTDIR$path"
            [ "$dry" ] || rm -f "$DESTDIR$path"
        done
}

tell_systemd() {
    [ -z "$DESTDIR" ] || return 0
    run systemd-sysusers "$systemd/sysusers.d/dbufd.conf"
    run systemd-tmpfiles --create "$systemd/tmpfiles.d/dbufd.conf"
    live || return 0
    run systemctl daemon-reload
    if systemctl --quiet is-active dbufd.service; then
        # Never stop and start: systemd keeps the senders' connections only over a restart.
        run systemctl restart dbufd.service
    else
        echo "to start it now and at each boot: systemctl enable --now dbufd"
    fi
}

options "$@"
tab=$(printf '\t')
case $profile in dev) folder=debug ;; *) folder=$profile ;; esac
build=${CARGO_TARGET_DIR:-$root/target}/$folder
if [ ! -x "$build/dbufd" ] || [ ! -x "$build/dbufctl" ]; then
    fail "$build lacks dbufd or dbufctl; first run: cargo build --profile $profile"
fi
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
trap 'exit 1' HUP INT TERM
"$root/packaging/generate" "$build/dbufctl" "$made"
: >"$made/record"
[ ! -f "$DESTDIR$record" ] || cp "$DESTDIR$record" "$made/before"

plan >"$made/plan"
decide <"$made/plan" >"$made/decided"
directories | sort -u >"$made/directories"
cat "$made/directories" >>"$made/record"
# The record comes first, so that an interrupted installation can be removed.
put 644 "$made/record" "$record"
while IFS=$tab read -r mode file to; do
    put "$mode" "$file" "$to"
done <"$made/decided"
drop_old
tell_systemd
