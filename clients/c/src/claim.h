
/* ==== Claims, and texts that are formatted into them. */

/* Claims room for at most bytes_max bytes, and for `spare` bytes that are not published. */
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
    /* A child does not have its parent's claim. */
    if (p->forks != dbuf__process.forks || !p->claim_is_open) return DBUF_ERR_CLAIM;
    if (bytes == 0) return dbuf__refuse(p, "the payload is empty");
    if (bytes > p->claim_max) return dbuf__refuse(p, "the payload is larger than the claim");
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

enum { DBUF__TEXT_BYTES = 1023 }; /* claimed for a text before its length is known */

DBUF__FUNCTION int dbuf_vprintf(dbuf_producer *producer, int pri, const char *format, va_list arguments) {
    int saved = errno, error, length = -1;
    size_t room = (size_t)dbuf__min(DBUF__TEXT_BYTES, producer->max_event);
    dbuf__parts parts = {pri, NULL, 0, NULL, 0, NULL, 0, 0, 0};
    void *place;
    va_list again;
    va_copy(again, arguments);
    /* One spare byte is for the NUL, which is not sent. A format with %m gets the caller's errno. */
    error = dbuf__claim(producer, &parts, room, 1, DBUF__WAIT_NOT_AND_DO_NOT_COUNT, &place);
    errno = saved;
    if (error == 0 || error == DBUF_ERR_FULL)
        length = vsnprintf((char *)place, error == 0 ? room + 1 : 0, format, arguments);
    if (length >= 0 && (error != 0 || (size_t)length > room)) {
        dbuf_discard(producer);
        room = (size_t)length;
        error = dbuf__claim(producer, &parts, room > 0 ? room : 1, 1, DBUF__WAIT_AS_OPTIONS, &place);
        errno = saved;
        if (error == 0) length = vsnprintf((char *)place, room + 1, format, again);
    }
    va_end(again);
    if (error == 0) {
        if (length > 0 && (size_t)length <= room && ((const char *)place)[length - 1] == '\n') length--;
        if (length == 0) error = dbuf__refuse(producer, "the payload is empty");
        else if (length < 0 || (size_t)length > room) error = dbuf__refuse(producer, "the text cannot be formatted");
        else error = dbuf_publish(producer, (size_t)length);
        if (error != 0) dbuf_discard(producer);
    }
    errno = saved;
    return error;
}

DBUF__FUNCTION int dbuf_printf(dbuf_producer *producer, int pri, const char *format, ...) {
    va_list arguments;
    int error;
    va_start(arguments, format);
    error = dbuf_vprintf(producer, pri, format, arguments);
    va_end(arguments);
    return error;
}
