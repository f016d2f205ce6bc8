/* Obeys the lines on its standard input, for tests/c, which plays the daemon. It answers each line by one line. At the
 * end of the input it ends and closes nothing.
 *
 *     open SOCKET RING_BYTES WAIT_MS OPTIONS   options: letters of f (fail_when_down), s (no_stamp), r (no_ring),
 *                                              q (quiet), or -; SOCKET - is the default
 *     send BYTES [TIMES]      within BYTES MS      try BYTES      events of "NUMBER:" and x; NUMBER counts those taken
 *     fill BYTES              tries until there is no room; answers how many found some
 *     event TEXT              with a tag, fields and a time       claim BYTES   publish BYTES   discard
 *     print TEXT              through dbuf_printf("%s")           long BYTES    the same, of this many x
 *     log TEXT                by a thread that ends then
 *     elsewhere BYTES         the same as send BYTES, by a thread that ends then
 *     errno                   two events "kept", by calls that must leave errno as it is
 *     sync MS     tend     until LINK (ring, frames, none)     stats     error     close     closing MS
 *     child                   forks: the child sends one event "child" and closes; its results are the answer
 *     idle                    forks: the child does nothing until its parent, the driver, is dead; answers its number
 *     quitter TIMES           forks: the child sends this many events and ends by _exit(2) at once
 *     daemonize               forks twice: the grandchild closes all descriptors, sends one event "daemon" and closes
 *     replace WITH [PATH]     closes all descriptors from 3 on, and opens as many of its own instead: WITH is nothing,
 *                             file (at PATH), socket or eventfd
 *     touched                 how many of these are not as they were opened
 *     rob [EARLY]             the next connect finds a file in the place of its socket, or, early, the look before it
 *     lost                    whether that file is there no more
 *     errors_to HOW PATH      opens a file as descriptor 2; HOW is append or not
 *     close_at_exit           registers an exit handler that closes
 *     die HOW                 _exit, abort or kill; no answer
 */
/* The system's header declares these functions by the other names, too. */
#define connect(descriptor, address, bytes) connect_unless_robbed(descriptor, address, bytes)
#define socket(domain, type, protocol) socket_unless_robbed(domain, type, protocol)
#include "dbuf.h"
#undef connect
#undef socket

#include <signal.h>
#include <sys/eventfd.h>
#include <sys/wait.h>

int connect(int descriptor, const struct sockaddr *address, socklen_t bytes);
int socket(int domain, int type, int protocol);

static dbuf_producer *producer;
static unsigned long number = 1;
static uint8_t text[1 << 20];
static int robs_socket, robs_connect, robbed = -1;

/* Once, as another thread may do at any moment: puts a file in the place of a descriptor. */
static void rob(int *robs, int descriptor) {
    int file = *robs ? open("/dev/null", O_RDWR) : -1;
    *robs = 0;
    if (file < 0) return;
    if (dup2(file, descriptor) < 0) abort();
    close(file);
    robbed = descriptor;
}

static int is_lost(void) {
    struct stat status;
    return fstat(robbed, &status) != 0 || !S_ISCHR(status.st_mode);
}

int socket_unless_robbed(int domain, int type, int protocol) {
    int made = socket(domain, type, protocol);
    rob(&robs_socket, made);
    return made;
}

int connect_unless_robbed(int descriptor, const struct sockaddr *address, socklen_t bytes) {
    rob(&robs_connect, descriptor);
    return connect(descriptor, address, bytes);
}

/* The next event: its number, a colon, and x up to its size. An event that is too short for that has only x. */
static const void *event_of(size_t bytes) {
    char begin[32];
    int length = snprintf(begin, sizeof begin, "%lu:", number);
    memset(text, 'x', bytes);
    if (length > 0 && (size_t)length <= bytes) memcpy(text, begin, (size_t)length);
    return text;
}

static int counted(int error) {
    if (error == 0) number++;
    return error;
}

static int open_by(char **part) {
    dbuf_options options = dbuf_options_default();
    options.socket = strcmp(part[1], "-") == 0 ? NULL : part[1];
    options.name = "driver";
    options.ring_bytes = strtoull(part[2], NULL, 10);
    options.wait_ms = atoi(part[3]);
    options.fail_when_down = strchr(part[4], 'f') != NULL;
    options.no_stamp = strchr(part[4], 's') != NULL;
    options.no_ring = strchr(part[4], 'r') != NULL;
    options.quiet = strchr(part[4], 'q') != NULL;
    dbuf_log_options(&options);
    return dbuf_open(&producer, &options);
}

static int send_with_everything(const char *payload) {
    dbuf_field fields[2];
    dbuf_event event;
    fields[0] = dbuf_field_text("ORDER", "17");
    fields[1] = dbuf_field_text("NOTE", "");
    memset(&event, 0, sizeof event);
    event.pri = DBUF_ERR;
    event.payload = payload;
    event.payload_bytes = strlen(payload);
    event.tag = "billing";
    event.fields = fields;
    event.field_count = 2;
    event.time_ns = 1700000000000000000u;
    return dbuf_send_event(producer, &event);
}

static void *log_once(void *payload) { return (void *)(intptr_t)dbuf_log(DBUF_INFO, "%s", (const char *)payload); }

static int log_in_thread(char *payload) {
    pthread_t thread;
    void *result;
    if (pthread_create(&thread, NULL, log_once, payload) != 0 || pthread_join(thread, &result) != 0) return 1;
    return (int)(intptr_t)result;
}

/* Tends until the producer has the wanted link. */
static int until(const char *wanted) {
    int turns;
    for (turns = 0; turns < 60000; turns++) {
        static const char *const names[] = {"none", "ring", "frames"};
        dbuf_statistics now;
        dbuf_get_statistics(producer, &now);
        if (strcmp(names[now.link], wanted) == 0) return 0;
        dbuf_tend(producer);
        poll(NULL, 0, 1);
    }
    return 1;
}

static int in_child(void) {
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        int error = dbuf_send(producer, DBUF_INFO, "child", 5);
        if (error == 0) error = until("ring");
        if (error == 0) error = dbuf_close(producer);
        _exit(error == 0 ? 0 : 1);
    }
    return child > 0 && waitpid(child, &status, 0) == child ? status : 1;
}

static int idle_child(void) {
    const pid_t parent = getpid(), child = fork();
    if (child != 0) return (int)child;
    while (getppid() == parent) poll(NULL, 0, 10);
    _exit(0);
}

static int quitter(int times) {
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        int error = 0;
        while (error == 0 && times-- > 0) error = dbuf_printf(producer, DBUF_INFO, "%lu:", number++);
        _exit(error == 0 ? 0 : 1);
    }
    return child > 0 && waitpid(child, &status, 0) == child ? status : 1;
}

static int daemonize(void) {
    int status = 0, descriptor;
    pid_t child = fork();
    if (child > 0) return waitpid(child, &status, 0) == child ? status : 1;
    if (child < 0 || setsid() < 0) _exit(1);
    child = fork();
    if (child != 0) _exit(child < 0);
    for (descriptor = 0; descriptor < 1024; descriptor++) close(descriptor);
    if (dbuf_send(producer, DBUF_INFO, "daemon", 6) != 0) _exit(1);
    for (descriptor = 0; descriptor < 3; descriptor++)
        if (fcntl(descriptor, F_GETFD) != -1) dbuf_printf(producer, DBUF_ERR, "it uses descriptor %d", descriptor);
    _exit(dbuf_close(producer) != 0);
}

enum { OWN_MAX = 8 };
static int own[OWN_MAX], peers[OWN_MAX];

static int open_own(const char *with, const char *path, int *peer) {
    int pair[2];
    *peer = -1;
    if (strcmp(with, "file") == 0) return open(path, O_RDWR | O_CREAT, 0600);
    if (strcmp(with, "eventfd") == 0) return eventfd(0, EFD_NONBLOCK);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) != 0) return -1;
    *peer = fcntl(pair[1], F_DUPFD, 100);
    close(pair[1]);
    return pair[0];
}

static int replace(const char *with, const char *path) {
    int i;
    for (i = 3; i < 100; i++) close(i);
    for (i = 0; i < OWN_MAX; i++) own[i] = strcmp(with, "nothing") == 0 ? -1 : open_own(with, path, &peers[i]);
    return 0;
}

static int errors_to(const char *how, const char *path) {
    int file = open(path, O_WRONLY | O_CREAT | (strcmp(how, "append") == 0 ? O_APPEND : 0), 0600);
    return file < 0 || dup2(file, STDERR_FILENO) < 0 || close(file) != 0;
}

static int touched(void) {
    int i, count = 0;
    for (i = 0; i < OWN_MAX; i++) {
        uint64_t bytes;
        struct stat status;
        if (own[i] < 0) continue;
        if (fstat(own[i], &status) != 0 || status.st_size != 0) count++;
        else if (peers[i] >= 0 && (recv(peers[i], &bytes, sizeof bytes, 0) >= 0 || errno != EAGAIN)) count++;
        else if (peers[i] < 0 && read(own[i], &bytes, sizeof bytes) > 0) count++;
    }
    return count;
}

static void close_producer(void) { dbuf_close(producer); }

static int die(const char *how) {
    if (strcmp(how, "_exit") == 0) _exit(0);
    if (strcmp(how, "abort") == 0) abort();
    return kill(getpid(), SIGKILL);
}

static void print_statistics(void) {
    dbuf_statistics s;
    dbuf_get_statistics(producer, &s);
    printf(
        "{\"events\":%llu,\"bytes\":%llu,\"lost_full\":%llu,\"lost_full_bytes\":%llu,\"refused\":%llu,\"lost\":%llu,",
        (unsigned long long)s.events, (unsigned long long)s.bytes, (unsigned long long)s.lost_full,
        (unsigned long long)s.lost_full_bytes, (unsigned long long)s.refused, (unsigned long long)s.lost);
    printf("\"unconfirmed\":%llu,\"persisted\":%llu,\"durable\":%llu,\"capacity\":%llu,\"waiting\":%llu,"
           "\"high_water\":%llu,",
           (unsigned long long)s.unconfirmed, (unsigned long long)s.persisted, (unsigned long long)s.durable,
           (unsigned long long)s.capacity_bytes, (unsigned long long)s.waiting_bytes,
           (unsigned long long)s.high_water_bytes);
    printf("\"doorbells\":%llu,\"waits\":%llu,\"links\":%llu,\"link\":%d}\n", (unsigned long long)s.doorbells,
           (unsigned long long)s.waits, (unsigned long long)s.links, (int)s.link);
}

static int fill(size_t bytes) {
    int sent = 0;
    while (counted(dbuf_try_send(producer, DBUF_INFO, event_of(bytes), bytes)) == 0) sent++;
    return sent;
}

static int claim(size_t bytes) {
    void *place;
    int error = dbuf_claim(producer, DBUF_NOTICE, bytes, &place);
    if (error == 0) memcpy(place, event_of(bytes), bytes);
    return error;
}

static int send_times(char **part) {
    size_t bytes = strtoull(part[1], NULL, 10);
    int times = part[2] == NULL ? 1 : atoi(part[2]), error = 0;
    while (error == 0 && times-- > 0) error = counted(dbuf_send(producer, DBUF_INFO, event_of(bytes), bytes));
    return error;
}

static void *send_once(void *bytes) { return (void *)(intptr_t)dbuf_send(producer, DBUF_INFO, text, (size_t)bytes); }

static int send_elsewhere(size_t bytes) {
    pthread_t thread;
    void *result;
    event_of(bytes);
    if (pthread_create(&thread, NULL, send_once, (void *)bytes) != 0 || pthread_join(thread, &result) != 0) return 1;
    return counted((int)(intptr_t)result);
}

static int keeps_errno(void) {
    errno = EDOM;
    if (dbuf_printf(producer, DBUF_INFO, "kept") != 0 || errno != EDOM) return 1;
    return dbuf_send(producer, DBUF_INFO, "kept", 4) != 0 || errno != EDOM;
}

static int obey(char **part) {
    size_t bytes = part[1] == NULL ? 0 : strtoull(part[1], NULL, 10);
    if (strcmp(part[0], "open") == 0) return open_by(part);
    if (strcmp(part[0], "send") == 0) return send_times(part);
    if (strcmp(part[0], "within") == 0)
        return counted(dbuf_send_within(producer, DBUF_INFO, event_of(bytes), bytes, atoi(part[2])));
    if (strcmp(part[0], "try") == 0) return counted(dbuf_try_send(producer, DBUF_INFO, event_of(bytes), bytes));
    if (strcmp(part[0], "fill") == 0) return fill(bytes);
    if (strcmp(part[0], "event") == 0) return counted(send_with_everything(part[1]));
    if (strcmp(part[0], "claim") == 0) return claim(bytes);
    if (strcmp(part[0], "publish") == 0) return counted(dbuf_publish(producer, bytes));
    if (strcmp(part[0], "discard") == 0) return dbuf_discard(producer), 0;
    if (strcmp(part[0], "print") == 0) return dbuf_printf(producer, DBUF_INFO, "%s\n", part[1]);
    if (strcmp(part[0], "long") == 0)
        return dbuf_printf(producer, DBUF_INFO, "%s", (const char *)memset(text, 'x', bytes));
    if (strcmp(part[0], "log") == 0) return log_in_thread(part[1]);
    if (strcmp(part[0], "elsewhere") == 0) return send_elsewhere(bytes);
    if (strcmp(part[0], "sync") == 0) return dbuf_sync(producer, (int)bytes);
    if (strcmp(part[0], "tend") == 0) return dbuf_tend(producer);
    if (strcmp(part[0], "until") == 0) return until(part[1]);
    if (strcmp(part[0], "child") == 0) return in_child();
    if (strcmp(part[0], "idle") == 0) return idle_child();
    if (strcmp(part[0], "quitter") == 0) return quitter((int)bytes);
    if (strcmp(part[0], "daemonize") == 0) return daemonize();
    if (strcmp(part[0], "replace") == 0) return replace(part[1], part[2]);
    if (strcmp(part[0], "touched") == 0) return touched();
    if (strcmp(part[0], "rob") == 0) return *(part[1] == NULL ? &robs_connect : &robs_socket) = 1, 0;
    if (strcmp(part[0], "lost") == 0) return is_lost();
    if (strcmp(part[0], "errors_to") == 0) return errors_to(part[1], part[2]);
    if (strcmp(part[0], "close_at_exit") == 0) return atexit(close_producer);
    if (strcmp(part[0], "die") == 0) return die(part[1]);
    if (strcmp(part[0], "errno") == 0) return keeps_errno();
    if (strcmp(part[0], "closing") == 0) return producer->close_wait_ms = atoi(part[1]), 0;
    if (strcmp(part[0], "close") == 0) {
        dbuf_producer *closed = producer;
        producer = NULL;
        return dbuf_close(closed);
    }
    return 1000;
}

int main(void) {
    char line[512];
    while (fgets(line, sizeof line, stdin) != NULL) {
        char *part[6] = {NULL}, *rest = line;
        size_t count = 0;
        while (count < 6 && (part[count] = strtok_r(rest, " \n", &rest)) != NULL) count++;
        if (strcmp(part[0], "stats") == 0) print_statistics();
        else if (strcmp(part[0], "error") == 0) printf("%s\n", producer == NULL ? "closed" : dbuf_last_error(producer));
        else {
            memset(text, 0, sizeof text);
            printf("%d\n", obey(part));
        }
        fflush(stdout);
    }
    return 0;
}
