
/* ==== The outcome of events: durable, or counted. */

/* Asks the daemon to make events up to this one durable, unless it has been asked on this link. */
DBUF__FUNCTION void dbuf__ask_sync(dbuf_producer *p, uint64_t wanted) {
    uint8_t sync[DBUF__FRAME_HEAD_BYTES];
    if (p->stage == DBUF__RING) {
        /* dbuf__want() has the fence that orders this, and the doorbell makes the daemon look. */
        __atomic_store_n(&p->words->sync, wanted - p->base, __ATOMIC_RELAXED);
    } else if (p->stage == DBUF__FRAMES && p->send_at == p->head && p->sync_number < wanted) {
        ssize_t sent;
        if (!dbuf__holds_connection(p)) return;
        dbuf__put_frame_head(sync, 0, DBUF__FRAME_SYNC, 0, 0, 0, 0);
        sent = send(p->connection.number, sync, sizeof sync, MSG_DONTWAIT | MSG_NOSIGNAL);
        /* The events may have filled the socket: then the SYNC waits for room, as events do. */
        p->sync_waits = sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
        if (p->sync_waits) return;
        p->sync_number = wanted;
        p->sync_known = p->known;
        if (sent != (ssize_t)sizeof sync) dbuf__fail_link(p, sent < 0 ? errno : EPIPE);
    }
}

/* Says what dbuf_sync() found. */
DBUF__FUNCTION void dbuf__say_not_stored(dbuf_producer *p, uint64_t not_stored, uint64_t unconfirmed) {
    char lost[64] = "";
    if (not_stored > 0)
        snprintf(lost, sizeof lost, "%llu event%s not stored", (unsigned long long)not_stored,
                 not_stored == 1 ? " was" : "s were");
    if (unconfirmed == 0) dbuf__say(p, "%s", lost);
    else
        dbuf__say(p,
                  "%s%s%llu event%s unconfirmed: the daemon took them and died before it called them durable; most are "
                  "probably stored",
                  lost, lost[0] != '\0' ? "; " : "", (unsigned long long)unconfirmed,
                  unconfirmed == 1 ? " is" : "s are");
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
    p->sync_waits = 0; /* only this call waits for room: others would find the socket writable again and again */
    not_stored = counts.lost + counts.refused;
    if (sure < wanted) {
        error = dbuf__has_link(p) ? DBUF_ERR_TIMEOUT : DBUF_ERR_NO_DAEMON;
        if (error == DBUF_ERR_TIMEOUT) dbuf__fail(p, error);
    } else if (not_stored > p->not_stored_told || p->unconfirmed > p->unconfirmed_told) {
        dbuf__say_not_stored(p, not_stored - p->not_stored_told, p->unconfirmed - p->unconfirmed_told);
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
    if (p->forks != dbuf__process.forks) return; /* a child that has not called anything yet */
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
