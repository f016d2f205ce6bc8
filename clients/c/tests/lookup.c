/* Connects where the daemon is by default. Prints whether the kernel calls this a setuid program. */
#include "dbuf.h"

int main(void) {
    dbuf_options options = dbuf_options_default();
    dbuf_producer *producer;
    options.quiet = 1;
    printf("%d\n", getauxval(AT_SECURE) != 0);
    return dbuf_open(&producer, &options) != 0 || dbuf_close(producer) != 0;
}
