/* One tracepoint for LTTng-UST, whose macros want a file of this shape: the payload, and what LTTng itself adds. */
#undef LTTNG_UST_TRACEPOINT_PROVIDER
#define LTTNG_UST_TRACEPOINT_PROVIDER compare

#undef LTTNG_UST_TRACEPOINT_INCLUDE
#define LTTNG_UST_TRACEPOINT_INCLUDE "lttng_event.h"

#if !defined(LTTNG_EVENT_H) || defined(LTTNG_UST_TRACEPOINT_HEADER_MULTI_READ)
#define LTTNG_EVENT_H

#include <lttng/tracepoint.h>

LTTNG_UST_TRACEPOINT_EVENT(
    compare,
    event,
    LTTNG_UST_TP_ARGS(const char *, payload, unsigned, bytes),
    LTTNG_UST_TP_FIELDS(lttng_ust_field_sequence(char, payload, payload, unsigned, bytes)))

#endif

#include <lttng/tracepoint-event.h>
