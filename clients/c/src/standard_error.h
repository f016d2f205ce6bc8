
/* ==== Standard error: the two lines that this file writes there, for losses that no return value shows.
 *
 * A line is one write(2). It is left out if it would block, if descriptor 2 is closed, or if it seems to be a file of
 * the program's data. A setuid program writes it
 * too: it says nothing that its user may not know.
 */

/* Whether a line can be written without a wait, and does not damage a file of the program. A program that closes
 * descriptor 2 may get this number for a file of data, which is usually not open for appending. A shell's `2>file` is
 * not either, but was there when the program was loaded. */
DBUF__FUNCTION int dbuf__takes_lines(void) {
    struct pollfd out = {STDERR_FILENO, POLLOUT, 0};
    struct stat status;
    if (poll(&out, 1, 0) != 1 || out.revents != POLLOUT || fstat(STDERR_FILENO, &status) != 0) return 0;
    return !S_ISREG(status.st_mode) || (fcntl(STDERR_FILENO, F_GETFL) & O_APPEND) != 0 ||
           dbuf__is_held(&dbuf__process.standard_error);
}

/* Replaces control characters, also those of two bytes: a path or the daemon's text may contain them. */
DBUF__FUNCTION void dbuf__make_plain(char *text) {
    unsigned char *at;
    for (at = (unsigned char *)text; *at != '\0'; at++) {
        if (*at < ' ' || *at == 0x7F) *at = '?';
        else if (*at == 0xC2 && at[1] >= 0x80 && at[1] < 0xA0) at[0] = at[1] = '?';
    }
}

/* Writes a line, to which this adds the newline. */
DBUF__FUNCTION void dbuf__write_line(const char *format, ...) DBUF__PRINTF(1, 2);
DBUF__FUNCTION void dbuf__write_line(const char *format, ...) {
    char line[512];
    struct timespec at_once = {0, 0};
    sigset_t broken_pipe, before, pending;
    va_list arguments;
    int length;
    va_start(arguments, format);
    length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (length < 0 || !dbuf__takes_lines()) return;
    if ((size_t)length > sizeof line - 2) length = (int)sizeof line - 2;
    dbuf__make_plain(line);
    line[length] = '\n';
    /* A pipe may lose its reader after poll(2). Its SIGPIPE is blocked and then taken, unless the program has one
     * waiting. */
    sigemptyset(&broken_pipe);
    sigaddset(&broken_pipe, SIGPIPE);
    sigpending(&pending);
    if (pthread_sigmask(SIG_BLOCK, &broken_pipe, &before) != 0) return;
    if (write(STDERR_FILENO, line, (size_t)length + 1) < 0 && errno == EPIPE && !sigismember(&pending, SIGPIPE))
        sigtimedwait(&broken_pipe, NULL, &at_once);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* What to do about an error of connect(2), where that is certain. */
DBUF__FUNCTION const char *dbuf__remedy(int error) {
    switch (error) {
    case ENOENT:
    case ECONNREFUSED: return " (is dbufd running?)";
    case EACCES:
        return " (the socket's mode does not let this user in: SocketMode= in dbufd.socket, or ingest.socket_mode)";
    default: return "";
    }
}

/* The daemon cannot be reached: says so once, until this producer has had a link. */
DBUF__FUNCTION void dbuf__report_no_connection(dbuf_producer *p) {
    if (p->was_reported) return;
    p->was_reported = 1;
    if (p->quiet) return;
    /* A program may have many threads. */
    if (p->is_own && __atomic_exchange_n(&dbuf__process.own_was_reported, 1, __ATOMIC_RELAXED)) return;
    dbuf__write_line("dbuf: %s; events %s", p->down_reason, p->fail_when_down ? "are dropped" : "wait in memory");
}

/* Events end with this producer, or have been lost, and no daemon knows. */
DBUF__RACY DBUF__FUNCTION void dbuf__report_not_delivered(const dbuf_producer *p, uint64_t left, uint64_t lost) {
    char reason[sizeof p->down_reason] = "";
    const char *why = reason;
    size_t i;
    if (p->quiet || left + lost == 0) return;
    /* An event that reports losses is left, too: they count instead of it. */
    if (p->report > p->events - left) {
        left--;
        lost += p->report_lost;
    }
    /* Its last byte is always 0, also while another thread writes it. */
    for (i = 0; i + 1 < sizeof reason && p->down_reason[i] != '\0'; i++) reason[i] = p->down_reason[i];
    if (left == 0) why = "there was no room for them";
    else if (p->stage == DBUF__RING) why = "dbufd closed the connection";
    else if (i == 0) why = "dbufd has not answered in time";
    dbuf__write_line("dbuf: %llu event%s not delivered: %s", (unsigned long long)(left + lost),
                     left + lost == 1 ? "" : "s", why);
}
