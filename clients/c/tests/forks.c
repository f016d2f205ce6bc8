/* Forks while other threads use dbuf.h, and with handlers of its own. It prints 0 if all went well.
 *
 *     forks handlers SOCKET     its handler before the fork waits for a lock, whose holder sends its first event; its
 *                               handler in the child sends by the producer of the parent
 *     forks open SOCKET         another thread forks at the moment that dbuf_open() has made its socket
 *     forks close SOCKET        another thread forks at the moment before dbuf_close() closes it
 */
#include <semaphore.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int watched_socket(int domain, int type, int protocol);
static int watched_close(int descriptor);
#define socket(domain, type, protocol) watched_socket(domain, type, protocol)
#define close(descriptor) watched_close(descriptor)
#include "dbuf.h"
#undef socket
#undef close

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

static pthread_t forker;
static sem_t has_forked;
static int forks_at_socket, forks_at_close;

/* How many sockets this process has. */
static int sockets(void) {
    struct stat status;
    int descriptor, count = 0;
    for (descriptor = 3; descriptor < 100; descriptor++)
        count += fstat(descriptor, &status) == 0 && S_ISSOCK(status.st_mode);
    return count;
}

static void *fork_now(void *unused) {
    int status = -1;
    pid_t child = fork();
    (void)unused;
    if (child == 0) _exit(sockets());
    sem_post(&has_forked);
    if (child < 0 || waitpid(child, &status, 0) != child) abort();
    return (void *)(intptr_t)status;
}

/* Has another thread fork. A fork that has to wait for this thread gets 100 ms. */
static void fork_elsewhere(void) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 100000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    sem_init(&has_forked, 0, 0);
    if (pthread_create(&forker, NULL, fork_now, NULL) != 0) abort();
    sem_timedwait(&has_forked, &until);
}

static int watched_socket(int domain, int type, int protocol) {
    int descriptor = socket(domain, type, protocol);
    if (forks_at_socket) fork_elsewhere();
    forks_at_socket = 0;
    return descriptor;
}

static int watched_close(int descriptor) {
    if (forks_at_close) fork_elsewhere();
    forks_at_close = 0;
    return close(descriptor);
}

/* Answers with the child's sockets, as a status of waitpid(2). */
static int at_moment(const dbuf_options *options, int is_close) {
    void *status;
    forks_at_socket = !is_close;
    if (dbuf_open(&producer, options) != 0) return 1;
    forks_at_close = is_close;
    if (dbuf_close(producer) != 0 || pthread_join(forker, &status) != 0) return 1;
    return (int)(intptr_t)status;
}

int main(int count, char **arguments) {
    dbuf_options options = dbuf_options_default();
    int error;
    if (count != 3) return 2;
    options.socket = arguments[2];
    options.name = "driver";
    options.ring_bytes = DBUF_RING_BYTES_MIN;
    if (strcmp(arguments[1], "handlers") == 0) error = handlers(&options);
    else error = at_moment(&options, strcmp(arguments[1], "close") == 0);
    printf("%d\n", error);
    fflush(stdout);
    return error;
}
