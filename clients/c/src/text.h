
/* ==== Texts
 *
 * Formats events where the daemon reads them.
 */

enum { DBUF__TEXT_BYTES = 1023 }; /* what is claimed for a text before its length is known */

DBUF__FUNCTION int dbuf_vprintf(dbuf_producer *producer, int pri, const char *format, va_list arguments) {
    int saved = errno, error, length = -1;
    size_t room = (size_t)dbuf__min(DBUF__TEXT_BYTES, producer->max_event);
    dbuf__parts parts = {pri, NULL, 0, NULL, 0, NULL, 0, 0, 0};
    void *place;
    va_list again;
    va_copy(again, arguments);
    /* One byte more, for the NUL that is not sent. What the format says of errno (%m) is the caller's. */
    error = dbuf__claim(producer, &parts, room, 1, DBUF__WAIT_NOT_AND_DO_NOT_COUNT, &place);
    errno = saved;
    if (error == 0 || error == DBUF_ERR_FULL)
        length = vsnprintf((char *)place, error == 0 ? room + 1 : 0, format, arguments);
    if (length >= 0 && (error != 0 || (size_t)length > room)) {
        dbuf_discard(producer);
        room = (size_t)length;
        error = dbuf__claim(producer, &parts, room > 0 ? room : 1, 1, DBUF__WAIT_AS_OPTIONS, &place);
        errno = saved;
        if (error == 0) length = vsnprintf((char *)place, room + 1, format, again);
    }
    va_end(again);
    if (error == 0) {
        if (length > 0 && (size_t)length <= room && ((const char *)place)[length - 1] == '\n') length--;
        error = length > 0 && (size_t)length <= room ? dbuf_publish(producer, (size_t)length)
                                                     : dbuf__fail(producer, DBUF_ERR_INVALID);
        if (error != 0) dbuf_discard(producer);
    }
    errno = saved;
    return error;
}

DBUF__FUNCTION int dbuf_printf(dbuf_producer *producer, int pri, const char *format, ...) {
    va_list arguments;
    int error;
    va_start(arguments, format);
    error = dbuf_vprintf(producer, pri, format, arguments);
    va_end(arguments);
    return error;
}
