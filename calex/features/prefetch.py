"""Work that a thread does ahead of whoever uses it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def prefetch(items: Iterator[Item], count: int) -> Generator[Item]:
    """Run an iterator in a thread, up to `count` + 1 items ahead; its errors come out here."""
    ready: queue.Queue[Item | BaseException | None] = queue.Queue(count)
    stopped = threading.Event()

    def put(item: Item | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue
        return None

    def work() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, name="chunk-reader", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
