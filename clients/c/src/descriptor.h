
/* ==== Descriptors: held, and never mistaken for another file of the program.
 *
 * A daemon that starts closes all descriptors, and other programs close ranges of them. The number of a connection may
 * then mean a file of the program. So each descriptor is compared with what it was, by device and inode, before it is
 * used and before it is closed. Sockets and memfds have inodes of their own.
 *
 * Another thread may still close the descriptor between the comparison and the use, or before the first comparison of
 * a new one; nothing can exclude that.
 */

/* Holds a new descriptor, or -1. */
DBUF__FUNCTION void dbuf__hold(dbuf__descriptor *d, int number) {
    struct stat status;
    d->number = number;
    if (number < 0) return;
    if (fstat(number, &status) != 0) memset(&status, 0, sizeof status);
    d->device = status.st_dev;
    d->inode = status.st_ino;
}

/* Holds a new socket, or -1. What is no socket is a file that the program has put in its place: it is not held. */
DBUF__FUNCTION void dbuf__hold_socket(dbuf__descriptor *d, int number) {
    struct stat status;
    if (number >= 0 && (fstat(number, &status) != 0 || !S_ISSOCK(status.st_mode))) {
        number = -1;
        errno = EBADF;
    }
    dbuf__hold(d, number);
}

/* Whether it still is what it was. */
DBUF__FUNCTION int dbuf__is_held(const dbuf__descriptor *d) {
    struct stat status;
    return d->number >= 0 && fstat(d->number, &status) == 0 && status.st_dev == d->device && status.st_ino == d->inode;
}

/* Closes it; forgets it if it is not this producer's any more. */
DBUF__FUNCTION void dbuf__release(dbuf__descriptor *d) {
    if (dbuf__is_held(d)) close(d->number);
    d->number = -1;
}

DBUF__FUNCTION void dbuf__release_all(dbuf_producer *p) {
    dbuf__release(&p->connection);
    dbuf__release(&p->memory);
}

/* Gives a descriptor a number above those of standard input, output and error, which may be closed: what the program
 * writes to one of them must not go to the daemon. Returns the number, or -1. */
DBUF__FUNCTION int dbuf__above_standard(int number) {
    int above;
    if (number < 0 || number > STDERR_FILENO) return number;
    above = fcntl(number, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    close(number);
    return above;
}

DBUF__FUNCTION void dbuf__leave(dbuf_producer *p, const char *why);
#define DBUF__NOT_OURS "the program closed or replaced the descriptor of the connection"

/* Whether the connection is this producer's. If the program has closed or replaced it, the link ends. */
DBUF__FUNCTION int dbuf__holds_connection(dbuf_producer *p) {
    if (dbuf__is_held(&p->connection)) return 1;
    if (p->connection.number >= 0) dbuf__leave(p, DBUF__NOT_OURS);
    return 0;
}

/* Ends the link because of an error of the connection. */
DBUF__FUNCTION void dbuf__fail_link(dbuf_producer *p, int error) {
    dbuf__say(p, "the connection to dbufd failed: %s", strerror(error));
    dbuf__end_link(p, NULL);
}
