
/* ==== A producer: opened, and begun anew in a forked child. */

/* Sets everything but the options to the state of a new producer. 0, or DBUF_ERR_NO_MEMORY. */
DBUF__FUNCTION int dbuf__begin(dbuf_producer *p) {
    uint64_t capacity = p->capacity,
             seed = dbuf__clock_ns(CLOCK_REALTIME) ^ (uint64_t)getpid() << 40 ^ (uint64_t)(uintptr_t)p;
    void *memory =
        mmap(NULL, DBUF__HEADER_BYTES + (size_t)capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(p, 0, offsetof(struct dbuf_producer, next));
    p->capacity = capacity;
    p->connection.number = p->memory.number = -1;
    p->retry_ns = DBUF__RETRY_MIN_NS;
    p->max_event = DBUF__MAX_EVENT_ASSUMED;
    p->forks = dbuf__process.forks - 1; /* of no process, until there is memory */
    if (memory == MAP_FAILED) return dbuf__fail(p, DBUF_ERR_NO_MEMORY);
    p->forks = dbuf__process.forks;
    p->thread = pthread_self();
    p->words = (dbuf__words *)memory;
    p->data = (uint8_t *)memory + DBUF__HEADER_BYTES;
    if (getrandom(p->session, sizeof p->session, GRND_NONBLOCK) != (ssize_t)sizeof p->session)
        memcpy(p->session, &seed, sizeof seed);
    dbuf__set_clock(p, 0);
    return 0;
}

/* Gives memory and descriptors back, and sends nothing. */
DBUF__FUNCTION void dbuf__let_go(dbuf_producer *p) {
    dbuf__release_all(p);
    if (p->words != NULL) munmap(p->words, DBUF__HEADER_BYTES + (size_t)p->capacity);
    p->words = NULL;
}

DBUF__FUNCTION void dbuf__free(dbuf_producer *p) {
    dbuf__strike_off(p);
    dbuf__let_go(p);
    free(p);
}

/* Begins a producer anew in a child of the process that opened it: ring, connection and events belong to the parent. It
 * waits for the daemon as dbuf_open() does. Without that wait, the events of a child that sends and ends by _exit(2) at
 * once would still be in the child's own memory, and be lost with it. */
DBUF__FUNCTION int dbuf__renew_after_fork(dbuf_producer *p) {
    int error;
    p->thread = pthread_self();
    if (DBUF__LIKELY(p->forks == dbuf__process.forks)) return 0;
    if (p->is_gone) return dbuf__fail(p, DBUF_ERR_NO_DAEMON);
    dbuf__let_go(p);
    error = dbuf__begin(p);
    if (error == 0) dbuf__tend(p, DBUF__OPEN_TIMEOUT_MS);
    return error;
}

DBUF__FUNCTION int dbuf__are_options_valid(const dbuf_options *o) {
    return o->ring_bytes >= DBUF_RING_BYTES_MIN && o->ring_bytes <= DBUF_RING_BYTES_MAX &&
           (o->ring_bytes & (o->ring_bytes - 1)) == 0 && o->wait_ms >= 0 && o->close_wait_ms >= 0 &&
           (o->name == NULL || strlen(o->name) <= DBUF_TAG_BYTES_MAX) &&
           (o->socket == NULL || strlen(o->socket) < sizeof(((struct sockaddr_un *)0)->sun_path));
}

DBUF__FUNCTION int dbuf__open(dbuf_producer **producer, const dbuf_options *options, int is_own) {
    dbuf_options defaults = dbuf_options_default();
    const dbuf_options *o = options != NULL ? options : &defaults;
    int saved = errno, error = 0;
    dbuf_producer *p;
    *producer = NULL;
    if (!dbuf__are_options_valid(o)) return DBUF_ERR_INVALID;
    p = dbuf__is_watched() ? (dbuf_producer *)calloc(1, sizeof *p) : NULL;
    if (p == NULL) {
        errno = saved;
        return DBUF_ERR_NO_MEMORY;
    }
    p->capacity = o->ring_bytes;
    p->wait_ms = o->wait_ms;
    p->close_wait_ms = o->close_wait_ms;
    p->fail_when_down = o->fail_when_down != 0;
    p->stamps = !o->no_stamp;
    p->asks_ring = !o->no_ring;
    p->populate = o->populate != 0;
    p->quiet = o->quiet != 0;
    p->is_own = is_own != 0;
    if (o->socket != NULL) memcpy(p->socket, o->socket, strlen(o->socket) + 1);
    if (o->name != NULL) {
        p->name_bytes = (uint8_t)strlen(o->name);
        memcpy(p->name, o->name, p->name_bytes);
    } else p->name_bytes = (uint8_t)dbuf__program_name(p->name, sizeof p->name);
    error = dbuf__begin(p);
    dbuf__enlist(p);
    if (error == 0) dbuf__tend(p, DBUF__OPEN_TIMEOUT_MS);
    if (error == 0 && p->fail_when_down && !dbuf__has_link(p)) error = DBUF_ERR_NO_DAEMON;
    if (error == 0) *producer = p;
    else dbuf__free(p);
    errno = saved;
    return error;
}

DBUF__FUNCTION int dbuf_open(dbuf_producer **producer, const dbuf_options *options) {
    return dbuf__open(producer, options, 0);
}
