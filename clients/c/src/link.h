
/* ==== The link: kept up, waited for, and ended. */

/* Ends the link, or notes that none could be made, and writes no line. A `why` of NULL: dbuf_last_error() has the
 * reason already. */
DBUF__FUNCTION void dbuf__drop_link(dbuf_producer *p, const char *why) {
    int had_link = p->stage == DBUF__RING || p->stage == DBUF__FRAMES;
    uint64_t now_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
    if (why != NULL) dbuf__say(p, "%s", why);
    memcpy(p->down_reason, p->error, sizeof p->down_reason);
    if (p->stage == DBUF__RING) dbuf__take_back_ring(p);
    dbuf__release_all(p);
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

/* The same, because the daemon has failed. */
DBUF__FUNCTION void dbuf__end_link(dbuf_producer *p, const char *why) {
    dbuf__drop_link(p, why);
    dbuf__report_no_connection(p);
}

/* Whether the daemon has taken everything from the ring, and has recorded the losses that the header counts. */
DBUF__FUNCTION int dbuf__is_drained(const dbuf_producer *p) {
    return dbuf__seen_tail(p) == p->head &&
           __atomic_load_n(&p->words->lost_events_told, __ATOMIC_RELAXED) == p->words->lost_events;
}

/* Ends the link because this side has lost a descriptor, while the daemon may be there. The daemon sees the
 * connection's end, takes what lies in the ring and records its losses. What it has must not be sent again, so this
 * waits until it has everything. If it has not within DBUF__LAST_TAKE_NS, the daemon has ended the ring before, or is
 * gone: the rest is sent again. */
DBUF__FUNCTION void dbuf__leave(dbuf_producer *p, const char *why) {
    uint64_t now_ns = dbuf__clock_ns(CLOCK_MONOTONIC), until_ns = now_ns + DBUF__LAST_TAKE_NS;
    dbuf__release_all(p);
    while (p->stage == DBUF__RING && !dbuf__is_drained(p) && now_ns < until_ns) {
        poll(NULL, 0, 1);
        now_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
    }
    dbuf__drop_link(p, why);
    /* The daemon has not failed: the next attempt need not wait. */
    p->retry_at_ns = now_ns;
}

DBUF__INLINE int dbuf__has_link(const dbuf_producer *p) { return p->stage == DBUF__RING || p->stage == DBUF__FRAMES; }

/* Does what is due on the link. If it connects, it waits at most timeout_ms for the answer; else it does not wait. */
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
    while (p->stage == DBUF__GREETING || p->stage == DBUF__ASKING) {
        struct pollfd wait = {p->connection.number, POLLIN, 0};
        dbuf__hear(p);
        if (p->stage == DBUF__FRAMES) dbuf__pump(p);
        if (p->stage != DBUF__GREETING && p->stage != DBUF__ASKING) return;
        now_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
        if (now_ns - p->since_ns >= DBUF__ANSWER_NS) dbuf__end_link(p, "dbufd does not answer");
        else if (now_ns >= until_ns) return;
        else poll(&wait, 1, dbuf__slice_ms(now_ns, until_ns));
    }
}

/* The longest that a send waits for a daemon's answer. */
DBUF__INLINE int dbuf__timeout_ms(const dbuf_producer *p, int wait_ms) {
    if (wait_ms == DBUF__WAIT_NOT_AND_DO_NOT_COUNT) return 0;
    if (wait_ms == DBUF__WAIT_AS_OPTIONS) wait_ms = p->wait_ms;
    return wait_ms == 0 ? DBUF__DROP_TIMEOUT_MS : (int)dbuf__min((uint64_t)wait_ms, DBUF__OPEN_TIMEOUT_MS);
}

/* After a publish in a ring: rings the doorbell if that is due, and looks now and then whether the daemon is there. */
DBUF__FUNCTION void dbuf__after_publish(dbuf_producer *p, uint64_t state, uint64_t look_time) {
    int saved = errno;
    /* Before the ring can end here: dbuf__report_unclosed() reads no memory that another thread may replace. */
    p->thread = pthread_self();
    if (p->stage != DBUF__RING) return;
    if (dbuf__is_bell_due(p, state)) {
        dbuf__ring_bell(p);
        p->looked_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
        dbuf__hear(p); /* whether the daemon is still there */
    }
    if (p->stage == DBUF__RING && look_time - p->looked >= p->look_every) {
        /* A daemon that was killed while it was awake needs no doorbell and takes nothing. Then the connection says
         * whether it is gone. Under systemd it is not: the next process has the same connection. */
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

/* Tells the daemon what this producer waits for. The caller then looks whether it has come, and if not, calls
 * dbuf__sleep() with the turn that this returns. */
DBUF__FUNCTION uint32_t dbuf__want(dbuf_producer *p, uint32_t what) {
    if (p->stage != DBUF__RING) return 0;
    __atomic_store_n(&p->words->wants, what, __ATOMIC_RELAXED);
    /* edge turn: the word is written before the look. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    /* A thread that sees this turn sees why it changed. */
    return __atomic_load_n(&p->words->turn, __ATOMIC_ACQUIRE);
}

/* Sleeps until something may have happened on the link, at most a slice. *rung is the link whose doorbell was rung. */
DBUF__FUNCTION void dbuf__sleep(dbuf_producer *p, uint32_t turn, uint64_t now_ns, uint64_t until_ns, uint64_t *rung) {
    struct pollfd wait = {p->connection.number, POLLIN, 0};
    struct timespec slice;
    int slice_ms = dbuf__slice_ms(now_ns, until_ns);
    switch (p->stage) {
    case DBUF__RING:
        if (*rung != p->links) dbuf__ring_bell(p);
        *rung = p->links;
        if (p->stage != DBUF__RING) return;
        slice.tv_sec = 0;
        slice.tv_nsec = (long)slice_ms * 1000000;
        /* The caller looks again, whatever this returns. The futex is not private: two processes share the word. */
        syscall(SYS_futex, &p->words->turn, FUTEX_WAIT, turn, &slice, NULL, 0);
        break;
    case DBUF__FRAMES:
        if (p->send_at != p->head || p->sync_waits) wait.events |= POLLOUT;
        poll(&wait, 1, slice_ms);
        break;
    case DBUF__DOWN: poll(NULL, 0, dbuf__slice_ms(now_ns, dbuf__min(until_ns, p->retry_at_ns))); break;
    default: poll(&wait, 1, slice_ms); break;
    }
}
