/* The shortest program that sends events and knows what became of them.
 *
 *     cc -I.. hello.c -o hello && ./hello && dbufctl tail -n 2
 */
#include "dbuf.h"

int main(void) {
    dbuf_producer *p;
    int error = dbuf_open(&p, NULL);
    if (error != 0) {
        fprintf(stderr, "dbuf_open: %s\n", dbuf_strerror(error));
        return 1;
    }
    dbuf_send(p, DBUF_INFO, "order 17 accepted", 17);
    dbuf_printf(p, DBUF_ERR, "card of order %d refused", 17);
    error = dbuf_sync(p, 5000);
    if (error != 0) fprintf(stderr, "dbuf_sync: %s: %s\n", dbuf_strerror(error), dbuf_last_error(p));
    return (dbuf_close(p) != 0 || error != 0) ? 1 : 0;
}
