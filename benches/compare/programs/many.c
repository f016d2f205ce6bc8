/* Sends lines over many connections in turn.
 *
 *     many PATH CONNECTIONS EVENTS
 *
 * One connection after the other gets a block of lines of 100 bytes, round and round. So all of them are at work all
 * the time, as the services of a busy machine are. The program waits for a connection that is full.
 */
#define _GNU_SOURCE

#include "sender.h"

enum { LINE_BYTES = 100, LINES_IN_A_BLOCK = 10, BLOCK_BYTES = LINE_BYTES * LINES_IN_A_BLOCK };

int main(int argc, char **argv) {
    static char block[BLOCK_BYTES];
    struct rlimit files;
    size_t connections, i;
    uint64_t left;
    int *to;
    if (argc != 4) return 2;
    connections = strtoul(argv[2], NULL, 10);
    left = strtoull(argv[3], NULL, 10);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    to = malloc(connections * sizeof *to);
    if (to == NULL) sender_fail("memory");
    for (i = 0; i < connections; i++) to[i] = sender_connect(argv[1], SOCK_STREAM);
    for (i = 0; i < BLOCK_BYTES; i++) block[i] = (i + 1) % LINE_BYTES == 0 ? '\n' : 'x';
    sender_ready();
    for (i = 0; left > 0; i = (i + 1) % connections) {
        uint64_t now = left < LINES_IN_A_BLOCK ? left : LINES_IN_A_BLOCK;
        sender_write_all(to[i], block, now * LINE_BYTES);
        left -= now;
    }
    sender_report(sender_cpu_us(RUSAGE_SELF));
    return 0;
}
