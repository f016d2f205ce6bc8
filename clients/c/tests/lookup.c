/* Connects where the daemon is by default. Prints whether the kernel calls this a setuid program, and
 * dbuf_last_error(). */
#include "dbuf.h"

int main(void) {
    dbuf_producer *producer;
    if (dbuf_open(&producer, NULL) != 0) return 1;
    printf("%d %s\n", getauxval(AT_SECURE) != 0, dbuf_last_error(producer));
    return dbuf_close(producer) != 0;
}
