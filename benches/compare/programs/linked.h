/* Opens a producer of dbuf.h and waits for its link, for as long as a busy machine needs. */
#ifndef LINKED_H
#define LINKED_H

#include "dbuf.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { LINKED_WAITS_MAX = 60000 };

/* A producer with a ring, or with frames if `options` say so. Ends the program if there is none within a minute. */
static inline dbuf_producer *linked_open(const dbuf_options *options) {
    dbuf_producer *p = NULL;
    dbuf_statistics statistics;
    struct timespec millisecond = {0, 1000000};
    int waits, error = dbuf_open(&p, options);
    for (waits = 0; error == 0 && waits < LINKED_WAITS_MAX; waits++) {
        dbuf_get_statistics(p, &statistics);
        if (statistics.link == (options->no_ring ? DBUF_LINK_FRAMES : DBUF_LINK_RING)) return p;
        if (statistics.link != DBUF_LINK_NONE) break;
        nanosleep(&millisecond, NULL);
        dbuf_tend(p);
    }
    fprintf(stderr, "%s: %s\n", options->socket, error != 0 ? dbuf_strerror(error) : dbuf_last_error(p));
    exit(1);
}

#endif
