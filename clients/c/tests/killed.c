/* Sends numbered events through a ring until it is killed or told to stop. tests/support/program.rs describes them and
 * does the same in Rust. After an error it says why and ends with 1. */
#include "dbuf.h"

/* The words of the notes. */
enum { RETURNED, LONGEST_NS, ORDER, NOTES_BYTES = 4096 };
/* What ORDER may say. */
enum { GO_ON, STOP, STALL, STALLED };
enum { BURST = 10, SYNC_MS = 60000, LONG = 8000 };

static dbuf_producer *producer;

static int fail(const char *what) {
    fprintf(stderr, "killed: %s: %s\n", what, producer == NULL ? "there is no producer" : dbuf_last_error(producer));
    return 1;
}

static const char *order(const char *name) {
    const char *value = getenv(name);
    if (value == NULL) exit(fail(name));
    return value;
}

static uint64_t number(const char *name) { return strtoull(order(name), NULL, 10); }

static uint64_t *open_notes(void) {
    int fd = open(order("DBUFD_TEST_NOTES"), O_RDWR | O_CLOEXEC);
    void *notes = mmap(NULL, NOTES_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (notes == MAP_FAILED) exit(fail("the test's memory"));
    return (uint64_t *)notes;
}

/* Opens a producer and waits until it has a ring: events that it kept before would die with it. */
static int open_producer(void) {
    dbuf_options options = dbuf_options_default();
    dbuf_statistics now;
    int turns, error;
    options.socket = order("DBUFD_TEST_SOCKET");
    options.name = order("DBUFD_TEST_CLIENT");
    options.ring_bytes = number("DBUFD_TEST_RING_BYTES");
    options.wait_ms = (int)number("DBUFD_TEST_WAIT_MS");
    error = dbuf_open(&producer, &options);
    for (turns = 0; error == 0 && turns < 60000; turns++) {
        dbuf_get_statistics(producer, &now);
        if (now.link == DBUF_LINK_RING) return 0;
        error = dbuf_tend(producer);
        poll(NULL, 0, 1);
    }
    return fail("no ring");
}

static size_t make_text(char *text, const char *own, uint64_t event) {
    size_t more = event % 256 == 0 ? LONG : (size_t)(event % 100);
    int begin = sprintf(text, "of %s event %llu with ", own, (unsigned long long)event);
    memset(text + begin, 'x', more);
    memcpy(text + begin + more, " more", 5);
    return (size_t)begin + more + 5;
}

/* Of each 800 events, writes 100 in place and slowly, so that a kill also meets open claims. */
static int send_one(uint64_t event, const char *text, size_t bytes) {
    void *place;
    size_t at;
    int error;
    if (event / 100 % 8 != 7) return dbuf_send(producer, DBUF_INFO, text, bytes);
    error = dbuf_claim(producer, DBUF_INFO, bytes + 100, &place);
    if (error != 0) return error;
    for (at = 0; at < bytes; at += 4) {
        memcpy((char *)place + at, text + at, bytes - at < 4 ? bytes - at : 4);
        __builtin_ia32_pause();
    }
    return dbuf_publish(producer, bytes);
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Sends until it is told to stop; the number of the last event, or 0 after an error. */
static uint64_t send_all(uint64_t *notes) {
    const char *own = order("DBUFD_TEST_NUMBER");
    const uint64_t pause_us = number("DBUFD_TEST_PAUSE_US");
    uint64_t event, longest = 0;
    for (event = 1;; event++) {
        static char text[LONG + 100];
        size_t bytes = make_text(text, own, event);
        uint64_t begun = now_ns(), took;
        if (send_one(event, text, bytes) != 0) return 0;
        took = now_ns() - begun;
        if (took > longest) longest = took;
        __atomic_store_n(&notes[LONGEST_NS], longest, __ATOMIC_RELAXED);
        /* Release: not before the event is published. */
        __atomic_store_n(&notes[RETURNED], event, __ATOMIC_RELEASE);
        if (__atomic_load_n(&notes[ORDER], __ATOMIC_RELAXED) != GO_ON) return event;
        if (pause_us > 0 && event % BURST == 0) {
            struct timespec pause = {0, (long)pause_us * 1000};
            nanosleep(&pause, NULL);
        }
    }
}

/* Stays in the middle of an event until a signal ends the program. */
static int stall(uint64_t *notes) {
    void *place;
    if (dbuf_claim(producer, DBUF_INFO, 100, &place) != 0) return fail("a claim");
    memcpy(place, "half of an ev", 13);
    __atomic_store_n(&notes[ORDER], STALLED, __ATOMIC_RELEASE);
    for (;;) pause();
}

int main(void) {
    uint64_t *notes = open_notes(), events;
    dbuf_statistics told;
    if (open_producer() != 0) return 1;
    events = send_all(notes);
    if (events == 0) return fail("a send");
    if (notes[ORDER] == STALL) return stall(notes);
    if (dbuf_sync(producer, SYNC_MS) != 0) return fail("the sync");
    dbuf_get_statistics(producer, &told);
    if (told.link != DBUF_LINK_RING || told.links != 1) return fail("it has noticed something");
    if (told.lost_full + told.refused + told.lost + told.unconfirmed != 0) return fail("something is lost");
    if (told.events != events || told.persisted != events || told.durable != events) return fail("not all is durable");
    return dbuf_close(producer) == 0 ? 0 : 1;
}
