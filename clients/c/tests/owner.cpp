// A shared object whose static object owns a producer, for tests/host.c. Its destructor runs after the header's code
// has noticed that the object is unloaded. The program aborts if a call of the destructor does not answer as promised.
#include "dbuf.h"

extern "C" int say(const char *socket, const char *text);

namespace {

struct Owner {
    dbuf_producer *producer = nullptr;

    ~Owner() {
        dbuf_statistics statistics;
        void *place;
        if (producer == nullptr) return;
        if (dbuf_send(producer, DBUF_INFO, "late", 4) != DBUF_ERR_NO_DAEMON) abort();
        if (dbuf_printf(producer, DBUF_INFO, "%s", "late") != DBUF_ERR_NO_DAEMON) abort();
        if (dbuf_claim(producer, DBUF_INFO, 4, &place) != DBUF_ERR_NO_DAEMON) abort();
        if (dbuf_sync(producer, 0) != DBUF_ERR_NO_DAEMON || dbuf_tend(producer) != DBUF_ERR_NO_DAEMON) abort();
        dbuf_discard(producer);
        dbuf_get_statistics(producer, &statistics);
        if (dbuf_close(producer) != 0) abort();
    }
};

Owner owner;

} // namespace

int say(const char *socket, const char *text) {
    dbuf_options options = dbuf_options_default();
    options.socket = socket;
    options.name = "driver";
    options.ring_bytes = DBUF_RING_BYTES_MIN;
    options.close_wait_ms = 0;
    const int error = dbuf_open(&owner.producer, &options);
    return error != 0 ? error : dbuf_send(owner.producer, DBUF_INFO, text, strlen(text));
}
