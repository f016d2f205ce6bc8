
/* ==== The own producer of each thread, which dbuf_log() uses. */

DBUF__FUNCTION void dbuf__make_key(void) {
    int has_key = pthread_key_create(&dbuf__process.key, dbuf__close_own) == 0;
    __atomic_store_n(&dbuf__process.has_key, has_key, __ATOMIC_RELAXED);
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

/* Has this thread's own producer closed: when the thread ends; while exit handlers run, by one more handler. */
DBUF__FUNCTION int dbuf__close_own_later(void) {
    if (__atomic_load_n(&dbuf__process.is_ending, __ATOMIC_RELAXED)) return atexit(dbuf__at_exit) == 0;
    pthread_once(&dbuf__process.makes_key, dbuf__make_key);
    return __atomic_load_n(&dbuf__process.has_key, __ATOMIC_RELAXED) &&
           pthread_setspecific(dbuf__process.key, dbuf__own) == 0;
}

/* Opens this thread's own producer. */
DBUF__FUNCTION int dbuf__open_own(void) {
    int saved = errno, error;
    error = dbuf__open(&dbuf__own, dbuf__process.has_log_options ? &dbuf__process.log_options : NULL, 1);
    /* Otherwise it would outlive its thread, and lose what it keeps without a word. */
    if (error == 0 && !dbuf__close_own_later()) {
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
