/* How a sender talks to the one who started it: it says when it is ready, waits for the word to go, and reports what it took. */
#ifndef SENDER_H
#define SENDER_H

#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include "events.h"

/* The processor time of `who`, which is RUSAGE_SELF or RUSAGE_THREAD. */
static inline double sender_cpu_us(int who) {
    struct rusage usage;
    getrusage(who, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static inline void sender_fail(const char *what) {
    perror(what);
    exit(1);
}

static inline void sender_ready(void) {
    char word[16];
    printf("ready\n");
    fflush(stdout);
    /* The one who started it is gone: nobody wants the events. */
    if (fgets(word, sizeof word, stdin) == NULL) exit(1);
}

static inline void sender_report(double cpu_us) {
    printf("{\"cpu_us\": %.0f}\n", cpu_us);
    fflush(stdout);
}

#endif
