"""Carries plans from the Fib to the kernel until nothing is left to do now.

The kernel works while `sendmsg` runs without the interpreter's lock, so the next plan is built meanwhile: one thread
applies, the caller plans. Results go back in the order of the plans, as the Fib wants them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from via6.fib import NEEDED_PARTS, Fib
from via6.model import Kernel, Outcome, Plan

BATCH: Final = 1 << 15
_DUMPS: Final = 8  # dumps in one call; a kernel that loses more than that is asked again later
_PLANS: Final = 4096  # plans in one call; one that goes on is a disagreement with the kernel, which a dump ends
_DEPTH: Final = 2


def pump(fib: Fib, kernel: Kernel, clock: Callable[[], float]) -> int:
    """Plans, applies, reports; dumps where the Fib asks for it. Returns the number of routes and objects sent.
    `clock` gives the seconds that the Fib's backoff counts in."""
    sent = dumps = 0
    for _ in range(_PLANS):
        if fib.needs_dump:
            if dumps == _DUMPS:
                break
            dumps += 1
            fib.synchronise(kernel.dump(NEEDED_PARTS))
        plan = fib.plan(clock(), BATCH)
        if not plan:
            break  # what the kernel refused waits for its time
        if len(plan) < BATCH:
            # Small enough to be the only one: no thread for a single route.
            fib.results(plan, kernel.apply(plan), clock())
            sent += len(plan)
        else:
            sent += _overlapped(fib, kernel, clock, plan)
    else:
        fib.needs_dump = True  # the caller comes back
    return sent


def _overlapped(fib: Fib, kernel: Kernel, clock: Callable[[], float], plan: Plan) -> int:
    sent, left = 0, _PLANS
    flights: deque[tuple[Plan, Future[Outcome]]] = deque()
    with ThreadPoolExecutor(1, "via6-apply") as worker:
        while plan or flights:
            if plan:
                flights.append((plan, worker.submit(kernel.apply, plan)))
                sent += len(plan)
            if len(flights) >= _DEPTH or not plan:
                oldest, future = flights.popleft()
                fib.results(oldest, future.result(), clock())
            left -= 1
            plan = fib.plan(clock(), BATCH) if left > 0 else Plan()
    return sent
