
/* ==== Frames: encoded and decoded (docs/PROTOCOL.md, chapter 3), and gathered from the memory. */

enum {
    DBUF__FRAME_HEAD_BYTES = 24,
    DBUF__LENGTH_MAX = 67108864,    /* of what follows a head */
    DBUF__CONTROL_BYTES_MAX = 4096, /* the same, if it is no event and may not be skipped */
    DBUF__FRAME_HELLO = 0x01,
    DBUF__FRAME_EVENT = 0x02,
    DBUF__FRAME_SYNC = 0x03,
    DBUF__FRAME_BYE = 0x04,
    DBUF__FRAME_EVENT_WITH_FIELDS = 0x05,
    DBUF__FRAME_RING = 0x06,
    DBUF__FRAME_WELCOME = 0x41,
    DBUF__FRAME_ACK = 0x42,
    DBUF__FRAME_ERROR = 0x43,
    DBUF__FRAME_GRANT = 0x44,
    DBUF__FRAME_MAY_BE_SKIPPED = 0x80,
    DBUF__LEVEL_PERSISTED = 1,
    DBUF__LEVEL_DURABLE = 2,
    DBUF__FEATURE_FIELDS = 1,
    DBUF__FEATURE_RING = 4,
    DBUF__CODE_TOO_BIG = 0x01,
    DBUF__CODE_MALFORMED = 0x02,
    DBUF__CODE_LOST = 0x03,
    DBUF__CODE_NO_RING = 0x04,
    DBUF__CODE_ENDS = 0x80, /* this and above end the connection */
    DBUF__HELLO_BYTES_MAX = DBUF__FRAME_HEAD_BYTES + DBUF_TAG_BYTES_MAX + 40,
    DBUF__MAGIC_BYTES = 8
};

#define DBUF__MAGIC \
    "\xDB" \
    "ufd\r\n\x1A" /* the eighth byte is the NUL that ends a text of C */
DBUF__ASSERT(sizeof DBUF__MAGIC == DBUF__MAGIC_BYTES, "eight bytes");

DBUF__FUNCTION void dbuf__put_frame_head(uint8_t *to, uint64_t length, unsigned type, unsigned detail, size_t tag_bytes,
                                         uint64_t sequence, uint64_t time_ns) {
    uint64_t first = length | (uint64_t)type << 32 | (uint64_t)detail << 40 | (uint64_t)tag_bytes << 48;
    memcpy(to, &first, sizeof first);
    memcpy(to + 8, &sequence, sizeof sequence);
    memcpy(to + 16, &time_ns, sizeof time_ns);
}

typedef struct dbuf__hello {
    const char *name; /* cut to 64 bytes */
    size_t name_bytes;
    unsigned level;
    uint16_t version, version_min;
    uint64_t compatible, incompatible;
    const uint8_t *session; /* 16 bytes */
} dbuf__hello;

/* Writes a HELLO of at most DBUF__HELLO_BYTES_MAX; returns its bytes. */
DBUF__FUNCTION size_t dbuf__put_hello(uint8_t *to, const dbuf__hello *hello) {
    size_t name_bytes = (size_t)dbuf__min(hello->name_bytes, DBUF_TAG_BYTES_MAX);
    dbuf__put_frame_head(to, name_bytes + 40, DBUF__FRAME_HELLO, hello->level, name_bytes, 0, 0);
    to += DBUF__FRAME_HEAD_BYTES;
    memcpy(to, hello->name, name_bytes);
    to += name_bytes;
    memcpy(to, &hello->version, 2);
    memcpy(to + 2, &hello->version_min, 2);
    memset(to + 4, 0, 4);
    memcpy(to + 8, &hello->compatible, 8);
    memcpy(to + 16, &hello->incompatible, 8);
    memcpy(to + 24, hello->session, 16);
    return DBUF__FRAME_HEAD_BYTES + name_bytes + 40;
}

/* Writes a RING: 32 bytes. */
DBUF__FUNCTION size_t dbuf__put_ring(uint8_t *to, uint64_t capacity) {
    dbuf__put_frame_head(to, sizeof capacity, DBUF__FRAME_RING, 0, 0, 0, 0);
    memcpy(to + DBUF__FRAME_HEAD_BYTES, &capacity, sizeof capacity);
    return DBUF__FRAME_HEAD_BYTES + sizeof capacity;
}

/* Writes the head of an event's frame. What follows the record's head follows the frame's head unchanged; but for a
 * daemon that takes no fields, their `skip` bytes are left out. */
DBUF__FUNCTION void dbuf__put_event_head(uint8_t *to, const dbuf__record *record, uint64_t sequence, uint64_t skip) {
    int has_fields = record->kind == DBUF__EVENT_WITH_FIELDS && skip == 0;
    dbuf__put_frame_head(to, record->length - skip, has_fields ? DBUF__FRAME_EVENT_WITH_FIELDS : DBUF__FRAME_EVENT,
                         record->pri, record->tag_bytes, sequence, record->clock == DBUF__CLOCK_NS ? record->time : 0);
}

/* A frame from the daemon. */
typedef struct dbuf__frame {
    unsigned type, detail;
    uint64_t sequence;
    uint64_t body_bytes;
    /* WELCOME */
    uint16_t version;
    uint32_t max_event;
    uint64_t compatible, incompatible;
    /* ERROR: the last event, and a text. GRANT: the capacity. */
    uint64_t number;
    const uint8_t *text;
    size_t text_bytes;
} dbuf__frame;

enum { DBUF__MORE = 0, DBUF__WHOLE = 1, DBUF__SKIP = 2, DBUF__BROKEN = -1 };

/* Reads the frame at the start of `in`. DBUF__WHOLE: it has 24 + body_bytes bytes. DBUF__SKIP: so it has, but they may
 * not have come yet, and this version does not know the frame. DBUF__MORE: it is not whole yet. DBUF__BROKEN: no daemon
 * sends such bytes. */
DBUF__FUNCTION int dbuf__read_frame(const uint8_t *in, size_t in_bytes, dbuf__frame *frame) {
    const uint8_t *body = in + DBUF__FRAME_HEAD_BYTES;
    uint64_t tag_bytes, payload_bytes;
    memset(frame, 0, sizeof *frame);
    if (in_bytes < DBUF__FRAME_HEAD_BYTES) return DBUF__MORE;
    frame->body_bytes = dbuf__u32(in);
    frame->type = in[4];
    frame->detail = in[5];
    tag_bytes = dbuf__u16(in + 6);
    frame->sequence = dbuf__u64(in + 8);
    if (frame->body_bytes > DBUF__LENGTH_MAX || tag_bytes > frame->body_bytes) return DBUF__BROKEN;
    if (frame->type & DBUF__FRAME_MAY_BE_SKIPPED) return DBUF__SKIP;
    if (frame->body_bytes > DBUF__CONTROL_BYTES_MAX) return DBUF__BROKEN;
    if (in_bytes - DBUF__FRAME_HEAD_BYTES < frame->body_bytes) return DBUF__MORE;
    body += tag_bytes;
    payload_bytes = frame->body_bytes - tag_bytes;
    switch (frame->type) {
    case DBUF__FRAME_WELCOME:
        if (payload_bytes < 24) return DBUF__BROKEN;
        frame->version = dbuf__u16(body);
        frame->max_event = dbuf__u32(body + 4);
        frame->compatible = dbuf__u64(body + 8);
        frame->incompatible = dbuf__u64(body + 16);
        return DBUF__WHOLE;
    case DBUF__FRAME_ACK: return frame->detail <= DBUF__LEVEL_DURABLE ? DBUF__WHOLE : DBUF__BROKEN;
    case DBUF__FRAME_ERROR:
    case DBUF__FRAME_GRANT:
        if (payload_bytes < 8) return DBUF__BROKEN;
        frame->number = dbuf__u64(body);
        frame->text = body + 8;
        frame->text_bytes = (size_t)payload_bytes - 8;
        return DBUF__WHOLE;
    default: return DBUF__BROKEN;
    }
}

/* Removes events up to this number from the memory. */
DBUF__FUNCTION void dbuf__take_until(dbuf_producer *p, uint64_t number) {
    dbuf__record record;
    while (p->taken < number && p->tail != p->head) {
        if (!dbuf__read_record(p, p->tail, &record)) {
            dbuf__abandon(p);
            break;
        }
        p->taken += record.kind != DBUF__PAD;
        p->tail = record.end;
    }
    /* Only a debugger and the next ring read this word now. */
    __atomic_store_n(&p->words->tail, p->tail, __ATOMIC_RELAXED);
}

/* Fills `out` with frames of the next records, as pieces for sendmsg(2); their heads are written to `heads`. Returns
 * the number of pieces. The first may be the rest of a frame that was cut. */
enum { DBUF__BATCH = 32, DBUF__PIECES = 3 * DBUF__BATCH };
DBUF__FUNCTION size_t dbuf__gather(dbuf_producer *p, struct iovec *out, uint8_t (*heads)[DBUF__FRAME_HEAD_BYTES]) {
    size_t pieces = 0, frames = 0, cut = p->send_done;
    uint64_t at = p->send_at, number = p->send_number;
    while (frames < DBUF__BATCH && at != p->head) {
        dbuf__record record;
        uint64_t skip = 0;
        size_t first = pieces;
        if (!dbuf__read_record(p, at, &record)) {
            if (pieces == 0) dbuf__abandon(p);
            break;
        }
        at = record.end;
        if (record.kind == DBUF__PAD) continue;
        if (record.kind == DBUF__EVENT_WITH_FIELDS && !p->takes_fields)
            skip = 4 + (uint64_t)dbuf__u32(record.head + DBUF__RECORD_HEAD_BYTES + record.tag_bytes);
        if (skip > record.length - record.tag_bytes) break;
        dbuf__put_event_head(heads[frames], &record, number, skip);
        out[pieces].iov_base = heads[frames];
        out[pieces++].iov_len = DBUF__FRAME_HEAD_BYTES;
        out[pieces].iov_base = record.head + DBUF__RECORD_HEAD_BYTES;
        out[pieces++].iov_len = skip ? record.tag_bytes : (size_t)record.length;
        if (skip) {
            out[pieces].iov_base = record.head + DBUF__RECORD_HEAD_BYTES + record.tag_bytes + skip;
            out[pieces++].iov_len = (size_t)(record.length - record.tag_bytes - skip);
        }
        for (; cut > 0 && first < pieces; first++) {
            size_t part = (size_t)dbuf__min(cut, out[first].iov_len);
            out[first].iov_base = (uint8_t *)out[first].iov_base + part;
            out[first].iov_len -= part;
            cut -= part;
        }
        number++;
        frames++;
    }
    return pieces;
}

/* Counts this many bytes of what was gathered as written. */
DBUF__FUNCTION void dbuf__sent(dbuf_producer *p, size_t bytes) {
    p->send_done += bytes;
    while (p->send_at != p->head) {
        dbuf__record record;
        size_t frame;
        if (!dbuf__read_record(p, p->send_at, &record)) return;
        if (record.kind != DBUF__PAD) {
            frame = DBUF__FRAME_HEAD_BYTES + (size_t)record.length;
            if (record.kind == DBUF__EVENT_WITH_FIELDS && !p->takes_fields)
                frame -= 4 + (size_t)dbuf__u32(record.head + DBUF__RECORD_HEAD_BYTES + record.tag_bytes);
            if (p->send_done < frame) return;
            p->send_done -= frame;
            p->known = dbuf__max(p->known, p->send_number);
            p->send_number++;
        }
        p->send_at = record.end;
    }
}

/* Writes a few bytes, for which the socket usually has room. If it has none, ends the link and returns 0. */
DBUF__FUNCTION int dbuf__write(dbuf_producer *p, const void *bytes, size_t count) {
    ssize_t sent;
    if (!dbuf__holds_connection(p)) return 0;
    sent = send(p->connection.number, bytes, count, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent == (ssize_t)count) return 1;
    dbuf__fail_link(p, sent < 0 ? errno : EAGAIN);
    return 0;
}
