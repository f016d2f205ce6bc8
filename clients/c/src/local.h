
/* ==== A thread's own producer
 *
 * Opens one at the first use and closes it when its thread ends.
 */

DBUF__FUNCTION void dbuf__close_own(void *own) {
    if (own == NULL) return;
    dbuf__own = NULL;
    dbuf_close((dbuf_producer *)own);
}

/* The thread that ends the program gets no destructor of its key. */
DBUF__FUNCTION void dbuf__close_own_at_exit(void) { dbuf__close_own(dbuf__own); }

DBUF__FUNCTION void dbuf__watch_exits(void) {
    dbuf__process.has_key = pthread_key_create(&dbuf__process.key, dbuf__close_own) == 0;
    atexit(dbuf__close_own_at_exit);
}

DBUF__FUNCTION int dbuf_log_options(const dbuf_options *options) {
    dbuf__process_state *process = &dbuf__process;
    process->has_log_options = 0;
    if (options == NULL) return 0;
    if (!dbuf__are_options_valid(options)) return DBUF_ERR_INVALID;
    process->log_options = *options;
    if (options->name != NULL) {
        memcpy(process->log_name, options->name, strlen(options->name) + 1);
        process->log_options.name = process->log_name;
    }
    if (options->socket != NULL) {
        memcpy(process->log_socket, options->socket, strlen(options->socket) + 1);
        process->log_options.socket = process->log_socket;
    }
    process->has_log_options = 1;
    return 0;
}

/* This thread's own producer, or why there is none. */
DBUF__FUNCTION int dbuf__open_own(void) {
    int saved = errno, error;
    pthread_once(&dbuf__process.at_exit, dbuf__watch_exits);
    error = dbuf_open(&dbuf__own, dbuf__process.has_log_options ? &dbuf__process.log_options : NULL);
    /* Without the key it would outlive its thread, and what it keeps would be lost silently. */
    if (error == 0 && (!dbuf__process.has_key || pthread_setspecific(dbuf__process.key, dbuf__own) != 0)) {
        dbuf__close_own(dbuf__own);
        error = DBUF_ERR_NO_MEMORY;
    }
    errno = saved;
    return error;
}

DBUF__FUNCTION dbuf_producer *dbuf_log_producer(void) {
    if (dbuf__own == NULL) dbuf__open_own();
    return dbuf__own;
}

DBUF__FUNCTION int dbuf_log(int pri, const char *format, ...) {
    va_list arguments;
    int error = dbuf__own == NULL ? dbuf__open_own() : 0;
    if (error != 0) return error;
    va_start(arguments, format);
    error = dbuf_vprintf(dbuf__own, pri, format, arguments);
    va_end(arguments);
    return error;
}
