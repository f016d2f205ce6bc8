/* Sends events with dbuf.h: through a ring, or as frames.
 *
 *     send_dbuf ring|frames SOCKET PRODUCER EVENTS SIZES
 *
 * It waits where there is no room, so that nothing is lost; it does not wait for anything to be on the disk.
 */
#include "linked.h"

#include "sender.h"

int main(int argument_count, char **arguments) {
    static events the_events;
    static char event[EVENT_BYTES_MAX];
    dbuf_options options = dbuf_options_default();
    dbuf_producer *p;
    events_head head;
    unsigned producer;
    uint64_t number, count;
    double before;
    int error;
    if (argument_count != 6) return 2;
    producer = (unsigned)atoi(arguments[3]);
    count = strtoull(arguments[4], NULL, 10);
    events_init(&the_events, arguments[5]);
    options.socket = arguments[2];
    options.wait_ms = 60000;
    options.close_wait_ms = 60000;
    options.no_ring = strcmp(arguments[1], "frames") == 0;
    p = linked_open(&options);
    head = events_head_first(producer);
    sender_ready();
    before = sender_cpu_us(RUSAGE_SELF);
    for (number = 0; number < count; number++) {
        size_t bytes = events_write(&the_events, producer, number, &head, event);
        error = dbuf_send(p, DBUF_INFO, event, bytes);
        if (error != 0) {
            fprintf(stderr, "event %llu: %s\n", (unsigned long long)number, dbuf_last_error(p));
            return 1;
        }
        events_head_next(&head);
    }
    error = dbuf_close(p);
    if (error != 0) {
        fprintf(stderr, "close: %s\n", dbuf_strerror(error));
        return 1;
    }
    sender_report(sender_cpu_us(RUSAGE_SELF) - before);
    return 0;
}
