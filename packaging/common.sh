# shellcheck shell=sh disable=SC2034
# What install.sh and uninstall.sh share: the command line, where things go, and the record of what was installed.
#
# The record (in $PREFIX/share/dbufd/installed) has a line for each file, `file SHA256 PATH`, and for each directory that
# was not there before, `dir - PATH`. So what is removed is what was installed, whatever the list says by then.

program=${0##*/}
root=$(cd "$(dirname "$0")/.." && pwd)
export LC_ALL=C
umask 022

fail() {
    echo "$program: $1" >&2
    exit "${2:-1}"
}

# Says what is done, and does it unless this is a dry run.
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

# Reads the command line; what it does not know, `option_more` may, and says in `used` how many words that was.
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
            option_more "$@" || fail "what is '$1'? See $program --help" 2
            shift "$((used - 1))"
            ;;
        esac
        shift
    done
    PREFIX=${PREFIX%/} DESTDIR=${DESTDIR%/}
    # These paths are written into units and into the record.
    case $PREFIX in
    *[!A-Za-z0-9/._+-]* | *..* | "" | [!/]*) fail "PREFIX must be an absolute path of letters, digits and / . _ + -" 2 ;;
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
    [ "$dry" ] || [ "$DESTDIR" ] || [ "$(id -u)" = 0 ] || fail "needs root; --dry-run and DESTDIR=DIR do not"
}

# Whether there is a systemd to talk to. With DESTDIR there never is.
live() { [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; }

sum_of() { sha256sum <"$1" | cut -d' ' -f1; }

# The checksum that the record has for a path; nothing where it does not know it. No path in it has a blank.
recorded() {
    [ ! -f "$DESTDIR$record" ] || awk -v path="$1" '$1 == "file" && $3 == path { print $2 }' "$DESTDIR$record"
}

# Names the segments, which nobody but the administrator removes.
name_segments() {
    segments=$DESTDIR/var/log/dbufd
    count=$(find "$segments/" -type f \( -name '*.segment' -o -name '*.active' -o -name '*.torn' \) 2>/dev/null | wc -l)
    [ "$count" -gt 0 ] || return 0
    echo "kept: $segments (segments: $((count)), size: $(du -sh "$segments/" | cut -f1)), and the user dbufd, whose they are"
}
