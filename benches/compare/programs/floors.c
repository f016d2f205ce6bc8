/* What the memory and the disk can do with as many bytes as the events have.
 *
 *     floors memcpy|write|sync-file-range|fdatasync FILE BYTES
 *
 * memcpy copies blocks of 64 KiB, which stay in the cache as a sender's do, to 8 MiB, which do not. The others write
 * blocks of 1 MiB to a new file: without a sync; with each block's write-back begun as soon as the block is written;
 * and with a sync at the end. Prints what it took.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { SOURCE_BYTES = 64 << 10, TARGET_BYTES = 8 << 20, BLOCK_BYTES = 1 << 20 };

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void copy(uint64_t bytes) {
    char *source = malloc(SOURCE_BYTES), *target = malloc(TARGET_BYTES);
    size_t at = 0;
    if (source == NULL || target == NULL) fail("memory");
    memset(source, 'x', SOURCE_BYTES);
    while (bytes > 0) {
        size_t count = bytes < SOURCE_BYTES ? (size_t)bytes : SOURCE_BYTES;
        memcpy(target + at, source, count);
        /* The compiler is to believe that somebody looks at it. */
        __asm__ volatile("" : : "r"(target + at) : "memory");
        at = (at + SOURCE_BYTES) % TARGET_BYTES;
        bytes -= count;
    }
    free(source);
    free(target);
}

static void write_file(const char *how, int file, uint64_t bytes) {
    char *block = malloc(BLOCK_BYTES);
    off_t at = 0;
    if (block == NULL) fail("memory");
    memset(block, 'x', BLOCK_BYTES);
    while (bytes > 0) {
        ssize_t written = write(file, block, bytes < BLOCK_BYTES ? (size_t)bytes : BLOCK_BYTES);
        if (written <= 0) fail("write");
        if (strcmp(how, "sync-file-range") == 0 && sync_file_range(file, at, written, SYNC_FILE_RANGE_WRITE) != 0)
            fail(how);
        at += written;
        bytes -= (uint64_t)written;
    }
    if (strcmp(how, "fdatasync") == 0 && fdatasync(file) != 0) fail(how);
    free(block);
}

int main(int count, char **arguments) {
    struct rusage usage;
    uint64_t bytes;
    double begin, seconds;
    int file;
    if (count != 4) return 2;
    bytes = strtoull(arguments[3], NULL, 10);
    file = open(arguments[2], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0) fail(arguments[2]);
    begin = now();
    if (strcmp(arguments[1], "memcpy") == 0) copy(bytes);
    else write_file(arguments[1], file, bytes);
    seconds = now() - begin;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"seconds\": %.6f, \"cpu_us\": %.0f}\n", seconds,
           (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 +
               (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec));
    return 0;
}
