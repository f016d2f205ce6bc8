/* Compares dbuf.h with the vectors of clients/golden. tests/c sends each of them as one line; the answer is one line.
 *
 *     ring CAPACITY START                           begins a ring whose head and tail stand at START; no answer
 *     put PRI TAG CLOCK TIME FIELDS PAYLOAD         an event into it; no answer
 *     dump                                          HEAD and the data from START on
 *     hello NAME LEVEL VERSION MIN COMPATIBLE INCOMPATIBLE SESSION, asking CAPACITY,
 *     event PRI TAG TIME FIELDS PAYLOAD SEQUENCE, sync, bye    the frame
 *     read FRAME                                    what a client makes of it
 *
 * Bytes are in hexadecimal digits, and `-` where there are none; fields are NAME=VALUE with commas between.
 */
#include "dbuf.h"

enum { LINE_BYTES = 1 << 20, PARTS = 9, FIELDS = 8 };

static size_t of_hex(const char *digits, uint8_t *to) {
    size_t count = 0;
    unsigned byte;
    if (digits[0] == '-') return 0;
    for (; sscanf(digits, "%2x", &byte) == 1; digits += 2) to[count++] = (uint8_t)byte;
    return count;
}

static void print_hex(const uint8_t *bytes, size_t count) {
    size_t i;
    if (count == 0) putchar('-');
    for (i = 0; i < count; i++) printf("%02x", bytes[i]);
}

static uint64_t of_number(const char *digits) { return strtoull(digits, NULL, 10); }

/* Makes an event from the parts of a line. Its bytes are valid until the next call. */
static dbuf__parts of_parts(char **part) {
    static uint8_t tag[512], payload[LINE_BYTES], names[FIELDS][512], values[FIELDS][512];
    static dbuf_field fields[FIELDS];
    dbuf__parts e;
    memset(&e, 0, sizeof e);
    e.pri = (int)of_number(part[0]);
    e.tag = (const char *)tag;
    e.tag_bytes = of_hex(part[1], tag);
    e.payload = payload;
    e.payload_bytes = of_hex(part[4], payload);
    e.fields = fields;
    if (part[3][0] != '-') {
        char *rest = part[3], *field;
        while ((field = strtok_r(rest, ",", &rest)) != NULL) {
            char *value = strchr(field, '=');
            size_t at = e.field_count++;
            *value++ = '\0';
            names[at][of_hex(field, names[at])] = '\0';
            fields[at].name = (const char *)names[at];
            fields[at].value = values[at];
            fields[at].value_bytes = of_hex(value, values[at]);
        }
    }
    return e;
}

static dbuf_producer *at_position(uint64_t capacity, uint64_t start) {
    dbuf_options options = dbuf_options_default();
    dbuf_producer *p;
    options.socket = "/dev/null/nobody";
    options.ring_bytes = capacity;
    options.quiet = 1;
    if (dbuf_open(&p, &options) != 0) abort();
    p->head = p->tail = start;
    return p;
}

static void put(dbuf_producer *p, const dbuf__parts *e, unsigned clock, uint64_t time) {
    uint64_t at, end;
    dbuf__parts measured = *e;
    dbuf__check(&measured, 1);
    if (!dbuf__find_room(p, dbuf__before_payload(&measured) + e->payload_bytes, &at, &end)) abort();
    dbuf__put_event(p, &measured, at, end, clock, time);
}

static void print_event_frame(char **part) {
    dbuf_producer *p = at_position(DBUF_RING_BYTES_MIN << 2, 0);
    dbuf__parts e = of_parts(part + 1);
    uint64_t time = of_number(part[3]);
    uint8_t head[DBUF__FRAME_HEAD_BYTES];
    dbuf__record record;
    put(p, &e, time == 0 ? DBUF__CLOCK_NONE : DBUF__CLOCK_NS, time);
    if (!dbuf__read_record(p, 0, &record)) abort();
    dbuf__put_event_head(head, &record, of_number(part[6]), 0);
    print_hex(head, sizeof head);
    if (record.length > 0) print_hex(record.head + DBUF__RECORD_HEAD_BYTES, (size_t)record.length);
    dbuf_close(p);
}

static void print_read(const char *digits) {
    static uint8_t bytes[LINE_BYTES];
    size_t count = of_hex(digits, bytes), cut;
    dbuf__frame f, of_less;
    int is = dbuf__read_frame(bytes, count, &f);
    /* A frame that was cut anywhere is not whole. */
    for (cut = 0; is == DBUF__WHOLE && cut < count; cut++)
        if (dbuf__read_frame(bytes, cut, &of_less) != DBUF__MORE) printf("whole without its end, ");
    if (is == DBUF__BROKEN) printf("refused");
    else if (is == DBUF__MORE) printf("more");
    else if (24 + f.body_bytes != count) printf("%llu bytes", (unsigned long long)f.body_bytes);
    else if (is == DBUF__SKIP) printf("ignored %u", f.type);
    else if (f.type == DBUF__FRAME_WELCOME)
        printf("welcome %llu %u %u %llu %llu", (unsigned long long)f.sequence, f.max_event, f.version,
               (unsigned long long)f.compatible, (unsigned long long)f.incompatible);
    else if (f.type == DBUF__FRAME_ACK) printf("ack %u %llu", f.detail, (unsigned long long)f.sequence);
    else if (f.type == DBUF__FRAME_GRANT) printf("grant %llu", (unsigned long long)f.number);
    else {
        printf("error %u %llu %llu ", f.detail, (unsigned long long)f.sequence, (unsigned long long)f.number);
        print_hex(f.text, f.text_bytes);
    }
}

static void answer(char **part) {
    static dbuf_producer *ring;
    static uint64_t start;
    uint8_t frame[256], session[16], name[512];
    if (strcmp(part[0], "ring") == 0) {
        start = of_number(part[2]);
        ring = at_position(of_number(part[1]), start);
        return;
    }
    if (strcmp(part[0], "put") == 0) {
        dbuf__parts e = of_parts((char *[]){part[1], part[2], NULL, part[5], part[6]});
        put(ring, &e, (unsigned)of_number(part[3]), of_number(part[4]));
        return;
    }
    if (strcmp(part[0], "dump") == 0) {
        uint64_t at;
        printf("%llu ", (unsigned long long)ring->words->head);
        for (at = start; at < ring->head; at++) print_hex(ring->data + (at & (ring->capacity - 1)), 1);
        dbuf_close(ring);
    } else if (strcmp(part[0], "hello") == 0) {
        dbuf__hello hello = {(const char *)name,           of_hex(part[1], name),
                             (unsigned)of_number(part[2]), (uint16_t)of_number(part[3]),
                             (uint16_t)of_number(part[4]), of_number(part[5]),
                             of_number(part[6]),           session};
        of_hex(part[7], session);
        print_hex(frame, dbuf__put_hello(frame, &hello));
    } else if (strcmp(part[0], "asking") == 0) {
        print_hex(frame, dbuf__put_ring(frame, of_number(part[1])));
    } else if (strcmp(part[0], "event") == 0) {
        print_event_frame(part);
    } else if (strcmp(part[0], "read") == 0) {
        print_read(part[1]);
    } else {
        dbuf__put_frame_head(frame, 0, strcmp(part[0], "sync") == 0 ? DBUF__FRAME_SYNC : DBUF__FRAME_BYE, 0, 0, 0, 0);
        print_hex(frame, DBUF__FRAME_HEAD_BYTES);
    }
    putchar('\n');
}

int main(void) {
    static char line[LINE_BYTES];
    while (fgets(line, sizeof line, stdin) != NULL) {
        char *part[PARTS] = {NULL}, *rest = line;
        size_t count = 0;
        while (count < PARTS && (part[count] = strtok_r(rest, " \n", &rest)) != NULL) count++;
        answer(part);
        fflush(stdout);
    }
    return 0;
}
