"""Work on several things at once: numpy lets other threads run while it counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_THREADS: Final = 2


def at_once(work: Callable[[T], R], things: Iterable[T]) -> Iterator[R]:
    """work(thing) of all things in their order, several at once: numpy lets other threads run while it counts."""
    from concurrent.futures import ThreadPoolExecutor

    todo = list(things)
    if len(todo) < 2:
        yield from map(work, todo)
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        ahead = [pool.submit(work, thing) for thing in todo[:_THREADS]]
        for thing in todo[_THREADS:]:  # no more results wait than there are threads
            yield ahead.pop(0).result()
            ahead.append(pool.submit(work, thing))
        for one in ahead:
            yield one.result()
