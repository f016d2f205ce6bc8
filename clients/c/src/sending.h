
/* ==== Sending
 *
 * Makes room for events and publishes them.
 */

/* Counts an event that found no room; the bytes first, for the daemon. */
DBUF__FUNCTION void dbuf__lose(dbuf_producer *p, size_t payload_bytes) {
    p->lost_full++;
    p->lost_full_bytes += payload_bytes;
    __atomic_store_n(&p->words->lost_bytes, p->words->lost_bytes + payload_bytes, __ATOMIC_RELAXED);
    __atomic_store_n(&p->words->lost_events, p->words->lost_events + 1, __ATOMIC_RELEASE);
}

/* Waits until there is room, or until the moment. */
DBUF__FUNCTION int dbuf__await_room(dbuf_producer *p, uint64_t length, uint64_t until_ns, uint64_t *at, uint64_t *end) {
    uint64_t rung = 0;
    int has_room;
    p->waits++;
    for (;;) {
        uint32_t turn = dbuf__want(p, DBUF__WANT_ROOM);
        uint64_t now_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
        has_room = dbuf__find_room(p, length, at, end);
        if (has_room || now_ns >= until_ns) break;
        dbuf__sleep(p, turn, now_ns, until_ns, &rung);
        dbuf__tend(p, 0);
    }
    __atomic_store_n(&p->words->wants, 0, __ATOMIC_RELAXED);
    return has_room;
}

/* Whether the parts are an event, but for the payload; measures its fields. */
DBUF__FUNCTION int dbuf__measure(dbuf__parts *e) {
    size_t i;
    if (e->pri < 0 || e->pri > DBUF_PRI_MAX || e->tag_bytes > DBUF_TAG_BYTES_MAX) return 0;
    e->fields_bytes = 0;
    for (i = 0; i < e->field_count; i++) {
        size_t name_bytes = e->fields[i].name == NULL ? 0 : strlen(e->fields[i].name);
        if (name_bytes < 1 || name_bytes > DBUF_FIELD_NAME_BYTES_MAX) return 0;
        if (e->fields[i].value_bytes > DBUF_FIELDS_BYTES_MAX) return 0;
        e->fields_bytes += 5 + name_bytes + e->fields[i].value_bytes;
        if (e->fields_bytes > DBUF_FIELDS_BYTES_MAX) return 0;
    }
    return 1;
}

/* Everything before an event can be written: a place for it and for this many bytes of payload, and `spare` behind these. */
DBUF__FUNCTION int dbuf__make_room(dbuf_producer *p, dbuf__parts *e, size_t payload_bytes, size_t spare, int wait_ms,
                                   uint64_t *at, uint64_t *end) {
    uint64_t length;
    int error = dbuf__renew_after_fork(p);
    if (error != 0) return error;
    if (p->claim_is_open) return dbuf__fail(p, DBUF_ERR_CLAIM);
    if (payload_bytes == 0 || !dbuf__measure(e)) return dbuf__fail(p, DBUF_ERR_INVALID);
    if (!dbuf__has_link(p)) dbuf__tend(p, dbuf__timeout_ms(p, wait_ms));
    if (!dbuf__has_link(p) && p->fail_when_down) return DBUF_ERR_NO_DAEMON;
    if (payload_bytes > p->max_event) dbuf__set_fast(p); /* the daemon may take larger ones by now */
    length = dbuf__before_payload(e) + (uint64_t)payload_bytes + spare;
    if (payload_bytes > p->max_event || length > p->capacity / 2 - DBUF__RECORD_HEAD_BYTES) {
        dbuf__say(p, "%zu bytes are too big: dbufd takes %llu, and a record half the ring of %llu", payload_bytes,
                  (unsigned long long)p->max_event, (unsigned long long)p->capacity);
        return DBUF_ERR_TOO_BIG;
    }
    if (DBUF__LIKELY(dbuf__find_room(p, length, at, end))) return 0;
    dbuf__tend(p, 0);
    if (dbuf__find_room(p, length, at, end)) return 0;
    if (wait_ms == DBUF__WAIT_NOT_AND_DO_NOT_COUNT) return dbuf__fail(p, DBUF_ERR_FULL);
    if (wait_ms == DBUF__WAIT_AS_OPTIONS) wait_ms = p->wait_ms;
    if (wait_ms > 0 && dbuf__await_room(p, length, dbuf__deadline(wait_ms), at, end)) return 0;
    dbuf__lose(p, payload_bytes);
    return dbuf__fail(p, DBUF_ERR_FULL);
}

/* After a publish where the daemon does not empty the memory by itself. */
DBUF__FUNCTION void dbuf__published(dbuf_producer *p) {
    if (p->stage == DBUF__RING) return;
    p->high_water = dbuf__max(p->high_water, p->head - p->tail);
    if (p->stage == DBUF__FRAMES) dbuf__pump(p);
}

DBUF__FUNCTION int dbuf__send_parts(dbuf_producer *p, dbuf__parts *e, int wait_ms) {
    int saved = errno;
    uint64_t at, end;
    int error = dbuf__make_room(p, e, e->payload_bytes, 0, wait_ms, &at, &end);
    if (error == 0) {
        if (e->time_ns != 0) dbuf__put_event(p, e, at, end, DBUF__CLOCK_NS, e->time_ns);
        else dbuf__put_event(p, e, at, end, p->clock, dbuf__stamp(p));
        dbuf__published(p);
    }
    errno = saved;
    return error;
}

/* An event's parts, without its payload. */
DBUF__FUNCTION dbuf__parts dbuf__parts_of(const dbuf_event *event) {
    dbuf__parts parts = {event->pri, NULL, 0, event->tag, 0, event->fields, event->field_count, 0, event->time_ns};
    if (event->tag != NULL) parts.tag_bytes = strlen(event->tag);
    return parts;
}

DBUF__FUNCTION int dbuf_send_event(dbuf_producer *producer, const dbuf_event *event) {
    dbuf__parts parts = dbuf__parts_of(event);
    parts.payload = event->payload;
    parts.payload_bytes = event->payload_bytes;
    return dbuf__send_parts(producer, &parts, DBUF__WAIT_AS_OPTIONS);
}

DBUF__FUNCTION int dbuf__claim(dbuf_producer *p, dbuf__parts *e, size_t bytes_max, size_t spare, int wait_ms,
                               void **payload) {
    uint64_t at, end;
    uint8_t *to;
    int error = dbuf__make_room(p, e, bytes_max, spare, wait_ms, &at, &end);
    *payload = NULL;
    if (error != 0) return error;
    dbuf__begin_record(p, at, end);
    to = p->data + (at & (p->capacity - 1)) + DBUF__RECORD_HEAD_BYTES;
    *payload = dbuf__put_before_payload(to, e);
    p->claim_is_open = 1;
    p->claim_kind = e->field_count > 0 ? DBUF__EVENT_WITH_FIELDS : DBUF__EVENT;
    p->claim_tag_bytes = (uint8_t)e->tag_bytes;
    p->claim_pri = e->pri;
    p->claim_at = at;
    p->claim_time = e->time_ns;
    p->claim_before = dbuf__before_payload(e);
    p->claim_max = bytes_max;
    dbuf__set_fast(p);
    return 0;
}

DBUF__FUNCTION int dbuf_claim_event(dbuf_producer *producer, const dbuf_event *event, size_t bytes_max,
                                    void **payload) {
    dbuf__parts parts = dbuf__parts_of(event);
    int saved = errno, error = dbuf__claim(producer, &parts, bytes_max, 0, DBUF__WAIT_AS_OPTIONS, payload);
    errno = saved;
    return error;
}

DBUF__FUNCTION int dbuf_claim(dbuf_producer *producer, int pri, size_t bytes_max, void **payload) {
    dbuf_event event = {pri, NULL, 0, NULL, NULL, 0, 0};
    return dbuf_claim_event(producer, &event, bytes_max, payload);
}

DBUF__FUNCTION void dbuf_discard(dbuf_producer *p) {
    if (p->forks != dbuf__process.forks || !p->claim_is_open) return;
    p->claim_is_open = 0;
    dbuf__set_fast(p);
    __atomic_store_n(&p->words->writing, p->head, __ATOMIC_RELAXED);
}

DBUF__FUNCTION int dbuf_publish(dbuf_producer *p, size_t bytes) {
    uint64_t length = p->claim_before + bytes, end = p->claim_at + dbuf__record_bytes(length), time = p->claim_time;
    int saved = errno;
    unsigned clock = DBUF__CLOCK_NS;
    /* A child that finds its parent's claim open begins anew with its next send. */
    if (p->forks != dbuf__process.forks || !p->claim_is_open) return DBUF_ERR_CLAIM;
    if (bytes == 0 || bytes > p->claim_max) return dbuf__fail(p, DBUF_ERR_INVALID);
    if (time == 0) {
        clock = p->clock;
        time = dbuf__stamp(p);
    }
    dbuf__put_record_head(p->data + (p->claim_at & (p->capacity - 1)), length, p->claim_kind, (unsigned)p->claim_pri,
                          p->claim_tag_bytes, clock, time);
    p->claim_is_open = 0;
    dbuf__set_fast(p);
    __atomic_store_n(&p->words->writing, end, __ATOMIC_RELAXED);
    dbuf__publish_to(p, end, bytes, dbuf__look_time(p, p->claim_time == 0 ? time : 0));
    dbuf__published(p);
    errno = saved;
    return 0;
}
