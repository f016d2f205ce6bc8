
/* ==== Sending: room for events, and events that are not on the fast path. */

/* Counts an event that found no room. The daemon reads the bytes after the events, so they are written first. */
DBUF__FUNCTION void dbuf__lose(dbuf_producer *p, size_t payload_bytes) {
    p->lost_full++;
    p->lost_full_bytes += payload_bytes;
    __atomic_store_n(&p->words->lost_bytes, p->words->lost_bytes + payload_bytes, __ATOMIC_RELAXED);
    __atomic_store_n(&p->words->lost_events, p->words->lost_events + 1, __ATOMIC_RELEASE);
}

/* Waits until there is room, at most until until_ns. */
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

/* Says which rule the parts break, or NULL; measures the fields. */
DBUF__FUNCTION const char *dbuf__check(dbuf__parts *e, size_t payload_bytes) {
    size_t i;
    if (payload_bytes == 0) return "the payload is empty";
    if (e->pri < 0 || e->pri > DBUF_PRI_MAX) return "the priority is not from 0 to 191";
    if (e->tag_bytes > DBUF_TAG_BYTES_MAX) return "the tag is longer than 64 bytes";
    e->fields_bytes = 0;
    for (i = 0; i < e->field_count; i++) {
        size_t name_bytes = e->fields[i].name == NULL ? 0 : strlen(e->fields[i].name);
        if (name_bytes < 1) return "the name of a field is empty";
        if (name_bytes > DBUF_FIELD_NAME_BYTES_MAX) return "the name of a field is longer than 64 bytes";
        if (e->fields[i].value_bytes <= DBUF_FIELDS_BYTES_MAX)
            e->fields_bytes += 5 + name_bytes + e->fields[i].value_bytes;
        if (e->fields[i].value_bytes > DBUF_FIELDS_BYTES_MAX || e->fields_bytes > DBUF_FIELDS_BYTES_MAX)
            return "the fields are larger than 16 KiB";
    }
    return NULL;
}

/* Does everything that comes before an event is written. Finds room for it with this many bytes of payload and `spare`
 * bytes behind them. */
DBUF__FUNCTION int dbuf__make_room(dbuf_producer *p, dbuf__parts *e, size_t payload_bytes, size_t spare, int wait_ms,
                                   uint64_t *at, uint64_t *end) {
    uint64_t length;
    const char *broken;
    int error = dbuf__renew_after_fork(p);
    if (error != 0) return error;
    if (p->claim_is_open) return dbuf__fail(p, DBUF_ERR_CLAIM);
    broken = dbuf__check(e, payload_bytes);
    if (broken != NULL) return dbuf__refuse(p, broken);
    if (!dbuf__has_link(p)) dbuf__tend(p, dbuf__timeout_ms(p, wait_ms));
    if (!dbuf__has_link(p) && p->fail_when_down) return DBUF_ERR_NO_DAEMON;
    if (payload_bytes > p->max_event) dbuf__set_fast(p); /* the daemon may take larger ones now */
    length = dbuf__before_payload(e) + (uint64_t)payload_bytes + spare;
    if (payload_bytes > p->max_event || length > p->capacity / 2 - DBUF__RECORD_HEAD_BYTES) {
        dbuf__say(p,
                  "%zu bytes are too big: dbufd takes at most %llu (ingest.max_event), and the ring half of its %llu",
                  payload_bytes, (unsigned long long)p->max_event, (unsigned long long)p->capacity);
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

/* After a publish: writes frames, if the daemon does not take events from the memory by itself. */
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

/* The parts of an event, without its payload. */
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
