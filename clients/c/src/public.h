
/* ==== The interface */

/* Priorities, as in syslog(3). A facility, times 8, may be added: DBUF_INFO + 8 * 4. */
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

/* Bounds of the protocol, in bytes. */
enum {
    DBUF_TAG_BYTES_MAX = 64,
    DBUF_FIELD_NAME_BYTES_MAX = 64,
    DBUF_FIELDS_BYTES_MAX = 16384, /* of all fields of an event: names, values and 5 for each */
    DBUF_RING_BYTES_MIN = 65536,
    DBUF_RING_BYTES_MAX = 67108864
};

/* What a call returns when it is not 0. dbuf_last_error() has more words for the same. */
typedef enum dbuf_error {
    DBUF_ERR_FULL =
        -1, /* no room, also after waiting: counted as lost; dbuf_try_send() leaves the event to the caller */
    DBUF_ERR_TOO_BIG = -2, /* larger than the daemon takes (ingest.max_event) or than half the ring; nothing was sent */
    DBUF_ERR_INVALID = -3, /* an argument breaks a rule of its function; nothing was done */
    DBUF_ERR_NO_DAEMON = -4, /* no daemon answers, and the call could not do without one */
    DBUF_ERR_TIMEOUT = -5,   /* not within the time given; it may still come */
    DBUF_ERR_NOT_STORED =
        -6, /* by dbuf_sync(): events since the last one were refused or lost, or nobody can vouch for them */
    DBUF_ERR_CLAIM = -7,    /* a claim is open and forbids this call, or there is none to publish */
    DBUF_ERR_NO_MEMORY = -8 /* the kernel gave no memory, thread key or descriptor */
} dbuf_error;

/* The name of such a number, and of 0, in words. Never NULL. */
DBUF__INLINE const char *dbuf_strerror(int error) {
    switch (error) {
    case 0: return "no error";
    case DBUF_ERR_FULL: return "no room for the event";
    case DBUF_ERR_TOO_BIG: return "the event is too big";
    case DBUF_ERR_INVALID: return "an argument is not valid";
    case DBUF_ERR_NO_DAEMON: return "no dbufd answers";
    case DBUF_ERR_TIMEOUT: return "not done in time";
    case DBUF_ERR_NOT_STORED: return "events were not stored";
    case DBUF_ERR_CLAIM: return "a claim is open, or there is none";
    case DBUF_ERR_NO_MEMORY: return "no memory";
    default: return "an unknown error";
    }
}

/* A producer. Its inside is below, for the fast path's sake, and nobody's business. */
typedef struct dbuf_producer dbuf_producer;

/* What a producer is to be. Begin with dbuf_options_default() and change what is to be different; texts are copied. */
typedef struct dbuf_options {
    const char *socket;  /* the daemon's stream.sock; NULL: where dbufctl looks, see README.md */
    const char *name;    /* the tag of events that have none, at most 64 bytes; NULL: the program's short name */
    uint64_t ring_bytes; /* memory for events: a power of two from DBUF_RING_BYTES_MIN to _MAX; default 1 MiB */
    int wait_ms;         /* when there is no room, a send waits at most so long, then gives the event up; default 0 */
    int close_wait_ms;   /* how long dbuf_close() tries to get rid of what no daemon has; default 100, 0 allowed */
    int fail_when_down;  /* 0, the default: without a daemon events are kept, as many as fit. 1: open and sends fail */
    int no_stamp;        /* 1: events carry no time of their own, and get that of the daemon taking them; default 0 */
    int no_ring;         /* 1: do not ask for a ring, send frames; default 0 */
    int populate;        /* 1: take all memory of a ring at once, not page by page as it is first used; default 0 */
} dbuf_options;

DBUF__INLINE dbuf_options dbuf_options_default(void) {
    dbuf_options options = {NULL, NULL, (uint64_t)1 << 20, 0, 100, 0, 0, 0, 0};
    return options;
}

/* Opens a producer; `options` may be NULL. Waits at most 250 ms for the daemon's answer.
 * DBUF_ERR_INVALID, DBUF_ERR_NO_MEMORY; DBUF_ERR_NO_DAEMON only with fail_when_down. On failure *producer is NULL. */
DBUF__FUNCTION int dbuf_open(dbuf_producer **producer, const dbuf_options *options);

/* Closes it; NULL is allowed. What lies in a daemon's ring is the daemon's. What no daemon has yet is tried for close_wait_ms:
 * 0, or DBUF_ERR_TIMEOUT when events were left behind. Frees the producer in any case. */
DBUF__FUNCTION int dbuf_close(dbuf_producer *producer);

/* Sends one event of 1 or more bytes, any bytes. The time is now.
 * DBUF_ERR_FULL (after wait_ms), DBUF_ERR_TOO_BIG, DBUF_ERR_INVALID, DBUF_ERR_NO_DAEMON, DBUF_ERR_CLAIM. */
DBUF__INLINE int dbuf_send(dbuf_producer *producer, int pri, const void *payload, size_t bytes);

/* As dbuf_send(), but never waits, and an event that found no room is not counted: it is still the caller's. */
DBUF__INLINE int dbuf_try_send(dbuf_producer *producer, int pri, const void *payload, size_t bytes);

/* As dbuf_send(), but waits at most wait_ms for room, whatever the options say. */
DBUF__INLINE int dbuf_send_within(dbuf_producer *producer, int pri, const void *payload, size_t bytes, int wait_ms);

/* A name and a value beside the payload; a name may come more than once. */
typedef struct dbuf_field {
    const char *name; /* 1 to 64 bytes, best of A-Z, 0-9 and _, the first a letter */
    const void *value;
    size_t value_bytes;
} dbuf_field;

DBUF__INLINE dbuf_field dbuf_field_text(const char *name, const char *text) {
    dbuf_field field = {name, text, strlen(text)};
    return field;
}

/* An event with everything that it can have. What is 0 or NULL is not there, but for `pri`: 0 is DBUF_EMERG. */
typedef struct dbuf_event {
    int pri;
    const void *payload;
    size_t payload_bytes;
    const char *tag; /* at most 64 bytes; else the producer's name */
    const dbuf_field *fields;
    size_t field_count;
    uint64_t time_ns; /* nanoseconds since 1970, UTC; 0: now */
} dbuf_event;

/* As dbuf_send(). */
DBUF__FUNCTION int dbuf_send_event(dbuf_producer *producer, const dbuf_event *event);

/* As dbuf_send(), of a text made by printf(3)'s rules: straight into the ring where it fits. One newline at its end is left out;
 * a text that is empty then is DBUF_ERR_INVALID. */
DBUF__FUNCTION int dbuf_printf(dbuf_producer *producer, int pri, const char *format, ...) DBUF__PRINTF(3, 4);
DBUF__FUNCTION int dbuf_vprintf(dbuf_producer *producer, int pri, const char *format, va_list arguments)
    DBUF__PRINTF(3, 0);

/* Claims room for one event of at most bytes_max, to be written in place: *payload is where. Then dbuf_publish() with what it
 * became, or dbuf_discard(). One claim at a time; while it is open every other call but statistics and close is
 * DBUF_ERR_CLAIM, and the daemon waits for nothing. Errors and waiting as with dbuf_send(). */
DBUF__FUNCTION int dbuf_claim(dbuf_producer *producer, int pri, size_t bytes_max, void **payload);

/* The same with a tag, fields and a time; the event's own payload is not looked at. */
DBUF__FUNCTION int dbuf_claim_event(dbuf_producer *producer, const dbuf_event *event, size_t bytes_max, void **payload);

/* Publishes the claimed event with this many bytes, at least 1 and at most what was claimed: else DBUF_ERR_INVALID, and the
 * claim stays open. */
DBUF__FUNCTION int dbuf_publish(dbuf_producer *producer, size_t bytes);

/* Gives the claimed room back, as if nothing had been. */
DBUF__FUNCTION void dbuf_discard(dbuf_producer *producer);

/* Waits at most timeout_ms until all events so far are on the disk, safe from a loss of power.
 * DBUF_ERR_TIMEOUT: not yet. DBUF_ERR_NO_DAEMON: the same, and no daemon is there. DBUF_ERR_NOT_STORED: all that can be durable
 * is; dbuf_last_error() says how many events since the last sync are not. */
DBUF__FUNCTION int dbuf_sync(dbuf_producer *producer, int timeout_ms);

/* Does what is due beside sending: connects, writes frames, reads answers. Never waits. Of use to a program that keeps events
 * without a ring and has nothing to send for a while. */
DBUF__FUNCTION int dbuf_tend(dbuf_producer *producer);

typedef enum dbuf_link { DBUF_LINK_NONE = 0, DBUF_LINK_RING = 1, DBUF_LINK_FRAMES = 2 } dbuf_link;

/* What became of a producer's events, since it was opened. Events are numbered from 1 in the order in which they were sent. */
typedef struct dbuf_statistics {
    uint64_t events;           /* published */
    uint64_t bytes;            /* of their payloads */
    uint64_t lost_full;        /* given up because there was no room; not among `events` */
    uint64_t lost_full_bytes;  /* of their payloads */
    uint64_t refused;          /* events that the daemon refused: they break a rule */
    uint64_t lost;             /* events that the daemon took and could not store */
    uint64_t unconfirmed;      /* events taken by a daemon that ended before it called them durable */
    uint64_t persisted;        /* every event up to this number is in a file, or counted above; may lag behind */
    uint64_t durable;          /* every event up to this number is durable, or counted above; dbuf_sync() makes it so */
    uint64_t capacity_bytes;   /* of the ring */
    uint64_t waiting_bytes;    /* in the ring now, not taken or not acknowledged */
    uint64_t high_water_bytes; /* the most of these that were seen */
    uint64_t doorbells;        /* times that the daemon had to be woken */
    uint64_t waits;            /* calls that had to wait for room */
    uint64_t links;            /* rings that were granted and connections that took frames */
    dbuf_link link;            /* what there is now */
} dbuf_statistics;

DBUF__FUNCTION void dbuf_get_statistics(const dbuf_producer *producer, dbuf_statistics *statistics);

/* Why the last thing that failed did: a text for people, "" if nothing did. Good until the producer's next call. */
DBUF__FUNCTION const char *dbuf_last_error(const dbuf_producer *producer);

/* As dbuf_printf(), with a producer of the calling thread's own, opened at the first use and closed when the thread ends. */
DBUF__FUNCTION int dbuf_log(int pri, const char *format, ...) DBUF__PRINTF(2, 3);

/* That producer, for all other calls but dbuf_close(). NULL if it could not be opened. */
DBUF__FUNCTION dbuf_producer *dbuf_log_producer(void);

/* The options of those that are opened from here on; NULL: the defaults. Not while other threads log. DBUF_ERR_INVALID. */
DBUF__FUNCTION int dbuf_log_options(const dbuf_options *options);
