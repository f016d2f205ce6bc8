#!/bin/sh
# Installs what cargo has built from this source tree. May be repeated; see --help.
set -eu
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

usage() {
    cat <<'HELP'
packaging/install.sh [PREFIX=DIR] [DESTDIR=DIR] [--profile NAME] [--dry-run]

Installs dbufd, dbufctl, dbuf.h, the units, the manual and the completions, after `cargo build --release`. A daemon that runs is
restarted, and its senders do not notice. Configuration that is there already stays; where it differs from what would be
installed, that is put beside it as FILE.new. packaging/uninstall.sh with the same PREFIX and DESTDIR removes it all.

  PREFIX=DIR      where everything but /etc/dbufd goes; default /usr/local
  DESTDIR=DIR     install below DIR, touch nothing outside of it and tell systemd nothing
  --profile NAME  take what cargo built with this profile; default release
  --dry-run       say what would be done, and do nothing
  --help          this

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
        destination=$(printf '%s' "$destination" | sed "s|@prefix@|$PREFIX|; s|@systemd@|$systemd|; s|@zsh@|$PREFIX/share/zsh/site-functions|")
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

# Decides for each file: what is there of the administrator's own stays, and gets the new one beside it.
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

# The unit, with the programs where they are going to be.
with_prefix() {
    sed "s|/usr/bin/dbuf|$PREFIX/bin/dbuf|" "$1" >"$made/${1##*/}"
    echo "$made/${1##*/}"
}

# The directories that are missing, outermost first, and those that an earlier installation has made.
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

# Beside its place first, then into it: a program that runs keeps its file, and nobody ever sees half of one.
put() {
    at=$DESTDIR$3
    if cmp -s "$2" "$at" && [ "$(stat -c %a "$at")" = "$1" ]; then return; fi
    say "install $at"
    [ -z "$dry" ] || return 0
    mkdir -p "${at%/*}"
    install -m "$1" "$2" "$at.dbufd-install"
    mv -f "$at.dbufd-install" "$at"
    case $3 in *.new) echo "note: ${at%.new} is yours and stays; the new one is $at" ;; esac
}

# Removes what an earlier installation had and this one has not.
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
        # Never stop and start: only over a restart does systemd keep the senders' connections.
        run systemctl restart dbufd.service
    else
        echo "to start it, now and at each boot: systemctl enable --now dbufd"
    fi
}

options "$@"
tab=$(printf '\t')
case $profile in dev) folder=debug ;; *) folder=$profile ;; esac
build=${CARGO_TARGET_DIR:-$root/target}/$folder
if [ ! -x "$build/dbufd" ] || [ ! -x "$build/dbufctl" ]; then
    fail "$build has no dbufd and dbufctl; run first: cargo build --profile $profile"
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
# The record comes first: what is installed can be removed, also when this is interrupted.
put 644 "$made/record" "$record"
while IFS=$tab read -r mode file to; do
    put "$mode" "$file" "$to"
done <"$made/decided"
drop_old
tell_systemd
