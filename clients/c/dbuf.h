/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * dbuf.h: sends events to dbufd from C11 and C++17, on Linux x86-64. This file is all there is: include it, link nothing.
 *
 *     #include "dbuf.h"
 *
 *     int main(void) {
 *         dbuf_producer *p;
 *         if (dbuf_open(&p, NULL) != 0) return 1;          // NULL: the options of dbuf_options_default()
 *         dbuf_send(p, DBUF_INFO, "order 17 accepted", 17);
 *         dbuf_printf(p, DBUF_ERR, "card of order %d refused", 17);
 *         if (dbuf_sync(p, 5000) != 0) fputs(dbuf_last_error(p), stderr);
 *         dbuf_log(DBUF_INFO, "%s", "this thread's own producer, opened at the first use");
 *         return dbuf_close(p) != 0;
 *     }
 *
 * How it works. A producer writes its events into a ring of memory (1 MiB unless told otherwise). As a rule the daemon shares
 * that memory and empties it by itself: then dbuf_send() is some 20 ns, without system call, lock or allocation. A daemon
 * that gives no ring gets the same events as frames over its socket, which the calls of this producer write without ever
 * blocking on it. Without a daemon the memory keeps the events until there is one. Events keep their order, and an event that
 * was taken is not sent twice to a daemon that still knows this producer. docs/PROTOCOL.md draws all of it.
 *
 * What can fail. Every function that returns an int returns 0, or one of the negative numbers of dbuf_error. A full ring costs
 * the event (it is counted, and the daemon is told how many there were) or time, as the options say. No call stops the
 * program, prints anything, raises SIGPIPE or changes errno.
 *
 * Threads. A producer belongs to one thread at a time; it may move to another one, and each thread has as many as it likes.
 * dbuf_log() sees to one for each thread. Nothing here may be called by a signal handler.
 *
 * Processes. A child of fork() may go on with the producers of its parent: each begins anew there at its next call, with
 * memory and a connection of its own and without its parent's events. A claim that is open at fork() is the parent's alone.
 * What a program published to a daemon's ring survives the program, however it ends.
 *
 * Nothing runs in the background. Where there is no ring, what could not be written yet goes out with the next call:
 * dbuf_send(), dbuf_tend(), dbuf_sync() or dbuf_close().
 *
 * Why there is no DBUF_IMPLEMENTATION to define: any number of files of a program may include this one. What a program must have
 * once (the count of forks, the thread's own producer) is a weak symbol, which the linker merges. The functions are static in
 * C and inline in C++: each C file that sends carries a copy of the rest of them (16 to 20 KB), one that does not carries no code.
 * Names that begin with dbuf__ or DBUF__ are not for use.
 */
#ifndef DBUF_H
#define DBUF_H

#if !defined(__linux__) || !defined(__x86_64__)
#error "dbuf.h is for Linux on x86-64"
#endif
#if defined(_FEATURES_H) && !defined(__USE_MISC)
#error "dbuf.h needs more than ISO C of the C library: include it first, or compile with -std=gnu11 or -D_DEFAULT_SOURCE"
#endif
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE 1
#endif

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#define DBUF__INLINE inline
#define DBUF__FUNCTION inline
#define DBUF__ASSERT(condition, text) static_assert(condition, text)
#define DBUF__THREAD __thread
#else
#define DBUF__INLINE static inline
#define DBUF__FUNCTION static __attribute__((noinline, unused))
#define DBUF__ASSERT(condition, text) _Static_assert(condition, text)
#define DBUF__THREAD _Thread_local
#endif
#define DBUF__ONCE __attribute__((weak, visibility("hidden")))
#define DBUF__PRINTF(text, first) __attribute__((__format__(__printf__, text, first)))
#define DBUF__LIKELY(condition) __builtin_expect(!!(condition), 1)

/* ------------------------------------------------------------------------------------------------------------------------
 * The interface
 * --------------------------------------------------------------------------------------------------------------------- */

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
    DBUF_ERR_FULL = -1,       /* no room, also after waiting: counted as lost; dbuf_try_send() leaves the event to the caller */
    DBUF_ERR_TOO_BIG = -2,    /* larger than the daemon takes (ingest.max_event) or than half the ring; nothing was sent */
    DBUF_ERR_INVALID = -3,    /* an argument breaks a rule of its function; nothing was done */
    DBUF_ERR_NO_DAEMON = -4,  /* no daemon answers, and the call could not do without one */
    DBUF_ERR_TIMEOUT = -5,    /* not within the time given; it may still come */
    DBUF_ERR_NOT_STORED = -6, /* by dbuf_sync(): events since the last one were refused or lost, or nobody can vouch for them */
    DBUF_ERR_CLAIM = -7,      /* a claim is open and forbids this call, or there is none to publish */
    DBUF_ERR_NO_MEMORY = -8   /* the kernel gave no memory, thread key or descriptor */
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
DBUF__FUNCTION int dbuf_vprintf(dbuf_producer *producer, int pri, const char *format, va_list arguments) DBUF__PRINTF(3, 0);

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
    uint64_t lost_full;      /* given up because there was no room; not among `events` */
    uint64_t lost_full_bytes;       /* of their payloads */
    uint64_t refused;          /* events that the daemon refused: they break a rule */
    uint64_t lost;             /* events that the daemon took and could not store */
    uint64_t unconfirmed;      /* events taken by a daemon that ended before it called them durable */
    uint64_t persisted;        /* every event up to this number is in a file, or counted above; may lag behind */
    uint64_t durable;          /* every event up to this number is durable, or counted above; dbuf_sync() makes it so */
    uint64_t capacity_bytes;   /* of the ring */
    uint64_t waiting_bytes;    /* in the ring now, not taken or not acknowledged */
    uint64_t high_water_bytes; /* the most of these that were seen */
    uint64_t doorbells;            /* times that the daemon had to be woken */
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

/* ------------------------------------------------------------------------------------------------------------------------
 * The memory: docs/PROTOCOL.md, 4.2 and 4.3
 * --------------------------------------------------------------------------------------------------------------------- */

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
    DBUF__GLANCE_EVERY_EVENTS = 64 /* where there is no stamp; see DBUF__GLANCE_EVERY_NS */
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
    uint64_t capacity;    /* a power of two */
    uint64_t head;        /* bytes published: a copy of the word */
    uint64_t tail;        /* bytes taken, as seen last */
    uint64_t quick_bytes; /* payloads up to this may take the fast path; 0 closes it: no ring, or a claim is open */
    uint64_t events;      /* published, and their bytes */
    uint64_t bytes;
    uint64_t glanced; /* when the daemon's progress was looked at last, and how far apart such looks are: by the clock below */
    uint64_t glance_every;
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
    uint64_t rung;     /* the daemon's state for which the bell was rung last */
    uint64_t base;     /* events before the first of this ring */
    uint64_t seen_at_glance;
    int bell;

    /* The connection. */
    int stage, fd;
    int descriptors[2]; /* that came with GRANT */
    uint64_t looked_ns, since_ns, retry_at_ns, retry_ns;
    uint64_t max_event;   /* the largest payload, as WELCOME says; before that, as is assumed */
    uint8_t session[16];
    uint8_t takes_fields, ring_is_bad;
    uint64_t skip_bytes; /* of a frame that is not understood and may be skipped */
    size_t in_bytes;
    uint8_t in[DBUF__IN_BYTES];

    /* Frames: events up to `settled` are gone from the memory. */
    uint64_t settled;
    uint64_t known;        /* the last event that the daemon has by frames: as WELCOME says, or was sent since */
    uint64_t send_at;      /* where the next record to be sent is, its number, and how much of its frame is written */
    uint64_t send_number;
    size_t send_done;
    uint64_t sync_number;  /* SYNC was sent when all events up to here had been */
    uint64_t sync_known;   /* and its answer names at least this */
    uint8_t sync_waits;    /* a SYNC found no room in the socket */
    uint64_t doubted;      /* events up to here are durable or counted as unconfirmed */

    /* Counts. Those of the ring at hand are in its words. */
    uint64_t persisted, durable, lost, refused, unconfirmed, not_stored_told, unconfirmed_told;
    uint64_t lost_full, lost_full_bytes, high_water, doorbells, waits, links;
    uint64_t first_ticks, first_ns; /* a moment, for the rate of ticks */
    char error[192];

    /* What a fork and a new beginning leave as it is: first, all producers of the process in a list. */
    dbuf_producer *next, **link;

    /* Options. */
    int wait_ms, close_wait_ms;
    uint8_t fail_when_down, stamps, asks_ring, populates;
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
DBUF__ONCE dbuf__process_state dbuf__process = {
    0, 0, PTHREAD_MUTEX_INITIALIZER, NULL, PTHREAD_ONCE_INIT, PTHREAD_ONCE_INIT, 0, 0, {NULL, NULL, 0, 0, 0, 0, 0, 0, 0}, 0, {0}, {0}};
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
DBUF__FUNCTION void dbuf__after_publish(dbuf_producer *p, uint64_t state, uint64_t glance_time);
DBUF__FUNCTION void dbuf__lose_link(dbuf_producer *p, const char *why);
DBUF__FUNCTION void dbuf__tend(dbuf_producer *p, int timeout_ms);

/* ------------------------------------------------------------------------------------------------------------------------
 * The fast path
 *
 * | edge | here | at the daemon | what would break |
 * |---|---|---|---|
 * | head | store of head, release | its look, acquire | it copies a record that is not there yet |
 * | room | load of tail, acquire | its take, release | a record is written over bytes that are being copied |
 * | asleep | head, then state; a barrier for the compiler | state, membarrier(2), then head | both miss each other: nobody rings |
 * | turn | wants, full fence, then a look | the deed, full fence, then wants | this side sleeps, and nobody wakes it |
 * --------------------------------------------------------------------------------------------------------------------- */

DBUF__INLINE uint64_t dbuf__record_bytes(uint64_t length) { return (DBUF__RECORD_HEAD_BYTES + length + 15) & ~(uint64_t)15; }

DBUF__INLINE void dbuf__put_record_head(uint8_t *to, uint64_t length, unsigned kind, unsigned pri, size_t tag_bytes,
                                        unsigned clock, uint64_t time) {
    uint64_t first = length | (uint64_t)kind << 32 | (uint64_t)pri << 40 | (uint64_t)tag_bytes << 48 | (uint64_t)clock << 56;
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
DBUF__INLINE uint64_t dbuf__glance_time(const dbuf_producer *p, uint64_t stamp) {
    if (DBUF__LIKELY(stamp != 0)) return stamp;
    return p->events % DBUF__GLANCE_EVERY_EVENTS == 0 ? p->glanced + p->glance_every : p->glanced;
}

/* Publishes what lies before `end`, and does what the daemon's state asks for. */
DBUF__INLINE void dbuf__publish_to(dbuf_producer *p, uint64_t end, size_t payload_bytes, uint64_t glance_time) {
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
    if (DBUF__LIKELY((state & DBUF__STATE_MASK) == 0 && glance_time - p->glanced < p->glance_every)) return;
    dbuf__after_publish(p, state, glance_time);
}

/* Sends if nothing stands in the way: there is a ring, the event is none too large, and fits without a pad. */
DBUF__INLINE int dbuf__send_quickly(dbuf_producer *p, int pri, const void *payload, size_t bytes) {
    uint64_t record = dbuf__record_bytes(bytes), at = p->head, end = at + record, offset = at & (p->capacity - 1), time;
    /* No bytes at all are one less than none: more than any bound. */
    if (!DBUF__LIKELY(bytes - 1 < p->quick_bytes && (unsigned)pri <= DBUF_PRI_MAX && p->forks == dbuf__process.forks &&
                      offset + record <= p->capacity && end - p->tail <= p->capacity))
        return 0;
    __atomic_store_n(&p->words->writing, end, __ATOMIC_RELAXED);
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* the record comes after it */
    time = dbuf__stamp(p);
    dbuf__put_record_head(p->data + offset, bytes, DBUF__EVENT, (unsigned)pri, 0, p->clock, time);
    memcpy(p->data + offset + DBUF__RECORD_HEAD_BYTES, payload, bytes);
    dbuf__publish_to(p, end, bytes, dbuf__glance_time(p, time));
    return 1;
}

DBUF__INLINE int dbuf__send_plain(dbuf_producer *p, int pri, const void *payload, size_t bytes, int wait_ms) {
    dbuf__parts parts = {pri, payload, bytes, NULL, 0, NULL, 0, 0, 0};
    return dbuf__send_parts(p, &parts, wait_ms);
}

DBUF__INLINE int dbuf_send(dbuf_producer *producer, int pri, const void *payload, size_t bytes) {
    if (DBUF__LIKELY(dbuf__send_quickly(producer, pri, payload, bytes))) return 0;
    return dbuf__send_plain(producer, pri, payload, bytes, DBUF__WAIT_AS_OPTIONS);
}

DBUF__INLINE int dbuf_try_send(dbuf_producer *producer, int pri, const void *payload, size_t bytes) {
    if (DBUF__LIKELY(dbuf__send_quickly(producer, pri, payload, bytes))) return 0;
    return dbuf__send_plain(producer, pri, payload, bytes, DBUF__WAIT_NOT_AND_DO_NOT_COUNT);
}

DBUF__INLINE int dbuf_send_within(dbuf_producer *producer, int pri, const void *payload, size_t bytes, int wait_ms) {
    if (DBUF__LIKELY(dbuf__send_quickly(producer, pri, payload, bytes))) return 0;
    return dbuf__send_plain(producer, pri, payload, bytes, wait_ms < 0 ? 0 : wait_ms);
}

/* ------------------------------------------------------------------------------------------------------------------------
 * Small things
 * --------------------------------------------------------------------------------------------------------------------- */

#define DBUF__MS ((uint64_t)1000000)

/* Times of the link. */
#define DBUF__LOOK_EVERY_NS (10 * DBUF__MS)      /* how often, at most, a ring's connection is looked at */
#define DBUF__GLANCE_EVERY_NS (1000 * DBUF__MS)  /* how often, about, a send sees whether the daemon takes anything */
#define DBUF__GLANCE_EVERY_TICKS ((uint64_t)1 << 31) /* the same in ticks: 0.4 to 1 s */
#define DBUF__RETRY_MIN_NS (100 * DBUF__MS)      /* how long after a failure the next attempt to connect is made, */
#define DBUF__RETRY_MAX_NS (2000 * DBUF__MS)     /* twice as long after each, up to this */
#define DBUF__STEADY_NS (1000 * DBUF__MS)        /* a link that lived so long was none of those failures */
#define DBUF__ANSWER_NS (10000 * DBUF__MS)       /* the longest that an answer to HELLO or RING may take */
#define DBUF__SLICE_MS 100                       /* the longest sleep before the link is looked at again */
#define DBUF__OPEN_TIMEOUT_MS 250               /* how long a call waits for a daemon's answer */
#define DBUF__DROP_TIMEOUT_MS 10                /* the same of a send that is not to wait */
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

/* ------------------------------------------------------------------------------------------------------------------------
 * Records in the memory
 * --------------------------------------------------------------------------------------------------------------------- */

/* A record that is there, by its position. */
typedef struct dbuf__record {
    uint8_t *head; /* its first byte */
    uint64_t length, end;
    unsigned kind, pri, tag_bytes, clock;
    uint64_t time;
} dbuf__record;

/* Reads the record at a position before head. 0 if none can be there: another process has written into the memory. */
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

/* What the daemon has taken, believed as far as it can be true. Without a ring: what was settled. */
DBUF__FUNCTION uint64_t dbuf__seen_tail(const dbuf_producer *p) {
    uint64_t tail;
    if (p->stage != DBUF__RING) return p->tail;
    /* edge room: the daemon's copies of what lay before are over. */
    tail = __atomic_load_n(&p->words->tail, __ATOMIC_ACQUIRE);
    return tail <= p->head && tail >= p->tail ? tail : p->tail;
}

/* What lies in the memory is no record any more: another process has written there. */
DBUF__FUNCTION void dbuf__abandon(dbuf_producer *p) {
    p->lost += p->events - p->settled;
    p->settled = p->events;
    p->tail = p->send_at = p->head;
    p->send_number = p->settled + 1;
    p->send_done = 0;
}

/* Opens or closes the fast path. */
DBUF__FUNCTION void dbuf__set_quick(dbuf_producer *p) {
    uint64_t told = __atomic_load_n(&p->words->max_event, __ATOMIC_RELAXED);
    if (p->stage == DBUF__RING && told != 0) p->max_event = told;
    p->quick_bytes = 0;
    if (p->stage == DBUF__RING && !p->claim_is_open)
        p->quick_bytes = dbuf__min(p->max_event, p->capacity / 2 - DBUF__RECORD_HEAD_BYTES);
}

/* Finds room for a record with this many bytes after its head: where it begins, and where it ends. A pad goes before it where it
 * would reach beyond the end of the data. 0 if there is no room now; nothing is changed then. */
DBUF__FUNCTION int dbuf__find_room(dbuf_producer *p, uint64_t length, uint64_t *at, uint64_t *end) {
    uint64_t record = dbuf__record_bytes(length), to_end = p->capacity - (p->head & (p->capacity - 1));
    *at = p->head + (record > to_end ? to_end : 0);
    *end = *at + record;
    if (*end - p->tail <= p->capacity) return 1;
    p->tail = dbuf__seen_tail(p);
    return *end - p->tail <= p->capacity;
}

/* Begins the record that was found room for: a daemon that finds this process dead sees that it was in the middle of one. */
DBUF__FUNCTION void dbuf__begin_record(dbuf_producer *p, uint64_t at, uint64_t end) {
    __atomic_store_n(&p->words->writing, end, __ATOMIC_RELAXED);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (at != p->head)
        dbuf__put_record_head(p->data + (p->head & (p->capacity - 1)), at - p->head - DBUF__RECORD_HEAD_BYTES, DBUF__PAD, 0, 0,
                              DBUF__CLOCK_NONE, 0);
}

/* Bytes before the payload. */
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

/* Writes and publishes a whole event at a place that was found for it. */
DBUF__FUNCTION void dbuf__put_event(dbuf_producer *p, const dbuf__parts *e, uint64_t at, uint64_t end, unsigned clock, uint64_t time) {
    uint8_t *to = p->data + (at & (p->capacity - 1));
    unsigned kind = e->field_count > 0 ? DBUF__EVENT_WITH_FIELDS : DBUF__EVENT;
    dbuf__begin_record(p, at, end);
    dbuf__put_record_head(to, dbuf__before_payload(e) + e->payload_bytes, kind, (unsigned)e->pri, e->tag_bytes, clock, time);
    to = dbuf__put_before_payload(to + DBUF__RECORD_HEAD_BYTES, e);
    if (e->payload_bytes > 0) memcpy(to, e->payload, e->payload_bytes);
    dbuf__publish_to(p, end, e->payload_bytes, dbuf__glance_time(p, e->time_ns == 0 ? time : 0));
}

/* ------------------------------------------------------------------------------------------------------------------------
 * Frames: docs/PROTOCOL.md, chapter 3
 * --------------------------------------------------------------------------------------------------------------------- */

enum {
    DBUF__FRAME_HEAD_BYTES = 24,
    DBUF__LENGTH_MAX = 67108864, /* of what follows a head; */
    DBUF__CONTROL_BYTES_MAX = 4096, /* in a frame that is neither an event nor may be skipped */
    DBUF__FRAME_HELLO = 0x01,
    DBUF__FRAME_EVENT = 0x02,
    DBUF__FRAME_SYNC = 0x03,
    DBUF__FRAME_BYE = 0x04,
    DBUF__FRAME_EVENT_WITH_FIELDS = 0x05,
    DBUF__FRAME_RING = 0x06,
    DBUF__FRAME_WELCOME = 0x41,
    DBUF__FRAME_ACK = 0x42,
    DBUF__FRAME_ERROR = 0x43,
    DBUF__FRAME_GRANT = 0x44,
    DBUF__FRAME_MAY_BE_SKIPPED = 0x80,
    DBUF__LEVEL_PERSISTED = 1,
    DBUF__LEVEL_DURABLE = 2,
    DBUF__FEATURE_FIELDS = 1,
    DBUF__FEATURE_RING = 2,
    DBUF__CODE_TOO_BIG = 0x01,
    DBUF__CODE_MALFORMED = 0x02,
    DBUF__CODE_LOST = 0x03,
    DBUF__CODE_NO_RING = 0x04,
    DBUF__CODE_ENDS = 0x80, /* this and above */
    DBUF__HELLO_BYTES_MAX = DBUF__FRAME_HEAD_BYTES + DBUF_TAG_BYTES_MAX + 40,
    DBUF__MAGIC_BYTES = 8
};

#define DBUF__MAGIC "\xDB" "ufd\r\n\x1A" /* and the NUL that C puts behind it */
DBUF__ASSERT(sizeof DBUF__MAGIC == DBUF__MAGIC_BYTES, "eight bytes");

DBUF__FUNCTION void dbuf__put_frame_head(uint8_t *to, uint64_t length, unsigned type, unsigned detail, size_t tag_bytes,
                                         uint64_t sequence, uint64_t time_ns) {
    uint64_t first = length | (uint64_t)type << 32 | (uint64_t)detail << 40 | (uint64_t)tag_bytes << 48;
    memcpy(to, &first, sizeof first);
    memcpy(to + 8, &sequence, sizeof sequence);
    memcpy(to + 16, &time_ns, sizeof time_ns);
}

typedef struct dbuf__hello {
    const char *name; /* cut to 64 bytes */
    size_t name_bytes;
    unsigned level;
    uint16_t version, version_min;
    uint64_t compatible, incompatible;
    const uint8_t *session; /* 16 bytes */
} dbuf__hello;

/* Writes a HELLO, at most DBUF__HELLO_BYTES_MAX; returns how many bytes that are. */
DBUF__FUNCTION size_t dbuf__put_hello(uint8_t *to, const dbuf__hello *hello) {
    size_t name_bytes = (size_t)dbuf__min(hello->name_bytes, DBUF_TAG_BYTES_MAX);
    dbuf__put_frame_head(to, name_bytes + 40, DBUF__FRAME_HELLO, hello->level, name_bytes, 0, 0);
    to += DBUF__FRAME_HEAD_BYTES;
    memcpy(to, hello->name, name_bytes);
    to += name_bytes;
    memcpy(to, &hello->version, 2);
    memcpy(to + 2, &hello->version_min, 2);
    memset(to + 4, 0, 4);
    memcpy(to + 8, &hello->compatible, 8);
    memcpy(to + 16, &hello->incompatible, 8);
    memcpy(to + 24, hello->session, 16);
    return DBUF__FRAME_HEAD_BYTES + name_bytes + 40;
}

/* Writes a RING: 32 bytes. */
DBUF__FUNCTION size_t dbuf__put_ring(uint8_t *to, uint64_t capacity) {
    dbuf__put_frame_head(to, sizeof capacity, DBUF__FRAME_RING, 0, 0, 0, 0);
    memcpy(to + DBUF__FRAME_HEAD_BYTES, &capacity, sizeof capacity);
    return DBUF__FRAME_HEAD_BYTES + sizeof capacity;
}

/* Writes the head of an event's frame; what follows the record's head follows it as it is. A daemon that takes no fields gets
 * none: then `skip` bytes at `skip_at` of that are left out. */
DBUF__FUNCTION void dbuf__put_event_head(uint8_t *to, const dbuf__record *record, uint64_t sequence, uint64_t skip) {
    int has_fields = record->kind == DBUF__EVENT_WITH_FIELDS && skip == 0;
    dbuf__put_frame_head(to, record->length - skip, has_fields ? DBUF__FRAME_EVENT_WITH_FIELDS : DBUF__FRAME_EVENT, record->pri,
                         record->tag_bytes, sequence, record->clock == DBUF__CLOCK_NS ? record->time : 0);
}

/* A frame of the daemon's. */
typedef struct dbuf__frame {
    unsigned type, detail;
    uint64_t sequence;
    uint64_t body_bytes;
    /* WELCOME */
    uint16_t version;
    uint32_t max_event;
    uint64_t compatible, incompatible;
    /* ERROR: the last event, and words. GRANT: the capacity. */
    uint64_t number;
    const uint8_t *text;
    size_t text_bytes;
} dbuf__frame;

enum { DBUF__MORE = 0, DBUF__WHOLE = 1, DBUF__SKIP = 2, DBUF__BROKEN = -1 };

/* Reads the frame at the start of `in`. DBUF__WHOLE: it has 24 + body_bytes. DBUF__SKIP: it has as many, which need not be there yet,
 * and means nothing to this version. DBUF__MORE: it is not whole. DBUF__BROKEN: no daemon sends that. */
DBUF__FUNCTION int dbuf__read_frame(const uint8_t *in, size_t in_bytes, dbuf__frame *frame) {
    const uint8_t *body = in + DBUF__FRAME_HEAD_BYTES;
    uint64_t tag_bytes, payload_bytes;
    memset(frame, 0, sizeof *frame);
    if (in_bytes < DBUF__FRAME_HEAD_BYTES) return DBUF__MORE;
    frame->body_bytes = dbuf__u32(in);
    frame->type = in[4];
    frame->detail = in[5];
    tag_bytes = dbuf__u16(in + 6);
    frame->sequence = dbuf__u64(in + 8);
    if (frame->body_bytes > DBUF__LENGTH_MAX || tag_bytes > frame->body_bytes) return DBUF__BROKEN;
    if (frame->type & DBUF__FRAME_MAY_BE_SKIPPED) return DBUF__SKIP;
    if (frame->body_bytes > DBUF__CONTROL_BYTES_MAX) return DBUF__BROKEN;
    if (in_bytes - DBUF__FRAME_HEAD_BYTES < frame->body_bytes) return DBUF__MORE;
    body += tag_bytes;
    payload_bytes = frame->body_bytes - tag_bytes;
    switch (frame->type) {
    case DBUF__FRAME_WELCOME:
        if (payload_bytes < 24) return DBUF__BROKEN;
        frame->version = dbuf__u16(body);
        frame->max_event = dbuf__u32(body + 4);
        frame->compatible = dbuf__u64(body + 8);
        frame->incompatible = dbuf__u64(body + 16);
        return DBUF__WHOLE;
    case DBUF__FRAME_ACK: return frame->detail <= DBUF__LEVEL_DURABLE ? DBUF__WHOLE : DBUF__BROKEN;
    case DBUF__FRAME_ERROR:
    case DBUF__FRAME_GRANT:
        if (payload_bytes < 8) return DBUF__BROKEN;
        frame->number = dbuf__u64(body);
        frame->text = body + 8;
        frame->text_bytes = (size_t)payload_bytes - 8;
        return DBUF__WHOLE;
    default: return DBUF__BROKEN;
    }
}

/* Events up to this number need not be kept any more. */
DBUF__FUNCTION void dbuf__settle(dbuf_producer *p, uint64_t number) {
    dbuf__record record;
    while (p->settled < number && p->tail != p->head) {
        if (!dbuf__read_record(p, p->tail, &record)) {
            dbuf__abandon(p);
            break;
        }
        p->settled += record.kind != DBUF__PAD;
        p->tail = record.end;
    }
    /* Nobody else reads it now; a later ring link or a look at a core does. */
    __atomic_store_n(&p->words->tail, p->tail, __ATOMIC_RELAXED);
}

/* Fills `out` with frames of the records that are to be sent next, as pieces for sendmsg(2); heads are made in `heads`. Returns how
 * many pieces, beginning with what is left of a frame that was cut. */
enum { DBUF__BATCH = 32, DBUF__PIECES = 3 * DBUF__BATCH };
DBUF__FUNCTION size_t dbuf__gather(dbuf_producer *p, struct iovec *out, uint8_t (*heads)[DBUF__FRAME_HEAD_BYTES]) {
    size_t pieces = 0, frames = 0, cut = p->send_done;
    uint64_t at = p->send_at, number = p->send_number;
    while (frames < DBUF__BATCH && at != p->head) {
        dbuf__record record;
        uint64_t skip = 0;
        size_t first = pieces;
        if (!dbuf__read_record(p, at, &record)) {
            if (pieces == 0) dbuf__abandon(p);
            break;
        }
        at = record.end;
        if (record.kind == DBUF__PAD) continue;
        if (record.kind == DBUF__EVENT_WITH_FIELDS && !p->takes_fields)
            skip = 4 + (uint64_t)dbuf__u32(record.head + DBUF__RECORD_HEAD_BYTES + record.tag_bytes);
        if (skip > record.length - record.tag_bytes) break;
        dbuf__put_event_head(heads[frames], &record, number, skip);
        out[pieces].iov_base = heads[frames];
        out[pieces++].iov_len = DBUF__FRAME_HEAD_BYTES;
        out[pieces].iov_base = record.head + DBUF__RECORD_HEAD_BYTES;
        out[pieces++].iov_len = skip ? record.tag_bytes : (size_t)record.length;
        if (skip) {
            out[pieces].iov_base = record.head + DBUF__RECORD_HEAD_BYTES + record.tag_bytes + skip;
            out[pieces++].iov_len = (size_t)(record.length - record.tag_bytes - skip);
        }
        for (; cut > 0 && first < pieces; first++) {
            size_t part = (size_t)dbuf__min(cut, out[first].iov_len);
            out[first].iov_base = (uint8_t *)out[first].iov_base + part;
            out[first].iov_len -= part;
            cut -= part;
        }
        number++;
        frames++;
    }
    return pieces;
}

/* This many bytes of what was gathered are written. */
DBUF__FUNCTION void dbuf__sent(dbuf_producer *p, size_t bytes) {
    p->send_done += bytes;
    while (p->send_at != p->head) {
        dbuf__record record;
        size_t frame;
        if (!dbuf__read_record(p, p->send_at, &record)) return;
        if (record.kind != DBUF__PAD) {
            frame = DBUF__FRAME_HEAD_BYTES + (size_t)record.length;
            if (record.kind == DBUF__EVENT_WITH_FIELDS && !p->takes_fields)
                frame -= 4 + (size_t)dbuf__u32(record.head + DBUF__RECORD_HEAD_BYTES + record.tag_bytes);
            if (p->send_done < frame) return;
            p->send_done -= frame;
            p->known = dbuf__max(p->known, p->send_number);
            p->send_number++;
        }
        p->send_at = record.end;
    }
}

/* Writes bytes that fit into the socket as a rule: 0 if they do not, and the link is lost then. */
DBUF__FUNCTION int dbuf__write(dbuf_producer *p, const void *bytes, size_t count) {
    ssize_t sent = send(p->fd, bytes, count, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent == (ssize_t)count) return 1;
    dbuf__lose_link(p, sent < 0 ? strerror(errno) : "the connection takes no more");
    return 0;
}

/* ------------------------------------------------------------------------------------------------------------------------
 * The connection: found, made, and what the daemon says on it
 * --------------------------------------------------------------------------------------------------------------------- */

/* Whether nobody but this user could have made the folder, or nobody has yet. */
DBUF__FUNCTION int dbuf__is_private(const char *folder) {
    struct stat status;
    if (lstat(folder, &status) != 0) return 1;
    return S_ISDIR(status.st_mode) && status.st_uid == geteuid() && (status.st_mode & 077) == 0;
}

/* Where the daemon listens, by the rule of dbufctl: RUNTIME_DIRECTORY; for root /run/dbufd; $XDG_RUNTIME_DIR/dbufd; a private folder in
 * the temporary directory; and where there is no socket, the machine's. 0 if the path is too long. */
DBUF__FUNCTION int dbuf__find_socket(char *to, size_t bytes) {
    static const char machine[] = "/run/dbufd/stream.sock";
    const char *listed = getenv("RUNTIME_DIRECTORY"), *xdg = getenv("XDG_RUNTIME_DIR"), *temporary = getenv("TMPDIR");
    int length;
    while (listed != NULL && *listed == ':') listed++;
    if (listed != NULL && *listed != '\0') {
        length = snprintf(to, bytes, "%.*s/stream.sock", (int)strcspn(listed, ":"), listed);
    } else if (geteuid() == 0) {
        length = snprintf(to, bytes, "%s", machine);
    } else if (xdg != NULL && *xdg == '/') {
        length = snprintf(to, bytes, "%s/dbufd/stream.sock", xdg);
    } else {
        if (temporary == NULL || *temporary == '\0') temporary = "/tmp";
        length = snprintf(to, bytes, "%s/dbufd-%u", temporary, (unsigned)geteuid());
        if (length < 0 || (size_t)length >= bytes) return 0;
        if (dbuf__is_private(to)) length += snprintf(to + length, bytes - (size_t)length, "/stream.sock");
        else length = snprintf(to, bytes, "%s", machine);
    }
    if (length < 0 || (size_t)length >= bytes) return 0;
    if (access(to, F_OK) != 0 && access(machine, F_OK) == 0) snprintf(to, bytes, "%s", machine);
    return 1;
}

/* Connects and says HELLO. */
DBUF__FUNCTION void dbuf__connect(dbuf_producer *p, uint64_t now_ns) {
    struct sockaddr_un address;
    uint8_t opening[DBUF__MAGIC_BYTES + DBUF__HELLO_BYTES_MAX];
    dbuf__hello hello = {p->name, p->name_bytes, DBUF__LEVEL_PERSISTED, 1, 1, DBUF__FEATURE_FIELDS, 0, p->session};
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    p->since_ns = now_ns;
    if (p->socket[0] != '\0') memcpy(address.sun_path, p->socket, sizeof address.sun_path);
    else if (!dbuf__find_socket(address.sun_path, sizeof address.sun_path)) {
        dbuf__lose_link(p, "the path of the daemon's socket is too long");
        return;
    }
    p->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (p->fd < 0 || connect(p->fd, (const struct sockaddr *)&address, sizeof address) != 0) {
        dbuf__say(p, "cannot connect to %s: %s", address.sun_path, strerror(errno));
        dbuf__lose_link(p, NULL);
        return;
    }
    if (p->asks_ring && !p->ring_is_bad) hello.compatible |= DBUF__FEATURE_RING;
    memcpy(opening, DBUF__MAGIC, DBUF__MAGIC_BYTES);
    p->stage = DBUF__HELLO;
    p->in_bytes = 0;
    p->skip_bytes = 0;
    dbuf__write(p, opening, DBUF__MAGIC_BYTES + dbuf__put_hello(opening + DBUF__MAGIC_BYTES, &hello));
}

/* From here on events go by frames. */
DBUF__FUNCTION void dbuf__begin_frames(dbuf_producer *p) {
    dbuf__record record;
    p->stage = DBUF__FRAMES;
    p->links++;
    p->send_at = p->tail;
    p->send_number = p->settled + 1;
    p->send_done = 0;
    p->sync_number = 0;
    p->sync_waits = 0;
    /* What the daemon has need not be sent again, but is kept until it is in a file. */
    while (p->send_number <= p->known && p->send_at != p->head && dbuf__read_record(p, p->send_at, &record)) {
        p->send_number += record.kind != DBUF__PAD;
        p->send_at = record.end;
    }
}

DBUF__FUNCTION void dbuf__welcomed(dbuf_producer *p, const dbuf__frame *welcome) {
    uint8_t ring[32];
    uint64_t sure;
    if (welcome->version != 1) {
        dbuf__lose_link(p, "dbufd speaks another version of the protocol");
        return;
    }
    p->max_event = welcome->max_event;
    p->takes_fields = (welcome->compatible & DBUF__FEATURE_FIELDS) != 0;
    p->known = dbuf__min(welcome->sequence, p->events);
    /* What has left, and was never called durable, is this daemon's to vouch for, or nobody's. */
    sure = dbuf__max(dbuf__max(p->known, p->durable), p->doubted);
    if (p->settled > sure) {
        p->unconfirmed += p->settled - sure;
        p->doubted = p->settled;
    }
    /* What the daemon has by frames, and has not acknowledged, it acknowledges on a connection of frames. */
    if (!(welcome->compatible & DBUF__FEATURE_RING) || !p->asks_ring || p->ring_is_bad || p->known > p->settled) {
        dbuf__begin_frames(p);
        return;
    }
    p->stage = DBUF__ASKED;
    dbuf__write(p, ring, dbuf__put_ring(ring, p->capacity));
}

/* Events reached a level, or were named by an ERROR before. */
DBUF__FUNCTION void dbuf__acknowledged(dbuf_producer *p, unsigned level, uint64_t sequence) {
    uint64_t number = dbuf__min(sequence, p->known);
    if (level >= DBUF__LEVEL_PERSISTED) {
        p->persisted = dbuf__max(p->persisted, number);
        dbuf__settle(p, number);
    }
    if (level < DBUF__LEVEL_DURABLE) return;
    p->durable = dbuf__max(p->durable, number);
    /* A daemon that has forgotten the session names less than was synced. */
    if (p->sync_number > p->durable && sequence >= p->sync_known) p->durable = p->sync_number;
}

DBUF__FUNCTION void dbuf__errored(dbuf_producer *p, const dbuf__frame *error) {
    uint64_t events = error->sequence == 0 || error->number < error->sequence ? 0 : error->number - error->sequence + 1;
    dbuf__say(p, "dbufd: %.*s", (int)dbuf__min(error->text_bytes, 150), (const char *)error->text);
    if (error->detail >= DBUF__CODE_ENDS) dbuf__lose_link(p, NULL);
    else if (error->detail == DBUF__CODE_NO_RING && p->stage == DBUF__ASKED) dbuf__begin_frames(p);
    else if (error->detail == DBUF__CODE_LOST) p->lost += events;
    else p->refused += events;
}

DBUF__FUNCTION void dbuf__adopt_ring(dbuf_producer *p);

/* Does what the frames say that have come. */
DBUF__FUNCTION void dbuf__take_frames(dbuf_producer *p) {
    size_t at = 0;
    while (p->fd >= 0) {
        dbuf__frame frame;
        int is;
        if (p->skip_bytes > 0) {
            size_t part = (size_t)dbuf__min(p->skip_bytes, p->in_bytes - at);
            at += part;
            p->skip_bytes -= part;
        }
        is = dbuf__read_frame(p->in + at, p->in_bytes - at, &frame);
        if (is == DBUF__MORE) break;
        if (is == DBUF__SKIP) {
            p->skip_bytes = DBUF__FRAME_HEAD_BYTES + frame.body_bytes;
            continue;
        }
        if (is == DBUF__WHOLE) at += DBUF__FRAME_HEAD_BYTES + (size_t)frame.body_bytes;
        if (is == DBUF__WHOLE && frame.type == DBUF__FRAME_ERROR && p->stage != DBUF__DOWN) dbuf__errored(p, &frame);
        else if (is == DBUF__WHOLE && frame.type == DBUF__FRAME_WELCOME && p->stage == DBUF__HELLO) dbuf__welcomed(p, &frame);
        else if (is == DBUF__WHOLE && frame.type == DBUF__FRAME_GRANT && p->stage == DBUF__ASKED) dbuf__adopt_ring(p);
        else if (is == DBUF__WHOLE && frame.type == DBUF__FRAME_ACK && (p->stage == DBUF__FRAMES || p->stage == DBUF__ASKED))
            dbuf__acknowledged(p, frame.detail, frame.sequence); /* before a GRANT: of earlier connections */
        else dbuf__lose_link(p, "dbufd sent something that this client does not understand");
    }
    if (p->fd < 0) at = p->in_bytes;
    memmove(p->in, p->in + at, p->in_bytes - at);
    p->in_bytes -= at;
}

/* Keeps the descriptors of a received message: two, and no more. */
DBUF__FUNCTION void dbuf__keep_descriptors(dbuf_producer *p, struct msghdr *message) {
    struct cmsghdr *part;
    for (part = CMSG_FIRSTHDR(message); part != NULL; part = CMSG_NXTHDR(message, part)) {
        size_t count, i;
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
        count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (i = 0; i < count; i++) {
            int descriptor;
            memcpy(&descriptor, CMSG_DATA(part) + i * sizeof descriptor, sizeof descriptor);
            if (p->descriptors[0] < 0) p->descriptors[0] = descriptor;
            else if (p->descriptors[1] < 0) p->descriptors[1] = descriptor;
            else close(descriptor);
        }
    }
}

/* Takes in what has come, without waiting. The link is lost where that is the connection's end. */
DBUF__FUNCTION void dbuf__receive(dbuf_producer *p) {
    while (p->fd >= 0) {
        union {
            struct cmsghdr align;
            char bytes[CMSG_SPACE(4 * sizeof(int))];
        } control;
        struct iovec into;
        struct msghdr message;
        ssize_t got;
        into.iov_base = p->in + p->in_bytes;
        into.iov_len = sizeof p->in - p->in_bytes;
        memset(&message, 0, sizeof message);
        message.msg_iov = &into;
        message.msg_iovlen = 1;
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        got = recvmsg(p->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
        if (got <= 0) {
            dbuf__lose_link(p, got == 0 ? "dbufd closed the connection" : strerror(errno));
            return;
        }
        dbuf__keep_descriptors(p, &message);
        p->in_bytes += (size_t)got;
        dbuf__take_frames(p);
    }
}

/* By frames: reads what has come, and writes what the socket takes. */
DBUF__FUNCTION void dbuf__pump_frames(dbuf_producer *p) {
    dbuf__receive(p);
    while (p->stage == DBUF__FRAMES) {
        uint8_t heads[DBUF__BATCH][DBUF__FRAME_HEAD_BYTES];
        struct iovec pieces[DBUF__PIECES];
        struct msghdr message;
        ssize_t sent;
        memset(&message, 0, sizeof message);
        message.msg_iov = pieces;
        message.msg_iovlen = dbuf__gather(p, pieces, heads);
        if (message.msg_iovlen == 0) return;
        sent = sendmsg(p->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent >= 0) dbuf__sent(p, (size_t)sent);
        else if (errno == EAGAIN || errno == EWOULDBLOCK) return;
        else if (errno != EINTR) {
            int why = errno;
            dbuf__receive(p); /* a daemon that ends the connection says why */
            if (p->stage == DBUF__FRAMES) dbuf__lose_link(p, strerror(why));
        }
    }
}

/* ------------------------------------------------------------------------------------------------------------------------
 * The ring's link: granted, rung, waited for, lost
 * --------------------------------------------------------------------------------------------------------------------- */

/* F_GET_SEALS and F_SEAL_SHRINK of fcntl(2), which the C library has for _GNU_SOURCE alone. */
enum { DBUF__GET_SEALS = 1034, DBUF__SEAL_SHRINK = 2 };
/* MADV_POPULATE_WRITE of madvise(2), which older headers lack. */
enum { DBUF__POPULATE_WRITE = 23 };

/* Has the daemon's barrier reach this process: once in each. */
DBUF__FUNCTION int dbuf__is_ordered(void) {
    int is = __atomic_load_n(&dbuf__process.barrier, __ATOMIC_RELAXED);
    if (is == 0) {
        is = syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0) == 0 ? 1 : -1;
        __atomic_store_n(&dbuf__process.barrier, is, __ATOMIC_RELAXED);
    }
    return is > 0;
}

/* By what the events of this link are stamped. */
DBUF__FUNCTION void dbuf__set_clock(dbuf_producer *p, int ticks) {
    p->clock = (uint8_t)(!p->stamps ? DBUF__CLOCK_NONE : ticks ? DBUF__CLOCK_TICKS : DBUF__CLOCK_NS);
    p->glance_every = ticks ? DBUF__GLANCE_EVERY_TICKS : DBUF__GLANCE_EVERY_NS;
    p->glanced = dbuf__stamp(p);
}

/* Maps the memory that was passed. NULL if it is no ring of this version and size. */
DBUF__FUNCTION dbuf__words *dbuf__map_ring(const dbuf_producer *p, int memory) {
    size_t bytes = DBUF__HEADER_BYTES + (size_t)p->capacity;
    struct stat status;
    dbuf__words *words;
    void *mapped;
    int seals = fcntl(memory, DBUF__GET_SEALS);
    /* Without the seal a daemon that shrinks it could end this program by SIGBUS. */
    if (seals < 0 || !(seals & DBUF__SEAL_SHRINK)) return NULL;
    if (fstat(memory, &status) != 0 || (uint64_t)status.st_size != bytes) return NULL;
    mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (mapped == MAP_FAILED) return NULL;
    words = (dbuf__words *)mapped;
    if (memcmp(&words->magic, "dbufring", 8) == 0 && words->version == 1 && words->header_bytes == DBUF__HEADER_BYTES) return words;
    munmap(mapped, bytes);
    return NULL;
}

/* Writes what waits in the memory into a new ring, which it fits into. Returns its head there. */
DBUF__FUNCTION uint64_t dbuf__move(dbuf_producer *p, dbuf__words *to) {
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
    /* So are the losses of which no daemon knows; the bytes first. */
    to->lost_bytes = p->words->lost_bytes - dbuf__min(p->words->lost_bytes, p->words->lost_bytes_told);
    __atomic_store_n(&to->lost_events, p->words->lost_events - dbuf__min(p->words->lost_events, p->words->lost_events_told),
                     __ATOMIC_RELEASE);
    __atomic_store_n(&to->writing, head, __ATOMIC_RELAXED);
    return head;
}

DBUF__FUNCTION void dbuf__ring_bell(dbuf_producer *p) {
    uint64_t one = 1;
    p->doorbells++;
    /* It fails only if somebody has rung 2^64 times. */
    if (write(p->bell, &one, sizeof one) != (ssize_t)sizeof one) dbuf__say(p, "the doorbell: %s", strerror(errno));
}

/* Whether a daemon in this state is to be woken: once for each time that it falls asleep. */
DBUF__FUNCTION int dbuf__is_bell_due(dbuf_producer *p, uint64_t state) {
    if ((state & DBUF__STATE_MASK) == 0 || state == p->rung) return 0;
    if ((state & DBUF__STATE_MASK) != DBUF__ASLEEP) {
        p->tail = dbuf__seen_tail(p);
        if (p->head - p->tail <= p->capacity / 2) return 0;
    }
    p->rung = state;
    return 1;
}

/* Goes on in the ring that GRANT brought. */
DBUF__FUNCTION void dbuf__adopt_ring(dbuf_producer *p) {
    dbuf__words *words = p->descriptors[0] < 0 || p->descriptors[1] < 0 ? NULL : dbuf__map_ring(p, p->descriptors[0]);
    uint64_t head;
    if (words == NULL) {
        p->ring_is_bad = 1; /* frames, then */
        dbuf__lose_link(p, "dbufd gave a ring that cannot be used");
        p->retry_at_ns = 0;
        return;
    }
    /* A ring does not vouch for events that came to the daemon before it. */
    if (p->settled > dbuf__max(p->durable, p->doubted)) {
        p->unconfirmed += p->settled - dbuf__max(p->durable, p->doubted);
        p->doubted = p->settled;
    }
    /* Where the kernel cannot, it may be able to when a page is needed. */
    if (p->populates) (void)madvise(words, DBUF__HEADER_BYTES + (size_t)p->capacity, DBUF__POPULATE_WRITE);
    head = dbuf__move(p, words);
    munmap(p->words, DBUF__HEADER_BYTES + (size_t)p->capacity);
    p->words = words;
    p->data = (uint8_t *)words + DBUF__HEADER_BYTES;
    p->bell = p->descriptors[1];
    p->descriptors[1] = -1;
    dbuf__close_descriptor(&p->descriptors[0]);
    p->stage = DBUF__RING;
    p->links++;
    p->base = p->settled;
    p->tail = 0;
    p->rung = 0;
    p->fence = !dbuf__is_ordered() || (words->flags & DBUF__FLAG_FENCE) != 0;
    p->first_ticks = __builtin_ia32_rdtsc();
    p->first_ns = p->looked_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
    dbuf__set_clock(p, (words->flags & DBUF__FLAG_TICKS) != 0);
    dbuf__set_quick(p);
    p->head = head;
    if (head == 0) return;
    /* edges head and asleep, as with every publish; here a fence costs nothing. */
    __atomic_store_n(&words->head, head, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (dbuf__is_bell_due(p, __atomic_load_n(&words->state, __ATOMIC_RELAXED))) dbuf__ring_bell(p);
}

/* What a ring's words say of its events, added to what was before. */
typedef struct dbuf__counts {
    uint64_t persisted, durable, lost, refused;
} dbuf__counts;

DBUF__FUNCTION dbuf__counts dbuf__count(const dbuf_producer *p) {
    dbuf__counts counts = {p->persisted, p->durable, p->lost, p->refused};
    uint64_t persisted, durable, events = p->events - p->base;
    if (p->stage != DBUF__RING) return counts;
    /* What is lost was written before these two. */
    persisted = dbuf__min(__atomic_load_n(&p->words->persisted, __ATOMIC_ACQUIRE), events);
    durable = dbuf__min(__atomic_load_n(&p->words->durable, __ATOMIC_ACQUIRE), events);
    if (persisted > 0) counts.persisted = dbuf__max(counts.persisted, p->base + persisted);
    if (durable > 0) counts.durable = dbuf__max(counts.durable, p->base + durable);
    counts.lost += dbuf__min(__atomic_load_n(&p->words->lost, __ATOMIC_RELAXED), events);
    counts.refused += dbuf__min(__atomic_load_n(&p->words->refused, __ATOMIC_RELAXED), events);
    return counts;
}

/* The ring's memory becomes this producer's alone: what was not taken is counted, and its ticks become nanoseconds. */
DBUF__FUNCTION void dbuf__keep_memory(dbuf_producer *p) {
    uint64_t ticks = __builtin_ia32_rdtsc(), ns = dbuf__clock_ns(CLOCK_REALTIME), at, waiting = 0;
    double ns_a_tick = (double)(dbuf__clock_ns(CLOCK_MONOTONIC) - p->first_ns) / (double)(ticks - p->first_ticks + 1);
    dbuf__counts counts = dbuf__count(p);
    dbuf__record record;
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
    p->settled = p->events - dbuf__min(waiting, p->events);
}

/* The connection has ended, or could not be made. `why` is NULL where the daemon has said why. */
DBUF__FUNCTION void dbuf__lose_link(dbuf_producer *p, const char *why) {
    int had_link = p->stage == DBUF__RING || p->stage == DBUF__FRAMES;
    uint64_t now_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
    if (why != NULL) dbuf__say(p, "%s", why);
    if (p->stage == DBUF__RING) dbuf__keep_memory(p);
    dbuf__close_descriptors(p);
    p->stage = DBUF__DOWN;
    p->fence = 0;
    dbuf__set_clock(p, 0);
    dbuf__set_quick(p);
    if (had_link && now_ns - p->since_ns >= DBUF__STEADY_NS) {
        p->retry_ns = DBUF__RETRY_MIN_NS;
        p->retry_at_ns = now_ns;
    } else {
        p->retry_at_ns = now_ns + p->retry_ns;
        p->retry_ns = dbuf__min(2 * p->retry_ns, DBUF__RETRY_MAX_NS);
    }
}

DBUF__INLINE int dbuf__has_link(const dbuf_producer *p) { return p->stage == DBUF__RING || p->stage == DBUF__FRAMES; }

/* Does what is due on the link. Only a connection that it makes itself is waited for, at most timeout_ms. */
DBUF__FUNCTION void dbuf__tend(dbuf_producer *p, int timeout_ms) {
    uint64_t now_ns = dbuf__clock_ns(CLOCK_MONOTONIC), until_ns = now_ns;
    if (p->stage == DBUF__RING && now_ns - p->looked_ns >= DBUF__LOOK_EVERY_NS) {
        p->looked_ns = now_ns;
        dbuf__receive(p);
    }
    if (p->stage == DBUF__FRAMES) dbuf__pump_frames(p);
    if (p->stage == DBUF__DOWN && now_ns >= p->retry_at_ns) {
        dbuf__connect(p, now_ns);
        until_ns += (uint64_t)timeout_ms * DBUF__MS;
    }
    while (p->stage == DBUF__HELLO || p->stage == DBUF__ASKED) {
        struct pollfd wait = {p->fd, POLLIN, 0};
        dbuf__receive(p);
        if (p->stage == DBUF__FRAMES) dbuf__pump_frames(p);
        if (p->stage != DBUF__HELLO && p->stage != DBUF__ASKED) return;
        now_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
        if (now_ns - p->since_ns >= DBUF__ANSWER_NS) dbuf__lose_link(p, "dbufd does not answer");
        else if (now_ns >= until_ns) return;
        else poll(&wait, 1, dbuf__slice_ms(now_ns, until_ns));
    }
}

/* How long a send may wait for a daemon's answer. */
DBUF__INLINE int dbuf__timeout_ms(const dbuf_producer *p, int wait_ms) {
    if (wait_ms == DBUF__WAIT_NOT_AND_DO_NOT_COUNT) return 0;
    if (wait_ms == DBUF__WAIT_AS_OPTIONS) wait_ms = p->wait_ms;
    return wait_ms == 0 ? DBUF__DROP_TIMEOUT_MS : (int)dbuf__min((uint64_t)wait_ms, DBUF__OPEN_TIMEOUT_MS);
}

/* After a publish on a ring: rings the bell if that is due, and sees now and then whether anybody is there. */
DBUF__FUNCTION void dbuf__after_publish(dbuf_producer *p, uint64_t state, uint64_t glance_time) {
    int saved = errno;
    if (p->stage != DBUF__RING) return;
    if (dbuf__is_bell_due(p, state)) {
        dbuf__ring_bell(p);
        p->looked_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
        dbuf__receive(p); /* the daemon that is rung for is still there */
    }
    if (p->stage == DBUF__RING && glance_time - p->glanced >= p->glance_every) {
        /* A daemon that was killed while it was awake rings no bell and takes nothing: then, and only then, the connection says
         * whether it is gone. One that systemd starts again has not let go of it. */
        uint64_t tail = dbuf__seen_tail(p), now_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
        p->glanced = glance_time;
        if (tail == p->seen_at_glance && now_ns - p->looked_ns >= DBUF__GLANCE_EVERY_NS) {
            p->looked_ns = now_ns;
            dbuf__receive(p);
        }
        p->seen_at_glance = tail;
        dbuf__set_quick(p);
    }
    if (p->stage == DBUF__DOWN) dbuf__tend(p, dbuf__timeout_ms(p, DBUF__WAIT_AS_OPTIONS));
    errno = saved;
}

/* Says what this side waits for; what is waited for is to be looked at after this, and then dbuf__sleep() with what it returned. */
DBUF__FUNCTION uint32_t dbuf__want(dbuf_producer *p, uint32_t what) {
    if (p->stage != DBUF__RING) return 0;
    __atomic_store_n(&p->words->wants, what, __ATOMIC_RELAXED);
    /* edge turn: the wish is there before the look. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    /* Who sees this turn sees what it was changed for. */
    return __atomic_load_n(&p->words->turn, __ATOMIC_ACQUIRE);
}

/* Sleeps until something may have happened on the link, at most a slice. `*rung` is the link for which the bell was rung. */
DBUF__FUNCTION void dbuf__sleep(dbuf_producer *p, uint32_t turn, uint64_t now_ns, uint64_t until_ns, uint64_t *rung) {
    struct pollfd wait = {p->fd, POLLIN, 0};
    struct timespec slice;
    int slice_ms = dbuf__slice_ms(now_ns, until_ns);
    switch (p->stage) {
    case DBUF__RING:
        if (*rung != p->links) dbuf__ring_bell(p);
        *rung = p->links;
        slice.tv_sec = 0;
        slice.tv_nsec = (long)slice_ms * 1000000;
        /* Whatever it says, the caller looks again. Two processes share the word: no private futex. */
        syscall(SYS_futex, &p->words->turn, FUTEX_WAIT, turn, &slice, NULL, 0);
        break;
    case DBUF__FRAMES:
        if (p->send_at != p->head || p->sync_waits) wait.events |= POLLOUT;
        poll(&wait, 1, slice_ms);
        break;
    case DBUF__DOWN: poll(NULL, 0, dbuf__slice_ms(now_ns, dbuf__min(until_ns, p->retry_at_ns))); break;
    default: poll(&wait, 1, slice_ms); break;
    }
}

/* ------------------------------------------------------------------------------------------------------------------------
 * A producer's beginning
 * --------------------------------------------------------------------------------------------------------------------- */

DBUF__FUNCTION void dbuf__before_fork(void) { pthread_mutex_lock(&dbuf__process.lock); }
DBUF__FUNCTION void dbuf__in_parent(void) { pthread_mutex_unlock(&dbuf__process.lock); }

/* The daemon must not take a child that never sends for its parent: a connection lives as long as one copy of it does. */
DBUF__FUNCTION void dbuf__in_child(void) {
    dbuf_producer *p;
    dbuf__process.forks++;
    dbuf__process.barrier = 0;
    for (p = dbuf__process.first; p != NULL; p = p->next) dbuf__close_descriptors(p);
    pthread_mutex_unlock(&dbuf__process.lock);
}

DBUF__FUNCTION void dbuf__watch_forks(void) { pthread_atfork(dbuf__before_fork, dbuf__in_parent, dbuf__in_child); }

DBUF__FUNCTION void dbuf__enlist(dbuf_producer *p) {
    pthread_mutex_lock(&dbuf__process.lock);
    p->next = dbuf__process.first;
    p->link = &dbuf__process.first;
    if (p->next != NULL) p->next->link = &p->next;
    dbuf__process.first = p;
    pthread_mutex_unlock(&dbuf__process.lock);
}

DBUF__FUNCTION void dbuf__strike_off(dbuf_producer *p) {
    pthread_mutex_lock(&dbuf__process.lock);
    *p->link = p->next;
    if (p->next != NULL) p->next->link = p->link;
    pthread_mutex_unlock(&dbuf__process.lock);
}

/* Begins with what the options say and nothing else. 0, or DBUF_ERR_NO_MEMORY. */
DBUF__FUNCTION int dbuf__begin(dbuf_producer *p) {
    uint64_t capacity = p->capacity, seed = dbuf__clock_ns(CLOCK_REALTIME) ^ (uint64_t)getpid() << 40 ^ (uint64_t)(uintptr_t)p;
    void *memory = mmap(NULL, DBUF__HEADER_BYTES + (size_t)capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(p, 0, offsetof(struct dbuf_producer, next));
    p->capacity = capacity;
    p->fd = p->bell = p->descriptors[0] = p->descriptors[1] = -1;
    p->retry_ns = DBUF__RETRY_MIN_NS;
    p->max_event = DBUF__MAX_EVENT_ASSUMED;
    p->forks = dbuf__process.forks - 1; /* nobody's, until there is memory */
    if (memory == MAP_FAILED) return dbuf__fail(p, DBUF_ERR_NO_MEMORY);
    p->forks = dbuf__process.forks;
    p->words = (dbuf__words *)memory;
    p->data = (uint8_t *)memory + DBUF__HEADER_BYTES;
    if (getrandom(p->session, sizeof p->session, GRND_NONBLOCK) != (ssize_t)sizeof p->session) memcpy(p->session, &seed, sizeof seed);
    dbuf__set_clock(p, 0);
    return 0;
}

/* Lets go of memory and descriptors, and says nothing to anybody. */
DBUF__FUNCTION void dbuf__let_go(dbuf_producer *p) {
    dbuf__close_descriptors(p);
    if (p->words != NULL) munmap(p->words, DBUF__HEADER_BYTES + (size_t)p->capacity);
    p->words = NULL;
}

DBUF__FUNCTION void dbuf__free(dbuf_producer *p) {
    dbuf__strike_off(p);
    dbuf__let_go(p);
    free(p);
}

/* In a child of the process in which it was opened: the ring, the connection and the events are the parent's. */
DBUF__FUNCTION int dbuf__begin_if_forked(dbuf_producer *p) {
    if (DBUF__LIKELY(p->forks == dbuf__process.forks)) return 0;
    dbuf__let_go(p);
    return dbuf__begin(p);
}

/* The program's short name. */
DBUF__FUNCTION size_t dbuf__program_name(char *to, size_t bytes) {
    int file = open("/proc/self/comm", O_RDONLY | O_CLOEXEC);
    ssize_t got = file < 0 ? 0 : read(file, to, bytes);
    if (file >= 0) close(file);
    while (got > 0 && to[got - 1] == '\n') got--;
    return got > 0 ? (size_t)got : 0;
}

DBUF__FUNCTION int dbuf__are_options_valid(const dbuf_options *o) {
    return o->ring_bytes >= DBUF_RING_BYTES_MIN && o->ring_bytes <= DBUF_RING_BYTES_MAX && (o->ring_bytes & (o->ring_bytes - 1)) == 0 &&
           o->wait_ms >= 0 && o->close_wait_ms >= 0 && (o->name == NULL || strlen(o->name) <= DBUF_TAG_BYTES_MAX) &&
           (o->socket == NULL || strlen(o->socket) < sizeof(((struct sockaddr_un *)0)->sun_path));
}

DBUF__FUNCTION int dbuf_open(dbuf_producer **producer, const dbuf_options *options) {
    dbuf_options defaults = dbuf_options_default();
    const dbuf_options *o = options != NULL ? options : &defaults;
    int saved = errno, error = 0;
    dbuf_producer *p;
    *producer = NULL;
    if (!dbuf__are_options_valid(o)) return DBUF_ERR_INVALID;
    pthread_once(&dbuf__process.at_fork, dbuf__watch_forks);
    p = (dbuf_producer *)calloc(1, sizeof *p);
    if (p == NULL) {
        errno = saved;
        return DBUF_ERR_NO_MEMORY;
    }
    p->capacity = o->ring_bytes;
    p->wait_ms = o->wait_ms;
    p->close_wait_ms = o->close_wait_ms;
    p->fail_when_down = o->fail_when_down != 0;
    p->stamps = !o->no_stamp;
    p->asks_ring = !o->no_ring;
    p->populates = o->populate != 0;
    if (o->socket != NULL) memcpy(p->socket, o->socket, strlen(o->socket) + 1);
    if (o->name != NULL) {
        p->name_bytes = (uint8_t)strlen(o->name);
        memcpy(p->name, o->name, p->name_bytes);
    } else p->name_bytes = (uint8_t)dbuf__program_name(p->name, sizeof p->name);
    error = dbuf__begin(p);
    dbuf__enlist(p);
    if (error == 0) dbuf__tend(p, DBUF__OPEN_TIMEOUT_MS);
    if (error == 0 && p->fail_when_down && !dbuf__has_link(p)) error = DBUF_ERR_NO_DAEMON;
    if (error == 0) *producer = p;
    else dbuf__free(p);
    errno = saved;
    return error;
}

/* ------------------------------------------------------------------------------------------------------------------------
 * Sending
 * --------------------------------------------------------------------------------------------------------------------- */

/* Counts an event that found no room; the bytes first, for the daemon. */
DBUF__FUNCTION void dbuf__give_up(dbuf_producer *p, size_t payload_bytes) {
    p->lost_full++;
    p->lost_full_bytes += payload_bytes;
    __atomic_store_n(&p->words->lost_bytes, p->words->lost_bytes + payload_bytes, __ATOMIC_RELAXED);
    __atomic_store_n(&p->words->lost_events, p->words->lost_events + 1, __ATOMIC_RELEASE);
}

/* Waits until there is room, or until the moment. */
DBUF__FUNCTION int dbuf__await_room(dbuf_producer *p, uint64_t length, uint64_t until_ns, uint64_t *at, uint64_t *end) {
    uint64_t rung = 0;
    int has_room;
    p->waits++;
    for (;;) {
        uint32_t turn = dbuf__want(p, DBUF__WANT_ROOM);
        uint64_t now_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
        has_room = dbuf__find_room(p, length, at, end);
        if (has_room || now_ns >= until_ns) break;
        dbuf__sleep(p, turn, now_ns, until_ns, &rung);
        dbuf__tend(p, 0);
    }
    __atomic_store_n(&p->words->wants, 0, __ATOMIC_RELAXED);
    return has_room;
}

/* Whether the parts are an event, but for the payload; measures its fields. */
DBUF__FUNCTION int dbuf__measure(dbuf__parts *e) {
    size_t i;
    if (e->pri < 0 || e->pri > DBUF_PRI_MAX || e->tag_bytes > DBUF_TAG_BYTES_MAX) return 0;
    e->fields_bytes = 0;
    for (i = 0; i < e->field_count; i++) {
        size_t name_bytes = e->fields[i].name == NULL ? 0 : strlen(e->fields[i].name);
        if (name_bytes < 1 || name_bytes > DBUF_FIELD_NAME_BYTES_MAX) return 0;
        if (e->fields[i].value_bytes > DBUF_FIELDS_BYTES_MAX) return 0;
        e->fields_bytes += 5 + name_bytes + e->fields[i].value_bytes;
        if (e->fields_bytes > DBUF_FIELDS_BYTES_MAX) return 0;
    }
    return 1;
}

/* Everything before an event can be written: a place for it and for this many bytes of payload, and `spare` behind these. */
DBUF__FUNCTION int dbuf__make_room(dbuf_producer *p, dbuf__parts *e, size_t payload_bytes, size_t spare, int wait_ms, uint64_t *at,
                                   uint64_t *end) {
    uint64_t length;
    int error = dbuf__begin_if_forked(p);
    if (error != 0) return error;
    if (p->claim_is_open) return dbuf__fail(p, DBUF_ERR_CLAIM);
    if (payload_bytes == 0 || !dbuf__measure(e)) return dbuf__fail(p, DBUF_ERR_INVALID);
    if (!dbuf__has_link(p)) dbuf__tend(p, dbuf__timeout_ms(p, wait_ms));
    if (!dbuf__has_link(p) && p->fail_when_down) return DBUF_ERR_NO_DAEMON;
    if (payload_bytes > p->max_event) dbuf__set_quick(p); /* the daemon may take larger ones by now */
    length = dbuf__before_payload(e) + (uint64_t)payload_bytes + spare;
    if (payload_bytes > p->max_event || length > p->capacity / 2 - DBUF__RECORD_HEAD_BYTES) {
        dbuf__say(p, "%zu bytes are too big: dbufd takes %llu, and a record half the ring of %llu", payload_bytes,
                  (unsigned long long)p->max_event, (unsigned long long)p->capacity);
        return DBUF_ERR_TOO_BIG;
    }
    if (DBUF__LIKELY(dbuf__find_room(p, length, at, end))) return 0;
    dbuf__tend(p, 0);
    if (dbuf__find_room(p, length, at, end)) return 0;
    if (wait_ms == DBUF__WAIT_NOT_AND_DO_NOT_COUNT) return dbuf__fail(p, DBUF_ERR_FULL);
    if (wait_ms == DBUF__WAIT_AS_OPTIONS) wait_ms = p->wait_ms;
    if (wait_ms > 0 && dbuf__await_room(p, length, dbuf__deadline(wait_ms), at, end)) return 0;
    dbuf__give_up(p, payload_bytes);
    return dbuf__fail(p, DBUF_ERR_FULL);
}

/* After a publish where the daemon does not empty the memory by itself. */
DBUF__FUNCTION void dbuf__published(dbuf_producer *p) {
    if (p->stage == DBUF__RING) return;
    p->high_water = dbuf__max(p->high_water, p->head - p->tail);
    if (p->stage == DBUF__FRAMES) dbuf__pump_frames(p);
}

DBUF__FUNCTION int dbuf__send_parts(dbuf_producer *p, dbuf__parts *e, int wait_ms) {
    int saved = errno;
    uint64_t at, end;
    int error = dbuf__make_room(p, e, e->payload_bytes, 0, wait_ms, &at, &end);
    if (error == 0) {
        if (e->time_ns != 0) dbuf__put_event(p, e, at, end, DBUF__CLOCK_NS, e->time_ns);
        else dbuf__put_event(p, e, at, end, p->clock, dbuf__stamp(p));
        dbuf__published(p);
    }
    errno = saved;
    return error;
}

/* An event's parts, without its payload. */
DBUF__FUNCTION dbuf__parts dbuf__parts_of(const dbuf_event *event) {
    dbuf__parts parts = {event->pri, NULL, 0, event->tag, 0, event->fields, event->field_count, 0, event->time_ns};
    if (event->tag != NULL) parts.tag_bytes = strlen(event->tag);
    return parts;
}

DBUF__FUNCTION int dbuf_send_event(dbuf_producer *producer, const dbuf_event *event) {
    dbuf__parts parts = dbuf__parts_of(event);
    parts.payload = event->payload;
    parts.payload_bytes = event->payload_bytes;
    return dbuf__send_parts(producer, &parts, DBUF__WAIT_AS_OPTIONS);
}

DBUF__FUNCTION int dbuf__claim(dbuf_producer *p, dbuf__parts *e, size_t bytes_max, size_t spare, int wait_ms, void **payload) {
    uint64_t at, end;
    uint8_t *to;
    int error = dbuf__make_room(p, e, bytes_max, spare, wait_ms, &at, &end);
    *payload = NULL;
    if (error != 0) return error;
    dbuf__begin_record(p, at, end);
    to = p->data + (at & (p->capacity - 1)) + DBUF__RECORD_HEAD_BYTES;
    *payload = dbuf__put_before_payload(to, e);
    p->claim_is_open = 1;
    p->claim_kind = e->field_count > 0 ? DBUF__EVENT_WITH_FIELDS : DBUF__EVENT;
    p->claim_tag_bytes = (uint8_t)e->tag_bytes;
    p->claim_pri = e->pri;
    p->claim_at = at;
    p->claim_time = e->time_ns;
    p->claim_before = dbuf__before_payload(e);
    p->claim_max = bytes_max;
    dbuf__set_quick(p);
    return 0;
}

DBUF__FUNCTION int dbuf_claim_event(dbuf_producer *producer, const dbuf_event *event, size_t bytes_max, void **payload) {
    dbuf__parts parts = dbuf__parts_of(event);
    int saved = errno, error = dbuf__claim(producer, &parts, bytes_max, 0, DBUF__WAIT_AS_OPTIONS, payload);
    errno = saved;
    return error;
}

DBUF__FUNCTION int dbuf_claim(dbuf_producer *producer, int pri, size_t bytes_max, void **payload) {
    dbuf_event event = {pri, NULL, 0, NULL, NULL, 0, 0};
    return dbuf_claim_event(producer, &event, bytes_max, payload);
}

DBUF__FUNCTION void dbuf_discard(dbuf_producer *p) {
    if (p->forks != dbuf__process.forks || !p->claim_is_open) return;
    p->claim_is_open = 0;
    dbuf__set_quick(p);
    __atomic_store_n(&p->words->writing, p->head, __ATOMIC_RELAXED);
}

DBUF__FUNCTION int dbuf_publish(dbuf_producer *p, size_t bytes) {
    uint64_t length = p->claim_before + bytes, end = p->claim_at + dbuf__record_bytes(length), time = p->claim_time;
    int saved = errno;
    unsigned clock = DBUF__CLOCK_NS;
    /* A child that finds its parent's claim open begins anew with its next send. */
    if (p->forks != dbuf__process.forks || !p->claim_is_open) return DBUF_ERR_CLAIM;
    if (bytes == 0 || bytes > p->claim_max) return dbuf__fail(p, DBUF_ERR_INVALID);
    if (time == 0) {
        clock = p->clock;
        time = dbuf__stamp(p);
    }
    dbuf__put_record_head(p->data + (p->claim_at & (p->capacity - 1)), length, p->claim_kind, (unsigned)p->claim_pri,
                          p->claim_tag_bytes, clock, time);
    p->claim_is_open = 0;
    dbuf__set_quick(p);
    __atomic_store_n(&p->words->writing, end, __ATOMIC_RELAXED);
    dbuf__publish_to(p, end, bytes, dbuf__glance_time(p, p->claim_time == 0 ? time : 0));
    dbuf__published(p);
    errno = saved;
    return 0;
}

/* ------------------------------------------------------------------------------------------------------------------------
 * Texts
 * --------------------------------------------------------------------------------------------------------------------- */

enum { DBUF__TEXT_BYTES = 1023 }; /* what is claimed for a text before its length is known */

DBUF__FUNCTION int dbuf_vprintf(dbuf_producer *producer, int pri, const char *format, va_list arguments) {
    int saved = errno, error, length = -1;
    size_t room = (size_t)dbuf__min(DBUF__TEXT_BYTES, producer->max_event);
    dbuf__parts parts = {pri, NULL, 0, NULL, 0, NULL, 0, 0, 0};
    void *place;
    va_list again;
    va_copy(again, arguments);
    /* One byte more, for the NUL that is not sent. What the format says of errno (%m) is the caller's. */
    error = dbuf__claim(producer, &parts, room, 1, DBUF__WAIT_NOT_AND_DO_NOT_COUNT, &place);
    errno = saved;
    if (error == 0 || error == DBUF_ERR_FULL) length = vsnprintf((char *)place, error == 0 ? room + 1 : 0, format, arguments);
    if (length >= 0 && (error != 0 || (size_t)length > room)) {
        dbuf_discard(producer);
        room = (size_t)length;
        error = dbuf__claim(producer, &parts, room > 0 ? room : 1, 1, DBUF__WAIT_AS_OPTIONS, &place);
        errno = saved;
        if (error == 0) length = vsnprintf((char *)place, room + 1, format, again);
    }
    va_end(again);
    if (error == 0) {
        if (length > 0 && (size_t)length <= room && ((const char *)place)[length - 1] == '\n') length--;
        error = length > 0 && (size_t)length <= room ? dbuf_publish(producer, (size_t)length) : dbuf__fail(producer, DBUF_ERR_INVALID);
        if (error != 0) dbuf_discard(producer);
    }
    errno = saved;
    return error;
}

DBUF__FUNCTION int dbuf_printf(dbuf_producer *producer, int pri, const char *format, ...) {
    va_list arguments;
    int error;
    va_start(arguments, format);
    error = dbuf_vprintf(producer, pri, format, arguments);
    va_end(arguments);
    return error;
}

/* ------------------------------------------------------------------------------------------------------------------------
 * What became of the events
 * --------------------------------------------------------------------------------------------------------------------- */

/* Asks the daemon to make events up to this one durable, if it has not been asked on this link. */
DBUF__FUNCTION void dbuf__ask_sync(dbuf_producer *p, uint64_t wanted) {
    uint8_t sync[DBUF__FRAME_HEAD_BYTES];
    if (p->stage == DBUF__RING) {
        /* The fence of dbuf__want() orders it, and the bell brings the daemon's look. */
        __atomic_store_n(&p->words->sync, wanted - p->base, __ATOMIC_RELAXED);
    } else if (p->stage == DBUF__FRAMES && p->send_at == p->head && p->sync_number < wanted) {
        ssize_t sent;
        dbuf__put_frame_head(sync, 0, DBUF__FRAME_SYNC, 0, 0, 0, 0);
        sent = send(p->fd, sync, sizeof sync, MSG_DONTWAIT | MSG_NOSIGNAL);
        /* The events may have filled the socket: then the SYNC waits for room, as they would. */
        p->sync_waits = sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
        if (p->sync_waits) return;
        p->sync_number = wanted;
        p->sync_known = p->known;
        if (sent != (ssize_t)sizeof sync) dbuf__lose_link(p, sent < 0 ? strerror(errno) : "the connection takes no more");
    }
}

DBUF__FUNCTION int dbuf_sync(dbuf_producer *producer, int timeout_ms) {
    dbuf_producer *p = producer;
    uint64_t wanted, until_ns = dbuf__deadline(timeout_ms), rung = 0, sure = 0, not_stored;
    int saved = errno, error = dbuf__begin_if_forked(p);
    dbuf__counts counts;
    if (error == 0 && p->claim_is_open) error = dbuf__fail(p, DBUF_ERR_CLAIM);
    if (error != 0) {
        errno = saved;
        return error;
    }
    wanted = p->events;
    dbuf__tend(p, (int)dbuf__min((uint64_t)(timeout_ms > 0 ? timeout_ms : 0), DBUF__OPEN_TIMEOUT_MS));
    for (;;) {
        uint32_t turn;
        uint64_t now_ns;
        dbuf__ask_sync(p, wanted);
        turn = dbuf__want(p, DBUF__WANT_DURABLE);
        now_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
        counts = dbuf__count(p);
        sure = dbuf__max(counts.durable, p->doubted);
        if (sure >= wanted || now_ns >= until_ns || (p->fail_when_down && !dbuf__has_link(p))) break;
        dbuf__sleep(p, turn, now_ns, until_ns, &rung);
        dbuf__tend(p, 0);
    }
    __atomic_store_n(&p->words->wants, 0, __ATOMIC_RELAXED);
    p->sync_waits = 0; /* only this call waits for it; others would find the socket writable again and again */
    not_stored = counts.lost + counts.refused;
    if (sure < wanted) {
        error = dbuf__has_link(p) ? DBUF_ERR_TIMEOUT : DBUF_ERR_NO_DAEMON;
        if (error == DBUF_ERR_TIMEOUT) dbuf__fail(p, error);
    } else if (not_stored > p->not_stored_told || p->unconfirmed > p->unconfirmed_told) {
        dbuf__say(p, "%llu events were not stored, and of %llu a daemon that is gone did not say so",
                  (unsigned long long)(not_stored - p->not_stored_told), (unsigned long long)(p->unconfirmed - p->unconfirmed_told));
        p->not_stored_told = not_stored;
        p->unconfirmed_told = p->unconfirmed;
        error = DBUF_ERR_NOT_STORED;
    }
    errno = saved;
    return error;
}

DBUF__FUNCTION int dbuf_tend(dbuf_producer *producer) {
    int saved = errno, error = dbuf__begin_if_forked(producer);
    if (error == 0 && producer->claim_is_open) error = dbuf__fail(producer, DBUF_ERR_CLAIM);
    if (error == 0) dbuf__tend(producer, 0);
    errno = saved;
    return error;
}

DBUF__FUNCTION void dbuf_get_statistics(const dbuf_producer *producer, dbuf_statistics *statistics) {
    const dbuf_producer *p = producer;
    dbuf__counts counts;
    memset(statistics, 0, sizeof *statistics);
    statistics->capacity_bytes = p->capacity;
    if (p->forks != dbuf__process.forks) return; /* a child that has not begun: nothing was sent */
    counts = dbuf__count(p);
    statistics->events = p->events;
    statistics->bytes = p->bytes;
    statistics->lost_full = p->lost_full;
    statistics->lost_full_bytes = p->lost_full_bytes;
    statistics->refused = counts.refused;
    statistics->lost = counts.lost;
    statistics->unconfirmed = p->unconfirmed;
    statistics->persisted = counts.persisted;
    statistics->durable = counts.durable;
    statistics->waiting_bytes = p->head - dbuf__seen_tail(p);
    statistics->high_water_bytes = dbuf__max(p->high_water, statistics->waiting_bytes);
    if (p->stage == DBUF__RING)
        statistics->high_water_bytes = dbuf__max(statistics->high_water_bytes, dbuf__min(p->words->high_water, p->capacity));
    statistics->doorbells = p->doorbells;
    statistics->waits = p->waits;
    statistics->links = p->links;
    statistics->link = p->stage == DBUF__RING ? DBUF_LINK_RING : p->stage == DBUF__FRAMES ? DBUF_LINK_FRAMES : DBUF_LINK_NONE;
}

DBUF__FUNCTION const char *dbuf_last_error(const dbuf_producer *producer) { return producer->error; }

/* ------------------------------------------------------------------------------------------------------------------------
 * A producer's end
 * --------------------------------------------------------------------------------------------------------------------- */

DBUF__FUNCTION int dbuf_close(dbuf_producer *producer) {
    dbuf_producer *p = producer;
    int saved = errno, error = 0;
    if (p == NULL) return 0;
    if (p->forks == dbuf__process.forks) {
        uint64_t now_ns = dbuf__clock_ns(CLOCK_MONOTONIC), until_ns = now_ns + (uint64_t)p->close_wait_ms * DBUF__MS, rung = 0;
        dbuf_discard(p);
        if (p->stage == DBUF__RING) dbuf__receive(p);
        /* What is left is worth an attempt, however long ago the last one was. */
        if (p->stage == DBUF__DOWN && p->settled < p->events) p->retry_at_ns = 0;
        while (p->stage != DBUF__RING && p->settled < p->events) {
            dbuf__tend(p, 0);
            now_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
            if (p->stage == DBUF__RING || p->settled == p->events || now_ns >= until_ns) break;
            dbuf__sleep(p, 0, now_ns, until_ns, &rung);
        }
        if (p->stage == DBUF__FRAMES && p->send_at == p->head) {
            uint8_t bye[DBUF__FRAME_HEAD_BYTES];
            dbuf__put_frame_head(bye, 0, DBUF__FRAME_BYE, 0, 0, 0, 0);
            dbuf__write(p, bye, sizeof bye);
        } else if (p->stage != DBUF__RING && p->settled < p->events) error = DBUF_ERR_TIMEOUT;
    }
    dbuf__free(p);
    errno = saved;
    return error;
}

/* ------------------------------------------------------------------------------------------------------------------------
 * A producer for each thread
 * --------------------------------------------------------------------------------------------------------------------- */

DBUF__FUNCTION void dbuf__close_own(void *own) {
    if (own == NULL) return;
    dbuf__own = NULL;
    dbuf_close((dbuf_producer *)own);
}

/* The thread that ends the program gets no destructor of its key. */
DBUF__FUNCTION void dbuf__close_own_at_exit(void) { dbuf__close_own(dbuf__own); }

DBUF__FUNCTION void dbuf__watch_exits(void) {
    dbuf__process.has_key = pthread_key_create(&dbuf__process.key, dbuf__close_own) == 0;
    atexit(dbuf__close_own_at_exit);
}

DBUF__FUNCTION int dbuf_log_options(const dbuf_options *options) {
    dbuf__process_state *process = &dbuf__process;
    process->has_log_options = 0;
    if (options == NULL) return 0;
    if (!dbuf__are_options_valid(options)) return DBUF_ERR_INVALID;
    process->log_options = *options;
    if (options->name != NULL) {
        memcpy(process->log_name, options->name, strlen(options->name) + 1);
        process->log_options.name = process->log_name;
    }
    if (options->socket != NULL) {
        memcpy(process->log_socket, options->socket, strlen(options->socket) + 1);
        process->log_options.socket = process->log_socket;
    }
    process->has_log_options = 1;
    return 0;
}

/* This thread's own producer, or why there is none. */
DBUF__FUNCTION int dbuf__open_own(void) {
    int saved = errno, error;
    pthread_once(&dbuf__process.at_exit, dbuf__watch_exits);
    error = dbuf_open(&dbuf__own, dbuf__process.has_log_options ? &dbuf__process.log_options : NULL);
    /* Without the key it would outlive its thread, and what it keeps would be lost silently. */
    if (error == 0 && (!dbuf__process.has_key || pthread_setspecific(dbuf__process.key, dbuf__own) != 0)) {
        dbuf__close_own(dbuf__own);
        error = DBUF_ERR_NO_MEMORY;
    }
    errno = saved;
    return error;
}

DBUF__FUNCTION dbuf_producer *dbuf_log_producer(void) {
    if (dbuf__own == NULL) dbuf__open_own();
    return dbuf__own;
}

DBUF__FUNCTION int dbuf_log(int pri, const char *format, ...) {
    va_list arguments;
    int error = dbuf__own == NULL ? dbuf__open_own() : 0;
    if (error != 0) return error;
    va_start(arguments, format);
    error = dbuf_vprintf(dbuf__own, pri, format, arguments);
    va_end(arguments);
    return error;
}

#ifdef __cplusplus
}
#endif

#endif /* DBUF_H */
