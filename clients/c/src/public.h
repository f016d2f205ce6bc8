
/* ==== The interface */

/* Priorities, as in syslog(3). A facility times 8 may be added: DBUF_INFO + 8 * 4. */
enum {
    DBUF_EMERG = 0,
    DBUF_ALERT = 1,
    DBUF_CRIT = 2,
    DBUF_ERR = 3,
    DBUF_WARNING = 4,
    DBUF_NOTICE = 5,
    DBUF_INFO = 6,
    DBUF_DEBUG = 7,
    DBUF_PRI_MAX = 191
};

/* Limits of the protocol, in bytes. */
enum {
    DBUF_TAG_BYTES_MAX = 64,
    DBUF_FIELD_NAME_BYTES_MAX = 64,
    DBUF_FIELDS_BYTES_MAX = 16384, /* of all fields of an event: names, values, and 5 bytes for each field */
    DBUF_RING_BYTES_MIN = 65536,
    DBUF_RING_BYTES_MAX = 67108864
};

/* What a call returns if it is not 0. dbuf_last_error() says more. */
typedef enum dbuf_error {
    DBUF_ERR_FULL = -1, /* no room, also after waiting. The event is counted as lost, but not by dbuf_try_send() */
    DBUF_ERR_TOO_BIG =
        -2, /* larger than the daemon takes (ingest.max_event), or than half the ring; nothing was sent */
    DBUF_ERR_INVALID = -3,   /* an argument breaks a rule of its function; nothing was done */
    DBUF_ERR_NO_DAEMON = -4, /* there is no connection to a daemon, and the call needs one */
    DBUF_ERR_TIMEOUT = -5,   /* not done within the given time; it may still be done later */
    DBUF_ERR_NOT_STORED =
        -6,                 /* from dbuf_sync(): since the last one, events were refused or lost, or are unconfirmed */
    DBUF_ERR_CLAIM = -7,    /* an open claim forbids this call, or there is no claim to publish */
    DBUF_ERR_NO_MEMORY = -8 /* the kernel gave no memory, thread key or descriptor */
} dbuf_error;

/* Such a number, or 0, in words. Never NULL. */
DBUF__INLINE const char *dbuf_strerror(int error) {
    switch (error) {
    case 0: return "no error";
    case DBUF_ERR_FULL: return "no room for the event";
    case DBUF_ERR_TOO_BIG: return "the event is too big";
    case DBUF_ERR_INVALID: return "an argument is not valid";
    case DBUF_ERR_NO_DAEMON: return "no connection to dbufd";
    case DBUF_ERR_TIMEOUT: return "not done in time";
    case DBUF_ERR_NOT_STORED: return "events were not stored";
    case DBUF_ERR_CLAIM: return "a claim is open, or there is none";
    case DBUF_ERR_NO_MEMORY: return "no memory";
    default: return "an unknown error";
    }
}

/* A producer. Its members are internal; they are in this file because dbuf_send() is compiled into its caller. */
typedef struct dbuf_producer dbuf_producer;

/* The options of a producer. Begin with dbuf_options_default() and change members. Texts are copied. */
typedef struct dbuf_options {
    const char *socket;  /* the daemon's stream.sock; NULL: where dbufctl finds it, see README.md */
    const char *name;    /* the tag of events that have none, at most 64 bytes; NULL: the program's short name */
    uint64_t ring_bytes; /* memory for events: a power of two from DBUF_RING_BYTES_MIN to _MAX; default 1 MiB */
    int wait_ms;         /* the longest that a send waits for room before it gives the event up; default 0 */
    int close_wait_ms;   /* the longest that dbuf_close() tries to deliver what no daemon has; default 100, may be 0 */
    int fail_when_down;  /* 1: open and sends fail without a daemon; default 0: they keep events, as many as fit */
    int no_stamp;        /* 1: events carry no time of their own; the daemon stamps them; default 0 */
    int no_ring;         /* 1: do not ask for a ring, send frames; default 0 */
    int populate;        /* 1: take all memory of a ring at once, not page by page at the first use; default 0 */
    int quiet;           /* 1: write nothing to standard error; default 0 */
} dbuf_options;

DBUF__INLINE dbuf_options dbuf_options_default(void) {
    dbuf_options options = {NULL, NULL, (uint64_t)1 << 20, 0, 100, 0, 0, 0, 0, 0};
    return options;
}

/* Opens a producer; `options` may be NULL. Waits at most 250 ms for the daemon's answer.
 * DBUF_ERR_INVALID, DBUF_ERR_NO_MEMORY; DBUF_ERR_NO_DAEMON only with fail_when_down. On failure *producer is NULL. */
DBUF__FUNCTION int dbuf_open(dbuf_producer **producer, const dbuf_options *options);

/* Closes a producer and frees it, also if it returns an error; NULL is allowed. Events in a daemon's ring belong to the
 * daemon. Other events are tried for close_wait_ms. DBUF_ERR_TIMEOUT: some were not delivered. */
DBUF__FUNCTION int dbuf_close(dbuf_producer *producer);

/* Sends one event of 1 or more bytes, of any value. Its time is now.
 * DBUF_ERR_FULL (after wait_ms), DBUF_ERR_TOO_BIG, DBUF_ERR_INVALID, DBUF_ERR_NO_DAEMON, DBUF_ERR_CLAIM. */
DBUF__INLINE int dbuf_send(dbuf_producer *producer, int pri, const void *payload, size_t bytes);

/* Like dbuf_send(), but never waits for room, and counts nothing: an event without room still belongs to the caller. */
DBUF__INLINE int dbuf_try_send(dbuf_producer *producer, int pri, const void *payload, size_t bytes);

/* Like dbuf_send(), but waits at most this wait_ms for room, not that of the options. */
DBUF__INLINE int dbuf_send_within(dbuf_producer *producer, int pri, const void *payload, size_t bytes, int wait_ms);

/* A name and a value that an event carries besides its payload. An event may have a name more than once. */
typedef struct dbuf_field {
    const char *name; /* 1 to 64 bytes, best of A-Z, 0-9 and _, the first a letter */
    const void *value;
    size_t value_bytes;
} dbuf_field;

DBUF__INLINE dbuf_field dbuf_field_text(const char *name, const char *text) {
    dbuf_field field = {name, text, strlen(text)};
    return field;
}

/* An event with everything that it can have. A member that is 0 or NULL is absent; but a `pri` of 0 is DBUF_EMERG. */
typedef struct dbuf_event {
    int pri;
    const void *payload;
    size_t payload_bytes;
    const char *tag; /* at most 64 bytes; NULL: the producer's name */
    const dbuf_field *fields;
    size_t field_count;
    uint64_t time_ns; /* nanoseconds since 1970, UTC; 0: now */
} dbuf_event;

/* Like dbuf_send(). */
DBUF__FUNCTION int dbuf_send_event(dbuf_producer *producer, const dbuf_event *event);

/* Like dbuf_send(), with a text formatted as by printf(3), directly in the ring where it fits. One newline at its end
 * is left out. A text that is empty then is DBUF_ERR_INVALID. */
DBUF__FUNCTION int dbuf_printf(dbuf_producer *producer, int pri, const char *format, ...) DBUF__PRINTF(3, 4);
DBUF__FUNCTION int dbuf_vprintf(dbuf_producer *producer, int pri, const char *format, va_list arguments)
    DBUF__PRINTF(3, 0);

/* Claims room for one event of at most bytes_max bytes, which the caller then writes to *payload. Ends with
 * dbuf_publish(), which says how many bytes it became, or with dbuf_discard(). A producer has one claim at a time.
 * While it is open, every other call but statistics and close is DBUF_ERR_CLAIM. The daemon waits for no claim. Errors
 * and waiting are those of dbuf_send(). */
DBUF__FUNCTION int dbuf_claim(dbuf_producer *producer, int pri, size_t bytes_max, void **payload);

/* The same with a tag, fields and a time; the payload in `event` is ignored. */
DBUF__FUNCTION int dbuf_claim_event(dbuf_producer *producer, const dbuf_event *event, size_t bytes_max, void **payload);

/* Publishes the claimed event with this many bytes, at least 1 and at most bytes_max. Otherwise it returns
 * DBUF_ERR_INVALID and the claim stays open. */
DBUF__FUNCTION int dbuf_publish(dbuf_producer *producer, size_t bytes);

/* Gives the claimed room back. No trace of the event is left. */
DBUF__FUNCTION void dbuf_discard(dbuf_producer *producer);

/* Waits at most timeout_ms until all events so far are durable: safe from a loss of power.
 * DBUF_ERR_TIMEOUT: not yet. DBUF_ERR_NO_DAEMON: not yet, and there is no daemon. DBUF_ERR_NOT_STORED: everything that
 * can be durable is; dbuf_last_error() says how many events since the last sync are not. */
DBUF__FUNCTION int dbuf_sync(dbuf_producer *producer, int timeout_ms);

/* Connects, writes frames and reads answers, whatever is due. Never waits. A program that has no ring and nothing to
 * send for a while calls it, so that its kept events leave. */
DBUF__FUNCTION int dbuf_tend(dbuf_producer *producer);

typedef enum dbuf_link { DBUF_LINK_NONE = 0, DBUF_LINK_RING = 1, DBUF_LINK_FRAMES = 2 } dbuf_link;

/* What became of a producer's events since it was opened; in a forked child, since the child's first call. Events are
 * numbered from 1 in the order in which they were sent. */
typedef struct dbuf_statistics {
    uint64_t events;           /* published */
    uint64_t bytes;            /* of their payloads */
    uint64_t lost_full;        /* given up because there was no room; not among `events` */
    uint64_t lost_full_bytes;  /* of their payloads */
    uint64_t refused;          /* events that the daemon refused, because they break a rule */
    uint64_t lost;             /* events that the daemon took and could not store */
    uint64_t unconfirmed;      /* events taken by a daemon that ended before it called them durable */
    uint64_t persisted;        /* every event up to this number is in a file, or counted above; may lag behind */
    uint64_t durable;          /* every event up to this number is durable, or counted above; dbuf_sync() updates it */
    uint64_t capacity_bytes;   /* of the ring */
    uint64_t waiting_bytes;    /* in the ring now: not taken, or by frames, not acknowledged */
    uint64_t high_water_bytes; /* the largest waiting_bytes that was seen */
    uint64_t doorbells;        /* how often the daemon had to be woken */
    uint64_t waits;            /* calls that had to wait for room */
    uint64_t links;            /* rings that were granted, and connections that took frames */
    dbuf_link link;            /* what there is now */
} dbuf_statistics;

DBUF__FUNCTION void dbuf_get_statistics(const dbuf_producer *producer, dbuf_statistics *statistics);

/* Why the last failure happened: a text for people, "" if nothing failed. Valid until the producer's next call. */
DBUF__FUNCTION const char *dbuf_last_error(const dbuf_producer *producer);

/* Like dbuf_printf(), with the calling thread's own producer: opened at the first use, closed when the thread ends. */
DBUF__FUNCTION int dbuf_log(int pri, const char *format, ...) DBUF__PRINTF(2, 3);

/* That producer, for every other call but dbuf_close(). NULL if it could not be opened. */
DBUF__FUNCTION dbuf_producer *dbuf_log_producer(void);

/* The options of threads' own producers that are opened later; NULL: the defaults. Not to be called while other threads
 * log. DBUF_ERR_INVALID. */
DBUF__FUNCTION int dbuf_log_options(const dbuf_options *options);
