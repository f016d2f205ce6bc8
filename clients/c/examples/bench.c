/* Measures dbuf_send(): events of 100 bytes (or of BYTES), into the ring of a daemon that is awake and empties it
 * meanwhile.
 *
 *     cc -O2 -I.. bench.c -o bench && ./bench [BATCHES [BYTES]]
 *
 * A batch is 1000 events. With 100 bytes it fills an eighth of the ring. Its time is measured as a whole. The ring is
 * empty before each batch, so that no send waits or finds the ring full. Batches in which the doorbell was rung are
 * reported separately: the daemon slept when they began.
 */
#include "dbuf.h"

enum { BATCH = 1000, BYTES_MAX = 500, BATCHES_MAX = 100000 };

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(const char *what, double *ns, size_t count) {
    if (count == 0) return;
    qsort(ns, count, sizeof *ns, compare);
    printf("%-28s %6zu batches: median %5.1f ns an event, best %5.1f, p10 %5.1f, p90 %5.1f\n", what, count,
           ns[count / 2], ns[0], ns[count / 10], ns[count - 1 - count / 10]);
}

/* Waits until the daemon has taken everything. */
static void drain(dbuf_producer *p) {
    dbuf_statistics s;
    do {
        dbuf_tend(p);
        dbuf_get_statistics(p, &s);
    } while (s.waiting_bytes > 0 && s.link == DBUF_LINK_RING);
}

int main(int count, char **arguments) {
    static double awake[BATCHES_MAX], asleep[BATCHES_MAX];
    size_t batches = count > 1 ? strtoull(arguments[1], NULL, 10) : 2000, batch, awake_count = 0, asleep_count = 0;
    size_t bytes = count > 2 ? strtoull(arguments[2], NULL, 10) : 100;
    char payload[BYTES_MAX];
    dbuf_statistics before, after;
    dbuf_producer *p;
    int error = dbuf_open(&p, NULL);
    if (error != 0 || batches > BATCHES_MAX || bytes > BYTES_MAX) return 1;
    memset(payload, 'x', sizeof payload);
    dbuf_get_statistics(p, &after);
    if (after.link != DBUF_LINK_RING) {
        fprintf(stderr, "there is no ring: %s\n", dbuf_last_error(p));
        return 1;
    }
    for (batch = 0; batch < batches; batch++) {
        uint64_t begin;
        double ns;
        size_t i;
        drain(p);
        dbuf_get_statistics(p, &before);
        begin = now_ns();
        for (i = 0; i < BATCH; i++) dbuf_send(p, DBUF_INFO, payload, bytes);
        ns = (double)(now_ns() - begin) / BATCH;
        dbuf_get_statistics(p, &after);
        if (after.doorbells == before.doorbells) awake[awake_count++] = ns;
        else asleep[asleep_count++] = ns;
    }
    report("no bell in the batch", awake, awake_count);
    report("the bell was rung in it", asleep, asleep_count);
    printf("%llu events, %llu found no room\n", (unsigned long long)after.events, (unsigned long long)after.lost_full);
    return dbuf_close(p) != 0;
}
