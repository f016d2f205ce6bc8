"""An asyncio program: the event loop never waits for the daemon.

Records of logging never block. A client of its own may block in three calls: ``send`` when the buffer is full, so it
drops here, and an event says how many are missing; ``sync`` and ``close``, so they run in a thread.
"""

import asyncio
import logging
import os

import dbuf

log = logging.getLogger("shop")


async def accept(client: dbuf.Client, order: int) -> None:
    await asyncio.sleep(0.001)  # the work
    client.send(f"order {order} accepted", fields={"ORDER": order})
    log.info("order %d accepted", order, extra={"order": order})


async def main(path: str) -> None:
    handler = dbuf.Handler(path=path)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    client = dbuf.Client("orders", path=path, when_full="drop")
    loop = asyncio.get_running_loop()
    try:
        await asyncio.gather(*(accept(client, order) for order in range(1, 101)))
        await loop.run_in_executor(None, client.sync)  # all are on the disk now
    finally:
        await loop.run_in_executor(None, client.close)
        await loop.run_in_executor(None, handler.flush)


asyncio.run(main(os.environ.get("DBUF_SOCKET") or dbuf.default_path()))
