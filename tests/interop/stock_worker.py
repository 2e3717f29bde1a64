"""A stock Celery worker, started as the worker of this repository is.

``python stock_worker.py --broker URL --backend URL --concurrency N
--hostname NODE [--tasks MODULE]``: what the tests are compared with.
"""

import argparse

from celery import Celery

parser = argparse.ArgumentParser()
parser.add_argument("--broker", required=True)
parser.add_argument("--backend", required=True)
parser.add_argument("--concurrency", default="2")
parser.add_argument("--hostname", default="stock@%h")
parser.add_argument("--tasks", default="t.integration.tasks")
options = parser.parse_args()

app = Celery(
    "stock",
    broker=options.broker,
    backend=options.backend,
    include=["celery.contrib.testing.tasks", options.tasks],
    set_as_current=True,
)
app.conf.result_extended = True
if options.tasks == "t.integration.tasks":
    from t.integration.tasks import ClassBasedAutoRetryTask

    app.register_task(ClassBasedAutoRetryTask)

if __name__ == "__main__":
    app.worker_main([
        "worker",
        "--pool=prefork",
        f"--concurrency={options.concurrency}",
        f"--hostname={options.hostname}",
        "--loglevel=WARNING",
        "--without-heartbeat",
        "--without-gossip",
        "--without-mingle",
    ])
