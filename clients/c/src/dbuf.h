/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * dbuf.h sends events to dbufd from C11 and C++17 programs on Linux x86-64. It is one file: include it, link nothing.
 *
 *     #include "dbuf.h"
 *
 *     int main(void) {
 *         dbuf_producer *p;
 *         int error = dbuf_open(&p, NULL); // NULL: the options of dbuf_options_default()
 *         if (error != 0) return 1;
 *         dbuf_send(p, DBUF_INFO, "order 17 accepted", 17);
 *         dbuf_printf(p, DBUF_ERR, "card of order %d refused", 17);
 *         dbuf_log(DBUF_INFO, "%s", "by the calling thread's own producer, which opens at its first use");
 *         error = dbuf_sync(p, 5000);
 *         if (error != 0) fprintf(stderr, "%s: %s\n", dbuf_strerror(error), dbuf_last_error(p));
 *         return dbuf_close(p) != 0 || error != 0;
 *     }
 *
 * How it works. A producer writes its events into a ring of memory (1 MiB by default). Usually the daemon shares this
 * memory and takes the events out of it. Then dbuf_send() takes some 20 ns, without a system call, a lock or an
 * allocation. If the daemon gives no ring, the producer's calls write the same events as frames to the daemon's socket,
 * and never block on it. If there is no daemon, the memory keeps the events until there is one. Events keep their
 * order. A daemon that still knows this producer gets no event twice. docs/PROTOCOL.md describes all of this.
 *
 * What can fail. A function that returns an int returns 0 or one of the negative numbers of dbuf_error. When the ring
 * is full, a send waits or gives the event up, as the options say. An event that is given up is counted, and the daemon
 * records the loss. No call ends the program, raises SIGPIPE or changes errno. The only output of this file are
 * lines of two kinds on standard error: the first time that the daemon cannot be reached, and when events are lost at
 * the end. The option `quiet` turns both off.
 *
 * Threads. One thread at a time may use a producer. A producer may move to another thread, and a thread may have any
 * number of producers. dbuf_log() keeps one for each thread. A signal handler may call nothing of this file.
 *
 * Processes. After fork() the child may use its parent's producers. Each connects anew at the child's first call, which
 * waits up to 250 ms for the daemon as dbuf_open() does, and has none of its parent's events. A claim that is open at
 * fork() belongs to the parent. Events in a daemon's ring survive the program, however it ends.
 *
 * Descriptors. A program may close all its descriptors, or replace them. A producer looks what a descriptor means
 * before it uses or closes it. If the descriptor is not its own any more, the producer leaves it alone and connects
 * anew.
 *
 * No thread runs in the background. Without a ring, what could not be written yet is written by the next call of
 * dbuf_send(), dbuf_tend(), dbuf_sync() or dbuf_close().
 *
 * Why there is no DBUF_IMPLEMENTATION to define: any number of files of a program may include this one. What a program
 * or a shared object must have once (the count of forks, the thread's own producer) is a weak symbol, which the linker
 * merges. The functions are static in C and inline in C++. So each C file that sends has its own copy of them (22 to 26
 * KB), and a C file that sends nothing has some 600 bytes. Names that begin with dbuf__ or DBUF__ are internal.
 *
 * clients/c/assemble makes this file from the files in clients/c/src. Change those.
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
#include "descriptor.h"
#include "standard_error.h"
#include "record.h"
#include "frames.h"
#include "paths.h"
#include "connection.h"
#include "ring.h"
#include "link.h"
#include "process.h"
#include "producer.h"
#include "sending.h"
#include "claim.h"
#include "outcome.h"
#include "close.h"
#include "local.h"

#ifdef __cplusplus
}
#endif

#endif /* DBUF_H */
