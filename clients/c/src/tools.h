
/* ==== Tools: times, numbers and texts. */

#define DBUF__MS ((uint64_t)1000000)

#define DBUF__LOOK_MIN_NS (10 * DBUF__MS)    /* the least time between two looks at a ring's connection */
#define DBUF__LOOK_NS (1000 * DBUF__MS)      /* about how often a send looks whether the daemon takes anything */
#define DBUF__LOOK_TICKS ((uint64_t)1 << 31) /* the same in ticks: 0.4 to 1 s */
#define DBUF__RETRY_MIN_NS (100 * DBUF__MS)  /* from a failure to the next attempt to connect; */
#define DBUF__RETRY_MAX_NS (2000 * DBUF__MS) /* it doubles with each failure, up to this */
#define DBUF__STEADY_NS (1000 * DBUF__MS)    /* the end of a link that lived this long is no such failure */
#define DBUF__ANSWER_NS (10000 * DBUF__MS)   /* the longest that the answer to HELLO or RING may take */
#define DBUF__LAST_TAKE_NS (250 * DBUF__MS)  /* the longest wait for the daemon's last take; see dbuf__leave() */
#define DBUF__SLICE_MS 100                   /* the longest sleep between two looks at the link */
#define DBUF__OPEN_TIMEOUT_MS 250            /* the longest that a call waits for a daemon's answer */
#define DBUF__DROP_TIMEOUT_MS 10             /* the same, in a send that does not wait for room */
#define DBUF__UNLOAD_TIMEOUT_MS 1000         /* how long an unloaded object waits for threads that close producers */
#define DBUF__MAX_EVENT_ASSUMED 65536

/* Sets the text of dbuf_last_error(). */
DBUF__FUNCTION void dbuf__say(dbuf_producer *p, const char *format, ...) DBUF__PRINTF(2, 3);
DBUF__FUNCTION void dbuf__say(dbuf_producer *p, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(p->error, sizeof p->error, format, arguments);
    va_end(arguments);
}

DBUF__FUNCTION int dbuf__fail(dbuf_producer *p, int error) {
    dbuf__say(p, "%s", dbuf_strerror(error));
    return error;
}

DBUF__FUNCTION int dbuf__refuse(dbuf_producer *p, const char *why) {
    dbuf__say(p, "%s", why);
    return DBUF_ERR_INVALID;
}

DBUF__INLINE uint64_t dbuf__min(uint64_t a, uint64_t b) { return a < b ? a : b; }
DBUF__INLINE uint64_t dbuf__max(uint64_t a, uint64_t b) { return a > b ? a : b; }

DBUF__INLINE uint16_t dbuf__u16(const uint8_t *at) {
    uint16_t number;
    memcpy(&number, at, sizeof number);
    return number;
}

DBUF__INLINE uint32_t dbuf__u32(const uint8_t *at) {
    uint32_t number;
    memcpy(&number, at, sizeof number);
    return number;
}

DBUF__INLINE uint64_t dbuf__u64(const uint8_t *at) {
    uint64_t number;
    memcpy(&number, at, sizeof number);
    return number;
}

/* Milliseconds from now to a moment for poll(2), rounded up, at most a slice. */
DBUF__FUNCTION int dbuf__slice_ms(uint64_t now_ns, uint64_t until_ns) {
    if (now_ns >= until_ns) return 0;
    return (int)dbuf__min((until_ns - now_ns + DBUF__MS - 1) / DBUF__MS, DBUF__SLICE_MS);
}

DBUF__FUNCTION uint64_t dbuf__deadline(int wait_ms) {
    return dbuf__clock_ns(CLOCK_MONOTONIC) + (uint64_t)(wait_ms > 0 ? wait_ms : 0) * DBUF__MS;
}
