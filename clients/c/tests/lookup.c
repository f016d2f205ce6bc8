/* Connects where the daemon is by default. Prints whether the kernel calls this a setuid program, and dbuf_last_error(). */
#include "dbuf.h"

int main(void) {
    dbuf_options options = dbuf_options_default();
    dbuf_producer *producer;
    options.quiet = 1;
    if (dbuf_open(&producer, &options) != 0) return 1;
    printf("%d %s\n", getauxval(AT_SECURE) != 0, dbuf_last_error(producer));
    return dbuf_close(producer) != 0;
}
