
/* ==== A producer
 *
 * Opens a producer, and keeps the list of those that a fork concerns.
 */

DBUF__FUNCTION void dbuf__before_fork(void) { pthread_mutex_lock(&dbuf__process.lock); }
DBUF__FUNCTION void dbuf__in_parent(void) { pthread_mutex_unlock(&dbuf__process.lock); }

/* The daemon must not take a child that never sends for its parent: a connection lives as long as one copy of it does. */
DBUF__FUNCTION void dbuf__in_child(void) {
    dbuf_producer *p;
    dbuf__process.forks++;
    dbuf__process.barrier = 0;
    for (p = dbuf__process.first; p != NULL; p = p->next) dbuf__close_descriptors(p);
    pthread_mutex_unlock(&dbuf__process.lock);
}

DBUF__FUNCTION void dbuf__watch_forks(void) { pthread_atfork(dbuf__before_fork, dbuf__in_parent, dbuf__in_child); }

DBUF__FUNCTION void dbuf__enlist(dbuf_producer *p) {
    pthread_mutex_lock(&dbuf__process.lock);
    p->next = dbuf__process.first;
    p->link = &dbuf__process.first;
    if (p->next != NULL) p->next->link = &p->next;
    dbuf__process.first = p;
    pthread_mutex_unlock(&dbuf__process.lock);
}

DBUF__FUNCTION void dbuf__strike_off(dbuf_producer *p) {
    pthread_mutex_lock(&dbuf__process.lock);
    *p->link = p->next;
    if (p->next != NULL) p->next->link = p->link;
    pthread_mutex_unlock(&dbuf__process.lock);
}

/* Begins with what the options say and nothing else. 0, or DBUF_ERR_NO_MEMORY. */
DBUF__FUNCTION int dbuf__begin(dbuf_producer *p) {
    uint64_t capacity = p->capacity,
             seed = dbuf__clock_ns(CLOCK_REALTIME) ^ (uint64_t)getpid() << 40 ^ (uint64_t)(uintptr_t)p;
    void *memory =
        mmap(NULL, DBUF__HEADER_BYTES + (size_t)capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(p, 0, offsetof(struct dbuf_producer, next));
    p->capacity = capacity;
    p->fd = p->bell = p->descriptors[0] = p->descriptors[1] = -1;
    p->retry_ns = DBUF__RETRY_MIN_NS;
    p->max_event = DBUF__MAX_EVENT_ASSUMED;
    p->forks = dbuf__process.forks - 1; /* nobody's, until there is memory */
    if (memory == MAP_FAILED) return dbuf__fail(p, DBUF_ERR_NO_MEMORY);
    p->forks = dbuf__process.forks;
    p->words = (dbuf__words *)memory;
    p->data = (uint8_t *)memory + DBUF__HEADER_BYTES;
    if (getrandom(p->session, sizeof p->session, GRND_NONBLOCK) != (ssize_t)sizeof p->session)
        memcpy(p->session, &seed, sizeof seed);
    dbuf__set_clock(p, 0);
    return 0;
}

/* Lets go of memory and descriptors, and says nothing to anybody. */
DBUF__FUNCTION void dbuf__let_go(dbuf_producer *p) {
    dbuf__close_descriptors(p);
    if (p->words != NULL) munmap(p->words, DBUF__HEADER_BYTES + (size_t)p->capacity);
    p->words = NULL;
}

DBUF__FUNCTION void dbuf__free(dbuf_producer *p) {
    dbuf__strike_off(p);
    dbuf__let_go(p);
    free(p);
}

/* In a child of the process in which it was opened: the ring, the connection and the events are the parent's. */
DBUF__FUNCTION int dbuf__renew_after_fork(dbuf_producer *p) {
    if (DBUF__LIKELY(p->forks == dbuf__process.forks)) return 0;
    dbuf__let_go(p);
    return dbuf__begin(p);
}

/* The program's short name. */
DBUF__FUNCTION size_t dbuf__program_name(char *to, size_t bytes) {
    int file = open("/proc/self/comm", O_RDONLY | O_CLOEXEC);
    ssize_t got = file < 0 ? 0 : read(file, to, bytes);
    if (file >= 0) close(file);
    while (got > 0 && to[got - 1] == '\n') got--;
    return got > 0 ? (size_t)got : 0;
}

DBUF__FUNCTION int dbuf__are_options_valid(const dbuf_options *o) {
    return o->ring_bytes >= DBUF_RING_BYTES_MIN && o->ring_bytes <= DBUF_RING_BYTES_MAX &&
           (o->ring_bytes & (o->ring_bytes - 1)) == 0 && o->wait_ms >= 0 && o->close_wait_ms >= 0 &&
           (o->name == NULL || strlen(o->name) <= DBUF_TAG_BYTES_MAX) &&
           (o->socket == NULL || strlen(o->socket) < sizeof(((struct sockaddr_un *)0)->sun_path));
}

DBUF__FUNCTION int dbuf_open(dbuf_producer **producer, const dbuf_options *options) {
    dbuf_options defaults = dbuf_options_default();
    const dbuf_options *o = options != NULL ? options : &defaults;
    int saved = errno, error = 0;
    dbuf_producer *p;
    *producer = NULL;
    if (!dbuf__are_options_valid(o)) return DBUF_ERR_INVALID;
    pthread_once(&dbuf__process.at_fork, dbuf__watch_forks);
    p = (dbuf_producer *)calloc(1, sizeof *p);
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
