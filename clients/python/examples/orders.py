"""Events that must not be lost: each is kept until it is in a file, and the last call waits for the disk."""

import os

import dbuf


def on_refused(refusal: dbuf.Refusal) -> None:
    print(f"events {refusal.first} to {refusal.last} are not stored: {refusal.text}")


with dbuf.Client("shop", path=os.environ.get("DBUF_SOCKET"), on_refused=on_refused) as client:
    for order in range(1, 101):
        client.send(f"order {order} accepted")
    client.send("card refused", priority=3, tag="billing")
    client.sync(timeout=5)
    print(client.statistics())
