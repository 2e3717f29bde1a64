"""A client of Celery's, with results by rpc://.

    python client.py URL

Sends tasks to whoever works there, and prints one JSON object of what came.
"""

import json
import sys
import time

from celery import Celery, chord, group, states

app = Celery("tests", broker=sys.argv[1], backend="rpc://")
TIMEOUT = 60


def task(name, *args):
    return app.signature(f"tests.{name}", args)


def outcome(result):
    try:
        return result.get(timeout=TIMEOUT)
    except Exception as error:
        return [type(error).__name__, *error.args]


def seen(result):
    """The states that it goes through, as far as polling sees them."""
    states_seen = []
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        state = result.state
        if state != states.PENDING and state not in states_seen:
            states_seen.append(state)
        if state in states.READY_STATES:
            break
        time.sleep(0.02)
    return states_seen


found = {}
# First: once something was waited for, Celery takes in messages only while it
# waits for something.
found["states"] = seen(task("flaky", 0.5).delay())
result = task("add", 1, 2).delay()
found["twice"] = [outcome(result), outcome(result)]
result = (task("add", 1, 2) | task("add", 3) | task("add", 4)).delay()
found["chain"] = [outcome(result), outcome(result.parent)]
found["children"] = [child.id for child in result.parent.children] == [result.id]
found["group"] = outcome(group(task("add", n, 1) for n in range(20)).delay())
result = (task("fail", "why") | task("add", 3)).delay()
found["failure"] = outcome(result.parent)
# Celery leaves it pending.
found["follower"] = outcome(result)
try:
    chord([task("add", 1, 1)], task("total")).delay()
except NotImplementedError as error:
    found["chord"] = str(error).splitlines()[0]
print(json.dumps(found))
