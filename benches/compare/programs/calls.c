/* What one call costs the program that makes it, all kinds in turn in one process and one thread.
 *
 *     calls FOLDER SOCKETS TURNS
 *
 * FOLDER is for files, SOCKETS is where dbufd's are. A turn is some batches of each kind of call. The first batch does
 * not count: it finds the caches full of what the kind before has used, and a daemon that sleeps. Before each batch
 * the other side has taken everything, so that no call waits for room. For each kind this prints a line: an object
 * with its name and the mean of each batch in nanoseconds.
 */
#include "linked.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>

#include "calls.h"

enum { BATCHES_A_TURN = 10, TURNS_MAX = 10000, CALLS_MAX = 16, DATAGRAMS_MAX = 100 };

static const char *sockets;

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* dbuf_send() through a ring, with a time of the event's own and without. */

static dbuf_producer *stamped, *unstamped;

static int open_producer(dbuf_producer **p, int no_stamp) {
    char path[200];
    dbuf_options options = dbuf_options_default();
    snprintf(path, sizeof path, "%s/stream.sock", sockets);
    options.socket = path;
    options.no_stamp = no_stamp;
    options.populate = 1;
    *p = linked_open(&options);
    return 0;
}

static void drain_producer(dbuf_producer *p) {
    dbuf_statistics statistics;
    do {
        dbuf_tend(p);
        dbuf_get_statistics(p, &statistics);
    } while (statistics.waiting_bytes > 0 && statistics.link == DBUF_LINK_RING);
}

static int close_producer(dbuf_producer *p) {
    dbuf_statistics statistics;
    dbuf_get_statistics(p, &statistics);
    return dbuf_close(p) != 0 || statistics.lost_full + statistics.lost + statistics.refused > 0 ? -1 : 0;
}

static int open_stamped(const char *folder) {
    (void)folder;
    return open_producer(&stamped, 0);
}

static void make_stamped(unsigned count, const char *payload) {
    unsigned i;
    for (i = 0; i < count; i++) dbuf_send(stamped, DBUF_INFO, payload, CALL_PAYLOAD_BYTES);
}

static void drain_stamped(void) { drain_producer(stamped); }

static int close_stamped(void) { return close_producer(stamped); }

static int open_unstamped(const char *folder) {
    (void)folder;
    return open_producer(&unstamped, 1);
}

static void make_unstamped(unsigned count, const char *payload) {
    unsigned i;
    for (i = 0; i < count; i++) dbuf_send(unstamped, DBUF_INFO, payload, CALL_PAYLOAD_BYTES);
}

static void drain_unstamped(void) { drain_producer(unstamped); }

static int close_unstamped(void) { return close_producer(unstamped); }

/* The kernel's clock, which a logger without one of its own has to ask for each event. */

static int open_clock(const char *folder) {
    (void)folder;
    return 0;
}

static void make_clock(unsigned count, const char *payload) {
    struct timespec time;
    unsigned i;
    (void)payload;
    for (i = 0; i < count; i++) {
        clock_gettime(CLOCK_REALTIME, &time);
        __asm__ volatile("" : : "r"(&time) : "memory");
    }
}

static void drain_clock(void) {}

static int close_clock(void) { return 0; }

/* send() of a datagram, which is what syslog(3) does behind its formatting. */

static int datagrams;

static int open_datagrams(const char *folder) {
    struct sockaddr_un address;
    (void)folder;
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    size_t length = (size_t)snprintf(address.sun_path, sizeof address.sun_path, "%s/dgram.sock", sockets);
    if (length >= sizeof address.sun_path) return -1;
    datagrams = socket(AF_UNIX, SOCK_DGRAM, 0);
    return connect(datagrams, (struct sockaddr *)&address, sizeof address);
}

static void make_datagrams(unsigned count, const char *payload) {
    unsigned i;
    for (i = 0; i < count; i++) {
        if (send(datagrams, payload, CALL_PAYLOAD_BYTES, 0) < 0) abort();
    }
}

static void drain_datagrams(void) {
    int waiting;
    do {
        if (ioctl(datagrams, SIOCOUTQ, &waiting) != 0) abort();
    } while (waiting > 0);
}

static int close_datagrams(void) { return close(datagrams); }

/* One datagram less than a socket's queue holds before the sender has to wait; and no more than its memory surely
 * holds, which is some hundreds of this size. */
static unsigned datagrams_a_batch(void) {
    FILE *file = fopen("/proc/sys/net/unix/max_dgram_qlen", "r");
    unsigned length = 10;
    if (file != NULL) {
        if (fscanf(file, "%u", &length) != 1) length = 10;
        fclose(file);
    }
    return length > DATAGRAMS_MAX ? DATAGRAMS_MAX : length > 1 ? length - 1 : 1;
}

int main(int count, char **arguments) {
    static double ns[CALLS_MAX][TURNS_MAX * (BATCHES_A_TURN - 1)];
    static call calls[CALLS_MAX] = {
        {"dbuf_send, with its time", CALL_BATCH, open_stamped, make_stamped, drain_stamped, close_stamped},
        {"dbuf_send, without a time", CALL_BATCH, open_unstamped, make_unstamped, drain_unstamped, close_unstamped},
        {"clock_gettime(CLOCK_REALTIME)", CALL_BATCH, open_clock, make_clock, drain_clock, close_clock},
        {"send() of a datagram to dbufd", CALL_BATCH, open_datagrams, make_datagrams, drain_datagrams, close_datagrams},
    };
    char payload[CALL_PAYLOAD_BYTES];
    int kinds = 4, kind, batch, turns, turn, is_open[CALLS_MAX], failed = 0;
    size_t i, measured;
    if (count != 4) return 2;
    sockets = arguments[2];
    turns = atoi(arguments[3]);
    if (turns < 1 || turns > TURNS_MAX) return 2;
    calls[3].batch = datagrams_a_batch();
#ifdef WITH_LTTNG
    calls[kinds++] = call_lttng;
#endif
#ifdef WITH_SPDLOG
    calls[kinds++] = call_spdlog;
#endif
    for (i = 0; i < sizeof payload; i++) payload[i] = (char)('a' + i % 26);
    for (kind = 0; kind < kinds; kind++) is_open[kind] = calls[kind].open(arguments[1]) == 0;
    for (turn = 0; turn < turns; turn++) {
        /* Another kind begins each turn, so that none always follows the same. */
        for (i = 0; i < (size_t)kinds; i++) {
            kind = (int)((i * (turn % 2 == 0 ? 1 : (size_t)kinds - 1) + (size_t)turn) % (size_t)kinds);
            if (!is_open[kind]) continue;
            for (batch = 0; batch < BATCHES_A_TURN; batch++) {
                uint64_t begin;
                calls[kind].drain();
                begin = now_ns();
                calls[kind].make(calls[kind].batch, payload);
                if (batch > 0) {
                    double took = (double)(now_ns() - begin) / calls[kind].batch;
                    ns[kind][turn * (BATCHES_A_TURN - 1) + batch - 1] = took;
                }
            }
        }
    }
    measured = (size_t)turns * (BATCHES_A_TURN - 1);
    for (kind = 0; kind < kinds; kind++) {
        int error = is_open[kind] ? calls[kind].close() : 0;
        printf("{\"name\": \"%s\", \"batch\": %u, \"error\": %s, \"ns\": [", calls[kind].name, calls[kind].batch,
               !is_open[kind] ? "\"could not be opened\"" : error != 0 ? "\"calls were lost\"" : "null");
        for (i = 0; i < measured && is_open[kind]; i++) printf("%s%.2f", i == 0 ? "" : ", ", ns[kind][i]);
        printf("]}\n");
        failed |= error;
    }
    return failed != 0;
}
