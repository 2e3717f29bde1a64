"""A pytest plugin: shows with each failed test what it has left behind.

That is the worker's log of the time of the test, what the client still waits
for, and what is in Redis, without the results of the tests before.

``INTEROP_LOG``
    the file that the worker logs to.
"""

import contextlib
import os

import pytest
from redis import Redis, RedisError

from celery import current_app
from celery.backends.redis import RedisBackend

# More than this of it is not read by anybody.
LINES = 200
CHARACTERS = 400

READ = {
    "string": lambda redis, key: redis.get(key),
    "list": lambda redis, key: redis.lrange(key, 0, -1),
    "set": lambda redis, key: redis.smembers(key),
    "hash": lambda redis, key: redis.hgetall(key),
    "zset": lambda redis, key: redis.zrange(key, 0, -1, withscores=True),
}


def short(value: object) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    rest = len(text) - CHARACTERS
    return text if rest <= 0 else f"{text[:CHARACTERS]}… and {rest} more"


def stored(redis: Redis, key: bytes) -> str:
    kind = redis.type(key).decode()
    value = READ[kind](redis, key) if kind in READ else "gone"
    if isinstance(value, (list, set, dict)):
        value = f"{len(value)} in it: {value}"
    return f"{key.decode(errors='replace')!r} ({kind}): {short(value)}"


def waited_for(redis: Redis) -> str:
    """What the client waits for: if it is there, nobody has told it."""
    backend = current_app.backend
    if not isinstance(backend, RedisBackend):
        return "not in Redis"
    waits = backend.result_consumer.subscribed_to
    told = redis.pubsub_numsub(*waits) if waits else []
    lines = [
        f"{key.decode()}, told to {clients}: {short(redis.get(key) or 'not there')}"
        for key, clients in told
    ]
    return "\n".join(lines) or "nothing"


def connected() -> Redis:
    return Redis(host=os.environ["REDIS_HOST"], port=int(os.environ["REDIS_PORT"]))


class PostMortem:
    def __init__(self):
        self.log = os.environ.get("INTEROP_LOG")
        self.logged = 0
        self.before: set[bytes] = set()

    def pytest_runtest_logstart(self):
        if self.log and os.path.exists(self.log):
            self.logged = os.path.getsize(self.log)
        with contextlib.suppress(RedisError), connected() as redis:
            self.before = set(redis.keys("celery-task*-meta-*"))

    def said(self) -> str:
        if not self.log or not os.path.exists(self.log):
            return "there is none: see INTEROP_LOG"
        with open(self.log, encoding="utf-8", errors="replace") as log:
            log.seek(self.logged)
            return "\n".join(log.read().splitlines()[-LINES:])

    def left(self, redis: Redis) -> str:
        keys = sorted(set(redis.keys()) - self.before)
        lines = [stored(redis, key) for key in keys[:LINES]]
        return "\n".join([*lines, f"{len(keys)} keys, and {len(self.before)} of tests before"])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self):
        report = yield
        if report.failed:
            report.sections.append(("the worker's log", self.said()))
            with connected() as redis:
                for name, ask in (("the client waits for", waited_for), ("left in Redis", self.left)):
                    try:
                        report.sections.append((name, ask(redis)))
                    except RedisError as error:
                        report.sections.append((name, f"not known: {error}"))
        return report


def pytest_configure(config):
    config.pluginmanager.register(PostMortem(), "interop-post-mortem")
