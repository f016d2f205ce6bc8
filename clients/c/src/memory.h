
/* ==== The memory: a ring (docs/PROTOCOL.md, 4.2 and 4.3), a producer, and what a program has once. */

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
    DBUF__RING_VERSION = 2,
    DBUF__WANT_ROOM = 1,
    DBUF__WANT_DURABLE = 4,
    DBUF__STATE_MASK = 3,
    DBUF__ASLEEP = 2,
    DBUF__LOOK_EVENTS = 64 /* where events have no stamp; see DBUF__LOOK_NS */
};

/* The header of a ring. No cache line has words of both sides. */
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

DBUF__ASSERT(offsetof(dbuf__words, head) == 128 && offsetof(dbuf__words, lost_bytes) == 152, "PROTOCOL.md 4.2");
DBUF__ASSERT(offsetof(dbuf__words, wants) == 256 && offsetof(dbuf__words, sync) == 264, "PROTOCOL.md 4.2");
DBUF__ASSERT(offsetof(dbuf__words, tail) == 384 && offsetof(dbuf__words, state) == 392, "PROTOCOL.md 4.2");
DBUF__ASSERT(offsetof(dbuf__words, turn) == 512 && offsetof(dbuf__words, lost_bytes_told) == 584, "PROTOCOL.md 4.2");

/* A descriptor, and what it meant when the producer got it. The program may have closed or replaced it since. */
typedef struct dbuf__descriptor {
    int number; /* -1: none */
    dev_t device;
    ino_t inode;
} dbuf__descriptor;

/* The stages of a link: who empties the memory. */
enum {
    DBUF__DOWN,     /* nothing: there is no connection */
    DBUF__GREETING, /* nothing yet: HELLO is sent */
    DBUF__ASKING,   /* nothing yet: RING is sent */
    DBUF__RING,     /* the daemon */
    DBUF__FRAMES,   /* the producer itself, by frames */
    DBUF__IN_BYTES = 24 + 4096
};

struct dbuf_producer {
    /* What the fast path reads and writes. */
    dbuf__words *words;
    uint8_t *data;
    uint64_t capacity;   /* a power of two */
    uint64_t head;       /* bytes published: a copy of the word */
    uint64_t tail;       /* bytes taken, when it was read last */
    uint64_t fast_bytes; /* payloads up to this size may take the fast path; 0: no ring, or a claim is open */
    uint64_t events;     /* published */
    uint64_t bytes;      /* of their payloads */
    uint64_t looked;     /* the stamp at the last look at the daemon's progress */
    uint64_t look_every; /* how far apart such looks are, by the clock below */
    uint32_t forks;      /* of the process in which this producer may be used */
    uint8_t clock;       /* of stamps: DBUF__CLOCK_... */
    uint8_t fence;       /* each publish needs a fence of its own */

    /* A claim. */
    uint8_t claim_is_open, claim_kind, claim_tag_bytes;
    int claim_pri;
    uint64_t claim_at, claim_time;
    size_t claim_before; /* bytes of tag and fields */
    size_t claim_max;

    /* The ring's link. */
    uint64_t rung; /* the daemon's state for which the doorbell was rung last */
    uint64_t base; /* events before the first of this ring */
    uint64_t tail_at_look;

    /* The connection. */
    int stage;
    dbuf__descriptor connection;
    dbuf__descriptor memory; /* of a ring, until it is mapped: it came with GRANT */
    uint64_t looked_ns, since_ns, retry_at_ns, retry_ns;
    uint64_t max_event; /* the largest payload that the daemon takes; before WELCOME, an assumption */
    uint8_t session[16];
    uint8_t takes_fields, ring_is_bad;
    uint64_t skip_bytes; /* of a frame that is not understood and may be skipped */
    size_t in_bytes;
    uint8_t in[DBUF__IN_BYTES];

    /* Frames. Events up to `taken` have left the memory. */
    uint64_t taken;
    uint64_t known;                /* the last event that the daemon has by frames: from WELCOME, or sent since */
    uint64_t send_at, send_number; /* the next record to send: its position and its event's number */
    size_t send_done;              /* bytes of its frame that are written */
    uint64_t sync_number;          /* SYNC was sent when all events up to this one had been */
    uint64_t sync_known;           /* the answer to it names at least this event */
    uint8_t sync_waits;            /* a SYNC found no room in the socket */
    uint64_t doubted;              /* events up to this one are durable or counted as unconfirmed */

    /* Counts. Those of the current ring are in its words. */
    uint64_t persisted, durable, lost, refused, unconfirmed, not_stored_told, unconfirmed_told;
    uint64_t lost_full, lost_full_bytes, high_water, doorbells, waits, links;
    uint64_t lost_reported;         /* of lost_full: a daemon has recorded them, or an event says so */
    uint64_t report, report_lost;   /* the number of the last such event, and how many losses it says */
    uint64_t first_ticks, first_ns; /* one moment by two clocks, for the rate of ticks */
    pthread_t thread;               /* that made the last call which did more than the fast path */
    char error[320];                /* of dbuf_last_error() */
    char down_reason[320];          /* why the link ended, or could not be made */

    /* What a fork leaves as it is, from here to the end. All producers of the program are in one list. */
    dbuf_producer *next, **link;
    uint8_t is_closing;   /* one thread closes it, and no other may; under the list's lock */
    uint8_t is_gone;      /* its shared object is being unloaded: it only waits for its owner's dbuf_close() */
    uint8_t is_own;       /* of a thread, for dbuf_log(): no one else closes it */
    uint8_t was_reported; /* it has had a link, or standard error says that it cannot have one */

    /* Options. */
    int wait_ms, close_wait_ms;
    uint8_t fail_when_down, stamps, asks_ring, populate, quiet;
    uint8_t name_bytes;
    char name[DBUF_TAG_BYTES_MAX];
    char socket[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

/* What a program, or a shared object, has once. */
typedef struct dbuf__process_state {
    uint32_t forks;                  /* between this process and the first one */
    int barrier;                     /* whether the daemon's barrier reaches this process: 0 unknown, 1 yes, -1 no */
    pthread_mutex_t lock;            /* of the list; taken by open, connect, close, fork and exit only */
    dbuf_producer *first;            /* the list: a forked child closes its copies of these producers' descriptors */
    int closers;                     /* threads that close their own producer now; under the lock */
    int is_ending;                   /* exit handlers run, or the object is being unloaded */
    void (*at_unload)(void);         /* what to do when the object is unloaded; NULL: nothing */
    dbuf__descriptor standard_error; /* what descriptor 2 was when the object was loaded */
    int own_was_reported;            /* standard error says that a thread's own producer cannot have a link */
    pthread_once_t watches_forks;    /* the handlers of fork have been registered, */
    int has_fork_handlers;           /* and that has succeeded: without them a child would use its parent's rings */
    pthread_once_t watches_end;      /* the same of the handlers of exit and of unloading */
    int has_end_handlers;
    pthread_once_t makes_key;
    pthread_key_t key; /* its destructor closes a thread's own producer */
    int has_key;
    dbuf_options log_options;
    int has_log_options;
    char log_name[DBUF_TAG_BYTES_MAX + 1];
    char log_socket[sizeof(((struct sockaddr_un *)0)->sun_path)];
} dbuf__process_state;

extern dbuf__process_state dbuf__process;
extern DBUF__THREAD dbuf_producer *dbuf__own;
/* clang-format off */
DBUF__ONCE dbuf__process_state dbuf__process = {
    0, 0, PTHREAD_MUTEX_INITIALIZER, NULL, 0, 0, NULL, {0, 0, 0}, 0, PTHREAD_ONCE_INIT, 0,
    PTHREAD_ONCE_INIT, 0, PTHREAD_ONCE_INIT, 0, 0, {NULL, NULL, 0, 0, 0, 0, 0, 0, 0, 0}, 0, {0}, {0}};
/* clang-format on */
DBUF__ONCE DBUF__THREAD dbuf_producer *dbuf__own = NULL;

/* The parts of an event that is to be written. */
typedef struct dbuf__parts {
    int pri;
    const void *payload;
    size_t payload_bytes;
    const char *tag;
    size_t tag_bytes;
    const dbuf_field *fields;
    size_t field_count;
    size_t fields_bytes; /* encoded, without the length in front of them */
    uint64_t time_ns;
} dbuf__parts;

enum { DBUF__WAIT_AS_OPTIONS = -1, DBUF__WAIT_NOT_AND_DO_NOT_COUNT = -2 };

DBUF__FUNCTION int dbuf__send_parts(dbuf_producer *p, dbuf__parts *parts, int wait_ms);
DBUF__FUNCTION void dbuf__after_publish(dbuf_producer *p, uint64_t state, uint64_t look_time);
DBUF__FUNCTION void dbuf__drop_link(dbuf_producer *p, const char *why);
DBUF__FUNCTION void dbuf__end_link(dbuf_producer *p, const char *why);
DBUF__FUNCTION void dbuf__tend(dbuf_producer *p, int timeout_ms);
