/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * dbuf.h sends events to dbufd from C11 and C++17 programs on Linux x86-64. It is one file: include it, link nothing.
 *
 *     #include "dbuf.h"
 *
 *     int main(void) {
 *         dbuf_producer *p;
 *         int error = dbuf_open(&p, NULL); // NULL: the options of dbuf_options_default()
 *         if (error != 0) return 1;
 *         dbuf_send(p, DBUF_INFO, "order 17 accepted", 17);
 *         dbuf_printf(p, DBUF_ERR, "card of order %d refused", 17);
 *         dbuf_log(DBUF_INFO, "%s", "by the calling thread's own producer, which opens at its first use");
 *         error = dbuf_sync(p, 5000);
 *         if (error != 0) fprintf(stderr, "%s: %s\n", dbuf_strerror(error), dbuf_last_error(p));
 *         return dbuf_close(p) != 0 || error != 0;
 *     }
 *
 * How it works. A producer writes its events into a ring of memory (1 MiB by default). Usually the daemon shares this
 * memory and takes the events out of it. Then dbuf_send() takes some 20 ns, without a system call, a lock or an
 * allocation. If the daemon gives no ring, the producer's calls write the same events as frames to the daemon's socket,
 * and never block on it. If there is no daemon, the memory keeps the events until there is one. Events keep their
 * order. A daemon that still knows this producer gets no event twice. docs/PROTOCOL.md describes all of this.
 *
 * What can fail. A function that returns an int returns 0 or one of the negative numbers of dbuf_error. When the ring
 * is full, a send waits or gives the event up, as the options say. An event that is given up is counted, and the daemon
 * records the loss. No call ends the program, raises SIGPIPE or changes errno. The only output of this file are
 * lines of two kinds on standard error: the first time that the daemon cannot be reached, and when events are lost at
 * the end. The option `quiet` turns both off.
 *
 * Threads. One thread at a time may use a producer. A producer may move to another thread, and a thread may have any
 * number of producers. dbuf_log() keeps one for each thread. A signal handler may call nothing of this file.
 *
 * Processes. After fork() the child may use its parent's producers. Each connects anew at the child's first call, which
 * waits up to 250 ms for the daemon as dbuf_open() does, and has none of its parent's events. A claim that is open at
 * fork() belongs to the parent. Events in a daemon's ring survive the program, however it ends.
 *
 * Descriptors. A program may close all its descriptors, or replace them. A producer looks what a descriptor means
 * before it uses or closes it. If the descriptor is not its own any more, the producer leaves it alone and connects
 * anew.
 *
 * No thread runs in the background. Without a ring, what could not be written yet is written by the next call of
 * dbuf_send(), dbuf_tend(), dbuf_sync() or dbuf_close().
 *
 * Why there is no DBUF_IMPLEMENTATION to define: any number of files of a program may include this one. What a program
 * or a shared object must have once (the count of forks, the thread's own producer) is a weak symbol, which the linker
 * merges. The functions are static in C and inline in C++. So each C file that sends has its own copy of them (22 to 26
 * KB), and a C file that sends nothing has some 600 bytes. Names that begin with dbuf__ or DBUF__ are internal.
 *
 * clients/c/assemble makes this file from the files in clients/c/src. Change those.
 */
#ifndef DBUF_H
#define DBUF_H

#if !defined(__linux__) || !defined(__x86_64__)
#error "dbuf.h is for Linux on x86-64"
#endif

/* ==== The platform: what this file needs of the compiler and of the C library. */

#if defined(_FEATURES_H) && !defined(__USE_MISC)
#error \
    "dbuf.h needs more than ISO C of the C library: include it first, or compile with -std=gnu11 or -D_DEFAULT_SOURCE"
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
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
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
/* Functions are hidden, as the state is. Otherwise the dynamic linker gives two objects of a process one copy of a
 * function, while each object has its own state: a child of fork could write into its parent's ring. And a plug-in
 * could not be unloaded. */
#define DBUF__INLINE inline __attribute__((visibility("hidden")))
#define DBUF__FUNCTION inline __attribute__((visibility("hidden")))
#define DBUF__ASSERT(condition, text) static_assert(condition, text)
#define DBUF__THREAD __thread
#else
#define DBUF__INLINE static inline
#define DBUF__FUNCTION static __attribute__((noinline, unused))
#define DBUF__ASSERT(condition, text) _Static_assert(condition, text)
#define DBUF__THREAD _Thread_local
#endif
#define DBUF__ONCE __attribute__((weak, visibility("hidden")))
/* Reads numbers that another thread may be changing: they go into a report, and may be a little old. */
#define DBUF__RACY __attribute__((no_sanitize("thread")))
#define DBUF__PRINTF(text, first) __attribute__((__format__(__printf__, text, first)))
#define DBUF__LIKELY(condition) __builtin_expect(!!(condition), 1)

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

/* ==== Descriptors: held, and never mistaken for another file of the program.
 *
 * A daemon that starts closes all descriptors, and other programs close ranges of them. The number of a connection may
 * then mean a file of the program. So each descriptor is compared with what it was, by device and inode, before it is
 * used and before it is closed. Sockets and memfds have inodes of their own.
 *
 * Another thread may still close the descriptor between the comparison and the use, or before the first comparison of
 * a new one; nothing can exclude that.
 */

/* Holds a new descriptor, or -1. */
DBUF__FUNCTION void dbuf__hold(dbuf__descriptor *d, int number) {
    struct stat status;
    d->number = number;
    if (number < 0) return;
    if (fstat(number, &status) != 0) memset(&status, 0, sizeof status);
    d->device = status.st_dev;
    d->inode = status.st_ino;
}

/* Holds a new socket, or -1. What is no socket is a file that the program has put in its place: it is not held. */
DBUF__FUNCTION void dbuf__hold_socket(dbuf__descriptor *d, int number) {
    struct stat status;
    if (number >= 0 && (fstat(number, &status) != 0 || !S_ISSOCK(status.st_mode))) {
        number = -1;
        errno = EBADF;
    }
    dbuf__hold(d, number);
}

/* Whether it still is what it was. */
DBUF__FUNCTION int dbuf__is_held(const dbuf__descriptor *d) {
    struct stat status;
    return d->number >= 0 && fstat(d->number, &status) == 0 && status.st_dev == d->device && status.st_ino == d->inode;
}

/* Closes it; forgets it if it is not this producer's any more. */
DBUF__FUNCTION void dbuf__release(dbuf__descriptor *d) {
    if (dbuf__is_held(d)) close(d->number);
    d->number = -1;
}

DBUF__FUNCTION void dbuf__release_all(dbuf_producer *p) {
    dbuf__release(&p->connection);
    dbuf__release(&p->memory);
}

/* Gives a descriptor a number above those of standard input, output and error, which may be closed: what the program
 * writes to one of them must not go to the daemon. Returns the number, or -1. */
DBUF__FUNCTION int dbuf__above_standard(int number) {
    int above;
    if (number < 0 || number > STDERR_FILENO) return number;
    above = fcntl(number, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    close(number);
    return above;
}

DBUF__FUNCTION void dbuf__leave(dbuf_producer *p, const char *why);
#define DBUF__NOT_OURS "the program closed or replaced the descriptor of the connection"

/* Whether the connection is this producer's. If the program has closed or replaced it, the link ends. */
DBUF__FUNCTION int dbuf__holds_connection(dbuf_producer *p) {
    if (dbuf__is_held(&p->connection)) return 1;
    if (p->connection.number >= 0) dbuf__leave(p, DBUF__NOT_OURS);
    return 0;
}

/* Ends the link because of an error of the connection. */
DBUF__FUNCTION void dbuf__fail_link(dbuf_producer *p, int error) {
    dbuf__say(p, "the connection to dbufd failed: %s", strerror(error));
    dbuf__end_link(p, NULL);
}

/* ==== Standard error: the two lines that this file writes there, for losses that no return value shows.
 *
 * A line is one write(2). It is left out if it would block, if descriptor 2 is closed, or if it seems to be a file of
 * the program's data. A setuid program writes it
 * too: it says nothing that its user may not know.
 */

/* Whether a line can be written without a wait, and does not damage a file of the program. A program that closes
 * descriptor 2 may get this number for a file of data, which is usually not open for appending. A shell's `2>file` is
 * not either, but was there when the program was loaded. */
DBUF__FUNCTION int dbuf__takes_lines(void) {
    struct pollfd out = {STDERR_FILENO, POLLOUT, 0};
    struct stat status;
    if (poll(&out, 1, 0) != 1 || out.revents != POLLOUT || fstat(STDERR_FILENO, &status) != 0) return 0;
    return !S_ISREG(status.st_mode) || (fcntl(STDERR_FILENO, F_GETFL) & O_APPEND) != 0 ||
           dbuf__is_held(&dbuf__process.standard_error);
}

/* Replaces control characters, also those of two bytes: a path or the daemon's text may contain them. */
DBUF__FUNCTION void dbuf__make_plain(char *text) {
    unsigned char *at;
    for (at = (unsigned char *)text; *at != '\0'; at++) {
        if (*at < ' ' || *at == 0x7F) *at = '?';
        else if (*at == 0xC2 && at[1] >= 0x80 && at[1] < 0xA0) at[0] = at[1] = '?';
    }
}

/* Writes a line, to which this adds the newline. */
DBUF__FUNCTION void dbuf__write_line(const char *format, ...) DBUF__PRINTF(1, 2);
DBUF__FUNCTION void dbuf__write_line(const char *format, ...) {
    char line[512];
    struct timespec at_once = {0, 0};
    sigset_t broken_pipe, before, pending;
    va_list arguments;
    int length;
    va_start(arguments, format);
    length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (length < 0 || !dbuf__takes_lines()) return;
    if ((size_t)length > sizeof line - 2) length = (int)sizeof line - 2;
    dbuf__make_plain(line);
    line[length] = '\n';
    /* A pipe may lose its reader after poll(2). Its SIGPIPE is blocked and then taken, unless the program has one
     * waiting. */
    sigemptyset(&broken_pipe);
    sigaddset(&broken_pipe, SIGPIPE);
    sigpending(&pending);
    if (pthread_sigmask(SIG_BLOCK, &broken_pipe, &before) != 0) return;
    if (write(STDERR_FILENO, line, (size_t)length + 1) < 0 && errno == EPIPE && !sigismember(&pending, SIGPIPE))
        sigtimedwait(&broken_pipe, NULL, &at_once);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* What to do about an error of connect(2), where that is certain. */
DBUF__FUNCTION const char *dbuf__remedy(int error) {
    switch (error) {
    case ENOENT:
    case ECONNREFUSED: return " (is dbufd running?)";
    case EACCES:
        return " (the socket's mode does not let this user in: SocketMode= in dbufd.socket, or ingest.socket_mode)";
    default: return "";
    }
}

/* The daemon cannot be reached: says so once, until this producer has had a link. */
DBUF__FUNCTION void dbuf__report_no_connection(dbuf_producer *p) {
    if (p->was_reported) return;
    p->was_reported = 1;
    if (p->quiet) return;
    /* A program may have many threads. */
    if (p->is_own && __atomic_exchange_n(&dbuf__process.own_was_reported, 1, __ATOMIC_RELAXED)) return;
    dbuf__write_line("dbuf: %s; events %s", p->down_reason, p->fail_when_down ? "are dropped" : "wait in memory");
}

/* Events end with this producer, or have been lost, and no daemon knows. */
DBUF__RACY DBUF__FUNCTION void dbuf__report_not_delivered(const dbuf_producer *p, uint64_t left, uint64_t lost) {
    char reason[sizeof p->down_reason] = "";
    const char *why = reason;
    size_t i;
    if (p->quiet || left + lost == 0) return;
    /* An event that reports losses is left, too: they count instead of it. */
    if (p->report > p->events - left) {
        left--;
        lost += p->report_lost;
    }
    /* Its last byte is always 0, also while another thread writes it. */
    for (i = 0; i + 1 < sizeof reason && p->down_reason[i] != '\0'; i++) reason[i] = p->down_reason[i];
    if (left == 0) why = "there was no room for them";
    else if (p->stage == DBUF__RING) why = "dbufd closed the connection";
    else if (i == 0) why = "dbufd has not answered in time";
    dbuf__write_line("dbuf: %llu event%s not delivered: %s", (unsigned long long)(left + lost),
                     left + lost == 1 ? "" : "s", why);
}

/* ==== Records: events in the memory, written and read. */

/* A record in the memory. */
typedef struct dbuf__record {
    uint8_t *head; /* its first byte */
    uint64_t length, end;
    unsigned kind, pri, tag_bytes, clock;
    uint64_t time;
} dbuf__record;

/* Reads the record at a position before head. 0 if there is no valid one: another process has written into the
 * memory. */
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

/* The position up to which the daemon has taken records, as the ring says or, by frames, as it has acknowledged. An
 * impossible value is ignored. */
DBUF__FUNCTION uint64_t dbuf__seen_tail(const dbuf_producer *p) {
    uint64_t tail;
    if (p->stage != DBUF__RING) return p->tail;
    /* edge room: the daemon has copied what lies before. */
    tail = __atomic_load_n(&p->words->tail, __ATOMIC_ACQUIRE);
    return tail <= p->head && tail >= p->tail ? tail : p->tail;
}

/* Gives up all that waits in the memory: another process has written there, and what lies there are no records. */
DBUF__FUNCTION void dbuf__abandon(dbuf_producer *p) {
    p->lost += p->events - p->taken;
    p->taken = p->events;
    p->tail = p->send_at = p->head;
    p->send_number = p->taken + 1;
    p->send_done = 0;
}

/* Opens or closes the fast path, and reads the daemon's limit. */
DBUF__FUNCTION void dbuf__set_fast(dbuf_producer *p) {
    uint64_t told = __atomic_load_n(&p->words->max_event, __ATOMIC_RELAXED);
    if (p->stage == DBUF__RING && told != 0) p->max_event = told;
    p->fast_bytes = 0;
    if (p->stage == DBUF__RING && !p->claim_is_open)
        p->fast_bytes = dbuf__min(p->max_event, p->capacity / 2 - DBUF__RECORD_HEAD_BYTES);
}

/* Finds room for a record with this many bytes after its head: *at is where it begins, *end is where it ends. If it
 * would reach beyond the end of the data, a pad goes before it. 0 if there is no room; then nothing is changed. */
DBUF__FUNCTION int dbuf__find_room(dbuf_producer *p, uint64_t length, uint64_t *at, uint64_t *end) {
    uint64_t record = dbuf__record_bytes(length), to_end = p->capacity - (p->head & (p->capacity - 1));
    *at = p->head + (record > to_end ? to_end : 0);
    *end = *at + record;
    if (*end - p->tail <= p->capacity) return 1;
    p->tail = dbuf__seen_tail(p);
    return *end - p->tail <= p->capacity;
}

/* Begins a record at the room that was found. If this process dies now, the daemon sees that an event was begun. */
DBUF__FUNCTION void dbuf__begin_record(dbuf_producer *p, uint64_t at, uint64_t end) {
    __atomic_store_n(&p->words->writing, end, __ATOMIC_RELAXED);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (at != p->head)
        dbuf__put_record_head(p->data + (p->head & (p->capacity - 1)), at - p->head - DBUF__RECORD_HEAD_BYTES,
                              DBUF__PAD, 0, 0, DBUF__CLOCK_NONE, 0);
}

/* The bytes of tag and fields, which are in front of the payload. */
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

/* Writes and publishes a whole event at the room that was found for it. */
DBUF__FUNCTION void dbuf__put_event(dbuf_producer *p, const dbuf__parts *e, uint64_t at, uint64_t end, unsigned clock,
                                    uint64_t time) {
    uint8_t *to = p->data + (at & (p->capacity - 1));
    unsigned kind = e->field_count > 0 ? DBUF__EVENT_WITH_FIELDS : DBUF__EVENT;
    dbuf__begin_record(p, at, end);
    dbuf__put_record_head(to, dbuf__before_payload(e) + e->payload_bytes, kind, (unsigned)e->pri, e->tag_bytes, clock,
                          time);
    to = dbuf__put_before_payload(to + DBUF__RECORD_HEAD_BYTES, e);
    if (e->payload_bytes > 0) memcpy(to, e->payload, e->payload_bytes);
    dbuf__publish_to(p, end, e->payload_bytes, dbuf__look_time(p, e->time_ns == 0 ? time : 0));
}

/* ==== Frames: encoded and decoded (docs/PROTOCOL.md, chapter 3), and gathered from the memory. */

enum {
    DBUF__FRAME_HEAD_BYTES = 24,
    DBUF__LENGTH_MAX = 67108864,    /* of what follows a head */
    DBUF__CONTROL_BYTES_MAX = 4096, /* the same, if it is no event and may not be skipped */
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
    DBUF__FEATURE_RING = 4,
    DBUF__CODE_TOO_BIG = 0x01,
    DBUF__CODE_MALFORMED = 0x02,
    DBUF__CODE_LOST = 0x03,
    DBUF__CODE_NO_RING = 0x04,
    DBUF__CODE_ENDS = 0x80, /* this and above end the connection */
    DBUF__HELLO_BYTES_MAX = DBUF__FRAME_HEAD_BYTES + DBUF_TAG_BYTES_MAX + 40,
    DBUF__MAGIC_BYTES = 8
};

#define DBUF__MAGIC \
    "\xDB" \
    "ufd\r\n\x1A" /* the eighth byte is the NUL that ends a text of C */
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

/* Writes a HELLO of at most DBUF__HELLO_BYTES_MAX; returns its bytes. */
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

/* Writes the head of an event's frame. What follows the record's head follows the frame's head unchanged; but for a
 * daemon that takes no fields, their `skip` bytes are left out. */
DBUF__FUNCTION void dbuf__put_event_head(uint8_t *to, const dbuf__record *record, uint64_t sequence, uint64_t skip) {
    int has_fields = record->kind == DBUF__EVENT_WITH_FIELDS && skip == 0;
    dbuf__put_frame_head(to, record->length - skip, has_fields ? DBUF__FRAME_EVENT_WITH_FIELDS : DBUF__FRAME_EVENT,
                         record->pri, record->tag_bytes, sequence, record->clock == DBUF__CLOCK_NS ? record->time : 0);
}

/* A frame from the daemon. */
typedef struct dbuf__frame {
    unsigned type, detail;
    uint64_t sequence;
    uint64_t body_bytes;
    /* WELCOME */
    uint16_t version;
    uint32_t max_event;
    uint64_t compatible, incompatible;
    /* ERROR: the last event, and a text. GRANT: the capacity. */
    uint64_t number;
    const uint8_t *text;
    size_t text_bytes;
} dbuf__frame;

enum { DBUF__MORE = 0, DBUF__WHOLE = 1, DBUF__SKIP = 2, DBUF__BROKEN = -1 };

/* Reads the frame at the start of `in`. DBUF__WHOLE: it has 24 + body_bytes bytes. DBUF__SKIP: so it has, but they may
 * not have come yet, and this version does not know the frame. DBUF__MORE: it is not whole yet. DBUF__BROKEN: no daemon
 * sends such bytes. */
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

/* Removes events up to this number from the memory. */
DBUF__FUNCTION void dbuf__take_until(dbuf_producer *p, uint64_t number) {
    dbuf__record record;
    while (p->taken < number && p->tail != p->head) {
        if (!dbuf__read_record(p, p->tail, &record)) {
            dbuf__abandon(p);
            break;
        }
        p->taken += record.kind != DBUF__PAD;
        p->tail = record.end;
    }
    /* Only a debugger and the next ring read this word now. */
    __atomic_store_n(&p->words->tail, p->tail, __ATOMIC_RELAXED);
}

/* Fills `out` with frames of the next records, as pieces for sendmsg(2); their heads are written to `heads`. Returns
 * the number of pieces. The first may be the rest of a frame that was cut. */
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

/* Counts this many bytes of what was gathered as written. */
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

/* Writes a few bytes, for which the socket usually has room. If it has none, ends the link and returns 0. */
DBUF__FUNCTION int dbuf__write(dbuf_producer *p, const void *bytes, size_t count) {
    ssize_t sent;
    if (!dbuf__holds_connection(p)) return 0;
    sent = send(p->connection.number, bytes, count, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent == (ssize_t)count) return 1;
    dbuf__fail_link(p, sent < 0 ? errno : EAGAIN);
    return 0;
}

/* ==== Paths: where the daemon listens, and what this program is called. */

/* A variable of the environment, NULL if it is unset. A setuid or setgid program has none: its caller would choose to
 * whom it connects, and from whom it takes memory. That is secure_getenv(3), which needs _GNU_SOURCE. */
DBUF__FUNCTION const char *dbuf__variable(const char *name) { return getauxval(AT_SECURE) != 0 ? NULL : getenv(name); }

/* Whether a folder in the temporary directory is certainly this user's own. A folder that is not there is not: another
 * user could make it between this look and connect(2). One that is there stays this user's own, because the temporary
 * directory's sticky bit lets no other user rename or remove it. */
DBUF__FUNCTION int dbuf__is_private(const char *folder) {
    struct stat status;
    return lstat(folder, &status) == 0 && S_ISDIR(status.st_mode) && status.st_uid == geteuid() &&
           (status.st_mode & 077) == 0;
}

/* Where the daemon listens, by the rule of dbufctl: RUNTIME_DIRECTORY; for root /run/dbufd; $XDG_RUNTIME_DIR/dbufd; a
 * private folder in the temporary directory. If there is no socket, /run/dbufd if it has one. 0 if the path is too
 * long. */
DBUF__FUNCTION int dbuf__find_socket(char *to, size_t bytes) {
    static const char machine[] = "/run/dbufd/stream.sock";
    const char *listed = dbuf__variable("RUNTIME_DIRECTORY"), *xdg = dbuf__variable("XDG_RUNTIME_DIR"),
               *temporary = dbuf__variable("TMPDIR");
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

/* The program's short name. */
DBUF__FUNCTION size_t dbuf__program_name(char *to, size_t bytes) {
    int file = open("/proc/self/comm", O_RDONLY | O_CLOEXEC);
    ssize_t got = file < 0 ? 0 : read(file, to, bytes);
    if (file >= 0) close(file);
    while (got > 0 && to[got - 1] == '\n') got--;
    return got > 0 ? (size_t)got : 0;
}

/* ==== The connection: made, and what the daemon says on it. */

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
        dbuf__end_link(p, "the path of the daemon's socket is too long");
        return;
    }
    /* A child that another thread forks has either no such descriptor, or finds and closes it. */
    pthread_mutex_lock(&dbuf__process.lock);
    dbuf__hold_socket(&p->connection,
                      dbuf__above_standard(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)));
    pthread_mutex_unlock(&dbuf__process.lock);
    if (p->connection.number < 0 ||
        connect(p->connection.number, (const struct sockaddr *)&address, sizeof address) != 0) {
        int error = errno;
        /* Another thread of the program has closed or replaced it meanwhile: the daemon has not failed. */
        if (p->connection.number < 0 ? error == EBADF : !dbuf__is_held(&p->connection)) {
            dbuf__leave(p, DBUF__NOT_OURS);
            return;
        }
        dbuf__say(p, "cannot connect to %s: %s%s", address.sun_path, strerror(error), dbuf__remedy(error));
        /* A daemon that is there has many connections to accept first. */
        if (error == EAGAIN) dbuf__drop_link(p, NULL);
        else dbuf__end_link(p, NULL);
        return;
    }
    if (p->asks_ring && !p->ring_is_bad) hello.compatible |= DBUF__FEATURE_RING;
    memcpy(opening, DBUF__MAGIC, DBUF__MAGIC_BYTES);
    p->stage = DBUF__GREETING;
    p->in_bytes = 0;
    p->skip_bytes = 0;
    dbuf__write(p, opening, DBUF__MAGIC_BYTES + dbuf__put_hello(opening + DBUF__MAGIC_BYTES, &hello));
}

/* Events go by frames from here on. */
DBUF__FUNCTION void dbuf__open_frames(dbuf_producer *p) {
    dbuf__record record;
    p->stage = DBUF__FRAMES;
    p->links++;
    p->was_reported = 1;
    p->down_reason[0] = '\0';
    p->send_at = p->tail;
    p->send_number = p->taken + 1;
    p->send_done = 0;
    p->sync_number = 0;
    p->sync_waits = 0;
    /* Events that the daemon has are not sent again, but kept until they are in a file. */
    while (p->send_number <= p->known && p->send_at != p->head && dbuf__read_record(p, p->send_at, &record)) {
        p->send_number += record.kind != DBUF__PAD;
        p->send_at = record.end;
    }
}

DBUF__FUNCTION void dbuf__welcomed(dbuf_producer *p, const dbuf__frame *welcome) {
    uint8_t ring[32];
    uint64_t sure;
    if (welcome->version != 1) {
        dbuf__end_link(p, "dbufd speaks another version of the protocol");
        return;
    }
    p->max_event = welcome->max_event;
    p->takes_fields = (welcome->compatible & DBUF__FEATURE_FIELDS) != 0;
    p->known = dbuf__min(welcome->sequence, p->events);
    /* Events that have left the memory and that no daemon has called durable: unless this one knows them, none ever
     * will. */
    sure = dbuf__max(dbuf__max(p->known, p->durable), p->doubted);
    if (p->taken > sure) {
        p->unconfirmed += p->taken - sure;
        p->doubted = p->taken;
    }
    /* Events that the daemon has by frames and has not acknowledged: it does that only on a connection of frames. */
    if (!(welcome->compatible & DBUF__FEATURE_RING) || !p->asks_ring || p->ring_is_bad || p->known > p->taken) {
        dbuf__open_frames(p);
        return;
    }
    p->stage = DBUF__ASKING;
    dbuf__write(p, ring, dbuf__put_ring(ring, p->capacity));
}

/* Events up to `sequence` have reached a level; those that did not were named by an ERROR before. */
DBUF__FUNCTION void dbuf__acknowledged(dbuf_producer *p, unsigned level, uint64_t sequence) {
    uint64_t number = dbuf__min(sequence, p->known);
    if (level >= DBUF__LEVEL_PERSISTED) {
        p->persisted = dbuf__max(p->persisted, number);
        dbuf__take_until(p, number);
    }
    if (level < DBUF__LEVEL_DURABLE) return;
    p->durable = dbuf__max(p->durable, number);
    /* A daemon that has forgotten the session counts fewer events than were synced. */
    if (p->sync_number > p->durable && sequence >= p->sync_known) p->durable = p->sync_number;
}

DBUF__FUNCTION void dbuf__errored(dbuf_producer *p, const dbuf__frame *error) {
    uint64_t events = error->sequence == 0 || error->number < error->sequence ? 0 : error->number - error->sequence + 1;
    dbuf__say(p, "dbufd: %.*s", (int)dbuf__min(error->text_bytes, 150), (const char *)error->text);
    if (error->detail >= DBUF__CODE_ENDS) dbuf__end_link(p, NULL);
    else if (error->detail == DBUF__CODE_NO_RING && p->stage == DBUF__ASKING) dbuf__open_frames(p);
    else if (error->detail == DBUF__CODE_LOST) p->lost += events;
    else p->refused += events;
}

DBUF__FUNCTION void dbuf__granted(dbuf_producer *p);

/* Obeys the frames that have come. */
DBUF__FUNCTION void dbuf__take_frames(dbuf_producer *p) {
    size_t at = 0;
    while (p->connection.number >= 0) {
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
        else if (is == DBUF__WHOLE && frame.type == DBUF__FRAME_WELCOME && p->stage == DBUF__GREETING)
            dbuf__welcomed(p, &frame);
        else if (is == DBUF__WHOLE && frame.type == DBUF__FRAME_GRANT && p->stage == DBUF__ASKING) dbuf__granted(p);
        else if (is == DBUF__WHOLE && frame.type == DBUF__FRAME_ACK &&
                 (p->stage == DBUF__FRAMES || p->stage == DBUF__ASKING))
            dbuf__acknowledged(p, frame.detail, frame.sequence); /* before GRANT: about earlier connections */
        else dbuf__end_link(p, "dbufd sent something that this client does not understand");
    }
    if (p->connection.number < 0) at = p->in_bytes;
    memmove(p->in, p->in + at, p->in_bytes - at);
    p->in_bytes -= at;
}

/* Holds the first descriptor of a message, and closes any others. */
DBUF__FUNCTION void dbuf__keep_descriptors(dbuf_producer *p, struct msghdr *message) {
    struct cmsghdr *part;
    for (part = CMSG_FIRSTHDR(message); part != NULL; part = CMSG_NXTHDR(message, part)) {
        size_t count, i;
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
        count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (i = 0; i < count; i++) {
            int descriptor;
            memcpy(&descriptor, CMSG_DATA(part) + i * sizeof descriptor, sizeof descriptor);
            if (p->memory.number < 0) dbuf__hold(&p->memory, dbuf__above_standard(descriptor));
            else close(descriptor);
        }
    }
}

/* Reads what has come, without waiting. At the connection's end the link ends. */
DBUF__FUNCTION void dbuf__hear(dbuf_producer *p) {
    while (dbuf__holds_connection(p)) {
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
        got = recvmsg(p->connection.number, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
        if (got <= 0) {
            if (got == 0) dbuf__end_link(p, "dbufd closed the connection");
            else dbuf__fail_link(p, errno);
            return;
        }
        dbuf__keep_descriptors(p, &message);
        p->in_bytes += (size_t)got;
        dbuf__take_frames(p);
    }
}

/* Sends an event that says how many events were given up for want of room, once there is room: in a ring the daemon
 * reads that from the header and records it, by frames only the producer can say it. */
DBUF__FUNCTION void dbuf__send_losses(dbuf_producer *p) {
    char text[128];
    uint64_t at, end, lost = p->lost_full - p->lost_reported;
    dbuf__parts e = {DBUF_WARNING, text, 0, NULL, 0, NULL, 0, 0, 0};
    /* One at a time: if the last one is never delivered, the close says what it would have said. */
    if (lost == 0 || p->claim_is_open || p->report > p->taken) return;
    e.payload_bytes =
        (size_t)snprintf(text, sizeof text, "dbuf: %llu event%s lost here: there was no room for %s",
                         (unsigned long long)lost, lost == 1 ? " was" : "s were", lost == 1 ? "it" : "them");
    if (!dbuf__find_room(p, e.payload_bytes, &at, &end)) return;
    p->lost_reported = p->lost_full;
    p->report = p->events + 1;
    p->report_lost = lost;
    /* If a ring comes later, its header counts only later losses. */
    p->words->lost_bytes_told = p->words->lost_bytes;
    p->words->lost_events_told = p->words->lost_events;
    dbuf__put_event(p, &e, at, end, p->clock, dbuf__stamp(p));
}

/* By frames: reads what has come, and writes what the socket takes. */
DBUF__FUNCTION void dbuf__pump(dbuf_producer *p) {
    dbuf__hear(p);
    if (p->stage == DBUF__FRAMES) dbuf__send_losses(p);
    while (p->stage == DBUF__FRAMES) {
        uint8_t heads[DBUF__BATCH][DBUF__FRAME_HEAD_BYTES];
        struct iovec pieces[DBUF__PIECES];
        struct msghdr message;
        ssize_t sent;
        memset(&message, 0, sizeof message);
        message.msg_iov = pieces;
        message.msg_iovlen = dbuf__gather(p, pieces, heads);
        if (message.msg_iovlen == 0) return;
        if (!dbuf__holds_connection(p)) return;
        sent = sendmsg(p->connection.number, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent >= 0) dbuf__sent(p, (size_t)sent);
        else if (errno == EAGAIN || errno == EWOULDBLOCK) return;
        else if (errno != EINTR) {
            int why = errno;
            dbuf__hear(p); /* a daemon that ends the connection says why */
            if (p->stage == DBUF__FRAMES) dbuf__fail_link(p, why);
        }
    }
}

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

/* ==== The link: kept up, waited for, and ended. */

/* Ends the link, or notes that none could be made, and writes no line. A `why` of NULL: dbuf_last_error() has the
 * reason already. */
DBUF__FUNCTION void dbuf__drop_link(dbuf_producer *p, const char *why) {
    int had_link = p->stage == DBUF__RING || p->stage == DBUF__FRAMES;
    uint64_t now_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
    if (why != NULL) dbuf__say(p, "%s", why);
    memcpy(p->down_reason, p->error, sizeof p->down_reason);
    if (p->stage == DBUF__RING) dbuf__take_back_ring(p);
    dbuf__release_all(p);
    p->stage = DBUF__DOWN;
    p->fence = 0;
    dbuf__set_clock(p, 0);
    dbuf__set_fast(p);
    if (had_link && now_ns - p->since_ns >= DBUF__STEADY_NS) {
        p->retry_ns = DBUF__RETRY_MIN_NS;
        p->retry_at_ns = now_ns;
    } else {
        p->retry_at_ns = now_ns + p->retry_ns;
        p->retry_ns = dbuf__min(2 * p->retry_ns, DBUF__RETRY_MAX_NS);
    }
}

/* The same, because the daemon has failed. */
DBUF__FUNCTION void dbuf__end_link(dbuf_producer *p, const char *why) {
    dbuf__drop_link(p, why);
    dbuf__report_no_connection(p);
}

/* Whether the daemon has taken everything from the ring, and has recorded the losses that the header counts. */
DBUF__FUNCTION int dbuf__is_drained(const dbuf_producer *p) {
    return dbuf__seen_tail(p) == p->head &&
           __atomic_load_n(&p->words->lost_events_told, __ATOMIC_RELAXED) == p->words->lost_events;
}

/* Ends the link because this side has lost a descriptor, while the daemon may be there. The daemon sees the
 * connection's end, takes what lies in the ring and records its losses. What it has must not be sent again, so this
 * waits until it has everything. If it has not within DBUF__LAST_TAKE_NS, the daemon has ended the ring before, or is
 * gone: the rest is sent again. */
DBUF__FUNCTION void dbuf__leave(dbuf_producer *p, const char *why) {
    uint64_t now_ns = dbuf__clock_ns(CLOCK_MONOTONIC), until_ns = now_ns + DBUF__LAST_TAKE_NS;
    dbuf__release_all(p);
    while (p->stage == DBUF__RING && !dbuf__is_drained(p) && now_ns < until_ns) {
        poll(NULL, 0, 1);
        now_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
    }
    dbuf__drop_link(p, why);
    /* The daemon has not failed: the next attempt need not wait. */
    p->retry_at_ns = now_ns;
}

DBUF__INLINE int dbuf__has_link(const dbuf_producer *p) { return p->stage == DBUF__RING || p->stage == DBUF__FRAMES; }

/* Does what is due on the link. If it connects, it waits at most timeout_ms for the answer; else it does not wait. */
DBUF__FUNCTION void dbuf__tend(dbuf_producer *p, int timeout_ms) {
    uint64_t now_ns = dbuf__clock_ns(CLOCK_MONOTONIC), until_ns = now_ns;
    if (p->stage == DBUF__RING && now_ns - p->looked_ns >= DBUF__LOOK_MIN_NS) {
        p->looked_ns = now_ns;
        dbuf__hear(p);
    }
    if (p->stage == DBUF__FRAMES) dbuf__pump(p);
    if (p->stage == DBUF__DOWN && now_ns >= p->retry_at_ns) {
        dbuf__connect(p, now_ns);
        until_ns += (uint64_t)timeout_ms * DBUF__MS;
    }
    while (p->stage == DBUF__GREETING || p->stage == DBUF__ASKING) {
        struct pollfd wait = {p->connection.number, POLLIN, 0};
        dbuf__hear(p);
        if (p->stage == DBUF__FRAMES) dbuf__pump(p);
        if (p->stage != DBUF__GREETING && p->stage != DBUF__ASKING) return;
        now_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
        if (now_ns - p->since_ns >= DBUF__ANSWER_NS) dbuf__end_link(p, "dbufd does not answer");
        else if (now_ns >= until_ns) return;
        else poll(&wait, 1, dbuf__slice_ms(now_ns, until_ns));
    }
}

/* The longest that a send waits for a daemon's answer. */
DBUF__INLINE int dbuf__timeout_ms(const dbuf_producer *p, int wait_ms) {
    if (wait_ms == DBUF__WAIT_NOT_AND_DO_NOT_COUNT) return 0;
    if (wait_ms == DBUF__WAIT_AS_OPTIONS) wait_ms = p->wait_ms;
    return wait_ms == 0 ? DBUF__DROP_TIMEOUT_MS : (int)dbuf__min((uint64_t)wait_ms, DBUF__OPEN_TIMEOUT_MS);
}

/* After a publish in a ring: rings the doorbell if that is due, and looks now and then whether the daemon is there. */
DBUF__FUNCTION void dbuf__after_publish(dbuf_producer *p, uint64_t state, uint64_t look_time) {
    int saved = errno;
    /* Before the ring can end here: dbuf__report_unclosed() reads no memory that another thread may replace. */
    p->thread = pthread_self();
    if (p->stage != DBUF__RING) return;
    if (dbuf__is_bell_due(p, state)) {
        dbuf__ring_bell(p);
        p->looked_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
        dbuf__hear(p); /* whether the daemon is still there */
    }
    if (p->stage == DBUF__RING && look_time - p->looked >= p->look_every) {
        /* A daemon that was killed while it was awake needs no doorbell and takes nothing. Then the connection says
         * whether it is gone. Under systemd it is not: the next process has the same connection. */
        uint64_t tail = dbuf__seen_tail(p), now_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
        p->looked = look_time;
        if (tail == p->tail_at_look && now_ns - p->looked_ns >= DBUF__LOOK_NS) {
            p->looked_ns = now_ns;
            dbuf__hear(p);
        }
        p->tail_at_look = tail;
        dbuf__set_fast(p);
    }
    if (p->stage == DBUF__DOWN) dbuf__tend(p, dbuf__timeout_ms(p, DBUF__WAIT_AS_OPTIONS));
    errno = saved;
}

/* Tells the daemon what this producer waits for. The caller then looks whether it has come, and if not, calls
 * dbuf__sleep() with the turn that this returns. */
DBUF__FUNCTION uint32_t dbuf__want(dbuf_producer *p, uint32_t what) {
    if (p->stage != DBUF__RING) return 0;
    __atomic_store_n(&p->words->wants, what, __ATOMIC_RELAXED);
    /* edge turn: the word is written before the look. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    /* A thread that sees this turn sees why it changed. */
    return __atomic_load_n(&p->words->turn, __ATOMIC_ACQUIRE);
}

/* Sleeps until something may have happened on the link, at most a slice. *rung is the link whose doorbell was rung. */
DBUF__FUNCTION void dbuf__sleep(dbuf_producer *p, uint32_t turn, uint64_t now_ns, uint64_t until_ns, uint64_t *rung) {
    struct pollfd wait = {p->connection.number, POLLIN, 0};
    struct timespec slice;
    int slice_ms = dbuf__slice_ms(now_ns, until_ns);
    switch (p->stage) {
    case DBUF__RING:
        if (*rung != p->links) dbuf__ring_bell(p);
        *rung = p->links;
        if (p->stage != DBUF__RING) return;
        slice.tv_sec = 0;
        slice.tv_nsec = (long)slice_ms * 1000000;
        /* The caller looks again, whatever this returns. The futex is not private: two processes share the word. */
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

/* ==== The process: the list of its producers, its forks and its end. */

DBUF__FUNCTION void dbuf__before_fork(void) { pthread_mutex_lock(&dbuf__process.lock); }
DBUF__FUNCTION void dbuf__in_parent(void) { pthread_mutex_unlock(&dbuf__process.lock); }

/* Closes a child's copies of its parent's descriptors. A connection lives as long as one copy of it, so the daemon
 * would take a child that never sends for its parent. */
DBUF__FUNCTION void dbuf__in_child(void) {
    dbuf_producer *p;
    dbuf__process.forks++;
    dbuf__process.barrier = 0;
    dbuf__process.closers = 0;
    for (p = dbuf__process.first; p != NULL; p = p->next) dbuf__release_all(p);
    pthread_mutex_unlock(&dbuf__process.lock);
}

DBUF__FUNCTION void dbuf__at_exit(void);
DBUF__FUNCTION void dbuf__at_unload(void);

/* The C library forgets the handlers of a shared object when the object is unloaded. */
DBUF__FUNCTION void dbuf__watch_forks(void) {
    dbuf__hold(&dbuf__process.standard_error, STDERR_FILENO);
    dbuf__process.has_fork_handlers = pthread_atfork(dbuf__before_fork, dbuf__in_parent, dbuf__in_child) == 0;
}

DBUF__FUNCTION void dbuf__watch_end(void) {
    dbuf__process.at_unload = dbuf__at_unload;
    dbuf__process.has_end_handlers = atexit(dbuf__at_exit) == 0;
}

/* Registers the handlers of fork before the program can register its own. So the list is locked after all handlers of
 * the program that run before the fork: one of them may wait for a thread that opens a producer. And a child is known
 * as such before a handler of the program sends in it. Each file has this function; its first call does the work. */
static __attribute__((constructor(101))) void dbuf__load(void) {
    pthread_once(&dbuf__process.watches_forks, dbuf__watch_forks);
}

/* Whether all handlers are registered. A producer that is opened before dbuf__load() registers those of fork itself. */
DBUF__FUNCTION int dbuf__is_watched(void) {
    dbuf__load();
    pthread_once(&dbuf__process.watches_end, dbuf__watch_end);
    return dbuf__process.has_fork_handlers && dbuf__process.has_end_handlers;
}

DBUF__FUNCTION void dbuf__enlist(dbuf_producer *p) {
    pthread_mutex_lock(&dbuf__process.lock);
    p->next = dbuf__process.first;
    p->link = &dbuf__process.first;
    if (p->next != NULL) p->next->link = &p->next;
    dbuf__process.first = p;
    pthread_mutex_unlock(&dbuf__process.lock);
}

/* Strikes a producer off the list, and closes its descriptors under the same lock: a child that another thread forks
 * between the two would keep them. */
DBUF__FUNCTION void dbuf__strike_off(dbuf_producer *p) {
    pthread_mutex_lock(&dbuf__process.lock);
    *p->link = p->next;
    if (p->next != NULL) p->next->link = p->link;
    dbuf__release_all(p);
    pthread_mutex_unlock(&dbuf__process.lock);
}

/* ==== A producer: opened, and begun anew in a forked child. */

/* Sets everything but the options to the state of a new producer. 0, or DBUF_ERR_NO_MEMORY. */
DBUF__FUNCTION int dbuf__begin(dbuf_producer *p) {
    uint64_t capacity = p->capacity,
             seed = dbuf__clock_ns(CLOCK_REALTIME) ^ (uint64_t)getpid() << 40 ^ (uint64_t)(uintptr_t)p;
    void *memory =
        mmap(NULL, DBUF__HEADER_BYTES + (size_t)capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(p, 0, offsetof(struct dbuf_producer, next));
    p->capacity = capacity;
    p->connection.number = p->memory.number = -1;
    p->retry_ns = DBUF__RETRY_MIN_NS;
    p->max_event = DBUF__MAX_EVENT_ASSUMED;
    p->forks = dbuf__process.forks - 1; /* of no process, until there is memory */
    if (memory == MAP_FAILED) return dbuf__fail(p, DBUF_ERR_NO_MEMORY);
    p->forks = dbuf__process.forks;
    p->thread = pthread_self();
    p->words = (dbuf__words *)memory;
    p->data = (uint8_t *)memory + DBUF__HEADER_BYTES;
    if (getrandom(p->session, sizeof p->session, GRND_NONBLOCK) != (ssize_t)sizeof p->session)
        memcpy(p->session, &seed, sizeof seed);
    dbuf__set_clock(p, 0);
    return 0;
}

/* Gives memory and descriptors back, and sends nothing. */
DBUF__FUNCTION void dbuf__let_go(dbuf_producer *p) {
    dbuf__release_all(p);
    if (p->words != NULL) munmap(p->words, DBUF__HEADER_BYTES + (size_t)p->capacity);
    p->words = NULL;
}

DBUF__FUNCTION void dbuf__free(dbuf_producer *p) {
    dbuf__strike_off(p);
    dbuf__let_go(p);
    free(p);
}

/* Begins a producer anew in a child of the process that opened it: ring, connection and events belong to the parent. It
 * waits for the daemon as dbuf_open() does. Without that wait, the events of a child that sends and ends by _exit(2) at
 * once would still be in the child's own memory, and be lost with it. */
DBUF__FUNCTION int dbuf__renew_after_fork(dbuf_producer *p) {
    int error;
    p->thread = pthread_self();
    if (DBUF__LIKELY(p->forks == dbuf__process.forks)) return 0;
    if (p->is_gone) return dbuf__fail(p, DBUF_ERR_NO_DAEMON);
    dbuf__let_go(p);
    error = dbuf__begin(p);
    if (error == 0) dbuf__tend(p, DBUF__OPEN_TIMEOUT_MS);
    return error;
}

DBUF__FUNCTION int dbuf__are_options_valid(const dbuf_options *o) {
    return o->ring_bytes >= DBUF_RING_BYTES_MIN && o->ring_bytes <= DBUF_RING_BYTES_MAX &&
           (o->ring_bytes & (o->ring_bytes - 1)) == 0 && o->wait_ms >= 0 && o->close_wait_ms >= 0 &&
           (o->name == NULL || strlen(o->name) <= DBUF_TAG_BYTES_MAX) &&
           (o->socket == NULL || strlen(o->socket) < sizeof(((struct sockaddr_un *)0)->sun_path));
}

DBUF__FUNCTION int dbuf__open(dbuf_producer **producer, const dbuf_options *options, int is_own) {
    dbuf_options defaults = dbuf_options_default();
    const dbuf_options *o = options != NULL ? options : &defaults;
    int saved = errno, error = 0;
    dbuf_producer *p;
    *producer = NULL;
    if (!dbuf__are_options_valid(o)) return DBUF_ERR_INVALID;
    p = dbuf__is_watched() ? (dbuf_producer *)calloc(1, sizeof *p) : NULL;
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
    p->populate = o->populate != 0;
    p->quiet = o->quiet != 0;
    p->is_own = is_own != 0;
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

DBUF__FUNCTION int dbuf_open(dbuf_producer **producer, const dbuf_options *options) {
    return dbuf__open(producer, options, 0);
}

/* ==== Sending: room for events, and events that are not on the fast path. */

/* Counts an event that found no room. The daemon reads the bytes after the events, so they are written first. */
DBUF__FUNCTION void dbuf__lose(dbuf_producer *p, size_t payload_bytes) {
    p->lost_full++;
    p->lost_full_bytes += payload_bytes;
    __atomic_store_n(&p->words->lost_bytes, p->words->lost_bytes + payload_bytes, __ATOMIC_RELAXED);
    __atomic_store_n(&p->words->lost_events, p->words->lost_events + 1, __ATOMIC_RELEASE);
}

/* Waits until there is room, at most until until_ns. */
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

/* Says which rule the parts break, or NULL; measures the fields. */
DBUF__FUNCTION const char *dbuf__check(dbuf__parts *e, size_t payload_bytes) {
    size_t i;
    if (payload_bytes == 0) return "the payload is empty";
    if (e->pri < 0 || e->pri > DBUF_PRI_MAX) return "the priority is not from 0 to 191";
    if (e->tag_bytes > DBUF_TAG_BYTES_MAX) return "the tag is longer than 64 bytes";
    e->fields_bytes = 0;
    for (i = 0; i < e->field_count; i++) {
        size_t name_bytes = e->fields[i].name == NULL ? 0 : strlen(e->fields[i].name);
        if (name_bytes < 1) return "the name of a field is empty";
        if (name_bytes > DBUF_FIELD_NAME_BYTES_MAX) return "the name of a field is longer than 64 bytes";
        if (e->fields[i].value_bytes <= DBUF_FIELDS_BYTES_MAX)
            e->fields_bytes += 5 + name_bytes + e->fields[i].value_bytes;
        if (e->fields[i].value_bytes > DBUF_FIELDS_BYTES_MAX || e->fields_bytes > DBUF_FIELDS_BYTES_MAX)
            return "the fields are larger than 16 KiB";
    }
    return NULL;
}

/* Does everything that comes before an event is written. Finds room for it with this many bytes of payload and `spare`
 * bytes behind them. */
DBUF__FUNCTION int dbuf__make_room(dbuf_producer *p, dbuf__parts *e, size_t payload_bytes, size_t spare, int wait_ms,
                                   uint64_t *at, uint64_t *end) {
    uint64_t length;
    const char *broken;
    int error = dbuf__renew_after_fork(p);
    if (error != 0) return error;
    if (p->claim_is_open) return dbuf__fail(p, DBUF_ERR_CLAIM);
    broken = dbuf__check(e, payload_bytes);
    if (broken != NULL) return dbuf__refuse(p, broken);
    if (!dbuf__has_link(p)) dbuf__tend(p, dbuf__timeout_ms(p, wait_ms));
    if (!dbuf__has_link(p) && p->fail_when_down) return DBUF_ERR_NO_DAEMON;
    if (payload_bytes > p->max_event) dbuf__set_fast(p); /* the daemon may take larger ones now */
    length = dbuf__before_payload(e) + (uint64_t)payload_bytes + spare;
    if (payload_bytes > p->max_event || length > p->capacity / 2 - DBUF__RECORD_HEAD_BYTES) {
        dbuf__say(p,
                  "%zu bytes are too big: dbufd takes at most %llu (ingest.max_event), and the ring half of its %llu",
                  payload_bytes, (unsigned long long)p->max_event, (unsigned long long)p->capacity);
        return DBUF_ERR_TOO_BIG;
    }
    if (DBUF__LIKELY(dbuf__find_room(p, length, at, end))) return 0;
    dbuf__tend(p, 0);
    if (dbuf__find_room(p, length, at, end)) return 0;
    if (wait_ms == DBUF__WAIT_NOT_AND_DO_NOT_COUNT) return dbuf__fail(p, DBUF_ERR_FULL);
    if (wait_ms == DBUF__WAIT_AS_OPTIONS) wait_ms = p->wait_ms;
    if (wait_ms > 0 && dbuf__await_room(p, length, dbuf__deadline(wait_ms), at, end)) return 0;
    dbuf__lose(p, payload_bytes);
    return dbuf__fail(p, DBUF_ERR_FULL);
}

/* After a publish: writes frames, if the daemon does not take events from the memory by itself. */
DBUF__FUNCTION void dbuf__published(dbuf_producer *p) {
    if (p->stage == DBUF__RING) return;
    p->high_water = dbuf__max(p->high_water, p->head - p->tail);
    if (p->stage == DBUF__FRAMES) dbuf__pump(p);
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

/* The parts of an event, without its payload. */
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

/* ==== Claims, and texts that are formatted into them. */

/* Claims room for at most bytes_max bytes, and for `spare` bytes that are not published. */
DBUF__FUNCTION int dbuf__claim(dbuf_producer *p, dbuf__parts *e, size_t bytes_max, size_t spare, int wait_ms,
                               void **payload) {
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
    dbuf__set_fast(p);
    return 0;
}

DBUF__FUNCTION int dbuf_claim_event(dbuf_producer *producer, const dbuf_event *event, size_t bytes_max,
                                    void **payload) {
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
    dbuf__set_fast(p);
    __atomic_store_n(&p->words->writing, p->head, __ATOMIC_RELAXED);
}

DBUF__FUNCTION int dbuf_publish(dbuf_producer *p, size_t bytes) {
    uint64_t length = p->claim_before + bytes, end = p->claim_at + dbuf__record_bytes(length), time = p->claim_time;
    int saved = errno;
    unsigned clock = DBUF__CLOCK_NS;
    /* A child does not have its parent's claim. */
    if (p->forks != dbuf__process.forks || !p->claim_is_open) return DBUF_ERR_CLAIM;
    if (bytes == 0) return dbuf__refuse(p, "the payload is empty");
    if (bytes > p->claim_max) return dbuf__refuse(p, "the payload is larger than the claim");
    if (time == 0) {
        clock = p->clock;
        time = dbuf__stamp(p);
    }
    dbuf__put_record_head(p->data + (p->claim_at & (p->capacity - 1)), length, p->claim_kind, (unsigned)p->claim_pri,
                          p->claim_tag_bytes, clock, time);
    p->claim_is_open = 0;
    dbuf__set_fast(p);
    __atomic_store_n(&p->words->writing, end, __ATOMIC_RELAXED);
    dbuf__publish_to(p, end, bytes, dbuf__look_time(p, p->claim_time == 0 ? time : 0));
    dbuf__published(p);
    errno = saved;
    return 0;
}

enum { DBUF__TEXT_BYTES = 1023 }; /* claimed for a text before its length is known */

DBUF__FUNCTION int dbuf_vprintf(dbuf_producer *producer, int pri, const char *format, va_list arguments) {
    int saved = errno, error, length = -1;
    size_t room = (size_t)dbuf__min(DBUF__TEXT_BYTES, producer->max_event);
    dbuf__parts parts = {pri, NULL, 0, NULL, 0, NULL, 0, 0, 0};
    void *place;
    va_list again;
    va_copy(again, arguments);
    /* One spare byte is for the NUL, which is not sent. A format with %m gets the caller's errno. */
    error = dbuf__claim(producer, &parts, room, 1, DBUF__WAIT_NOT_AND_DO_NOT_COUNT, &place);
    errno = saved;
    if (error == 0 || error == DBUF_ERR_FULL)
        length = vsnprintf((char *)place, error == 0 ? room + 1 : 0, format, arguments);
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
        if (length == 0) error = dbuf__refuse(producer, "the payload is empty");
        else if (length < 0 || (size_t)length > room) error = dbuf__refuse(producer, "the text cannot be formatted");
        else error = dbuf_publish(producer, (size_t)length);
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

/* ==== The outcome of events: durable, or counted. */

/* Asks the daemon to make events up to this one durable, unless it has been asked on this link. */
DBUF__FUNCTION void dbuf__ask_sync(dbuf_producer *p, uint64_t wanted) {
    uint8_t sync[DBUF__FRAME_HEAD_BYTES];
    if (p->stage == DBUF__RING) {
        /* dbuf__want() has the fence that orders this, and the doorbell makes the daemon look. */
        __atomic_store_n(&p->words->sync, wanted - p->base, __ATOMIC_RELAXED);
    } else if (p->stage == DBUF__FRAMES && p->send_at == p->head && p->sync_number < wanted) {
        ssize_t sent;
        if (!dbuf__holds_connection(p)) return;
        dbuf__put_frame_head(sync, 0, DBUF__FRAME_SYNC, 0, 0, 0, 0);
        sent = send(p->connection.number, sync, sizeof sync, MSG_DONTWAIT | MSG_NOSIGNAL);
        /* The events may have filled the socket: then the SYNC waits for room, as events do. */
        p->sync_waits = sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
        if (p->sync_waits) return;
        p->sync_number = wanted;
        p->sync_known = p->known;
        if (sent != (ssize_t)sizeof sync) dbuf__fail_link(p, sent < 0 ? errno : EPIPE);
    }
}

/* Says what dbuf_sync() found. */
DBUF__FUNCTION void dbuf__say_not_stored(dbuf_producer *p, uint64_t not_stored, uint64_t unconfirmed) {
    char lost[64] = "";
    if (not_stored > 0)
        snprintf(lost, sizeof lost, "%llu event%s not stored", (unsigned long long)not_stored,
                 not_stored == 1 ? " was" : "s were");
    if (unconfirmed == 0) dbuf__say(p, "%s", lost);
    else
        dbuf__say(p,
                  "%s%s%llu event%s unconfirmed: the daemon took them and died before it called them durable; most are "
                  "probably stored",
                  lost, lost[0] != '\0' ? "; " : "", (unsigned long long)unconfirmed,
                  unconfirmed == 1 ? " is" : "s are");
}

DBUF__FUNCTION int dbuf_sync(dbuf_producer *producer, int timeout_ms) {
    dbuf_producer *p = producer;
    uint64_t wanted, until_ns = dbuf__deadline(timeout_ms), rung = 0, sure = 0, not_stored;
    int saved = errno, error = dbuf__renew_after_fork(p);
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
    p->sync_waits = 0; /* only this call waits for room: others would find the socket writable again and again */
    not_stored = counts.lost + counts.refused;
    if (sure < wanted) {
        error = dbuf__has_link(p) ? DBUF_ERR_TIMEOUT : DBUF_ERR_NO_DAEMON;
        if (error == DBUF_ERR_TIMEOUT) dbuf__fail(p, error);
    } else if (not_stored > p->not_stored_told || p->unconfirmed > p->unconfirmed_told) {
        dbuf__say_not_stored(p, not_stored - p->not_stored_told, p->unconfirmed - p->unconfirmed_told);
        p->not_stored_told = not_stored;
        p->unconfirmed_told = p->unconfirmed;
        error = DBUF_ERR_NOT_STORED;
    }
    errno = saved;
    return error;
}

DBUF__FUNCTION int dbuf_tend(dbuf_producer *producer) {
    int saved = errno, error = dbuf__renew_after_fork(producer);
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
    if (p->forks != dbuf__process.forks) return; /* a child that has not called anything yet */
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
        statistics->high_water_bytes =
            dbuf__max(statistics->high_water_bytes, dbuf__min(p->words->high_water, p->capacity));
    statistics->doorbells = p->doorbells;
    statistics->waits = p->waits;
    statistics->links = p->links;
    statistics->link = p->stage == DBUF__RING     ? DBUF_LINK_RING
                       : p->stage == DBUF__FRAMES ? DBUF_LINK_FRAMES
                                                  : DBUF_LINK_NONE;
}

DBUF__FUNCTION const char *dbuf_last_error(const dbuf_producer *producer) { return producer->error; }

/* ==== The end of a producer: by its owner, at the exit of the program, or with the object that opened it. */

/* Events that no daemon has got. */
DBUF__RACY DBUF__FUNCTION uint64_t dbuf__left(const dbuf_producer *p) {
    if (p->stage == DBUF__RING) return 0;
    if (p->stage == DBUF__FRAMES) return p->events - (p->send_number - 1);
    return p->events - p->taken;
}

/* Events that were given up for want of room, of which no daemon knows. A ring's daemon reads them from the header. */
DBUF__RACY DBUF__FUNCTION uint64_t dbuf__unreported(const dbuf_producer *p) {
    return p->stage == DBUF__RING ? 0 : p->lost_full - p->lost_reported;
}

/* Delivers what can be delivered within close_wait_ms. 0, or DBUF_ERR_TIMEOUT if events are left. */
DBUF__FUNCTION int dbuf__deliver(dbuf_producer *p) {
    uint64_t now_ns, until_ns, rung = 0, left;
    dbuf_discard(p);
    /* A ring whose daemon is gone has events that the next daemon must get: the connection says whether it is gone. */
    if (p->stage == DBUF__RING) dbuf__hear(p);
    until_ns = dbuf__deadline(p->close_wait_ms);
    /* What is left is worth an attempt, however short ago the last one was. */
    if (p->stage == DBUF__DOWN && dbuf__left(p) + dbuf__unreported(p) > 0) p->retry_at_ns = 0;
    while (p->stage != DBUF__RING && (p->taken < p->events || dbuf__unreported(p) > 0)) {
        dbuf__tend(p, 0);
        now_ns = dbuf__clock_ns(CLOCK_MONOTONIC);
        if (p->stage == DBUF__RING || (p->taken == p->events && dbuf__unreported(p) == 0) || now_ns >= until_ns) break;
        dbuf__sleep(p, 0, now_ns, until_ns, &rung);
    }
    if (p->stage == DBUF__FRAMES && p->send_at == p->head) {
        uint8_t bye[DBUF__FRAME_HEAD_BYTES];
        dbuf__put_frame_head(bye, 0, DBUF__FRAME_BYE, 0, 0, 0, 0);
        dbuf__write(p, bye, sizeof bye);
    }
    left = dbuf__left(p);
    dbuf__report_not_delivered(p, left, dbuf__unreported(p));
    return left > 0 ? DBUF_ERR_TIMEOUT : 0;
}

DBUF__FUNCTION int dbuf_close(dbuf_producer *producer) {
    int saved = errno, error = 0;
    if (producer == NULL) return 0;
    if (producer->forks == dbuf__process.forks) error = dbuf__deliver(producer);
    dbuf__free(producer);
    errno = saved;
    return error;
}

/* Closes the own producer of a thread, unless another thread closes it already. */
DBUF__FUNCTION void dbuf__close_own(void *own) {
    dbuf_producer *p;
    if (own == NULL) return;
    dbuf__own = NULL;
    pthread_mutex_lock(&dbuf__process.lock);
    for (p = dbuf__process.first; p != NULL && p != own;) p = p->next;
    if (p != NULL && p->is_closing) p = NULL;
    if (p != NULL) {
        p->is_closing = 1;
        dbuf__process.closers++;
    }
    pthread_mutex_unlock(&dbuf__process.lock);
    if (p == NULL) return;
    dbuf_close(p);
    pthread_mutex_lock(&dbuf__process.lock);
    dbuf__process.closers--;
    pthread_mutex_unlock(&dbuf__process.lock);
}

/* What a producer that the program does not close leaves behind. Its thread may be running: then only numbers are read,
 * and not the memory, which that thread may replace. */
DBUF__RACY DBUF__FUNCTION void dbuf__report_unclosed(const dbuf_producer *p) {
    uint64_t left = dbuf__left(p);
    char byte;
    if (p->stage == DBUF__RING && pthread_equal(p->thread, pthread_self()) && dbuf__is_held(&p->connection) &&
        recv(p->connection.number, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
        uint64_t events = p->events - p->base, taken = __atomic_load_n(&p->words->taken, __ATOMIC_RELAXED);
        left = events - dbuf__min(taken, events);
    }
    dbuf__report_not_delivered(p, left, dbuf__unreported(p));
}

/* Reports what the program has not closed. Not before all exit handlers have run, for one of them may close it. */
DBUF__FUNCTION void dbuf__after_exit(void) {
    const dbuf_producer *p;
    int saved = errno;
    dbuf__process.at_unload = NULL;
    pthread_mutex_lock(&dbuf__process.lock);
    for (p = dbuf__process.first; p != NULL; p = p->next)
        if (p->forks == dbuf__process.forks && !p->is_closing) dbuf__report_unclosed(p);
    pthread_mutex_unlock(&dbuf__process.lock);
    errno = saved;
}

/* At the exit of the program. The thread that calls exit(3) gets no destructor of its key, so its own producer is
 * closed here. Those of other threads, and those that the program has not closed, may be in use: they are left
 * alone. */
DBUF__FUNCTION void dbuf__at_exit(void) {
    int saved = errno;
    __atomic_store_n(&dbuf__process.is_ending, 1, __ATOMIC_RELAXED);
    dbuf__process.at_unload = dbuf__after_exit;
    dbuf__close_own(dbuf__own);
    /* An object that is unloaded from here on leaves no destructor behind. */
    if (__atomic_exchange_n(&dbuf__process.has_key, 0, __ATOMIC_RELAXED)) pthread_key_delete(dbuf__process.key);
    errno = saved;
}

/* Ends a producer for good and keeps it until its owner closes it: a destructor of a static object, or an exit handler
 * of the unloaded object, runs later and may call dbuf_send() and dbuf_close(). A thread's own producer has no other
 * owner. */
DBUF__FUNCTION void dbuf__retire(dbuf_producer *p) {
    if (p->is_own) {
        dbuf_close(p);
        return;
    }
    if (p->forks == dbuf__process.forks) dbuf__deliver(p);
    dbuf__let_go(p);
    p->is_gone = 1;
    p->forks = dbuf__process.forks - 1; /* no call uses its memory, which is gone */
}

/* When the shared object of this code is unloaded. A thread that ends later must not run the destructor of its key,
 * whose code is gone. No other thread calls this code any more, so all producers that are still open end here. */
DBUF__FUNCTION void dbuf__at_unload(void) {
    uint64_t until_ns = dbuf__deadline(DBUF__UNLOAD_TIMEOUT_MS);
    int saved = errno;
    __atomic_store_n(&dbuf__process.is_ending, 1, __ATOMIC_RELAXED);
    dbuf__process.at_unload = NULL;
    if (__atomic_exchange_n(&dbuf__process.has_key, 0, __ATOMIC_RELAXED)) pthread_key_delete(dbuf__process.key);
    dbuf__own = NULL;
    for (;;) {
        dbuf_producer *p;
        int closers;
        pthread_mutex_lock(&dbuf__process.lock);
        for (p = dbuf__process.first; p != NULL && p->is_closing;) p = p->next;
        if (p != NULL) p->is_closing = 1;
        closers = dbuf__process.closers;
        pthread_mutex_unlock(&dbuf__process.lock);
        if (p != NULL) dbuf__retire(p);
        /* A destructor that began before the key was deleted is still running. */
        else if (closers > 0 && dbuf__clock_ns(CLOCK_MONOTONIC) < until_ns) poll(NULL, 0, 1);
        else break;
    }
    errno = saved;
}

/* Each file has this function; its first call does the work. When an object is unloaded, destructors run before the
 * object's exit handlers, and at_unload is dbuf__at_unload(). At the exit of the program they run after all exit
 * handlers, one of which has set it to dbuf__after_exit(). */
static __attribute__((destructor)) void dbuf__unload(void) {
    if (dbuf__process.at_unload != NULL) dbuf__process.at_unload();
}

/* ==== The own producer of each thread, which dbuf_log() uses. */

DBUF__FUNCTION void dbuf__make_key(void) {
    int has_key = pthread_key_create(&dbuf__process.key, dbuf__close_own) == 0;
    __atomic_store_n(&dbuf__process.has_key, has_key, __ATOMIC_RELAXED);
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

/* Has this thread's own producer closed: when the thread ends; while exit handlers run, by one more handler. */
DBUF__FUNCTION int dbuf__close_own_later(void) {
    if (__atomic_load_n(&dbuf__process.is_ending, __ATOMIC_RELAXED)) return atexit(dbuf__at_exit) == 0;
    pthread_once(&dbuf__process.makes_key, dbuf__make_key);
    return __atomic_load_n(&dbuf__process.has_key, __ATOMIC_RELAXED) &&
           pthread_setspecific(dbuf__process.key, dbuf__own) == 0;
}

/* Opens this thread's own producer. */
DBUF__FUNCTION int dbuf__open_own(void) {
    int saved = errno, error;
    error = dbuf__open(&dbuf__own, dbuf__process.has_log_options ? &dbuf__process.log_options : NULL, 1);
    /* Otherwise it would outlive its thread, and lose what it keeps without a word. */
    if (error == 0 && !dbuf__close_own_later()) {
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
