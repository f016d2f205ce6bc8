
/* ==== Records: events in the memory, written and read. */

/* A record in the memory. */
typedef struct dbuf__record {
    uint8_t *head; /* its first byte */
    uint64_t length, end;
    unsigned kind, pri, tag_bytes, clock;
    uint64_t time;
} dbuf__record;

/* Reads the record at a position before head. 0 if there is no valid one: another process has written into the
 * memory. */
DBUF__FUNCTION int dbuf__read_record(const dbuf_producer *p, uint64_t at, dbuf__record *record) {
    uint64_t offset = at & (p->capacity - 1), bytes;
    record->head = p->data + offset;
    record->length = dbuf__u32(record->head);
    record->kind = record->head[4];
    record->pri = record->head[5];
    record->tag_bytes = record->head[6];
    record->clock = record->head[7];
    record->time = dbuf__u64(record->head + 8);
    bytes = dbuf__record_bytes(record->length);
    record->end = at + bytes;
    return bytes <= p->capacity - offset && bytes <= p->head - at && record->tag_bytes <= record->length &&
           record->kind >= DBUF__EVENT && record->kind <= DBUF__PAD;
}

/* The position up to which the daemon has taken records, as the ring says or, by frames, as it has acknowledged. An
 * impossible value is ignored. */
DBUF__FUNCTION uint64_t dbuf__seen_tail(const dbuf_producer *p) {
    uint64_t tail;
    if (p->stage != DBUF__RING) return p->tail;
    /* edge room: the daemon has copied what lies before. */
    tail = __atomic_load_n(&p->words->tail, __ATOMIC_ACQUIRE);
    return tail <= p->head && tail >= p->tail ? tail : p->tail;
}

/* Gives up all that waits in the memory: another process has written there, and what lies there are no records. */
DBUF__FUNCTION void dbuf__abandon(dbuf_producer *p) {
    p->lost += p->events - p->taken;
    p->taken = p->events;
    p->tail = p->send_at = p->head;
    p->send_number = p->taken + 1;
    p->send_done = 0;
}

/* Opens or closes the fast path, and reads the daemon's limit. */
DBUF__FUNCTION void dbuf__set_fast(dbuf_producer *p) {
    uint64_t told = __atomic_load_n(&p->words->max_event, __ATOMIC_RELAXED);
    if (p->stage == DBUF__RING && told != 0) p->max_event = told;
    p->fast_bytes = 0;
    if (p->stage == DBUF__RING && !p->claim_is_open)
        p->fast_bytes = dbuf__min(p->max_event, p->capacity / 2 - DBUF__RECORD_HEAD_BYTES);
}

/* Finds room for a record with this many bytes after its head: *at is where it begins, *end is where it ends. If it
 * would reach beyond the end of the data, a pad goes before it. 0 if there is no room; then nothing is changed. */
DBUF__FUNCTION int dbuf__find_room(dbuf_producer *p, uint64_t length, uint64_t *at, uint64_t *end) {
    uint64_t record = dbuf__record_bytes(length), to_end = p->capacity - (p->head & (p->capacity - 1));
    *at = p->head + (record > to_end ? to_end : 0);
    *end = *at + record;
    if (*end - p->tail <= p->capacity) return 1;
    p->tail = dbuf__seen_tail(p);
    return *end - p->tail <= p->capacity;
}

/* Begins a record at the room that was found. If this process dies now, the daemon sees that an event was begun. */
DBUF__FUNCTION void dbuf__begin_record(dbuf_producer *p, uint64_t at, uint64_t end) {
    __atomic_store_n(&p->words->writing, end, __ATOMIC_RELAXED);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (at != p->head)
        dbuf__put_record_head(p->data + (p->head & (p->capacity - 1)), at - p->head - DBUF__RECORD_HEAD_BYTES,
                              DBUF__PAD, 0, 0, DBUF__CLOCK_NONE, 0);
}

/* The bytes of tag and fields, which are in front of the payload. */
DBUF__INLINE size_t dbuf__before_payload(const dbuf__parts *e) {
    return e->tag_bytes + (e->field_count > 0 ? 4 + e->fields_bytes : 0);
}

/* Writes tag and fields; returns where the payload goes. */
DBUF__FUNCTION uint8_t *dbuf__put_before_payload(uint8_t *to, const dbuf__parts *e) {
    size_t i;
    uint32_t length = (uint32_t)e->fields_bytes;
    if (e->tag_bytes > 0) memcpy(to, e->tag, e->tag_bytes);
    to += e->tag_bytes;
    if (e->field_count == 0) return to;
    memcpy(to, &length, sizeof length);
    to += sizeof length;
    for (i = 0; i < e->field_count; i++) {
        const dbuf_field *field = &e->fields[i];
        size_t name_bytes = strlen(field->name);
        *to = (uint8_t)name_bytes;
        length = (uint32_t)field->value_bytes;
        memcpy(to + 1, &length, sizeof length);
        memcpy(to + 5, field->name, name_bytes);
        if (field->value_bytes > 0) memcpy(to + 5 + name_bytes, field->value, field->value_bytes);
        to += 5 + name_bytes + field->value_bytes;
    }
    return to;
}

/* Writes and publishes a whole event at the room that was found for it. */
DBUF__FUNCTION void dbuf__put_event(dbuf_producer *p, const dbuf__parts *e, uint64_t at, uint64_t end, unsigned clock,
                                    uint64_t time) {
    uint8_t *to = p->data + (at & (p->capacity - 1));
    unsigned kind = e->field_count > 0 ? DBUF__EVENT_WITH_FIELDS : DBUF__EVENT;
    dbuf__begin_record(p, at, end);
    dbuf__put_record_head(to, dbuf__before_payload(e) + e->payload_bytes, kind, (unsigned)e->pri, e->tag_bytes, clock,
                          time);
    to = dbuf__put_before_payload(to + DBUF__RECORD_HEAD_BYTES, e);
    if (e->payload_bytes > 0) memcpy(to, e->payload, e->payload_bytes);
    dbuf__publish_to(p, end, e->payload_bytes, dbuf__look_time(p, e->time_ns == 0 ? time : 0));
}
