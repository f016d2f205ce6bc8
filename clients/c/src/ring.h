
/* ==== The ring
 *
 * Takes a ring over, rings its doorbell, waits for it, and notices its end.
 */

/* F_GET_SEALS and F_SEAL_SHRINK of fcntl(2), which the C library has for _GNU_SOURCE alone. */
enum { DBUF__GET_SEALS = 1034, DBUF__SEAL_SHRINK = 2 };
/* MADV_POPULATE_WRITE of madvise(2), which older headers lack. */
enum { DBUF__POPULATE_WRITE = 23 };

/* Has the daemon's barrier reach this process: once in each. */
DBUF__FUNCTION int dbuf__is_ordered(void) {
    int is = __atomic_load_n(&dbuf__process.barrier, __ATOMIC_RELAXED);
    if (is == 0) {
        is = syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0) == 0 ? 1 : -1;
        __atomic_store_n(&dbuf__process.barrier, is, __ATOMIC_RELAXED);
    }
    return is > 0;
}

/* By what the events of this link are stamped. */
DBUF__FUNCTION void dbuf__set_clock(dbuf_producer *p, int ticks) {
    p->clock = (uint8_t)(!p->stamps ? DBUF__CLOCK_NONE : ticks ? DBUF__CLOCK_TICKS : DBUF__CLOCK_NS);
    p->look_every = ticks ? DBUF__LOOK_TICKS : DBUF__LOOK_NS;
    p->looked = dbuf__stamp(p);
}

/* Maps the memory that was passed. NULL if it is no ring of this version and size. */
DBUF__FUNCTION dbuf__words *dbuf__map_ring(const dbuf_producer *p, int memory) {
    size_t bytes = DBUF__HEADER_BYTES + (size_t)p->capacity;
    struct stat status;
    dbuf__words *words;
    void *mapped;
    int seals = fcntl(memory, DBUF__GET_SEALS);
    /* Without the seal a daemon that shrinks it could end this program by SIGBUS. */
    if (seals < 0 || !(seals & DBUF__SEAL_SHRINK)) return NULL;
    if (fstat(memory, &status) != 0 || (uint64_t)status.st_size != bytes) return NULL;
    mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (mapped == MAP_FAILED) return NULL;
    words = (dbuf__words *)mapped;
    if (memcmp(&words->magic, "dbufring", 8) == 0 && words->version == 1 && words->header_bytes == DBUF__HEADER_BYTES)
        return words;
    munmap(mapped, bytes);
    return NULL;
}

/* Writes what waits in the memory into a new ring, which it fits into. Returns its head there. */
DBUF__FUNCTION uint64_t dbuf__move_to(dbuf_producer *p, dbuf__words *to) {
    uint8_t *data = (uint8_t *)to + DBUF__HEADER_BYTES;
    uint64_t at, head = 0;
    dbuf__record record;
    for (at = p->tail; at != p->head; at = record.end) {
        uint64_t bytes;
        if (!dbuf__read_record(p, at, &record)) {
            dbuf__abandon(p);
            return 0;
        }
        if (record.kind == DBUF__PAD) continue;
        bytes = record.end - at;
        memcpy(data + head, record.head, (size_t)bytes);
        head += bytes;
    }
    /* So are the losses of which no daemon knows; the bytes first. */
    to->lost_bytes = p->words->lost_bytes - dbuf__min(p->words->lost_bytes, p->words->lost_bytes_told);
    __atomic_store_n(&to->lost_events,
                     p->words->lost_events - dbuf__min(p->words->lost_events, p->words->lost_events_told),
                     __ATOMIC_RELEASE);
    __atomic_store_n(&to->writing, head, __ATOMIC_RELAXED);
    return head;
}

DBUF__FUNCTION void dbuf__ring_bell(dbuf_producer *p) {
    uint64_t one = 1;
    p->doorbells++;
    /* It fails only if somebody has rung 2^64 times. */
    if (write(p->bell, &one, sizeof one) != (ssize_t)sizeof one) dbuf__say(p, "the doorbell: %s", strerror(errno));
}

/* Whether a daemon in this state is to be woken: once for each time that it falls asleep. */
DBUF__FUNCTION int dbuf__is_bell_due(dbuf_producer *p, uint64_t state) {
    if ((state & DBUF__STATE_MASK) == 0 || state == p->rung) return 0;
    if ((state & DBUF__STATE_MASK) != DBUF__ASLEEP) {
        p->tail = dbuf__seen_tail(p);
        if (p->head - p->tail <= p->capacity / 2) return 0;
    }
    p->rung = state;
    return 1;
}

/* Goes on in the ring that GRANT brought. */
DBUF__FUNCTION void dbuf__granted(dbuf_producer *p) {
    dbuf__words *words = p->descriptors[0] < 0 || p->descriptors[1] < 0 ? NULL : dbuf__map_ring(p, p->descriptors[0]);
    uint64_t head;
    if (words == NULL) {
        p->ring_is_bad = 1; /* frames, then */
        dbuf__end_link(p, "dbufd gave a ring that cannot be used");
        p->retry_at_ns = 0;
        return;
    }
    /* A ring does not vouch for events that came to the daemon before it. */
    if (p->settled > dbuf__max(p->durable, p->doubted)) {
        p->unconfirmed += p->settled - dbuf__max(p->durable, p->doubted);
        p->doubted = p->settled;
    }
    /* Where the kernel cannot, it may be able to when a page is needed. */
    if (p->populate) (void)madvise(words, DBUF__HEADER_BYTES + (size_t)p->capacity, DBUF__POPULATE_WRITE);
    head = dbuf__move_to(p, words);
    munmap(p->words, DBUF__HEADER_BYTES + (size_t)p->capacity);
    p->words = words;
    p->data = (uint8_t *)words + DBUF__HEADER_BYTES;
    p->bell = p->descriptors[1];
    p->descriptors[1] = -1;
    dbuf__close_descriptor(&p->descriptors[0]);
    p->stage = DBUF__RING;
    p->links++;
    p->base = p->settled;
    p->tail = 0;
    p->rung = 0;
    p->fence = !dbuf__is_ordered() || (words->flags & DBUF__FLAG_FENCE) != 0;
    p->first_ticks = __builtin_ia32_rdtsc();
    p->first_ns = p->looked_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
    dbuf__set_clock(p, (words->flags & DBUF__FLAG_TICKS) != 0);
    dbuf__set_fast(p);
    p->head = head;
    if (head == 0) return;
    /* edges head and asleep, as with every publish; here a fence costs nothing. */
    __atomic_store_n(&words->head, head, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (dbuf__is_bell_due(p, __atomic_load_n(&words->state, __ATOMIC_RELAXED))) dbuf__ring_bell(p);
}

/* What a ring's words say of its events, added to what was before. */
typedef struct dbuf__counts {
    uint64_t persisted, durable, lost, refused;
} dbuf__counts;

DBUF__FUNCTION dbuf__counts dbuf__count(const dbuf_producer *p) {
    dbuf__counts counts = {p->persisted, p->durable, p->lost, p->refused};
    uint64_t persisted, durable, events = p->events - p->base;
    if (p->stage != DBUF__RING) return counts;
    /* What is lost was written before these two. */
    persisted = dbuf__min(__atomic_load_n(&p->words->persisted, __ATOMIC_ACQUIRE), events);
    durable = dbuf__min(__atomic_load_n(&p->words->durable, __ATOMIC_ACQUIRE), events);
    if (persisted > 0) counts.persisted = dbuf__max(counts.persisted, p->base + persisted);
    if (durable > 0) counts.durable = dbuf__max(counts.durable, p->base + durable);
    counts.lost += dbuf__min(__atomic_load_n(&p->words->lost, __ATOMIC_RELAXED), events);
    counts.refused += dbuf__min(__atomic_load_n(&p->words->refused, __ATOMIC_RELAXED), events);
    return counts;
}

/* The ring's memory becomes this producer's alone: what was not taken is counted, and its ticks become nanoseconds. */
DBUF__FUNCTION void dbuf__take_back_ring(dbuf_producer *p) {
    uint64_t ticks = __builtin_ia32_rdtsc(), ns = dbuf__clock_ns(CLOCK_REALTIME), at, waiting = 0;
    double ns_a_tick = (double)(dbuf__clock_ns(CLOCK_MONOTONIC) - p->first_ns) / (double)(ticks - p->first_ticks + 1);
    dbuf__counts counts = dbuf__count(p);
    dbuf__record record;
    p->persisted = counts.persisted;
    p->durable = counts.durable;
    p->lost = counts.lost;
    p->refused = counts.refused;
    p->high_water = dbuf__max(p->high_water, dbuf__min(p->words->high_water, p->capacity));
    p->tail = dbuf__seen_tail(p);
    for (at = p->tail; at != p->head; at = record.end) {
        if (!dbuf__read_record(p, at, &record)) {
            dbuf__abandon(p);
            return;
        }
        waiting += record.kind != DBUF__PAD;
        if (record.clock != DBUF__CLOCK_TICKS) continue;
        record.time = ns - (uint64_t)((double)(ticks - record.time) * ns_a_tick);
        record.head[7] = DBUF__CLOCK_NS;
        memcpy(record.head + 8, &record.time, sizeof record.time);
    }
    p->settled = p->events - dbuf__min(waiting, p->events);
}

/* The connection has ended, or could not be made. `why` is NULL where the daemon has said why. */
DBUF__FUNCTION void dbuf__end_link(dbuf_producer *p, const char *why) {
    int had_link = p->stage == DBUF__RING || p->stage == DBUF__FRAMES;
    uint64_t now_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
    if (why != NULL) dbuf__say(p, "%s", why);
    if (p->stage == DBUF__RING) dbuf__take_back_ring(p);
    dbuf__close_descriptors(p);
    p->stage = DBUF__DOWN;
    p->fence = 0;
    dbuf__set_clock(p, 0);
    dbuf__set_fast(p);
    if (had_link && now_ns - p->since_ns >= DBUF__STEADY_NS) {
        p->retry_ns = DBUF__RETRY_MIN_NS;
        p->retry_at_ns = now_ns;
    } else {
        p->retry_at_ns = now_ns + p->retry_ns;
        p->retry_ns = dbuf__min(2 * p->retry_ns, DBUF__RETRY_MAX_NS);
    }
}

DBUF__INLINE int dbuf__has_link(const dbuf_producer *p) { return p->stage == DBUF__RING || p->stage == DBUF__FRAMES; }

/* Does what is due on the link. Only a connection that it makes itself is waited for, at most timeout_ms. */
DBUF__FUNCTION void dbuf__tend(dbuf_producer *p, int timeout_ms) {
    uint64_t now_ns = dbuf__clock_ns(CLOCK_MONOTONIC), until_ns = now_ns;
    if (p->stage == DBUF__RING && now_ns - p->looked_ns >= DBUF__LOOK_MIN_NS) {
        p->looked_ns = now_ns;
        dbuf__hear(p);
    }
    if (p->stage == DBUF__FRAMES) dbuf__pump(p);
    if (p->stage == DBUF__DOWN && now_ns >= p->retry_at_ns) {
        dbuf__connect(p, now_ns);
        until_ns += (uint64_t)timeout_ms * DBUF__MS;
    }
    while (p->stage == DBUF__HELLO || p->stage == DBUF__ASKED) {
        struct pollfd wait = {p->fd, POLLIN, 0};
        dbuf__hear(p);
        if (p->stage == DBUF__FRAMES) dbuf__pump(p);
        if (p->stage != DBUF__HELLO && p->stage != DBUF__ASKED) return;
        now_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
        if (now_ns - p->since_ns >= DBUF__ANSWER_NS) dbuf__end_link(p, "dbufd does not answer");
        else if (now_ns >= until_ns) return;
        else poll(&wait, 1, dbuf__slice_ms(now_ns, until_ns));
    }
}

/* How long a send may wait for a daemon's answer. */
DBUF__INLINE int dbuf__timeout_ms(const dbuf_producer *p, int wait_ms) {
    if (wait_ms == DBUF__WAIT_NOT_AND_DO_NOT_COUNT) return 0;
    if (wait_ms == DBUF__WAIT_AS_OPTIONS) wait_ms = p->wait_ms;
    return wait_ms == 0 ? DBUF__DROP_TIMEOUT_MS : (int)dbuf__min((uint64_t)wait_ms, DBUF__OPEN_TIMEOUT_MS);
}

/* After a publish on a ring: rings the bell if that is due, and sees now and then whether anybody is there. */
DBUF__FUNCTION void dbuf__after_publish(dbuf_producer *p, uint64_t state, uint64_t look_time) {
    int saved = errno;
    if (p->stage != DBUF__RING) return;
    if (dbuf__is_bell_due(p, state)) {
        dbuf__ring_bell(p);
        p->looked_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
        dbuf__hear(p); /* the daemon that is rung for is still there */
    }
    if (p->stage == DBUF__RING && look_time - p->looked >= p->look_every) {
        /* A daemon that was killed while it was awake rings no bell and takes nothing: then, and only then, the connection says
         * whether it is gone. One that systemd starts again has not let go of it. */
        uint64_t tail = dbuf__seen_tail(p), now_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
        p->looked = look_time;
        if (tail == p->tail_at_look && now_ns - p->looked_ns >= DBUF__LOOK_NS) {
            p->looked_ns = now_ns;
            dbuf__hear(p);
        }
        p->tail_at_look = tail;
        dbuf__set_fast(p);
    }
    if (p->stage == DBUF__DOWN) dbuf__tend(p, dbuf__timeout_ms(p, DBUF__WAIT_AS_OPTIONS));
    errno = saved;
}

/* Says what this side waits for; what is waited for is to be looked at after this, and then dbuf__sleep() with what it returned. */
DBUF__FUNCTION uint32_t dbuf__want(dbuf_producer *p, uint32_t what) {
    if (p->stage != DBUF__RING) return 0;
    __atomic_store_n(&p->words->wants, what, __ATOMIC_RELAXED);
    /* edge turn: the wish is there before the look. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    /* Who sees this turn sees what it was changed for. */
    return __atomic_load_n(&p->words->turn, __ATOMIC_ACQUIRE);
}

/* Sleeps until something may have happened on the link, at most a slice. `*rung` is the link for which the bell was rung. */
DBUF__FUNCTION void dbuf__sleep(dbuf_producer *p, uint32_t turn, uint64_t now_ns, uint64_t until_ns, uint64_t *rung) {
    struct pollfd wait = {p->fd, POLLIN, 0};
    struct timespec slice;
    int slice_ms = dbuf__slice_ms(now_ns, until_ns);
    switch (p->stage) {
    case DBUF__RING:
        if (*rung != p->links) dbuf__ring_bell(p);
        *rung = p->links;
        slice.tv_sec = 0;
        slice.tv_nsec = (long)slice_ms * 1000000;
        /* Whatever it says, the caller looks again. Two processes share the word: no private futex. */
        syscall(SYS_futex, &p->words->turn, FUTEX_WAIT, turn, &slice, NULL, 0);
        break;
    case DBUF__FRAMES:
        if (p->send_at != p->head) wait.events |= POLLOUT;
        poll(&wait, 1, slice_ms);
        break;
    case DBUF__DOWN: poll(NULL, 0, dbuf__slice_ms(now_ns, dbuf__min(until_ns, p->retry_at_ns))); break;
    default: poll(&wait, 1, slice_ms); break;
    }
}
