/* Events with a tag and fields; an event written in place; and what to do when there is no room.
 *
 *     cc -I.. fields.c -o fields && ./fields && dbufctl cat ORDER=17 -o json
 */
#include "dbuf.h"

/* Writes an order as JSON directly into the ring, without a copy. */
static int write_order(dbuf_producer *p, int order, int items) {
    enum { BYTES_MAX = 256 };
    void *place;
    int error = dbuf_claim(p, DBUF_INFO, BYTES_MAX, &place), bytes;
    if (error != 0) return error;
    bytes = snprintf((char *)place, BYTES_MAX, "{\"order\":%d,\"items\":%d}", order, items);
    if (bytes <= 0 || bytes >= BYTES_MAX) {
        dbuf_discard(p);
        return DBUF_ERR_INVALID;
    }
    return dbuf_publish(p, (size_t)bytes);
}

int main(void) {
    dbuf_options options = dbuf_options_default();
    const dbuf_field fields[] = {dbuf_field_text("ORDER", "17"), dbuf_field_text("CUSTOMER", "ann")};
    const dbuf_event refused = {.pri = DBUF_ERR,
                                .tag = "billing",
                                .payload = "card refused",
                                .payload_bytes = 12,
                                .fields = fields,
                                .field_count = 2};
    dbuf_statistics statistics;
    dbuf_producer *p;
    int error;

    options.name = "shop";
    options.wait_ms = 20; /* the longest that a send waits for room, before the event is given up and counted */
    error = dbuf_open(&p, &options);
    if (error != 0) {
        fprintf(stderr, "dbuf_open: %s\n", dbuf_strerror(error));
        return 1;
    }

    error = dbuf_send_event(p, &refused);
    if (error == 0) error = write_order(p, 17, 3);
    /* An event that is worth less than any waiting, and is not to count as lost. */
    if (error == 0 && dbuf_try_send(p, DBUF_DEBUG, "cart opened", 11) == DBUF_ERR_FULL)
        fputs("a detail was left out\n", stderr);
    if (error == 0) error = dbuf_sync(p, 5000);
    if (error != 0) fprintf(stderr, "%s: %s\n", dbuf_strerror(error), dbuf_last_error(p));

    dbuf_get_statistics(p, &statistics);
    printf("%llu events, %llu durable, %llu found no room\n", (unsigned long long)statistics.events,
           (unsigned long long)statistics.durable, (unsigned long long)statistics.lost_full);
    return (dbuf_close(p) != 0 || error != 0) ? 1 : 0;
}
