"""The whole policy against brute force: `solve` on random graphs of every kind.

Wrong is: an order that is not one, a peak below the optimum or above one of Inductor's four orders, a bound above the
optimum, OPTIMAL with another peak than the optimum, a certificate that does not hold, or a stage that failed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from memsched.check.certificate import check_certificate
from memsched.check.error import CheckError
from memsched.check.order import check_order
from memsched.core.peak import peak_bytes
from memsched.core.result import Options, Status
from memsched.search.orders.inductor import stock_orders
from memsched.search.solver import solve
from tests.oracle import brute_force_peak, random_graphs

COUNT = 100_000
_LARGEST = 14


def run(count: int, seed: int, progress: Callable[[int], None]) -> dict[str, object]:
    """`count` graphs of 4 to 14 ops; how many faults of which kind, and how often each status and method came."""
    faults: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    proved = 0
    for done, graph in enumerate(random_graphs(count, seed, largest=_LARGEST), 1):
        schedule = solve(graph, Options(time_limit_s=60.0, work_limit=50_000, use_ilp=False))
        statuses[schedule.status.value] += 1
        optimum = brute_force_peak(graph)
        faults["note"] += bool(schedule.note)
        faults["below the optimum"] += schedule.peak < optimum
        faults["bound above the optimum"] += schedule.lower_bound > optimum
        faults["optimal, but is not"] += schedule.status is Status.OPTIMAL and schedule.peak != optimum
        faults["above stock"] += schedule.peak > min(peak_bytes(graph, order) for order in stock_orders(graph).values())
        faults["peak"] += schedule.peak != peak_bytes(graph, schedule.order)
        try:
            check_order(graph, schedule.order)
            proved += check_certificate(graph, schedule.certificate, schedule.lower_bound)
        except CheckError:
            faults["refused by the checker"] += 1
        progress(done)
    found = {fault: number for fault, number in faults.items() if number}
    return {"instances": count, "wrong": sum(found.values()), "faults": found, "re-checkable": proved} | dict(statuses)
