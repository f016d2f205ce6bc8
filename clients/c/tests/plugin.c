/* A shared object that uses dbuf.h, for tests/host.c, in C and in C++. It closes nothing. */
#include "dbuf.h"

#ifdef __cplusplus
extern "C" {
#endif
int say(const char *socket, const char *text);
#ifdef __cplusplus
}
#endif

/* Logs by the calling thread's own producer, and sends by another one. */
int say(const char *socket, const char *text) {
    dbuf_options options = dbuf_options_default();
    dbuf_producer *producer;
    int error;
    options.socket = socket;
    options.name = "driver";
    options.ring_bytes = DBUF_RING_BYTES_MIN;
    options.close_wait_ms = 0;
    error = dbuf_log_options(&options);
    if (error == 0) error = dbuf_log(DBUF_INFO, "%s", text);
    if (error == 0) error = dbuf_open(&producer, &options);
    if (error == 0) error = dbuf_send(producer, DBUF_INFO, text, strlen(text));
    return error;
}
