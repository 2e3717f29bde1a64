"""Sends tasks with Celery's client, as many ways as there are."""

import json
import sys
from datetime import datetime, timezone

from celery import Celery, chain

url, prefix = sys.argv[1], sys.argv[2]
app = Celery("app", broker=url)
app.conf.broker_transport_options = {"global_keyprefix": prefix}
app.conf.task_ignore_result = True
oid = app.thread_oid


def sent(result):
    return result.id


ids = [
    sent(app.send_task("plain", (1, "ü"), {"x": None}, queue="q")),
    sent(
        app.send_task(
            "full",
            eta=datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc),
            expires=datetime(2031, 1, 1, tzinfo=timezone.utc),
            headers={"mine": {"deep": [1.5, None]}},
            queue="q",
            retries=3,
            time_limit=10,
            soft_time_limit=5,
        )
    ),
    sent(app.send_task("zipped", (list(range(1000)),), compression="zlib", queue="q")),
    sent(app.send_task("urgent", priority=0, queue="q")),
    sent(app.send_task("slow", priority=7, queue="q")),
    sent(chain(app.signature("first", (1,)), app.signature("second")).apply_async(queue="q").parent),
]
print(json.dumps({"ids": ids, "oid": oid}))
