
/* ==== The ring: granted, filled with what waited, rung, counted, and taken back at its end. */

/* F_GET_SEALS and F_SEAL_SHRINK of fcntl(2), which the C library declares only for _GNU_SOURCE. */
enum { DBUF__GET_SEALS = 1034, DBUF__SEAL_SHRINK = 2 };
/* MADV_POPULATE_WRITE of madvise(2), which older headers lack. */
enum { DBUF__POPULATE_WRITE = 23 };

/* Registers this process for the daemon's barrier, once. Returns whether the barrier reaches it. */
DBUF__FUNCTION int dbuf__is_ordered(void) {
    int is = __atomic_load_n(&dbuf__process.barrier, __ATOMIC_RELAXED);
    if (is == 0) {
        is = syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0) == 0 ? 1 : -1;
        __atomic_store_n(&dbuf__process.barrier, is, __ATOMIC_RELAXED);
    }
    return is > 0;
}

/* Sets the clock that stamps the events of this link. */
DBUF__FUNCTION void dbuf__set_clock(dbuf_producer *p, int ticks) {
    p->clock = (uint8_t)(!p->stamps ? DBUF__CLOCK_NONE : ticks ? DBUF__CLOCK_TICKS : DBUF__CLOCK_NS);
    p->look_every = ticks ? DBUF__LOOK_TICKS : DBUF__LOOK_NS;
    p->looked = dbuf__stamp(p);
}

/* Maps the memory that the daemon passed. NULL if it is no ring of this version and size. */
DBUF__FUNCTION dbuf__words *dbuf__map_ring(const dbuf_producer *p, int memory) {
    size_t bytes = DBUF__HEADER_BYTES + (size_t)p->capacity;
    struct stat status;
    dbuf__words *words;
    void *mapped;
    int seals = fcntl(memory, DBUF__GET_SEALS);
    /* Without the seal, a process that shrinks the memory could end this program by SIGBUS. */
    if (seals < 0 || !(seals & DBUF__SEAL_SHRINK)) return NULL;
    if (fstat(memory, &status) != 0 || (uint64_t)status.st_size != bytes) return NULL;
    mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (mapped == MAP_FAILED) return NULL;
    words = (dbuf__words *)mapped;
    if (memcmp(&words->magic, "dbufring", 8) == 0 && words->version == DBUF__RING_VERSION &&
        words->header_bytes == DBUF__HEADER_BYTES)
        return words;
    munmap(mapped, bytes);
    return NULL;
}

/* Copies what waits in the memory into a new ring, which is as large. Returns the head there. */
DBUF__FUNCTION uint64_t dbuf__move_to(dbuf_producer *p, dbuf__words *to) {
    uint8_t *data = (uint8_t *)to + DBUF__HEADER_BYTES;
    uint64_t at, head = 0;
    dbuf__record record;
    for (at = p->tail; at != p->head; at = record.end) {
        uint64_t bytes;
        if (!dbuf__read_record(p, at, &record)) {
            dbuf__abandon(p);
            return 0;
        }
        if (record.kind == DBUF__PAD) continue;
        bytes = record.end - at;
        memcpy(data + head, record.head, (size_t)bytes);
        head += bytes;
    }
    /* Losses that no daemon knows move, too; the bytes first. */
    to->lost_bytes = p->words->lost_bytes - dbuf__min(p->words->lost_bytes, p->words->lost_bytes_told);
    __atomic_store_n(&to->lost_events,
                     p->words->lost_events - dbuf__min(p->words->lost_events, p->words->lost_events_told),
                     __ATOMIC_RELEASE);
    __atomic_store_n(&to->writing, head, __ATOMIC_RELAXED);
    return head;
}

/* Wakes the daemon. */
DBUF__FUNCTION void dbuf__ring_bell(dbuf_producer *p) {
    static const char doorbell = 0;
    p->doorbells++;
    /* A connection without room for the byte rings already; its end is found by the next look. */
    if (dbuf__holds_connection(p))
        (void)send(p->connection.number, &doorbell, sizeof doorbell, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Whether a daemon in this state must be woken: once each time that it falls asleep. */
DBUF__FUNCTION int dbuf__is_bell_due(dbuf_producer *p, uint64_t state) {
    if ((state & DBUF__STATE_MASK) == 0 || state == p->rung) return 0;
    if ((state & DBUF__STATE_MASK) != DBUF__ASLEEP) {
        p->tail = dbuf__seen_tail(p);
        if (p->head - p->tail <= p->capacity / 2) return 0;
    }
    p->rung = state;
    return 1;
}

/* Uses the ring that GRANT brought. */
DBUF__FUNCTION void dbuf__granted(dbuf_producer *p) {
    dbuf__words *words = NULL;
    uint64_t head;
    if (dbuf__is_held(&p->memory)) words = dbuf__map_ring(p, p->memory.number);
    if (words == NULL) {
        p->ring_is_bad = 1; /* the next connection is asked for frames */
        dbuf__drop_link(p, "dbufd gave a ring that cannot be used");
        p->retry_at_ns = 0;
        return;
    }
    /* A ring confirms nothing about events that the daemon took before. */
    if (p->taken > dbuf__max(p->durable, p->doubted)) {
        p->unconfirmed += p->taken - dbuf__max(p->durable, p->doubted);
        p->doubted = p->taken;
    }
    /* If the kernel cannot do it now, pages come at their first use. */
    if (p->populate) (void)madvise(words, DBUF__HEADER_BYTES + (size_t)p->capacity, DBUF__POPULATE_WRITE);
    head = dbuf__move_to(p, words);
    munmap(p->words, DBUF__HEADER_BYTES + (size_t)p->capacity);
    p->words = words;
    p->data = (uint8_t *)words + DBUF__HEADER_BYTES;
    dbuf__release(&p->memory);
    p->stage = DBUF__RING;
    p->links++;
    p->was_reported = 1;
    p->down_reason[0] = '\0';
    p->base = p->taken;
    p->tail = 0;
    p->rung = 0;
    p->fence = !dbuf__is_ordered() || (words->flags & DBUF__FLAG_FENCE) != 0;
    p->first_ticks = __builtin_ia32_rdtsc();
    p->first_ns = p->looked_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
    dbuf__set_clock(p, (words->flags & DBUF__FLAG_TICKS) != 0);
    dbuf__set_fast(p);
    p->head = head;
    if (head == 0) return;
    /* edges head and asleep, as in every publish; the cost of a fence does not matter here. */
    __atomic_store_n(&words->head, head, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (dbuf__is_bell_due(p, __atomic_load_n(&words->state, __ATOMIC_RELAXED))) dbuf__ring_bell(p);
}

/* The counts of the current ring's words, added to those of earlier links. */
typedef struct dbuf__counts {
    uint64_t persisted, durable, lost, refused;
} dbuf__counts;

DBUF__FUNCTION dbuf__counts dbuf__count(const dbuf_producer *p) {
    dbuf__counts counts = {p->persisted, p->durable, p->lost, p->refused};
    uint64_t persisted, durable, events = p->events - p->base;
    if (p->stage != DBUF__RING) return counts;
    /* The daemon writes lost and refused before these two. */
    persisted = dbuf__min(__atomic_load_n(&p->words->persisted, __ATOMIC_ACQUIRE), events);
    durable = dbuf__min(__atomic_load_n(&p->words->durable, __ATOMIC_ACQUIRE), events);
    if (persisted > 0) counts.persisted = dbuf__max(counts.persisted, p->base + persisted);
    if (durable > 0) counts.durable = dbuf__max(counts.durable, p->base + durable);
    counts.lost += dbuf__min(__atomic_load_n(&p->words->lost, __ATOMIC_RELAXED), events);
    counts.refused += dbuf__min(__atomic_load_n(&p->words->refused, __ATOMIC_RELAXED), events);
    return counts;
}

/* Makes the ring's memory this producer's own: counts what was not taken, and turns its ticks into nanoseconds. */
DBUF__FUNCTION void dbuf__take_back_ring(dbuf_producer *p) {
    uint64_t ticks = __builtin_ia32_rdtsc(), ns = dbuf__clock_ns(CLOCK_REALTIME), at, waiting = 0;
    double ns_a_tick = (double)(dbuf__clock_ns(CLOCK_MONOTONIC) - p->first_ns) / (double)(ticks - p->first_ticks + 1);
    dbuf__counts counts = dbuf__count(p);
    dbuf__record record;
    uint64_t untold = p->words->lost_events - dbuf__min(p->words->lost_events, p->words->lost_events_told);
    p->lost_reported = p->lost_full - dbuf__min(untold, p->lost_full);
    p->persisted = counts.persisted;
    p->durable = counts.durable;
    p->lost = counts.lost;
    p->refused = counts.refused;
    p->high_water = dbuf__max(p->high_water, dbuf__min(p->words->high_water, p->capacity));
    p->tail = dbuf__seen_tail(p);
    for (at = p->tail; at != p->head; at = record.end) {
        if (!dbuf__read_record(p, at, &record)) {
            dbuf__abandon(p);
            return;
        }
        waiting += record.kind != DBUF__PAD;
        if (record.clock != DBUF__CLOCK_TICKS) continue;
        record.time = ns - (uint64_t)((double)(ticks - record.time) * ns_a_tick);
        record.head[7] = DBUF__CLOCK_NS;
        memcpy(record.head + 8, &record.time, sizeof record.time);
    }
    p->taken = p->events - dbuf__min(waiting, p->events);
}
