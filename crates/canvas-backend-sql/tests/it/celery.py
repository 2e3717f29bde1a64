"""Celery's own database backend, for the tests in celery.rs.

    python celery.py URL EXTENDED COMMAND [JSON ...]

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


url, extended, command, *arguments = sys.argv[1:]
arguments = [json.loads(argument) for argument in arguments]
app = Celery("tests", backend=url, broker="memory://")
app.conf.result_extended = extended == "extended"
backend = app.backend


def get(id):
    """The value, or the exception, of a task; waits for it."""
    try:
        return {"value": AsyncResult(id, app=app).get(timeout=20)}
    except Exception as error:
        return {"error": type(error).__name__, "args": list(error.args)}


def meta(id):
    """All that Celery knows of a task."""
    found = backend.get_task_meta(id)
    found["date_done"] = found["date_done"] and found["date_done"].isoformat()
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


def store_pickled(id, value):
    """As Celery stored before 5.7."""
    import pickle

    row = backend.task_cls(id)
    session = backend.ResultSession()
    row.status = states.SUCCESS
    row.result = pickle.dumps(value, protocol=5)
    session.add(row)
    session.commit()


def save_pickled(group):
    import pickle

    session = backend.ResultSession()
    result = GroupResult(group, [AsyncResult("1", app=app)], app=app)
    session.add(backend.taskset_cls(group, pickle.dumps(result, protocol=5)))
    session.commit()


def store_many(prefix, count):
    for n in range(count):
        backend.store_result(f"{prefix}-{n}", n, states.SUCCESS)


print(json.dumps(globals()[command](*arguments)))
