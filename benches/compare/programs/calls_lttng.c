/* A tracepoint of LTTng-UST with the payload. */
#include "calls.h"
#include "lttng_event.h"

static int open_session(const char *folder) {
    (void)folder;
    /* The session is there before this program starts, and LTTng has connected before main(). */
    return lttng_ust_tracepoint_enabled(compare, event) ? 0 : -1;
}

static void make(unsigned count, const char *payload) {
    unsigned i;
    for (i = 0; i < count; i++) lttng_ust_tracepoint(compare, event, payload, CALL_PAYLOAD_BYTES);
}

/* Its buffers hold many batches, and are emptied when a part of them is full. */
static void drain(void) {}

static int close_session(void) { return 0; }

const call call_lttng = {"LTTng-UST: one tracepoint", CALL_BATCH, open_session, make, drain, close_session};
