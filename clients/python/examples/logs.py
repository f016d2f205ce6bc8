"""The logging module, set up as most programs do it."""

import logging
import logging.config
import os

logging.config.dictConfig(
    {
        "version": 1,
        "handlers": {"dbuf": {"class": "dbuf.Handler", "path": os.environ.get("DBUF_SOCKET")}},
        "root": {"handlers": ["dbuf"], "level": "INFO"},
    }
)

log = logging.getLogger("shop.cart")
log.info("a cart with %d things", 3)
try:
    os.environ["PRICE"]
except KeyError:
    log.exception("no price is set")  # one event, with its traceback
