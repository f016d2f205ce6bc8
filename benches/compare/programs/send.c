/* Sends events through a socket or a pipe.
 *
 *     send TRANSPORT TARGET PRODUCER EVENTS SIZES
 *
 * lines PATH          a line each, over a stream connection, in blocks of up to 64 KiB, as in a busy program's output
 * pipe FD             the same into a descriptor that is open already
 * small-pipe FD       the same in blocks of up to 4 KiB, which a pipe that several write to keeps whole
 * datagrams PATH      send() of a datagram each
 * journal PATH        journald's own datagrams
 * journal-lines PATH  lines to journald, as a service's output goes there
 */
#define _GNU_SOURCE

#include "sender.h"

enum { BLOCK_BYTES = 64 << 10, SMALL_BLOCK_BYTES = 4 << 10 };

static events the_events;

/* Where all events have one size, a block is made once, and only its numbers change: making letters is not to be
 * measured. */
static void send_same_lines(int to, unsigned producer, uint64_t count, size_t block_bytes) {
    size_t line = the_events.size_min + 1, in_block = block_bytes / line / EVENT_SHIFTS * EVENT_SHIFTS, i;
    events_head head = events_head_first(producer);
    char *block;
    /* The letters depend on the number modulo EVENT_SHIFTS, so a block holds a multiple of these. */
    if (in_block == 0) in_block = EVENT_SHIFTS;
    block = malloc(in_block * line);
    if (block == NULL) sender_fail("memory");
    for (i = 0; i < in_block; i++) {
        events_write(&the_events, producer, i, &head, block + i * line);
        block[(i + 1) * line - 1] = '\n';
    }
    while (count > 0) {
        size_t now = count < in_block ? (size_t)count : in_block;
        for (i = 0; i < now; i++) {
            memcpy(block + i * line, head.bytes, EVENT_HEAD_BYTES);
            events_head_next(&head);
        }
        sender_write_all(to, block, now * line);
        count -= now;
    }
    free(block);
}

static void send_mixed_lines(int to, unsigned producer, uint64_t count, size_t block_bytes) {
    events_head head = events_head_first(producer);
    char *block = malloc(block_bytes + EVENT_BYTES_MAX + 1);
    size_t filled = 0;
    uint64_t number;
    if (block == NULL) sender_fail("memory");
    for (number = 0; number < count; number++) {
        size_t line = events_size(&the_events, producer, number) + 1;
        if (filled > 0 && filled + line > block_bytes) {
            sender_write_all(to, block, filled);
            filled = 0;
        }
        events_write(&the_events, producer, number, &head, block + filled);
        filled += line;
        block[filled - 1] = '\n';
        events_head_next(&head);
    }
    sender_write_all(to, block, filled);
    free(block);
}

static void send_lines(int to, unsigned producer, uint64_t count, size_t block_bytes) {
    if (the_events.size_min == the_events.size_max) send_same_lines(to, producer, count, block_bytes);
    else send_mixed_lines(to, producer, count, block_bytes);
}

/* One datagram an event, with what comes before and behind it. */
static void send_datagrams(int to, unsigned producer, uint64_t count, const char *before, const char *behind) {
    static char datagram[EVENT_BYTES_MAX + 100];
    events_head head = events_head_first(producer);
    size_t before_bytes = strlen(before), behind_bytes = strlen(behind);
    uint64_t number;
    memcpy(datagram, before, before_bytes);
    for (number = 0; number < count; number++) {
        size_t bytes = before_bytes + events_write(&the_events, producer, number, &head, datagram + before_bytes);
        memcpy(datagram + bytes, behind, behind_bytes);
        while (send(to, datagram, bytes + behind_bytes, 0) < 0) {
            if (errno != EINTR) sender_fail("send");
        }
        events_head_next(&head);
    }
}

int main(int argument_count, char **arguments) {
    const char *transport, *target;
    unsigned producer;
    uint64_t count;
    double before;
    int to;
    if (argument_count != 6) return 2;
    transport = arguments[1];
    target = arguments[2];
    producer = (unsigned)atoi(arguments[3]);
    count = strtoull(arguments[4], NULL, 10);
    events_init(&the_events, arguments[5]);
    if (strcmp(transport, "pipe") == 0 || strcmp(transport, "small-pipe") == 0) to = atoi(target);
    else to = sender_connect(target, strstr(transport, "lines") != NULL ? SOCK_STREAM : SOCK_DGRAM);
    sender_ready();
    before = sender_cpu_us(RUSAGE_SELF);
    if (strcmp(transport, "lines") == 0 || strcmp(transport, "pipe") == 0) {
        send_lines(to, producer, count, BLOCK_BYTES);
    } else if (strcmp(transport, "small-pipe") == 0) {
        send_lines(to, producer, count, SMALL_BLOCK_BYTES);
    } else if (strcmp(transport, "datagrams") == 0) {
        send_datagrams(to, producer, count, "", "");
    } else if (strcmp(transport, "journal") == 0) {
        send_datagrams(to, producer, count, "PRIORITY=6\nSYSLOG_IDENTIFIER=compare\nMESSAGE=", "\n");
    } else if (strcmp(transport, "journal-lines") == 0) {
        /* Identifier, unit, priority, level prefixes, whether to forward to syslog, the kernel's log, the console. */
        const char header[] = "compare\n\n6\n0\n0\n0\n0\n";
        sender_write_all(to, header, sizeof header - 1);
        send_lines(to, producer, count, BLOCK_BYTES);
    } else {
        return 2;
    }
    close(to);
    sender_report(sender_cpu_us(RUSAGE_SELF) - before);
    return 0;
}
