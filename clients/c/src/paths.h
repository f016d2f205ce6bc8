
/* ==== Paths: where the daemon listens, and what this program is called. */

/* A variable of the environment, NULL if it is unset. A setuid or setgid program has none: its caller would choose to
 * whom it connects, and from whom it takes memory. That is secure_getenv(3), which needs _GNU_SOURCE. */
DBUF__FUNCTION const char *dbuf__variable(const char *name) { return getauxval(AT_SECURE) != 0 ? NULL : getenv(name); }

/* Whether a folder in the temporary directory is certainly this user's own. A folder that is not there is not: another
 * user could make it between this look and connect(2). One that is there stays this user's own, because the temporary
 * directory's sticky bit lets no other user rename or remove it. */
DBUF__FUNCTION int dbuf__is_private(const char *folder) {
    struct stat status;
    return lstat(folder, &status) == 0 && S_ISDIR(status.st_mode) && status.st_uid == geteuid() &&
           (status.st_mode & 077) == 0;
}

/* Where the daemon listens, by the rule of dbufctl: RUNTIME_DIRECTORY; for root /run/dbufd; $XDG_RUNTIME_DIR/dbufd; a
 * private folder in the temporary directory. If there is no socket, /run/dbufd if it has one. 0 if the path is too
 * long. */
DBUF__FUNCTION int dbuf__find_socket(char *to, size_t bytes) {
    static const char machine[] = "/run/dbufd/stream.sock";
    const char *listed = dbuf__variable("RUNTIME_DIRECTORY"), *xdg = dbuf__variable("XDG_RUNTIME_DIR"),
               *temporary = dbuf__variable("TMPDIR");
    int length;
    while (listed != NULL && *listed == ':') listed++;
    if (listed != NULL && *listed != '\0') {
        length = snprintf(to, bytes, "%.*s/stream.sock", (int)strcspn(listed, ":"), listed);
    } else if (geteuid() == 0) {
        length = snprintf(to, bytes, "%s", machine);
    } else if (xdg != NULL && *xdg == '/') {
        length = snprintf(to, bytes, "%s/dbufd/stream.sock", xdg);
    } else {
        if (temporary == NULL || *temporary == '\0') temporary = "/tmp";
        length = snprintf(to, bytes, "%s/dbufd-%u", temporary, (unsigned)geteuid());
        if (length < 0 || (size_t)length >= bytes) return 0;
        if (dbuf__is_private(to)) length += snprintf(to + length, bytes - (size_t)length, "/stream.sock");
        else length = snprintf(to, bytes, "%s", machine);
    }
    if (length < 0 || (size_t)length >= bytes) return 0;
    if (access(to, F_OK) != 0 && access(machine, F_OK) == 0) snprintf(to, bytes, "%s", machine);
    return 1;
}

/* The program's short name. */
DBUF__FUNCTION size_t dbuf__program_name(char *to, size_t bytes) {
    int file = open("/proc/self/comm", O_RDONLY | O_CLOEXEC);
    ssize_t got = file < 0 ? 0 : read(file, to, bytes);
    if (file >= 0) close(file);
    while (got > 0 && to[got - 1] == '\n') got--;
    return got > 0 ? (size_t)got : 0;
}
