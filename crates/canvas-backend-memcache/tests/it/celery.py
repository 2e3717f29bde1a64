"""Celery's own cache backend, for the tests in celery.rs.

    python celery.py URL COMMAND [JSON ...]

Prints one JSON value.
"""

import json
import sys

# The directory of this file comes first, and would be found as `celery`.
sys.path = sys.path[1:]

from celery import Celery, states
from celery.result import AsyncResult, GroupResult


class Request:
    """As much of a task's request as the backend looks at."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def __getattr__(self, name):
        return None


url, command, *arguments = sys.argv[1:]
arguments = [json.loads(argument) for argument in arguments]
app = Celery("tests", backend=url, broker="memory://")
app.conf.result_extended = True
backend = app.backend
body = app.signature("tests.body", task_id="body")
published = []
app.amqp._retry_publish = lambda delay, values: published.append(values)


def get(id):
    """The value, or the exception, of a task; waits for it."""
    try:
        return {"value": AsyncResult(id, app=app).get(timeout=20)}
    except Exception as error:
        return {"error": type(error).__name__, "args": list(error.args)}


def get_all(ids):
    """The values of many, through the client's `get_many`."""
    group = GroupResult("g", [AsyncResult(id, app=app) for id in ids], app=app)
    return group.join_native(timeout=20)


def meta(id):
    """All that Celery knows of a task."""
    found = backend.get_task_meta(id)
    found["children"] = [child[0][0] for child in found["children"] or []]
    return found


def store(id, value):
    request = Request(
        task="tasks.add",
        args=[1, 2],
        kwargs={"x": 1},
        hostname="w1@h",
        retries=2,
        delivery_info={"routing_key": "celery"},
        children=[AsyncResult("child", app=app)],
        stamped_headers=["mark"],
        stamps={"mark": "m"},
    )
    backend.store_result(id, value, states.SUCCESS, request=request)


def fail(id):
    try:
        raise ValueError("no", 42)
    except ValueError as error:
        backend.store_result(id, error, states.FAILURE, traceback="where")


def save(group, ids):
    GroupResult(group, [AsyncResult(id, app=app) for id in ids], app=app).save()


def restore(group):
    return [result.id for result in GroupResult.restore(group, app=app)]


def open_chord(group, ids):
    """What a client does before it sends the header."""
    results = [AsyncResult(id, app=app) for id in ids]
    backend.apply_chord((group, results), body)


def arrive(group, id, value):
    """What a worker does once it has run a member: what the body was sent with."""
    request = Request(id=id, group=group, chord=body, children=[])
    backend.mark_as_done(id, value, request=request)
    return published


def store_many(prefix, count):
    for n in range(count):
        backend.store_result(f"{prefix}-{n}", n, states.SUCCESS)


print(json.dumps(globals()[command](*arguments)))
