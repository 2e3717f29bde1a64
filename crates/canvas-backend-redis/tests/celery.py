"""Celery's own Redis backend, for the tests in celery.rs.

    python celery.py URL PREFIX COMMAND [JSON ...]

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

    def __init__(self, id, group=None, group_index=None, chord=None):
        self.id = id
        self.group = group
        self.group_index = group_index
        self.chord = chord
        self.errbacks = []
        self.delivery_info = {}

    def __getattr__(self, name):
        return None


url, prefix, command, *arguments = sys.argv[1:]
arguments = [json.loads(argument) for argument in arguments]
app = Celery("tests", backend=url, broker="memory://")
app.conf.result_backend_transport_options = {"global_keyprefix": prefix} if prefix else {}
backend = app.backend


@app.task(name="body")
def body(values):
    return values


def published():
    """The arguments of the bodies that were sent."""
    found = []
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue("celery")
        while queue.qsize():
            found.append(queue.get().payload[0])
    return found


def keys(group):
    return [backend.get_key_for_group(group, name) for name in (".j", ".t", ".s", ".d", "", ".c")]


def get(id):
    """The value, or the exception, of a task; waits for it."""
    try:
        return {"value": AsyncResult(id, app=app).get(timeout=20)}
    except Exception as error:
        return {"error": type(error).__name__, "args": list(error.args)}


def store(id, value):
    backend.store_result(id, value, states.SUCCESS)


def fail(id):
    try:
        raise ValueError("no", 42)
    except ValueError as error:
        backend.store_result(id, error, states.FAILURE, traceback="where")


def save(group, ids):
    GroupResult(group, [AsyncResult(id, app=app) for id in ids], app=app).save()


def restore(group):
    return [result.id for result in GroupResult.restore(group, app=app)]


def size(group, count):
    backend.set_chord_size(group, count)


def grow(group):
    backend.add_to_chord(group, None)


def part(group, id, index, value, state=states.SUCCESS):
    """A member arrives, in full; gives what was sent."""
    request = Request(id, group, index, body.s().set(task_id=f"body-of-{group}"))
    value = ValueError(value) if state == states.FAILURE else value
    backend.on_chord_part_return(request, state, value)
    return published()


def claim(group, id, index, value, seconds, token):
    """A member arrives and claims, and its worker dies at once."""
    encoded = backend.encode([1, id, states.SUCCESS, value])
    arguments = [id, encoded, 1, "+inf" if index is None else index, 86400, 86400, seconds, token]
    ready, diff, size, claimed = backend._chord_part_return_script(keys=keys(group), args=arguments)
    return {"ready": ready, "size": int(size or 0) + int(diff or 0), "claimed": claimed}


def extend(group, token):
    """Whether a claim is still, or again, that of the worker with this token."""
    names = keys(group)
    return backend._chord_claim_extend_script(keys=[names[5], names[2]], args=[token, 10])


print(json.dumps(globals()[command](*arguments)))
