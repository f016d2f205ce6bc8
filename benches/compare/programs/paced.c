/* Sends events of 100 bytes at a steady rate, and tells how long it was held up.
 *
 *     paced ring|lines SOCKET RATE SECONDS
 *
 * RATE is events a second, sent in portions of a millisecond; 0 is as many as there is room for. It waits for room, so
 * that nothing is lost. The longest time that the sends of one portion took is how long a program would have been held
 * up.
 */
#define _GNU_SOURCE
#include <time.h>

#include "linked.h"
#include "sender.h"

enum { EVENT_BYTES = 100, UNPACED_PORTION = 500 };
#define MILLISECOND UINT64_C(1000000)

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void sleep_until(uint64_t ns) {
    struct timespec until = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) != 0) {
    }
}

static dbuf_producer *open_ring(const char *path) {
    dbuf_options options = dbuf_options_default();
    options.socket = path;
    options.name = "load";
    options.wait_ms = 60000;
    options.close_wait_ms = 60000;
    return linked_open(&options);
}

static void send_events(dbuf_producer *producer, const char *event, uint64_t count) {
    while (count-- > 0)
        if (dbuf_send(producer, DBUF_INFO, event, EVENT_BYTES) != 0) sender_fail("dbuf_send");
}

int main(int argc, char **argv) {
    uint64_t rate, end, at, start, portion, sent = 0, owed = 0, longest = 0;
    dbuf_producer *producer = NULL;
    char *lines;
    int to = -1;
    size_t i;
    if (argc != 5) return 2;
    rate = strtoull(argv[3], NULL, 10);
    portion = rate == 0 ? UNPACED_PORTION : rate / 1000 + 1;
    lines = malloc(portion * EVENT_BYTES);
    if (lines == NULL) sender_fail("memory");
    for (i = 0; i < portion * EVENT_BYTES; i++) lines[i] = (i + 1) % EVENT_BYTES == 0 ? '\n' : 'x';
    if (strcmp(argv[1], "ring") == 0) {
        /* An event of a ring needs no newline, and has the same size. */
        lines[EVENT_BYTES - 1] = 'x';
        producer = open_ring(argv[2]);
    } else {
        to = sender_connect(argv[2], SOCK_STREAM);
    }
    sender_ready();
    start = at = now_ns();
    end = at + strtoull(argv[4], NULL, 10) * 1000 * MILLISECOND;
    while (at < end) {
        uint64_t count = portion, before, took;
        if (rate != 0) {
            /* What a stall has kept back is sent behind it, as far as time is left. */
            owed += rate;
            count = owed / 1000;
            owed %= 1000;
            at += MILLISECOND;
            sleep_until(at);
        }
        before = now_ns();
        if (producer != NULL)
            send_events(producer, lines, count);
        else
            sender_write_all(to, lines, (size_t)count * EVENT_BYTES);
        took = now_ns() - before;
        if (rate == 0) at = before + took;
        if (took > longest) longest = took;
        sent += count;
        if (before > end + 60 * 1000 * MILLISECOND) break;
    }
    printf("{\"sent\": %llu, \"seconds\": %.6f, \"longest_us\": %llu}\n", (unsigned long long)sent,
           (double)(now_ns() - start) / 1e9, (unsigned long long)(longest / 1000));
    fflush(stdout);
    if (producer != NULL && dbuf_close(producer) != 0) sender_fail("close");
    return 0;
}
