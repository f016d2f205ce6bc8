/* Stops tracing, and returns when all of it is in the files. `lttng stop` does the same, but asks only five times a
 * second whether it is: too seldom to measure with. The library belongs to lttng-tools itself, so no package for
 * developers is needed.
 *
 *     stop_lttng SESSION
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <time.h>

typedef int (*of_session)(const char *);

int main(int count, char **arguments) {
    const struct timespec pause = {0, 1000000};
    void *library = dlopen("liblttng-ctl.so.0", RTLD_NOW);
    of_session stop, is_pending;
    int pending;
    if (count != 2) return 2;
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    /* As dlsym(3) has it: C knows no way from an object's pointer to a function's. */
    *(void **)&stop = dlsym(library, "lttng_stop_tracing_no_wait");
    *(void **)&is_pending = dlsym(library, "lttng_data_pending");
    if (stop == NULL || is_pending == NULL || stop(arguments[1]) < 0) {
        fprintf(stderr, "the session cannot be stopped\n");
        return 1;
    }
    while ((pending = is_pending(arguments[1])) == 1) nanosleep(&pause, NULL);
    return pending == 0 ? 0 : 1;
}
