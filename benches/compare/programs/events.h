/* The events that are compared: the same for all senders and for the verifier.
 *
 * An event is a letter for its producer, nine digits of its number, counted from 0, and lower-case letters up to its
 * size. So it is text that every subject takes as it is, the smallest has ten bytes, and a binary file's other bytes
 * cannot be mistaken for it. The letters depend on the number and are random enough that a compressor gains nothing.
 */
#ifndef EVENTS_H
#define EVENTS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    EVENT_HEAD_BYTES = 10,
    EVENT_DIGITS = 9,
    EVENT_BYTES_MAX = 60000,
    EVENT_SHIFTS = 16, /* the letters of an event begin at one of this many places, by its number */
    EVENT_SHIFT_BYTES = 1021
};

typedef struct events {
    unsigned size_min, size_max;
    char letters[EVENT_SHIFTS * EVENT_SHIFT_BYTES + EVENT_BYTES_MAX];
} events;

static inline uint64_t events_mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* `sizes` is a size or, as 10..10000, the bounds of sizes that are spread evenly. */
static inline void events_init(events *e, const char *sizes) {
    size_t i;
    int read = sscanf(sizes, "%u..%u", &e->size_min, &e->size_max);
    if (read == 1) e->size_max = e->size_min;
    if (read < 1 || e->size_min < EVENT_HEAD_BYTES || e->size_max < e->size_min || e->size_max > EVENT_BYTES_MAX) {
        fprintf(stderr, "sizes are from %d to %d bytes, such as 100 or 10..10000\n", EVENT_HEAD_BYTES, EVENT_BYTES_MAX);
        exit(2);
    }
    for (i = 0; i < sizeof e->letters; i++) e->letters[i] = (char)('a' + events_mix(i) % 26);
}

static inline unsigned events_size(const events *e, unsigned producer, uint64_t number) {
    if (e->size_min == e->size_max) return e->size_min;
    return e->size_min + (unsigned)(events_mix(number * 64 + producer) % (e->size_max - e->size_min + 1));
}

static inline const char *events_letters(const events *e, uint64_t number) {
    return e->letters + number % EVENT_SHIFTS * EVENT_SHIFT_BYTES;
}

/* A number as it is written; counting in digits costs less than printing. */
typedef struct events_head {
    char bytes[EVENT_HEAD_BYTES];
} events_head;

static inline events_head events_head_first(unsigned producer) {
    events_head head;
    memset(head.bytes, '0', sizeof head.bytes);
    head.bytes[0] = (char)('A' + producer);
    return head;
}

static inline void events_head_next(events_head *head) {
    int i = EVENT_DIGITS;
    while (i > 0 && head->bytes[i] == '9') head->bytes[i--] = '0';
    head->bytes[i]++;
}

/* Writes an event, without anything behind it, and returns its size. */
static inline unsigned events_write(const events *e, unsigned producer, uint64_t number, const events_head *head,
                                    char *to) {
    unsigned size = events_size(e, producer, number);
    memcpy(to, head->bytes, EVENT_HEAD_BYTES);
    memcpy(to + EVENT_HEAD_BYTES, events_letters(e, number), size - EVENT_HEAD_BYTES);
    return size;
}

#endif
