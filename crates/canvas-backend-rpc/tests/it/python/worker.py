"""A stock worker of Celery's, with results by rpc://.

    python worker.py URL [SERIALIZER of results]

It ends when its input does, and so with whoever started it.
"""

import os
import sys
import threading
import time

from celery import Celery

app = Celery("tests", broker=sys.argv[1], backend="rpc://")


@app.task(name="tests.add")
def add(x, y):
    return x + y


@app.task(name="tests.fail")
def fail(why):
    raise ValueError(why)


@app.task(name="tests.wait", bind=True)
def wait(self, file):
    self.update_state(state="WAITING", meta={"for": file})
    while not os.path.exists(file):
        time.sleep(0.01)
    return "done"


@app.task(name="tests.flaky", bind=True)
def flaky(self, pause):
    if self.request.retries == 0:
        raise self.retry(exc=ValueError("not yet"), countdown=pause)
    return self.request.retries


def end_with_input():
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with_input, daemon=True).start()
    if len(sys.argv) > 2:
        app.conf.result_serializer = sys.argv[2]
    app.worker_main([
        "worker",
        "--pool=solo",
        "--loglevel=WARNING",
        "--without-heartbeat",
        "--without-gossip",
        "--without-mingle",
    ])
