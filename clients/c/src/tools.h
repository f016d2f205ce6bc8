
/* ==== Tools
 *
 * Numbers, times, texts of errors.
 */

#define DBUF__MS ((uint64_t)1000000)

/* Times of the link. */
#define DBUF__LOOK_MIN_NS (10 * DBUF__MS)    /* how often, at most, a ring's connection is looked at */
#define DBUF__LOOK_NS (1000 * DBUF__MS)      /* how often, about, a send sees whether the daemon takes anything */
#define DBUF__LOOK_TICKS ((uint64_t)1 << 31) /* the same in ticks: 0.4 to 1 s */
#define DBUF__RETRY_MIN_NS (100 * DBUF__MS)  /* how long after a failure the next attempt to connect is made, */
#define DBUF__RETRY_MAX_NS (2000 * DBUF__MS) /* twice as long after each, up to this */
#define DBUF__STEADY_NS (1000 * DBUF__MS)    /* a link that lived so long was none of those failures */
#define DBUF__ANSWER_NS (10000 * DBUF__MS)   /* the longest that an answer to HELLO or RING may take */
#define DBUF__SLICE_MS 100                   /* the longest sleep before the link is looked at again */
#define DBUF__OPEN_TIMEOUT_MS 250            /* how long a call waits for a daemon's answer */
#define DBUF__DROP_TIMEOUT_MS 10             /* the same of a send that is not to wait */
#define DBUF__MAX_EVENT_ASSUMED 65536

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

DBUF__FUNCTION void dbuf__close_descriptor(int *descriptor) {
    if (*descriptor >= 0) close(*descriptor);
    *descriptor = -1;
}

DBUF__FUNCTION void dbuf__close_descriptors(dbuf_producer *p) {
    dbuf__close_descriptor(&p->fd);
    dbuf__close_descriptor(&p->bell);
    dbuf__close_descriptor(&p->descriptors[0]);
    dbuf__close_descriptor(&p->descriptors[1]);
}

/* Milliseconds from now to a moment, rounded up, for poll(2): at most a slice. */
DBUF__FUNCTION int dbuf__slice_ms(uint64_t now_ns, uint64_t until_ns) {
    if (now_ns >= until_ns) return 0;
    return (int)dbuf__min((until_ns - now_ns + DBUF__MS - 1) / DBUF__MS, DBUF__SLICE_MS);
}

DBUF__FUNCTION uint64_t dbuf__deadline(int wait_ms) {
    return dbuf__clock_ns(CLOCK_MONOTONIC) + (uint64_t)(wait_ms > 0 ? wait_ms : 0) * DBUF__MS;
}
