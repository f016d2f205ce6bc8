/* Takes events from two producers into one file and does nothing else. It keeps the payloads alone: no time, no
 * sender, no checksum, no rotation, no sync. No program that takes events with these system calls can be much faster.
 *
 *     barest lines SOCKET FILE               two stream connections; ends when both have ended
 *     barest datagrams SOCKET FILE EVENTS    ends after that many
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum { CONNECTIONS = 2, READ_BYTES = 256 << 10, DATAGRAMS = 256, DATAGRAM_BYTES = 64 << 10 };

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void write_all(int file, struct iovec *parts, int count) {
    while (count > 0) {
        ssize_t written = writev(file, parts, count);
        if (written < 0) fail("write");
        while (count > 0 && (size_t)written >= parts->iov_len) {
            written -= (ssize_t)parts->iov_len;
            parts++;
            count--;
        }
        if (count > 0) {
            parts->iov_base = (char *)parts->iov_base + written;
            parts->iov_len -= (size_t)written;
        }
    }
}

static int listen_at(const char *path, int type) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int listener = socket(AF_UNIX, type, 0);
    if (listener < 0 || strlen(path) >= sizeof address.sun_path) fail(path);
    memcpy(address.sun_path, path, strlen(path) + 1);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0) fail(path);
    return listener;
}

/* Reads from each connection that has something, writes whole lines, and carries the rest of the last one. */
static void lines(int listener, int file) {
    struct pollfd connections[CONNECTIONS];
    char *buffers[CONNECTIONS];
    size_t carried[CONNECTIONS] = {0};
    int i, open = CONNECTIONS;
    for (i = 0; i < CONNECTIONS; i++) {
        connections[i].fd = accept(listener, NULL, NULL);
        connections[i].events = POLLIN;
        buffers[i] = malloc(2 * READ_BYTES);
        if (connections[i].fd < 0 || buffers[i] == NULL) fail("accept");
    }
    while (open > 0) {
        if (poll(connections, CONNECTIONS, -1) < 0) fail("poll");
        for (i = 0; i < CONNECTIONS; i++) {
            struct iovec whole;
            ssize_t got;
            size_t filled;
            char *end;
            if (connections[i].revents == 0) continue;
            got = read(connections[i].fd, buffers[i] + carried[i], READ_BYTES);
            if (got < 0) fail("read");
            if (got == 0) {
                close(connections[i].fd);
                connections[i].fd = -1;
                open--;
                continue;
            }
            filled = carried[i] + (size_t)got;
            end = memrchr(buffers[i] + carried[i], '\n', (size_t)got);
            whole.iov_base = buffers[i];
            whole.iov_len = end == NULL ? 0 : (size_t)(end + 1 - buffers[i]);
            if (end == NULL && filled > READ_BYTES) fail("a line is too long");
            carried[i] = filled - whole.iov_len;
            if (end == NULL) continue;
            write_all(file, &whole, 1);
            memmove(buffers[i], end + 1, carried[i]);
        }
    }
}

/* Takes up to 256 at once, puts a newline behind each, and writes them at once. */
static void datagrams(int socket, int file, uint64_t count) {
    static struct mmsghdr heads[DATAGRAMS];
    static struct iovec places[DATAGRAMS], parts[DATAGRAMS];
    char *buffer = malloc((size_t)DATAGRAMS * DATAGRAM_BYTES);
    int i;
    if (buffer == NULL) fail("memory");
    for (i = 0; i < DATAGRAMS; i++) {
        places[i].iov_base = buffer + (size_t)i * DATAGRAM_BYTES;
        places[i].iov_len = DATAGRAM_BYTES - 1;
        heads[i].msg_hdr.msg_iov = &places[i];
        heads[i].msg_hdr.msg_iovlen = 1;
    }
    while (count > 0) {
        int got = recvmmsg(socket, heads, DATAGRAMS, MSG_WAITFORONE, NULL);
        if (got < 0) fail("recvmmsg");
        for (i = 0; i < got; i++) {
            char *place = places[i].iov_base;
            place[heads[i].msg_len] = '\n';
            parts[i].iov_base = place;
            parts[i].iov_len = heads[i].msg_len + 1;
        }
        write_all(file, parts, got);
        count -= (uint64_t)got;
    }
}

int main(int argument_count, char **arguments) {
    int file, is_lines;
    if (argument_count < 4) return 2;
    is_lines = strcmp(arguments[1], "lines") == 0;
    file = open(arguments[3], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0) fail(arguments[3]);
    if (is_lines) {
        int listener = listen_at(arguments[2], SOCK_STREAM);
        if (listen(listener, CONNECTIONS) != 0) fail("listen");
        printf("ready\n");
        fflush(stdout);
        lines(listener, file);
    } else {
        int socket = listen_at(arguments[2], SOCK_DGRAM);
        if (argument_count < 5) return 2;
        printf("ready\n");
        fflush(stdout);
        datagrams(socket, file, strtoull(arguments[4], NULL, 10));
    }
    return 0;
}
