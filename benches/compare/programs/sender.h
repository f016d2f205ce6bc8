/* How a sender talks to the program that started it: it says when it is ready, waits until it may begin, and reports
 * what it took. */
#ifndef SENDER_H
#define SENDER_H

#include <errno.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "events.h"

/* The processor time of `who`, which is RUSAGE_SELF or RUSAGE_THREAD. */
static inline double sender_cpu_us(int who) {
    struct rusage usage;
    getrusage(who, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static inline void sender_fail(const char *what) {
    perror(what);
    exit(1);
}

/* A connection to the Unix socket at `path`, of type SOCK_STREAM or SOCK_DGRAM. */
static inline int sender_connect(const char *path, int type) {
    struct sockaddr_un address;
    int to = socket(AF_UNIX, type, 0);
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    if (to < 0 || strlen(path) >= sizeof address.sun_path) sender_fail(path);
    memcpy(address.sun_path, path, strlen(path) + 1);
    if (connect(to, (struct sockaddr *)&address, sizeof address) != 0) sender_fail(path);
    return to;
}

static inline void sender_write_all(int to, const char *bytes, size_t count) {
    while (count > 0) {
        ssize_t written = write(to, bytes, count);
        if (written < 0 && errno != EINTR) sender_fail("write");
        if (written > 0) {
            bytes += written;
            count -= (size_t)written;
        }
    }
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
