"""Celery's client in the side-by-side: a command a line on standard input, an
answer a line on standard output, both JSON.

Times are in seconds. ``BENCH_QUEUE`` says where it sends to: the worker's own
queue, or one that nobody consumes.
"""

import json
import platform
import sys
from time import perf_counter

import celery
import kombu
import redis
from bench_tasks import add, add_quietly, total
from celery import chain, chord, group
from celery.exceptions import TimeoutError

PATIENCE = 300


def steps(first, count):
    """A chain that counts one further at each step."""
    return chain(add.s(first, 1), *(add.s(1) for _ in range(count - 1)))


def build(shape, sizes):
    match shape, sizes:
        case "chain", [count]:
            return steps(0, count)
        case "chord", [width]:
            return chord((add.s(n, 1) for n in range(width)), total.s())
        case "chord of chains", [width, count]:
            return chord((steps(n, count) for n in range(width)), total.s())
    raise ValueError(f"no such shape: {shape} {sizes}")


def value_of(result):
    """Its value. Looks again each second: after a long silence the word that a
    result is there may be missed."""
    until = perf_counter() + PATIENCE
    while True:
        try:
            return result.get(timeout=1)
        except TimeoutError:
            if perf_counter() > until:
                raise


def versions():
    return {
        "python": platform.python_version(),
        "celery": celery.__version__,
        "kombu": kombu.__version__,
        "redis-py": redis.__version__,
    }


def enqueue(tasks, quietly):
    task = add_quietly if quietly else add
    began = perf_counter()
    group(task.s(n, 1) for n in range(tasks)).apply_async()
    return perf_counter() - began


def call(times):
    took = []
    for n in range(times):
        began = perf_counter()
        assert add.delay(n, 1).get(timeout=PATIENCE) == n + 1
        took.append(perf_counter() - began)
    return took


def last():
    """Waits for one more. Looks often, where looking is all that can be done."""
    return add.delay(0, 1).get(timeout=PATIENCE, interval=0.01)


def run(shape, sizes):
    canvas = build(shape, sizes)
    began = perf_counter()
    value = value_of(canvas.apply_async())
    return {"took": perf_counter() - began, "value": value}


def send(shape, sizes):
    build(shape, sizes).apply_async()


COMMANDS = {
    command.__name__: command for command in (versions, enqueue, call, last, run, send)
}

if __name__ == "__main__":
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = {"done": COMMANDS[command.pop("command")](**command)}
        except Exception as error:
            answer = {"failed": repr(error)}
        print(json.dumps(answer), flush=True)
