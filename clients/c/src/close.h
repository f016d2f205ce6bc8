
/* ==== The end of a producer: by its owner, at the exit of the program, or with the object that opened it. */

/* Events that no daemon has got. */
DBUF__RACY DBUF__FUNCTION uint64_t dbuf__left(const dbuf_producer *p) {
    if (p->stage == DBUF__RING) return 0;
    if (p->stage == DBUF__FRAMES) return p->events - (p->send_number - 1);
    return p->events - p->taken;
}

/* Events that were given up for want of room, of which no daemon knows. A ring's daemon reads them from the header. */
DBUF__RACY DBUF__FUNCTION uint64_t dbuf__unreported(const dbuf_producer *p) {
    return p->stage == DBUF__RING ? 0 : p->lost_full - p->lost_reported;
}

/* Delivers what can be delivered within close_wait_ms. 0, or DBUF_ERR_TIMEOUT if events are left. */
DBUF__FUNCTION int dbuf__deliver(dbuf_producer *p) {
    uint64_t now_ns, until_ns, rung = 0, left;
    dbuf_discard(p);
    /* A ring whose daemon is gone has events that the next daemon must get: the connection says whether it is gone. */
    if (p->stage == DBUF__RING) dbuf__hear(p);
    until_ns = dbuf__deadline(p->close_wait_ms);
    /* What is left is worth an attempt, however short ago the last one was. */
    if (p->stage == DBUF__DOWN && dbuf__left(p) + dbuf__unreported(p) > 0) p->retry_at_ns = 0;
    while (p->stage != DBUF__RING && (p->taken < p->events || dbuf__unreported(p) > 0)) {
        dbuf__tend(p, 0);
        now_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
        if (p->stage == DBUF__RING || (p->taken == p->events && dbuf__unreported(p) == 0) || now_ns >= until_ns) break;
        dbuf__sleep(p, 0, now_ns, until_ns, &rung);
    }
    if (p->stage == DBUF__FRAMES && p->send_at == p->head) {
        uint8_t bye[DBUF__FRAME_HEAD_BYTES];
        dbuf__put_frame_head(bye, 0, DBUF__FRAME_BYE, 0, 0, 0, 0);
        dbuf__write(p, bye, sizeof bye);
    }
    left = dbuf__left(p);
    dbuf__report_not_delivered(p, left, dbuf__unreported(p));
    return left > 0 ? DBUF_ERR_TIMEOUT : 0;
}

DBUF__FUNCTION int dbuf_close(dbuf_producer *producer) {
    int saved = errno, error = 0;
    if (producer == NULL) return 0;
    if (producer->forks == dbuf__process.forks) error = dbuf__deliver(producer);
    dbuf__free(producer);
    errno = saved;
    return error;
}

/* Closes the own producer of a thread, unless another thread closes it already. */
DBUF__FUNCTION void dbuf__close_own(void *own) {
    dbuf_producer *p;
    if (own == NULL) return;
    dbuf__own = NULL;
    pthread_mutex_lock(&dbuf__process.lock);
    for (p = dbuf__process.first; p != NULL && p != own;) p = p->next;
    if (p != NULL && p->is_closing) p = NULL;
    if (p != NULL) {
        p->is_closing = 1;
        dbuf__process.closers++;
    }
    pthread_mutex_unlock(&dbuf__process.lock);
    if (p == NULL) return;
    dbuf_close(p);
    pthread_mutex_lock(&dbuf__process.lock);
    dbuf__process.closers--;
    pthread_mutex_unlock(&dbuf__process.lock);
}

/* What a producer that the program does not close leaves behind. Its thread may be running: then only numbers are read,
 * and not the memory, which that thread may replace. */
DBUF__RACY DBUF__FUNCTION void dbuf__report_unclosed(const dbuf_producer *p) {
    uint64_t left = dbuf__left(p);
    char byte;
    if (p->stage == DBUF__RING && pthread_equal(p->thread, pthread_self()) && dbuf__is_held(&p->connection) &&
        recv(p->connection.number, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
        uint64_t events = p->events - p->base, taken = __atomic_load_n(&p->words->taken, __ATOMIC_RELAXED);
        left = events - dbuf__min(taken, events);
    }
    dbuf__report_not_delivered(p, left, dbuf__unreported(p));
}

/* Reports what the program has not closed. Not before all exit handlers have run, for one of them may close it. */
DBUF__FUNCTION void dbuf__after_exit(void) {
    const dbuf_producer *p;
    int saved = errno;
    dbuf__process.at_unload = NULL;
    pthread_mutex_lock(&dbuf__process.lock);
    for (p = dbuf__process.first; p != NULL; p = p->next)
        if (p->forks == dbuf__process.forks && !p->is_closing) dbuf__report_unclosed(p);
    pthread_mutex_unlock(&dbuf__process.lock);
    errno = saved;
}

/* At the exit of the program. The thread that calls exit(3) gets no destructor of its key, so its own producer is
 * closed here. Those of other threads, and those that the program has not closed, may be in use: they are left
 * alone. */
DBUF__FUNCTION void dbuf__at_exit(void) {
    int saved = errno;
    __atomic_store_n(&dbuf__process.is_ending, 1, __ATOMIC_RELAXED);
    dbuf__process.at_unload = dbuf__after_exit;
    dbuf__close_own(dbuf__own);
    /* An object that is unloaded from here on leaves no destructor behind. */
    if (__atomic_exchange_n(&dbuf__process.has_key, 0, __ATOMIC_RELAXED)) pthread_key_delete(dbuf__process.key);
    errno = saved;
}

/* Ends a producer for good and keeps it until its owner closes it: a destructor of a static object, or an exit handler
 * of the unloaded object, runs later and may call dbuf_send() and dbuf_close(). A thread's own producer has no other
 * owner. */
DBUF__FUNCTION void dbuf__retire(dbuf_producer *p) {
    if (p->is_own) {
        dbuf_close(p);
        return;
    }
    if (p->forks == dbuf__process.forks) dbuf__deliver(p);
    dbuf__let_go(p);
    p->is_gone = 1;
    p->forks = dbuf__process.forks - 1; /* no call uses its memory, which is gone */
}

/* When the shared object of this code is unloaded. A thread that ends later must not run the destructor of its key,
 * whose code is gone. No other thread calls this code any more, so all producers that are still open end here. */
DBUF__FUNCTION void dbuf__at_unload(void) {
    uint64_t until_ns = dbuf__deadline(DBUF__UNLOAD_TIMEOUT_MS);
    int saved = errno;
    __atomic_store_n(&dbuf__process.is_ending, 1, __ATOMIC_RELAXED);
    dbuf__process.at_unload = NULL;
    if (__atomic_exchange_n(&dbuf__process.has_key, 0, __ATOMIC_RELAXED)) pthread_key_delete(dbuf__process.key);
    dbuf__own = NULL;
    for (;;) {
        dbuf_producer *p;
        int closers;
        pthread_mutex_lock(&dbuf__process.lock);
        for (p = dbuf__process.first; p != NULL && p->is_closing;) p = p->next;
        if (p != NULL) p->is_closing = 1;
        closers = dbuf__process.closers;
        pthread_mutex_unlock(&dbuf__process.lock);
        if (p != NULL) dbuf__retire(p);
        /* A destructor that began before the key was deleted is still running. */
        else if (closers > 0 && dbuf__clock_ns(CLOCK_MONOTONIC) < until_ns) poll(NULL, 0, 1);
        else break;
    }
    errno = saved;
}

/* Each file has this function; its first call does the work. When an object is unloaded, destructors run before the
 * object's exit handlers, and at_unload is dbuf__at_unload(). At the exit of the program they run after all exit
 * handlers, one of which has set it to dbuf__after_exit(). */
static __attribute__((destructor)) void dbuf__unload(void) {
    if (dbuf__process.at_unload != NULL) dbuf__process.at_unload();
}
