/* Forks while other threads use dbuf.h, and with handlers of its own. It prints 0 if all went well.
 *
 *     forks handlers SOCKET     its handler before the fork waits for a lock, whose holder sends its first event; its
 *                               handler in the child sends by the producer of the parent
 */
#include "dbuf.h"

#include <sys/wait.h>

static dbuf_producer *producer;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t is_locked, is_forking;

static void before_fork(void) {
    pthread_barrier_wait(&is_forking);
    pthread_mutex_lock(&lock);
}

static void in_parent(void) { pthread_mutex_unlock(&lock); }

static void in_child(void) {
    pthread_mutex_unlock(&lock);
    if (dbuf_send(producer, DBUF_INFO, "child", 5) != 0) _exit(1);
}

/* Logs for the first time while it has the lock that the handler waits for. */
static void *log_with_lock(void *unused) {
    int error;
    (void)unused;
    pthread_mutex_lock(&lock);
    pthread_barrier_wait(&is_locked);
    pthread_barrier_wait(&is_forking);
    error = dbuf_log(DBUF_INFO, "%s", "thread");
    pthread_mutex_unlock(&lock);
    return (void *)(intptr_t)error;
}

static int handlers(const dbuf_options *options) {
    pthread_t thread;
    void *error;
    int status = 1;
    pid_t child;
    pthread_barrier_init(&is_locked, NULL, 2);
    pthread_barrier_init(&is_forking, NULL, 2);
    /* Before the first call of dbuf.h. */
    pthread_atfork(before_fork, in_parent, in_child);
    if (dbuf_log_options(options) != 0 || dbuf_open(&producer, options) != 0) return 1;
    if (dbuf_send(producer, DBUF_INFO, "parent", 6) != 0) return 1;
    if (pthread_create(&thread, NULL, log_with_lock, NULL) != 0) return 1;
    pthread_barrier_wait(&is_locked);
    child = fork();
    if (child == 0) _exit(0);
    if (pthread_join(thread, &error) != 0 || error != NULL) return 1;
    return child > 0 && waitpid(child, &status, 0) == child ? status : 1;
}

int main(int count, char **arguments) {
    dbuf_options options = dbuf_options_default();
    int error;
    if (count != 3) return 2;
    options.socket = arguments[2];
    options.name = "driver";
    options.ring_bytes = DBUF_RING_BYTES_MIN;
    error = handlers(&options);
    printf("%d\n", error);
    fflush(stdout);
    return error;
}
