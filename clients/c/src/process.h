
/* ==== The process: the list of its producers, its forks and its end. */

DBUF__FUNCTION void dbuf__before_fork(void) { pthread_mutex_lock(&dbuf__process.lock); }
DBUF__FUNCTION void dbuf__in_parent(void) { pthread_mutex_unlock(&dbuf__process.lock); }

/* Closes a child's copies of its parent's descriptors. A connection lives as long as one copy of it, so the daemon
 * would take a child that never sends for its parent. */
DBUF__FUNCTION void dbuf__in_child(void) {
    dbuf_producer *p;
    dbuf__process.forks++;
    dbuf__process.barrier = 0;
    dbuf__process.closers = 0;
    for (p = dbuf__process.first; p != NULL; p = p->next) dbuf__release_all(p);
    pthread_mutex_unlock(&dbuf__process.lock);
}

DBUF__FUNCTION void dbuf__at_exit(void);
DBUF__FUNCTION void dbuf__at_unload(void);

/* The C library forgets the handlers of a shared object when the object is unloaded. */
DBUF__FUNCTION void dbuf__watch_forks(void) {
    dbuf__hold(&dbuf__process.standard_error, STDERR_FILENO);
    dbuf__process.has_fork_handlers = pthread_atfork(dbuf__before_fork, dbuf__in_parent, dbuf__in_child) == 0;
}

DBUF__FUNCTION void dbuf__watch_end(void) {
    dbuf__process.at_unload = dbuf__at_unload;
    dbuf__process.has_end_handlers = atexit(dbuf__at_exit) == 0;
}

/* Registers the handlers of fork before the program can register its own. So the list is locked after all handlers of
 * the program that run before the fork: one of them may wait for a thread that opens a producer. And a child is known
 * as such before a handler of the program sends in it. Each file has this function; its first call does the work. */
static __attribute__((constructor(101))) void dbuf__load(void) {
    pthread_once(&dbuf__process.watches_forks, dbuf__watch_forks);
}

/* Whether all handlers are registered. A producer that is opened before dbuf__load() registers those of fork itself. */
DBUF__FUNCTION int dbuf__is_watched(void) {
    dbuf__load();
    pthread_once(&dbuf__process.watches_end, dbuf__watch_end);
    return dbuf__process.has_fork_handlers && dbuf__process.has_end_handlers;
}

DBUF__FUNCTION void dbuf__enlist(dbuf_producer *p) {
    pthread_mutex_lock(&dbuf__process.lock);
    p->next = dbuf__process.first;
    p->link = &dbuf__process.first;
    if (p->next != NULL) p->next->link = &p->next;
    dbuf__process.first = p;
    pthread_mutex_unlock(&dbuf__process.lock);
}

/* Strikes a producer off the list, and closes its descriptors under the same lock: a child that another thread forks
 * between the two would keep them. */
DBUF__FUNCTION void dbuf__strike_off(dbuf_producer *p) {
    pthread_mutex_lock(&dbuf__process.lock);
    *p->link = p->next;
    if (p->next != NULL) p->next->link = p->link;
    dbuf__release_all(p);
    pthread_mutex_unlock(&dbuf__process.lock);
}
