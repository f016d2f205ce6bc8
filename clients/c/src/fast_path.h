
/* ==== The fast path
 *
 * | edge | here | at the daemon | what would break |
 * |---|---|---|---|
 * | head | store of head, release | its look, acquire | it copies a record that is not there yet |
 * | room | load of tail, acquire | its take, release | a record is written over bytes that are being copied |
 * | asleep | head, then state; a barrier for the compiler | state, membarrier(2), then head | both miss each other: nobody rings |
 * | turn | wants, full fence, then a look | the deed, full fence, then wants | this side sleeps, and nobody wakes it |
 */

DBUF__INLINE uint64_t dbuf__record_bytes(uint64_t length) {
    return (DBUF__RECORD_HEAD_BYTES + length + 15) & ~(uint64_t)15;
}

DBUF__INLINE void dbuf__put_record_head(uint8_t *to, uint64_t length, unsigned kind, unsigned pri, size_t tag_bytes,
                                        unsigned clock, uint64_t time) {
    uint64_t first =
        length | (uint64_t)kind << 32 | (uint64_t)pri << 40 | (uint64_t)tag_bytes << 48 | (uint64_t)clock << 56;
    memcpy(to, &first, sizeof first);
    memcpy(to + 8, &time, sizeof time);
}

DBUF__FUNCTION uint64_t dbuf__clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

DBUF__INLINE uint64_t dbuf__stamp(const dbuf_producer *p) {
    if (DBUF__LIKELY(p->clock == DBUF__CLOCK_TICKS)) return __builtin_ia32_rdtsc();
    return p->clock == DBUF__CLOCK_NS ? dbuf__clock_ns(CLOCK_REALTIME) : 0;
}

/* By what the glances at the daemon are timed: the event's stamp, or where it has none, the number of events. */
DBUF__INLINE uint64_t dbuf__look_time(const dbuf_producer *p, uint64_t stamp) {
    if (DBUF__LIKELY(stamp != 0)) return stamp;
    return p->events % DBUF__LOOK_EVENTS == 0 ? p->looked + p->look_every : p->looked;
}

/* Publishes what lies before `end`, and does what the daemon's state asks for. */
DBUF__INLINE void dbuf__publish_to(dbuf_producer *p, uint64_t end, size_t payload_bytes, uint64_t look_time) {
    uint64_t state;
    p->head = end;
    p->events += 1;
    p->bytes += payload_bytes;
    /* edge head: the record is there before it counts. */
    __atomic_store_n(&p->words->head, end, __ATOMIC_RELEASE);
    /* edge asleep: where the daemon has no barrier that reaches here. */
    if (__builtin_expect(p->fence, 0)) __atomic_thread_fence(__ATOMIC_SEQ_CST);
    /* edge asleep: the compiler must not read the state first; the processor is seen to by the daemon. */
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    state = __atomic_load_n(&p->words->state, __ATOMIC_RELAXED);
    if (DBUF__LIKELY((state & DBUF__STATE_MASK) == 0 && look_time - p->looked < p->look_every)) return;
    dbuf__after_publish(p, state, look_time);
}

/* Sends if nothing stands in the way: there is a ring, the event is none too large, and fits without a pad. */
DBUF__INLINE int dbuf__send_fast(dbuf_producer *p, int pri, const void *payload, size_t bytes) {
    uint64_t record = dbuf__record_bytes(bytes), at = p->head, end = at + record, offset = at & (p->capacity - 1), time;
    /* No bytes at all are one less than none: more than any bound. */
    if (!DBUF__LIKELY(bytes - 1 < p->fast_bytes && (unsigned)pri <= DBUF_PRI_MAX && p->forks == dbuf__process.forks &&
                      offset + record <= p->capacity && end - p->tail <= p->capacity))
        return 0;
    __atomic_store_n(&p->words->writing, end, __ATOMIC_RELAXED);
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* the record comes after it */
    time = dbuf__stamp(p);
    dbuf__put_record_head(p->data + offset, bytes, DBUF__EVENT, (unsigned)pri, 0, p->clock, time);
    memcpy(p->data + offset + DBUF__RECORD_HEAD_BYTES, payload, bytes);
    dbuf__publish_to(p, end, bytes, dbuf__look_time(p, time));
    return 1;
}

DBUF__INLINE int dbuf__send_plain(dbuf_producer *p, int pri, const void *payload, size_t bytes, int wait_ms) {
    dbuf__parts parts = {pri, payload, bytes, NULL, 0, NULL, 0, 0, 0};
    return dbuf__send_parts(p, &parts, wait_ms);
}

DBUF__INLINE int dbuf_send(dbuf_producer *producer, int pri, const void *payload, size_t bytes) {
    if (DBUF__LIKELY(dbuf__send_fast(producer, pri, payload, bytes))) return 0;
    return dbuf__send_plain(producer, pri, payload, bytes, DBUF__WAIT_AS_OPTIONS);
}

DBUF__INLINE int dbuf_try_send(dbuf_producer *producer, int pri, const void *payload, size_t bytes) {
    if (DBUF__LIKELY(dbuf__send_fast(producer, pri, payload, bytes))) return 0;
    return dbuf__send_plain(producer, pri, payload, bytes, DBUF__WAIT_NOT_AND_DO_NOT_COUNT);
}

DBUF__INLINE int dbuf_send_within(dbuf_producer *producer, int pri, const void *payload, size_t bytes, int wait_ms) {
    if (DBUF__LIKELY(dbuf__send_fast(producer, pri, payload, bytes))) return 0;
    return dbuf__send_plain(producer, pri, payload, bytes, wait_ms < 0 ? 0 : wait_ms);
}
