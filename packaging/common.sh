# shellcheck shell=sh disable=SC2034
# What install.sh and uninstall.sh share: the command line, the destinations, and the record of what was installed.
#
# The record ($PREFIX/share/dbufd/installed) has a line for each file, `file SHA256 PATH`, and one for each directory
# that did not exist before, `dir - PATH`. So uninstall.sh removes what was installed, even if packaging/files has
# changed since.

program=${0##*/}
root=$(cd "$(dirname "$0")/.." && pwd)
export LC_ALL=C
umask 022

fail() {
    echo "$program: $1" >&2
    exit "${2:-1}"
}

# Runs a command. In a dry run it only prints it.
run() {
    if [ "$dry" ]; then
        echo "would run: $*"
    else
        "$@"
    fi
}

say() {
    if [ "$dry" ]; then echo "would $1"; else echo "$1"; fi
}

# Reads the command line. Unknown words go to `option_more`, which sets `used` to the number of words that it took.
options() {
    dry=
    : "${DESTDIR=}" "${PREFIX=/usr/local}"
    while [ $# -gt 0 ]; do
        case $1 in
        DESTDIR=*) DESTDIR=${1#*=} ;;
        PREFIX=*) PREFIX=${1#*=} ;;
        --dry-run) dry=1 ;;
        --help | -h)
            usage
            exit 0
            ;;
        *)
            used=1
            option_more "$@" || fail "unknown argument '$1'; see $program --help" 2
            shift "$((used - 1))"
            ;;
        esac
        shift
    done
    PREFIX=${PREFIX%/} DESTDIR=${DESTDIR%/}
    # The paths are written into units and into the record, so they must need no quotes.
    case $PREFIX in
    *[!A-Za-z0-9/._+-]* | *..* | "" | [!/]*)
        fail "PREFIX must be an absolute path of letters, digits and / . _ + -" 2
        ;;
    esac
    case $DESTDIR in
    "" | /*) ;;
    *) fail "DESTDIR must be an absolute path" 2 ;;
    esac
    # systemd looks for units below these two prefixes and in /etc.
    case $PREFIX in
    /usr | /usr/local) systemd=$PREFIX/lib ;;
    *) systemd=/etc ;;
    esac
    record=$PREFIX/share/dbufd/installed
    [ "$dry" ] || [ "$DESTDIR" ] || [ "$(id -u)" = 0 ] ||
        fail "must run as root (sudo $0), except with --dry-run or DESTDIR=DIR"
}

# Whether systemd runs and is to be told. With DESTDIR it never is.
live() { [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; }

sum_of() { sha256sum <"$1" | cut -d' ' -f1; }

# The checksum of a path in the record; nothing if the record lacks the path. No path in it has a blank.
recorded() {
    [ ! -f "$DESTDIR$record" ] || awk -v path="$1" '$1 == "file" && $3 == path { print $2 }' "$DESTDIR$record"
}

# Names the segments and their owner. Only the administrator removes them.
name_segments() {
    segments=$DESTDIR/var/log/dbufd
    count=$(find "$segments/" -type f \( -name '*.segment' -o -name '*.active' -o -name '*.torn' \) 2>/dev/null | wc -l)
    [ "$count" -gt 0 ] || return 0
    size=$(du -sh "$segments/" | cut -f1)
    echo "kept: $segments (segments: $((count)), size: $size) and its owner, the user dbufd." \
        "To remove both: rm -r $segments; userdel dbufd"
}
