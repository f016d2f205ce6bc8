/* Sends events as tracepoints of LTTng-UST.
 *
 *     send_lttng PRODUCER EVENTS SIZES
 */
#define _GNU_SOURCE
#include "lttng_event.h"
#include "sender.h"

int main(int argument_count, char **arguments) {
    static events the_events;
    static char event[EVENT_BYTES_MAX];
    events_head head;
    unsigned producer;
    uint64_t number, count;
    double before;
    if (argument_count != 4) return 2;
    producer = (unsigned)atoi(arguments[1]);
    count = strtoull(arguments[2], NULL, 10);
    events_init(&the_events, arguments[3]);
    head = events_head_first(producer);
    sender_ready();
    before = sender_cpu_us(RUSAGE_SELF);
    for (number = 0; number < count; number++) {
        unsigned bytes = events_write(&the_events, producer, number, &head, event);
        lttng_ust_tracepoint(compare, event, event, bytes);
        events_head_next(&head);
    }
    sender_report(sender_cpu_us(RUSAGE_SELF) - before);
    return 0;
}
