
/* ==== The connection: made, and what the daemon says on it. */

/* Connects and says HELLO. */
DBUF__FUNCTION void dbuf__connect(dbuf_producer *p, uint64_t now_ns) {
    struct sockaddr_un address;
    uint8_t opening[DBUF__MAGIC_BYTES + DBUF__HELLO_BYTES_MAX];
    dbuf__hello hello = {p->name, p->name_bytes, DBUF__LEVEL_PERSISTED, 1, 1, DBUF__FEATURE_FIELDS, 0, p->session};
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    p->since_ns = now_ns;
    if (p->socket[0] != '\0') memcpy(address.sun_path, p->socket, sizeof address.sun_path);
    else if (!dbuf__find_socket(address.sun_path, sizeof address.sun_path)) {
        dbuf__end_link(p, "the path of the daemon's socket is too long");
        return;
    }
    /* A child that another thread forks has either no such descriptor, or finds and closes it. */
    pthread_mutex_lock(&dbuf__process.lock);
    dbuf__hold_socket(&p->connection,
                      dbuf__above_standard(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)));
    pthread_mutex_unlock(&dbuf__process.lock);
    if (p->connection.number < 0 ||
        connect(p->connection.number, (const struct sockaddr *)&address, sizeof address) != 0) {
        int error = errno;
        /* Another thread of the program has closed or replaced it meanwhile: the daemon has not failed. */
        if (p->connection.number < 0 ? error == EBADF : !dbuf__is_held(&p->connection)) {
            dbuf__leave(p, DBUF__NOT_OURS);
            return;
        }
        dbuf__say(p, "cannot connect to %s: %s%s", address.sun_path, strerror(error), dbuf__remedy(error));
        /* A daemon that is there has many connections to accept first. */
        if (error == EAGAIN) dbuf__drop_link(p, NULL);
        else dbuf__end_link(p, NULL);
        return;
    }
    if (p->asks_ring && !p->ring_is_bad) hello.compatible |= DBUF__FEATURE_RING;
    memcpy(opening, DBUF__MAGIC, DBUF__MAGIC_BYTES);
    p->stage = DBUF__GREETING;
    p->in_bytes = 0;
    p->skip_bytes = 0;
    dbuf__write(p, opening, DBUF__MAGIC_BYTES + dbuf__put_hello(opening + DBUF__MAGIC_BYTES, &hello));
}

/* Events go by frames from here on. */
DBUF__FUNCTION void dbuf__open_frames(dbuf_producer *p) {
    dbuf__record record;
    p->stage = DBUF__FRAMES;
    p->links++;
    p->was_reported = 1;
    p->down_reason[0] = '\0';
    p->send_at = p->tail;
    p->send_number = p->taken + 1;
    p->send_done = 0;
    p->sync_number = 0;
    p->sync_waits = 0;
    /* Events that the daemon has are not sent again, but kept until they are in a file. */
    while (p->send_number <= p->known && p->send_at != p->head && dbuf__read_record(p, p->send_at, &record)) {
        p->send_number += record.kind != DBUF__PAD;
        p->send_at = record.end;
    }
}

DBUF__FUNCTION void dbuf__welcomed(dbuf_producer *p, const dbuf__frame *welcome) {
    uint8_t ring[32];
    uint64_t sure;
    if (welcome->version != 1) {
        dbuf__end_link(p, "dbufd speaks another version of the protocol");
        return;
    }
    p->max_event = welcome->max_event;
    p->takes_fields = (welcome->compatible & DBUF__FEATURE_FIELDS) != 0;
    p->known = dbuf__min(welcome->sequence, p->events);
    /* Events that have left the memory and that no daemon has called durable: unless this one knows them, none ever
     * will. */
    sure = dbuf__max(dbuf__max(p->known, p->durable), p->doubted);
    if (p->taken > sure) {
        p->unconfirmed += p->taken - sure;
        p->doubted = p->taken;
    }
    /* Events that the daemon has by frames and has not acknowledged: it does that only on a connection of frames. */
    if (!(welcome->compatible & DBUF__FEATURE_RING) || !p->asks_ring || p->ring_is_bad || p->known > p->taken) {
        dbuf__open_frames(p);
        return;
    }
    p->stage = DBUF__ASKING;
    dbuf__write(p, ring, dbuf__put_ring(ring, p->capacity));
}

/* Events up to `sequence` have reached a level; those that did not were named by an ERROR before. */
DBUF__FUNCTION void dbuf__acknowledged(dbuf_producer *p, unsigned level, uint64_t sequence) {
    uint64_t number = dbuf__min(sequence, p->known);
    if (level >= DBUF__LEVEL_PERSISTED) {
        p->persisted = dbuf__max(p->persisted, number);
        dbuf__take_until(p, number);
    }
    if (level < DBUF__LEVEL_DURABLE) return;
    p->durable = dbuf__max(p->durable, number);
    /* A daemon that has forgotten the session counts fewer events than were synced. */
    if (p->sync_number > p->durable && sequence >= p->sync_known) p->durable = p->sync_number;
}

DBUF__FUNCTION void dbuf__errored(dbuf_producer *p, const dbuf__frame *error) {
    uint64_t events = error->sequence == 0 || error->number < error->sequence ? 0 : error->number - error->sequence + 1;
    dbuf__say(p, "dbufd: %.*s", (int)dbuf__min(error->text_bytes, 150), (const char *)error->text);
    if (error->detail >= DBUF__CODE_ENDS) dbuf__end_link(p, NULL);
    else if (error->detail == DBUF__CODE_NO_RING && p->stage == DBUF__ASKING) dbuf__open_frames(p);
    else if (error->detail == DBUF__CODE_LOST) p->lost += events;
    else p->refused += events;
}

DBUF__FUNCTION void dbuf__granted(dbuf_producer *p);

/* Obeys the frames that have come. */
DBUF__FUNCTION void dbuf__take_frames(dbuf_producer *p) {
    size_t at = 0;
    while (p->connection.number >= 0) {
        dbuf__frame frame;
        int is;
        if (p->skip_bytes > 0) {
            size_t part = (size_t)dbuf__min(p->skip_bytes, p->in_bytes - at);
            at += part;
            p->skip_bytes -= part;
        }
        is = dbuf__read_frame(p->in + at, p->in_bytes - at, &frame);
        if (is == DBUF__MORE) break;
        if (is == DBUF__SKIP) {
            p->skip_bytes = DBUF__FRAME_HEAD_BYTES + frame.body_bytes;
            continue;
        }
        if (is == DBUF__WHOLE) at += DBUF__FRAME_HEAD_BYTES + (size_t)frame.body_bytes;
        if (is == DBUF__WHOLE && frame.type == DBUF__FRAME_ERROR && p->stage != DBUF__DOWN) dbuf__errored(p, &frame);
        else if (is == DBUF__WHOLE && frame.type == DBUF__FRAME_WELCOME && p->stage == DBUF__GREETING)
            dbuf__welcomed(p, &frame);
        else if (is == DBUF__WHOLE && frame.type == DBUF__FRAME_GRANT && p->stage == DBUF__ASKING) dbuf__granted(p);
        else if (is == DBUF__WHOLE && frame.type == DBUF__FRAME_ACK &&
                 (p->stage == DBUF__FRAMES || p->stage == DBUF__ASKING))
            dbuf__acknowledged(p, frame.detail, frame.sequence); /* before GRANT: about earlier connections */
        else dbuf__end_link(p, "dbufd sent something that this client does not understand");
    }
    if (p->connection.number < 0) at = p->in_bytes;
    memmove(p->in, p->in + at, p->in_bytes - at);
    p->in_bytes -= at;
}

/* Holds the first descriptor of a message, and closes any others. */
DBUF__FUNCTION void dbuf__keep_descriptors(dbuf_producer *p, struct msghdr *message) {
    struct cmsghdr *part;
    for (part = CMSG_FIRSTHDR(message); part != NULL; part = CMSG_NXTHDR(message, part)) {
        size_t count, i;
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
        count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (i = 0; i < count; i++) {
            int descriptor;
            memcpy(&descriptor, CMSG_DATA(part) + i * sizeof descriptor, sizeof descriptor);
            if (p->memory.number < 0) dbuf__hold(&p->memory, dbuf__above_standard(descriptor));
            else close(descriptor);
        }
    }
}

/* Reads what has come, without waiting. At the connection's end the link ends. */
DBUF__FUNCTION void dbuf__hear(dbuf_producer *p) {
    while (dbuf__holds_connection(p)) {
        union {
            struct cmsghdr align;
            char bytes[CMSG_SPACE(4 * sizeof(int))];
        } control;
        struct iovec into;
        struct msghdr message;
        ssize_t got;
        into.iov_base = p->in + p->in_bytes;
        into.iov_len = sizeof p->in - p->in_bytes;
        memset(&message, 0, sizeof message);
        message.msg_iov = &into;
        message.msg_iovlen = 1;
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        got = recvmsg(p->connection.number, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
        if (got <= 0) {
            if (got == 0) dbuf__end_link(p, "dbufd closed the connection");
            else dbuf__fail_link(p, errno);
            return;
        }
        dbuf__keep_descriptors(p, &message);
        p->in_bytes += (size_t)got;
        dbuf__take_frames(p);
    }
}

/* Sends an event that says how many events were given up for want of room, once there is room: in a ring the daemon
 * reads that from the header and records it, by frames only the producer can say it. */
DBUF__FUNCTION void dbuf__send_losses(dbuf_producer *p) {
    char text[128];
    uint64_t at, end, lost = p->lost_full - p->lost_reported;
    dbuf__parts e = {DBUF_WARNING, text, 0, NULL, 0, NULL, 0, 0, 0};
    /* One at a time: if the last one is never delivered, the close says what it would have said. */
    if (lost == 0 || p->claim_is_open || p->report > p->taken) return;
    e.payload_bytes =
        (size_t)snprintf(text, sizeof text, "dbuf: %llu event%s lost here: there was no room for %s",
                         (unsigned long long)lost, lost == 1 ? " was" : "s were", lost == 1 ? "it" : "them");
    if (!dbuf__find_room(p, e.payload_bytes, &at, &end)) return;
    p->lost_reported = p->lost_full;
    p->report = p->events + 1;
    p->report_lost = lost;
    /* If a ring comes later, its header counts only later losses. */
    p->words->lost_bytes_told = p->words->lost_bytes;
    p->words->lost_events_told = p->words->lost_events;
    dbuf__put_event(p, &e, at, end, p->clock, dbuf__stamp(p));
}

/* By frames: reads what has come, and writes what the socket takes. */
DBUF__FUNCTION void dbuf__pump(dbuf_producer *p) {
    dbuf__hear(p);
    if (p->stage == DBUF__FRAMES) dbuf__send_losses(p);
    while (p->stage == DBUF__FRAMES) {
        uint8_t heads[DBUF__BATCH][DBUF__FRAME_HEAD_BYTES];
        struct iovec pieces[DBUF__PIECES];
        struct msghdr message;
        ssize_t sent;
        memset(&message, 0, sizeof message);
        message.msg_iov = pieces;
        message.msg_iovlen = dbuf__gather(p, pieces, heads);
        if (message.msg_iovlen == 0) return;
        if (!dbuf__holds_connection(p)) return;
        sent = sendmsg(p->connection.number, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent >= 0) dbuf__sent(p, (size_t)sent);
        else if (errno == EAGAIN || errno == EWOULDBLOCK) return;
        else if (errno != EINTR) {
            int why = errno;
            dbuf__hear(p); /* a daemon that ends the connection says why */
            if (p->stage == DBUF__FRAMES) dbuf__fail_link(p, why);
        }
    }
}
