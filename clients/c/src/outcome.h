
/* ==== The outcome
 *
 * Syncs, counts, and closes.
 */

/* Asks the daemon to make events up to this one durable, if it has not been asked on this link. */
DBUF__FUNCTION void dbuf__ask_sync(dbuf_producer *p, uint64_t wanted) {
    uint8_t sync[DBUF__FRAME_HEAD_BYTES];
    if (p->stage == DBUF__RING) {
        /* The fence of dbuf__want() orders it, and the bell brings the daemon's look. */
        __atomic_store_n(&p->words->sync, wanted - p->base, __ATOMIC_RELAXED);
    } else if (p->stage == DBUF__FRAMES && p->send_at == p->head && p->sync_number < wanted) {
        dbuf__put_frame_head(sync, 0, DBUF__FRAME_SYNC, 0, 0, 0, 0);
        p->sync_number = wanted;
        p->sync_known = p->known;
        dbuf__write(p, sync, sizeof sync);
    }
}

DBUF__FUNCTION int dbuf_sync(dbuf_producer *producer, int timeout_ms) {
    dbuf_producer *p = producer;
    uint64_t wanted, until_ns = dbuf__deadline(timeout_ms), rung = 0, sure = 0, not_stored;
    int saved = errno, error = dbuf__renew_after_fork(p);
    dbuf__counts counts;
    if (error == 0 && p->claim_is_open) error = dbuf__fail(p, DBUF_ERR_CLAIM);
    if (error != 0) {
        errno = saved;
        return error;
    }
    wanted = p->events;
    dbuf__tend(p, (int)dbuf__min((uint64_t)(timeout_ms > 0 ? timeout_ms : 0), DBUF__OPEN_TIMEOUT_MS));
    for (;;) {
        uint32_t turn;
        uint64_t now_ns;
        dbuf__ask_sync(p, wanted);
        turn = dbuf__want(p, DBUF__WANT_DURABLE);
        now_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
        counts = dbuf__count(p);
        sure = dbuf__max(counts.durable, p->doubted);
        if (sure >= wanted || now_ns >= until_ns || (p->fail_when_down && !dbuf__has_link(p))) break;
        dbuf__sleep(p, turn, now_ns, until_ns, &rung);
        dbuf__tend(p, 0);
    }
    __atomic_store_n(&p->words->wants, 0, __ATOMIC_RELAXED);
    not_stored = counts.lost + counts.refused;
    if (sure < wanted) {
        error = dbuf__has_link(p) ? DBUF_ERR_TIMEOUT : DBUF_ERR_NO_DAEMON;
        if (error == DBUF_ERR_TIMEOUT) dbuf__fail(p, error);
    } else if (not_stored > p->not_stored_told || p->unconfirmed > p->unconfirmed_told) {
        dbuf__say(p, "%llu events were not stored, and of %llu a daemon that is gone did not say so",
                  (unsigned long long)(not_stored - p->not_stored_told),
                  (unsigned long long)(p->unconfirmed - p->unconfirmed_told));
        p->not_stored_told = not_stored;
        p->unconfirmed_told = p->unconfirmed;
        error = DBUF_ERR_NOT_STORED;
    }
    errno = saved;
    return error;
}

DBUF__FUNCTION int dbuf_tend(dbuf_producer *producer) {
    int saved = errno, error = dbuf__renew_after_fork(producer);
    if (error == 0 && producer->claim_is_open) error = dbuf__fail(producer, DBUF_ERR_CLAIM);
    if (error == 0) dbuf__tend(producer, 0);
    errno = saved;
    return error;
}

DBUF__FUNCTION void dbuf_get_statistics(const dbuf_producer *producer, dbuf_statistics *statistics) {
    const dbuf_producer *p = producer;
    dbuf__counts counts;
    memset(statistics, 0, sizeof *statistics);
    statistics->capacity_bytes = p->capacity;
    if (p->forks != dbuf__process.forks) return; /* a child that has not begun: nothing was sent */
    counts = dbuf__count(p);
    statistics->events = p->events;
    statistics->bytes = p->bytes;
    statistics->lost_full = p->lost_full;
    statistics->lost_full_bytes = p->lost_full_bytes;
    statistics->refused = counts.refused;
    statistics->lost = counts.lost;
    statistics->unconfirmed = p->unconfirmed;
    statistics->persisted = counts.persisted;
    statistics->durable = counts.durable;
    statistics->waiting_bytes = p->head - dbuf__seen_tail(p);
    statistics->high_water_bytes = dbuf__max(p->high_water, statistics->waiting_bytes);
    if (p->stage == DBUF__RING)
        statistics->high_water_bytes =
            dbuf__max(statistics->high_water_bytes, dbuf__min(p->words->high_water, p->capacity));
    statistics->doorbells = p->doorbells;
    statistics->waits = p->waits;
    statistics->links = p->links;
    statistics->link = p->stage == DBUF__RING     ? DBUF_LINK_RING
                       : p->stage == DBUF__FRAMES ? DBUF_LINK_FRAMES
                                                  : DBUF_LINK_NONE;
}

DBUF__FUNCTION const char *dbuf_last_error(const dbuf_producer *producer) { return producer->error; }

DBUF__FUNCTION int dbuf_close(dbuf_producer *producer) {
    dbuf_producer *p = producer;
    int saved = errno, error = 0;
    if (p == NULL) return 0;
    if (p->forks == dbuf__process.forks) {
        uint64_t now_ns = dbuf__clock_ns(CLOCK_MONOTONIC), until_ns = now_ns + (uint64_t)p->close_wait_ms * DBUF__MS,
                 rung = 0;
        dbuf_discard(p);
        if (p->stage == DBUF__RING) dbuf__hear(p);
        /* What is left is worth an attempt, however long ago the last one was. */
        if (p->stage == DBUF__DOWN && p->settled < p->events) p->retry_at_ns = 0;
        while (p->stage != DBUF__RING && p->settled < p->events) {
            dbuf__tend(p, 0);
            now_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
            if (p->stage == DBUF__RING || p->settled == p->events || now_ns >= until_ns) break;
            dbuf__sleep(p, 0, now_ns, until_ns, &rung);
        }
        if (p->stage == DBUF__FRAMES && p->send_at == p->head) {
            uint8_t bye[DBUF__FRAME_HEAD_BYTES];
            dbuf__put_frame_head(bye, 0, DBUF__FRAME_BYE, 0, 0, 0, 0);
            dbuf__write(p, bye, sizeof bye);
        } else if (p->stage != DBUF__RING && p->settled < p->events) error = DBUF_ERR_TIMEOUT;
    }
    dbuf__free(p);
    errno = saved;
    return error;
}
