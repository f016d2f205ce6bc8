
/* ==== The fast path: a send into a ring that has room, without a system call.
 *
 * | edge | the producer | the daemon | without the edge |
 * |---|---|---|---|
 * | head | stores head, release | loads it, acquire | the daemon copies a record that is not there yet |
 * | room | loads tail, acquire | stores it, release | a record overwrites bytes that the daemon still copies |
 * | asleep | head, compiler barrier, state | state, membarrier(2), head | neither sees the other; no doorbell rings |
 * | turn | wants, full fence, its look | its deed, full fence, wants | the producer sleeps and is not woken |
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

/* The time of an event for the looks at the daemon: its stamp. Without stamps, every DBUF__LOOK_EVENTS-th event
 * looks. */
DBUF__INLINE uint64_t dbuf__look_time(const dbuf_producer *p, uint64_t stamp) {
    if (DBUF__LIKELY(stamp != 0)) return stamp;
    return p->events % DBUF__LOOK_EVENTS == 0 ? p->looked + p->look_every : p->looked;
}

/* Publishes the record before `end`. Rings or looks if the daemon's state or the time asks for it. */
DBUF__INLINE void dbuf__publish_to(dbuf_producer *p, uint64_t end, size_t payload_bytes, uint64_t look_time) {
    uint64_t state;
    p->head = end;
    p->events += 1;
    p->bytes += payload_bytes;
    /* edge head: the record is complete before it counts. */
    __atomic_store_n(&p->words->head, end, __ATOMIC_RELEASE);
    /* edge asleep: only where the daemon's barrier does not reach this process. */
    if (__builtin_expect(p->fence, 0)) __atomic_thread_fence(__ATOMIC_SEQ_CST);
    /* edge asleep: stops the compiler; the daemon's membarrier(2) stops the processor. */
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    state = __atomic_load_n(&p->words->state, __ATOMIC_RELAXED);
    if (DBUF__LIKELY((state & DBUF__STATE_MASK) == 0 && look_time - p->looked < p->look_every)) return;
    dbuf__after_publish(p, state, look_time);
}

/* Sends if there is a ring in this process, and the event is not too large and fits without a pad. Else returns 0. */
DBUF__INLINE int dbuf__send_fast(dbuf_producer *p, int pri, const void *payload, size_t bytes) {
    uint64_t record = dbuf__record_bytes(bytes), at = p->head, end = at + record, offset = at & (p->capacity - 1), time;
    /* With 0 bytes, bytes - 1 is larger than any limit: an empty payload takes the slow path, which refuses it. */
    if (!DBUF__LIKELY(bytes - 1 < p->fast_bytes && (unsigned)pri <= DBUF_PRI_MAX && p->forks == dbuf__process.forks &&
                      offset + record <= p->capacity && end - p->tail <= p->capacity))
        return 0;
    __atomic_store_n(&p->words->writing, end, __ATOMIC_RELAXED);
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* the record is written after it */
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
