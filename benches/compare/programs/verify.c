/* Looks whether all events are there, each once, whole, and in the order of its producer.
 *
 *     verify lines PRODUCERS EVENTS SIZES [FILE...]   each line is to be one event, and nothing else is to be there
 *     verify scan PRODUCERS EVENTS SIZES [FILE...]    events stand between other bytes, as in a binary file
 *     verify lttng PRODUCERS EVENTS SIZES FILE...     files of an LTTng trace, one a processor, each in its own order
 *     verify print PRODUCER EVENTS SIZES              prints the events of a producer, a line each
 *     verify bytes PRODUCERS EVENTS SIZES             says how many bytes they have together
 *
 * EVENTS is the number of each producer. Without files it reads standard input. It prints an object; the exit code is
 * 3 if anything is wrong.
 *
 * missing: never found. repeated: found once more. misordered: not repeated, and found after one with a higher number.
 * alien: with lines, lines that are no event as it was sent; with scan, heads of events that something else follows.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "events.h"

enum { PRODUCERS_MAX = 16, BUFFER_BYTES = 4 << 20 };

typedef struct count {
    uint64_t found, repeated, misordered, alien;
} count;

static events the_events;
static unsigned producers;
static uint64_t each;
static uint8_t *seen[PRODUCERS_MAX]; /* a bit for each number */
static uint64_t next_of[PRODUCERS_MAX]; /* one more than the highest number so far */
static count counted;

/* The producer and the number at the begin of these bytes; false if there is no head of an event. */
static bool read_head(const char *at, unsigned *producer, uint64_t *number) {
    int i;
    *producer = (unsigned)(unsigned char)at[0] - 'A';
    if (*producer >= producers) return false;
    *number = 0;
    for (i = 1; i < EVENT_HEAD_BYTES; i++) {
        unsigned digit = (unsigned)(unsigned char)at[i] - '0';
        if (digit > 9) return false;
        *number = *number * 10 + digit;
    }
    return *number < each;
}

static void note(unsigned producer, uint64_t number) {
    uint8_t *byte = &seen[producer][number / 8], bit = (uint8_t)(1u << number % 8);
    if ((*byte & bit) != 0) {
        counted.repeated++;
        return;
    }
    *byte |= bit;
    counted.found++;
    if (number < next_of[producer]) counted.misordered++;
    else next_of[producer] = number + 1;
}

static bool has_letters(const char *at, unsigned size, uint64_t number) {
    return memcmp(at + EVENT_HEAD_BYTES, events_letters(&the_events, number), size - EVENT_HEAD_BYTES) == 0;
}

static void look_at_line(const char *line, size_t bytes) {
    unsigned producer;
    uint64_t number;
    if (bytes >= EVENT_HEAD_BYTES && read_head(line, &producer, &number) &&
        bytes == events_size(&the_events, producer, number) && has_letters(line, (unsigned)bytes, number))
        note(producer, number);
    else counted.alien++;
}

/* Both return how many bytes they are done with. The rest is shown again, with more behind it if there is more. */
static size_t take_lines(const char *bytes, size_t count, bool is_end) {
    size_t at = 0;
    while (at < count) {
        const char *end = memchr(bytes + at, '\n', count - at);
        if (end == NULL && !is_end && count - at < BUFFER_BYTES) break;
        look_at_line(bytes + at, end == NULL ? count - at : (size_t)(end - bytes) - at);
        at = end == NULL ? count : (size_t)(end - bytes) + 1;
    }
    return at;
}

static size_t take_bytes(const char *bytes, size_t count, bool is_end) {
    size_t at = 0;
    while (at < count) {
        unsigned producer, size;
        uint64_t number;
        if (count - at < EVENT_HEAD_BYTES) return is_end ? count : at;
        if (!read_head(bytes + at, &producer, &number)) {
            at++;
            continue;
        }
        size = events_size(&the_events, producer, number);
        if (count - at < size && !is_end) return at;
        if (count - at >= size && has_letters(bytes + at, size, number)) {
            note(producer, number);
            at += size;
        } else {
            counted.alien++;
            at++;
        }
    }
    return at;
}

static void read_all(int file, size_t (*take)(const char *, size_t, bool)) {
    static char buffer[BUFFER_BYTES];
    size_t filled = 0;
    for (;;) {
        ssize_t got = read(file, buffer + filled, sizeof buffer - filled);
        size_t taken;
        if (got < 0) {
            perror("read");
            exit(1);
        }
        filled += (size_t)got;
        taken = take(buffer, filled, got == 0);
        filled -= taken;
        memmove(buffer, buffer + taken, filled);
        if (got == 0) return;
    }
}

static uint64_t number_at(const char *at, size_t bytes) {
    uint64_t number = 0;
    memcpy(&number, at, bytes);
    return number;
}

/* A file of a trace is packets of a fixed size. After what a packet calls its content comes what its memory held
 * before, which may be whole events. The head of a packet, by the trace's own metadata: magic (4 bytes), UUID (16),
 * stream (4 and 8), times (8 and 8), bits of content (8), bits of all (8), number (8), events discarded (8), processor
 * (4). */
static void read_packets(int file) {
    enum { MAGIC = 0xc1fc1fc1u, CONTENT_AT = 48, SIZE_AT = 56, HEAD_BYTES = 84 };
    struct stat status;
    size_t at = 0, bytes;
    char *all;
    if (fstat(file, &status) != 0) exit(1);
    bytes = (size_t)status.st_size;
    if (bytes == 0) return;
    all = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, file, 0);
    if (all == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    memset(next_of, 0, sizeof next_of);
    while (bytes - at >= HEAD_BYTES) {
        size_t content = (size_t)(number_at(all + at + CONTENT_AT, 8) / 8);
        size_t size = (size_t)(number_at(all + at + SIZE_AT, 8) / 8);
        if (number_at(all + at, 4) != MAGIC || content < HEAD_BYTES || content > size || size > bytes - at) {
            fprintf(stderr, "no packet of LTTng at byte %zu\n", at);
            exit(1);
        }
        take_bytes(all + at + HEAD_BYTES, content - HEAD_BYTES, true);
        at += size;
    }
    munmap(all, bytes);
}

static int print(unsigned producer) {
    static char event[EVENT_BYTES_MAX + 1];
    events_head head = events_head_first(producer);
    uint64_t number;
    for (number = 0; number < each; number++) {
        unsigned size = events_write(&the_events, producer, number, &head, event);
        event[size] = '\n';
        fwrite(event, 1, size + 1, stdout);
        events_head_next(&head);
    }
    return 0;
}

static int print_bytes(void) {
    uint64_t number, bytes = 0;
    unsigned producer;
    for (producer = 0; producer < producers; producer++) {
        for (number = 0; number < each; number++) bytes += events_size(&the_events, producer, number);
    }
    printf("{\"bytes\": %llu}\n", (unsigned long long)bytes);
    return 0;
}

int main(int argument_count, char **arguments) {
    size_t (*take)(const char *, size_t, bool);
    uint64_t missing;
    unsigned i;
    int at;
    if (argument_count < 5) return 2;
    each = strtoull(arguments[3], NULL, 10);
    events_init(&the_events, arguments[4]);
    producers = (unsigned)atoi(arguments[2]);
    if (strcmp(arguments[1], "print") == 0) return print(producers);
    if (strcmp(arguments[1], "bytes") == 0) return print_bytes();
    if (producers < 1 || producers > PRODUCERS_MAX) return 2;
    for (i = 0; i < producers; i++) {
        seen[i] = calloc((size_t)(each / 8 + 1), 1);
        if (seen[i] == NULL) return 1;
    }
    take = strcmp(arguments[1], "scan") == 0 ? take_bytes : take_lines;
    if (argument_count == 5) read_all(STDIN_FILENO, take);
    for (at = 5; at < argument_count; at++) {
        int file = open(arguments[at], O_RDONLY | O_CLOEXEC);
        if (file < 0) {
            perror(arguments[at]);
            return 1;
        }
        if (strcmp(arguments[1], "lttng") == 0) read_packets(file);
        else read_all(file, take);
        close(file);
    }
    missing = producers * each - counted.found;
    printf("{\"found\": %llu, \"missing\": %llu, \"repeated\": %llu, \"misordered\": %llu, \"alien\": %llu}\n",
           (unsigned long long)counted.found, (unsigned long long)missing, (unsigned long long)counted.repeated,
           (unsigned long long)counted.misordered, (unsigned long long)counted.alien);
    return missing + counted.repeated + counted.misordered + counted.alien == 0 ? 0 : 3;
}
