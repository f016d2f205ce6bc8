
/* ==== The memory
 *
 * Lays out a ring (docs/PROTOCOL.md, 4.2 and 4.3) and a producer.
 */

enum {
    DBUF__HEADER_BYTES = 4096,
    DBUF__RECORD_HEAD_BYTES = 16,
    DBUF__EVENT = 1,
    DBUF__EVENT_WITH_FIELDS = 2,
    DBUF__PAD = 3,
    DBUF__CLOCK_NONE = 0,
    DBUF__CLOCK_NS = 1,
    DBUF__CLOCK_TICKS = 2,
    DBUF__FLAG_TICKS = 1,
    DBUF__FLAG_FENCE = 2,
    DBUF__WANT_ROOM = 1,
    DBUF__WANT_DURABLE = 4,
    DBUF__STATE_MASK = 3,
    DBUF__ASLEEP = 2,
    DBUF__LOOK_EVENTS = 64 /* where there is no stamp; see DBUF__LOOK_NS */
};

/* The header. Words that one side writes share cache lines with no word of the other. */
typedef struct dbuf__words {
    uint64_t magic;
    uint32_t version, header_bytes;
    uint64_t capacity, flags;
    uint64_t gap[12];
    uint64_t head, writing, lost_events, lost_bytes; /* 128: the producer's */
    uint64_t gap_of_producer[12];
    uint32_t wants, unused; /* 256: the producer's, when it waits */
    uint64_t sync;
    uint64_t gap_of_waiter[14];
    uint64_t tail, state; /* 384: the daemon's */
    uint64_t gap_of_daemon[14];
    uint32_t turn, unused_too; /* 512: the daemon's */
    uint64_t taken, persisted, durable, lost, refused, high_water, max_event, lost_events_told, lost_bytes_told;
} dbuf__words;

DBUF__ASSERT(offsetof(dbuf__words, head) == 128 && offsetof(dbuf__words, lost_bytes) == 152, "as drawn");
DBUF__ASSERT(offsetof(dbuf__words, wants) == 256 && offsetof(dbuf__words, sync) == 264, "as drawn");
DBUF__ASSERT(offsetof(dbuf__words, tail) == 384 && offsetof(dbuf__words, state) == 392, "as drawn");
DBUF__ASSERT(offsetof(dbuf__words, turn) == 512 && offsetof(dbuf__words, lost_bytes_told) == 584, "as drawn");

/* Who empties the memory. */
enum {
    DBUF__DOWN,   /* nobody; no connection */
    DBUF__HELLO,  /* nobody yet; HELLO is sent */
    DBUF__ASKED,  /* nobody yet; RING is sent */
    DBUF__RING,   /* the daemon */
    DBUF__FRAMES, /* this producer, by frames */
    DBUF__IN_BYTES = 24 + 4096
};

struct dbuf_producer {
    /* What the fast path reads and writes. */
    dbuf__words *words;
    uint8_t *data;
    uint64_t capacity;   /* a power of two */
    uint64_t head;       /* bytes published: a copy of the word */
    uint64_t tail;       /* bytes taken, as seen last */
    uint64_t fast_bytes; /* payloads up to this may take the fast path; 0 closes it: no ring, or a claim is open */
    uint64_t events;     /* published, and their bytes */
    uint64_t bytes;
    uint64_t
        looked; /* when the daemon's progress was looked at last, and how far apart such looks are: by the clock below */
    uint64_t look_every;
    uint32_t forks; /* of the process to which this belongs */
    uint8_t clock;  /* of stamps: DBUF__CLOCK_... */
    uint8_t fence;  /* a publish needs a fence of its own */

    /* A claim. */
    uint8_t claim_is_open, claim_kind, claim_tag_bytes, claim_clock;
    int claim_pri;
    uint64_t claim_at, claim_time;
    size_t claim_before; /* bytes of tag and fields */
    size_t claim_max;

    /* The ring's link. */
    uint64_t rung; /* the daemon's state for which the bell was rung last */
    uint64_t base; /* events before the first of this ring */
    uint64_t tail_at_look;
    int bell;

    /* The connection. */
    int stage, fd;
    int descriptors[2]; /* that came with GRANT */
    uint64_t looked_ns, since_ns, retry_at_ns, retry_ns;
    uint64_t max_event; /* the largest payload, as WELCOME says; before that, as is assumed */
    uint8_t session[16];
    uint8_t takes_fields, ring_is_bad;
    uint64_t skip_bytes; /* of a frame that is not understood and may be skipped */
    size_t in_bytes;
    uint8_t in[DBUF__IN_BYTES];

    /* Frames: events up to `settled` are gone from the memory. */
    uint64_t settled;
    uint64_t known;   /* the last event that the daemon has by frames: as WELCOME says, or was sent since */
    uint64_t send_at; /* where the next record to be sent is, its number, and how much of its frame is written */
    uint64_t send_number;
    size_t send_done;
    uint64_t sync_number; /* SYNC was sent when all events up to here had been */
    uint64_t sync_known;  /* and its answer names at least this */
    uint64_t doubted;     /* events up to here are durable or counted as unconfirmed */

    /* Counts. Those of the ring at hand are in its words. */
    uint64_t persisted, durable, lost, refused, unconfirmed, not_stored_told, unconfirmed_told;
    uint64_t lost_full, lost_full_bytes, high_water, doorbells, waits, links;
    uint64_t first_ticks, first_ns; /* a moment, for the rate of ticks */
    char error[192];

    /* What a fork and a new beginning leave as it is: first, all producers of the process in a list. */
    dbuf_producer *next, **link;

    /* Options. */
    int wait_ms, close_wait_ms;
    uint8_t fail_when_down, stamps, asks_ring, populate;
    uint8_t name_bytes;
    char name[DBUF_TAG_BYTES_MAX];
    char socket[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

/* What a program has once. */
typedef struct dbuf__process_state {
    uint32_t forks;         /* how many forks lie between this process and the first */
    int barrier;            /* whether the daemon's barrier reaches this process: 0 unknown, 1 yes, -1 no */
    pthread_mutex_t lock;   /* of the list of producers; taken by open, close and fork alone */
    dbuf_producer *first;   /* so that a child closes its copies of their descriptors at once */
    pthread_once_t at_fork; /* handlers are registered */
    pthread_once_t at_exit;
    pthread_key_t key; /* whose destructor closes a thread's own producer */
    int has_key;
    dbuf_options log_options;
    int has_log_options;
    char log_name[DBUF_TAG_BYTES_MAX + 1];
    char log_socket[sizeof(((struct sockaddr_un *)0)->sun_path)];
} dbuf__process_state;

extern dbuf__process_state dbuf__process;
extern DBUF__THREAD dbuf_producer *dbuf__own;
DBUF__ONCE dbuf__process_state dbuf__process = {0,
                                                0,
                                                PTHREAD_MUTEX_INITIALIZER,
                                                NULL,
                                                PTHREAD_ONCE_INIT,
                                                PTHREAD_ONCE_INIT,
                                                0,
                                                0,
                                                {NULL, NULL, 0, 0, 0, 0, 0, 0, 0},
                                                0,
                                                {0},
                                                {0}};
DBUF__ONCE DBUF__THREAD dbuf_producer *dbuf__own = NULL;

/* An event's parts as they are written. */
typedef struct dbuf__parts {
    int pri;
    const void *payload;
    size_t payload_bytes;
    const char *tag;
    size_t tag_bytes;
    const dbuf_field *fields;
    size_t field_count;
    size_t fields_bytes; /* encoded, without the length before them */
    uint64_t time_ns;
} dbuf__parts;

enum { DBUF__WAIT_AS_OPTIONS = -1, DBUF__WAIT_NOT_AND_DO_NOT_COUNT = -2 };

DBUF__FUNCTION int dbuf__send_parts(dbuf_producer *p, dbuf__parts *parts, int wait_ms);
DBUF__FUNCTION void dbuf__after_publish(dbuf_producer *p, uint64_t state, uint64_t look_time);
DBUF__FUNCTION void dbuf__end_link(dbuf_producer *p, const char *why);
DBUF__FUNCTION void dbuf__tend(dbuf_producer *p, int timeout_ms);
