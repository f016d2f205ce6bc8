
/* ==== The platform: what this file needs of the compiler and of the C library. */

#if defined(_FEATURES_H) && !defined(__USE_MISC)
#error \
    "dbuf.h needs more than ISO C of the C library: include it first, or compile with -std=gnu11 or -D_DEFAULT_SOURCE"
#endif
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE 1
#endif

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
/* Functions are hidden, as the state is. Otherwise the dynamic linker gives two objects of a process one copy of a
 * function, while each object has its own state: a child of fork could write into its parent's ring. And a plug-in
 * could not be unloaded. */
#define DBUF__INLINE inline __attribute__((visibility("hidden")))
#define DBUF__FUNCTION inline __attribute__((visibility("hidden")))
#define DBUF__ASSERT(condition, text) static_assert(condition, text)
#define DBUF__THREAD __thread
#else
#define DBUF__INLINE static inline
#define DBUF__FUNCTION static __attribute__((noinline, unused))
#define DBUF__ASSERT(condition, text) _Static_assert(condition, text)
#define DBUF__THREAD _Thread_local
#endif
#define DBUF__ONCE __attribute__((weak, visibility("hidden")))
/* Reads numbers that another thread may be changing: they go into a report, and may be a little old. */
#define DBUF__RACY __attribute__((no_sanitize("thread")))
#define DBUF__PRINTF(text, first) __attribute__((__format__(__printf__, text, first)))
#define DBUF__LIKELY(condition) __builtin_expect(!!(condition), 1)
