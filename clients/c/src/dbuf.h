/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * dbuf.h: sends events to dbufd from C11 and C++17, on Linux x86-64. This file is all there is: include it, link nothing.
 *
 *     #include "dbuf.h"
 *
 *     int main(void) {
 *         dbuf_producer *p;
 *         if (dbuf_open(&p, NULL) != 0) return 1;          // NULL: the options of dbuf_options_default()
 *         dbuf_send(p, DBUF_INFO, "order 17 accepted", 17);
 *         dbuf_printf(p, DBUF_ERR, "card of order %d refused", 17);
 *         if (dbuf_sync(p, 5000) != 0) fputs(dbuf_last_error(p), stderr);
 *         dbuf_log(DBUF_INFO, "%s", "this thread's own producer, opened at the first use");
 *         return dbuf_close(p) != 0;
 *     }
 *
 * How it works. A producer writes its events into a ring of memory (1 MiB unless told otherwise). As a rule the daemon shares
 * that memory and empties it by itself: then dbuf_send() is some 20 ns, without system call, lock or allocation. A daemon
 * that gives no ring gets the same events as frames over its socket, which the calls of this producer write without ever
 * blocking on it. Without a daemon the memory keeps the events until there is one. Events keep their order, and an event that
 * was taken is not sent twice to a daemon that still knows this producer. docs/PROTOCOL.md draws all of it.
 *
 * What can fail. Every function that returns an int returns 0, or one of the negative numbers of dbuf_error. A full ring costs
 * the event (it is counted, and the daemon is told how many there were) or time, as the options say. No call stops the
 * program, prints anything, raises SIGPIPE or changes errno.
 *
 * Threads. A producer belongs to one thread at a time; it may move to another one, and each thread has as many as it likes.
 * dbuf_log() sees to one for each thread. Nothing here may be called by a signal handler.
 *
 * Processes. A child of fork() may go on with the producers of its parent: each begins anew there at its next call, with
 * memory and a connection of its own and without its parent's events. A claim that is open at fork() is the parent's alone.
 * What a program published to a daemon's ring survives the program, however it ends.
 *
 * Nothing runs in the background. Where there is no ring, what could not be written yet goes out with the next call:
 * dbuf_send(), dbuf_tend(), dbuf_sync() or dbuf_close().
 *
 * Why there is no DBUF_IMPLEMENTATION to define: any number of files of a program may include this one. What a program must have
 * once (the count of forks, the thread's own producer) is a weak symbol, which the linker merges. The functions are static in
 * C and inline in C++: each C file that sends carries a copy of the rest of them (16 to 20 KB), one that does not carries no code.
 * Names that begin with dbuf__ or DBUF__ are not for use.
 */
#ifndef DBUF_H
#define DBUF_H

#if !defined(__linux__) || !defined(__x86_64__)
#error "dbuf.h is for Linux on x86-64"
#endif
#include "platform.h"
#include "public.h"
#include "memory.h"
#include "fast_path.h"
#include "tools.h"
#include "record.h"
#include "frames.h"
#include "connection.h"
#include "ring.h"
#include "producer.h"
#include "sending.h"
#include "text.h"
#include "outcome.h"
#include "local.h"

#ifdef __cplusplus
}
#endif

#endif /* DBUF_H */
