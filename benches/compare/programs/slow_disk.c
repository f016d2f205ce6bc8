/* A disk that is slow, or that stalls: preloaded into a daemon, it makes pwritev() and fdatasync() take longer.
 *
 *     SLOW_DISK_STALL_MS   how long a stall is; every SLOW_DISK_EVERY_MS one call takes as long
 *     SLOW_DISK_MB_S       what the disk takes in a second
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

static uint64_t setting(const char *name) {
    const char *text = getenv(name);
    return text == NULL ? 0 : strtoull(text, NULL, 10);
}

static void rest(uint64_t us) {
    struct timespec time = {.tv_sec = (time_t)(us / 1000000u), .tv_nsec = (long)(us % 1000000u * 1000u)};
    while (nanosleep(&time, &time) != 0 && errno == EINTR) {
    }
}

static void be_slow(size_t bytes) {
    static _Atomic uint64_t last_stall;
    uint64_t stall = setting("SLOW_DISK_STALL_MS"), every = setting("SLOW_DISK_EVERY_MS");
    uint64_t speed = setting("SLOW_DISK_MB_S"), now = now_ms(), last = last_stall;
    if (stall > 0 && now - last >= every && atomic_compare_exchange_strong(&last_stall, &last, now))
        rest(stall * 1000u);
    if (speed > 0) rest(bytes / speed);
}

typedef ssize_t writer(int, const struct iovec *, int, off_t);

static ssize_t write_slowly(const char *name, int to, const struct iovec *parts, int count, off_t at) {
    ssize_t written = ((writer *)dlsym(RTLD_NEXT, name))(to, parts, count, at);
    if (written > 0) be_slow((size_t)written);
    return written;
}

ssize_t pwritev(int to, const struct iovec *parts, int count, off_t at) {
    return write_slowly("pwritev", to, parts, count, at);
}
ssize_t pwritev64(int to, const struct iovec *parts, int count, off_t at) {
    return write_slowly("pwritev64", to, parts, count, at);
}

int fdatasync(int file) {
    be_slow(0);
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(file);
}
