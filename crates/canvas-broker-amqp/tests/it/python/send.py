"""Sends tasks with Celery's client, as many ways as there are."""

import json
import sys
from datetime import datetime, timezone

from celery import Celery, chain

app = Celery("app", broker=sys.argv[1])
app.conf.task_queue_max_priority = 10
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
            headers={"mine": {"deep": [1.5, None, True, 3_000_000_000]}},
            queue="q",
            retries=3,
            time_limit=10,
            soft_time_limit=5,
        )
    ),
    sent(app.send_task("urgent", priority=9, queue="q")),
    sent(app.send_task("slow", priority=0, queue="q")),
    sent(chain(app.signature("first", (1,)), app.signature("second")).apply_async(queue="q").parent),
    sent(app.send_task("zipped", (list(range(1000)),), compression="zlib", queue="q")),
]
print(json.dumps({"ids": ids, "oid": oid}))
