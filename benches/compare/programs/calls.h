/* What one call costs the program that makes it: what calls.c asks of each kind of call. */
#ifndef CALLS_H
#define CALLS_H

#ifdef __cplusplus
extern "C" {
#endif

enum { CALL_BATCH = 1000, CALL_PAYLOAD_BYTES = 100 };

typedef struct call {
    const char *name;
    unsigned batch;            /* calls in a batch */
    int (*open)(const char *); /* with the folder that all have in common; 0, or it cannot be measured */
    void (*make)(unsigned, const char *); /* this many calls with this payload */
    void (*drain)(void);       /* returns when the other side has taken everything */
    int (*close)(void);        /* 0 if nothing was lost */
} call;

#ifdef WITH_LTTNG
extern const call call_lttng;
#endif
#ifdef WITH_SPDLOG
extern const call call_spdlog;
#endif

#ifdef __cplusplus
}
#endif
#endif
