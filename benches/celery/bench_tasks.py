"""The tasks of the side-by-side, for Celery.

They are those of ``benches/src/side.rs``, under the same names, so that a
message has the same size from either side.
"""

import os

from celery import Celery

URL = os.environ["BENCH_URL"]
BACKEND = os.environ.get("BENCH_BACKEND", URL)

app = Celery("bench", broker=URL, backend=BACKEND)
# 32 times two processes: as many as our worker takes.
app.conf.worker_prefetch_multiplier = 32
app.conf.task_default_queue = os.environ["BENCH_QUEUE"]


@app.task(name="bench.add")
def add(x, y):
    return x + y


@app.task(name="bench.add_quietly", ignore_result=True)
def add_quietly(x, y):
    return x + y


@app.task(name="bench.total")
def total(numbers):
    return sum(numbers)
