"""What a result of Celery's is on the wire.

    python wire.py URL send     declares the queues `theirs` and `ours`, and sends
                                results to the first, as a worker does
    python wire.py URL take     prints what is in both, each as a list
"""

import json
import sys

from celery import Celery, states
from celery.result import AsyncResult
from kombu import Connection

url, command = sys.argv[1:]


class Request:
    """As much of a task's request as the backend looks at."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def __getattr__(self, name):
        return None


def send(channel):
    app = Celery("tests", broker=url, backend="rpc://")
    app.conf.result_persistent = True
    for queue in "theirs", "ours":
        channel.queue_declare(queue, durable=True, auto_delete=False)
    request = Request(
        reply_to="theirs",
        correlation_id="c",
        group="g",
        parent_id="p",
        children=[AsyncResult("child", app=app)],
    )
    value = {"list": [1, 2.5, None], "text": "ü"}
    app.backend.store_result("1", value, states.SUCCESS, request=request)
    error = ValueError("no")
    app.backend.store_result("1", error, states.FAILURE, "tb", request=request)
    print("null")


def take(channel):
    found = {"theirs": [], "ours": []}
    for queue, messages in found.items():
        while message := channel.basic_get(queue, no_ack=True):
            body = message.body
            body = body if isinstance(body, str) else body.decode()
            info = message.delivery_info
            properties = {**message.properties, "exchange": info["exchange"]}
            messages.append({"body": body, "properties": properties})
    print(json.dumps(found))


with Connection(url) as connection:
    {"send": send, "take": take}[command](connection.channel())
