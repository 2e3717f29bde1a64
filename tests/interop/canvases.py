"""The tasks of this repository's own tests, for a stock Celery worker.

They do what the tasks of the same names do in ``tests/src/support.rs`` and
``tests/src/random.rs``, so that a canvas gives the same on either worker.
"""

import json
import os

from redis import StrictRedis

from celery import shared_task, signature


@shared_task(name="t.ok")
def ok(*_args, value=None):
    return value


@shared_task(name="t.fail")
def fail(*_args, why="?"):
    raise ValueError(why)


@shared_task(name="t.echo")
def echo(*args):
    return args[0] if args else None


@shared_task(name="t.args")
def all_args(*args):
    return list(args)


@shared_task(name="t.sum")
def total(numbers):
    return sum(numbers)


@shared_task(name="t.add")
def add(*numbers):
    return sum(numbers)


@shared_task(name="t.request", bind=True)
def request(self, *_args):
    """What the worker makes of the message."""
    return {
        "root_id": self.request.root_id,
        "parent_id": self.request.parent_id,
        "group": self.request.group,
        "group_index": self.request.group_index,
        "priority": self.request.delivery_info["priority"],
        "stamps": self.request.stamps,
        "headers": self.request.headers,
    }


def digest(label, args):
    """FNV-1a of the label and the arguments, written as serde_json does."""
    text = json.dumps([label, list(args)], separators=(",", ":"), ensure_ascii=False)
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{label}:{value:016x}"


@shared_task(name="t.tick", bind=True)
def tick(self, *args, label, does="succeed"):
    if does == "fail":
        raise ValueError(f"boom-{label}-")
    if does == "retry" and not self.request.retries:
        raise self.retry(countdown=0)
    return digest(label, args)


@shared_task(name="t.replace", bind=True)
def replace(self, *_args, canvas):
    raise self.replace(signature(canvas))


def notes():
    return StrictRedis(host=os.environ["REDIS_HOST"], port=int(os.environ["REDIS_PORT"]))


@shared_task(name="t.errback")
def errback(request, exc, traceback, key):
    """Notes whose error it was told of, and which."""
    notes().rpush(key, json.dumps([request.id, f"{type(exc).__name__}: {exc}"]))


@shared_task(name="t.told")
def told(task_id, key):
    """The older kind, which is told the id alone."""
    notes().rpush(key, json.dumps([task_id]))
