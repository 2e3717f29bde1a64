"""A pytest plugin: runs Celery's integration tests with a worker of our own.

The suite starts a worker in a thread of pytest. This plugin puts another
process in its place, and touches none of the suite's files. What it is told,
by environment variables:

``INTEROP_WORKER``
    the command that starts the worker; ``--broker``, ``--backend``,
    ``--concurrency`` and ``--hostname`` are added to it.
``INTEROP_EXCLUDED``
    files of tests to leave out, separated as in ``PATH``: an id and
    ``# reason`` a line.
``INTEROP_REPORT``
    where to write what became of each test, as JSON.
``INTEROP_TIMEOUT``
    no test may take more seconds than this, whatever its own mark says.
``INTEROP_LOG``
    a file that the worker logs to; where this process does, if it is not set.
``INTEROP_PART``
    ``2/4`` for the third of four parts of the tests; all, if it is not set.
"""

import contextlib
import gc
import json
import os
import shlex
import signal
import subprocess
import time

import pytest

import celery.contrib.testing.worker
from celery.app.control import Inspect
from celery.backends.asynchronous import AsyncBackendMixin
from celery.contrib.testing.tasks import ping
from celery.result import allow_join_result
from celery.utils.nodenames import anon_nodename

# Where the suite's own fixtures come from.
pytest_plugins = ["celery.contrib.pytest"]

# From the report of a phase to the outcome of a test: what comes later here
# outweighs what comes earlier.
WEIGHT = ("skipped", "xfailed", "xpassed", "passed", "failed")


@contextlib.contextmanager
def start_worker(app, concurrency=1, pool="solo", perform_ping_check=True, **_):
    """Takes the place of ``celery.contrib.testing.worker.start_worker``."""
    app.finalize()
    app.set_current()
    app.set_default()
    command = shlex.split(os.environ["INTEROP_WORKER"])
    command += ["--broker", app.conf.broker_url, "--backend", app.conf.result_backend]
    # The tests ask the node by this name.
    command += ["--concurrency", str(concurrency), "--hostname", anon_nodename()]
    # Enough to see from it why a test has failed.
    says = {"RUST_LOG": "debug", "NO_COLOR": "1"}
    with open(os.environ.get("INTEROP_LOG") or os.dup(2), "a", encoding="utf-8") as log:
        worker = subprocess.Popen(command, env=says | os.environ, stdout=log, stderr=log)
    try:
        with allow_join_result():
            assert ping.delay().get(timeout=30) == "pong"
        yield worker
    finally:
        worker.terminate()
        try:
            worker.wait(20)
        except subprocess.TimeoutExpired:
            worker.kill()
            pytest.fail("the worker did not stop when told to")


celery.contrib.testing.worker.start_worker = start_worker


def ask_one(ask):
    """Waits for the one worker that there is, not for others to answer too.

    Otherwise each test would wait a second at its end, when the suite asks
    whether the worker is idle.
    """

    def asked(self, command, **kwargs):
        self.limit = self.limit or 1
        # The suite asks again at once, until the answer is no.
        time.sleep(0.02)
        return ask(self, command, **kwargs)

    return asked


Inspect._request = ask_one(Inspect._request)


def wait_for_pending(self, result, callback=None, propagate=True, **kwargs):
    """Looks at the parents of a result once more when it is there.

    Celery's client does so before it waits and while it waits. A worker that
    is done in between makes it raise the error of a chord's body where the
    tests expect that of the member.
    """
    self._ensure_not_eager()
    for _ in self._wait_for_pending(result, **kwargs):
        pass
    kwargs["on_interval"]()
    return result.maybe_throw(callback=callback, propagate=propagate)


AsyncBackendMixin.wait_for_pending = wait_for_pending


def excluded():
    """The ids in the files, each with its reason."""
    found = {}
    for path in filter(None, os.environ.get("INTEROP_EXCLUDED", "").split(os.pathsep)):
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                test, _, reason = (part.strip() for part in line.partition("#"))
                if not test:
                    continue
                if not reason:
                    raise pytest.UsageError(f"{path}:{number}: {test} needs a `# reason`")
                if test in found:
                    raise pytest.UsageError(f"{path}:{number}: {test} is there twice")
                found[test] = reason
    return found


class Outcomes:
    """What became of each test, and how long it took."""

    def __init__(self):
        self.outcomes = {}
        self.seconds = {}
        self.excluded = []
        self.stale = []
        self.started = time.monotonic()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config, items):
        unwanted = excluded()
        there = {item.nodeid for item in items}
        self.excluded = sorted(there & unwanted.keys())
        # An id is stale if its file is here and it is not in it.
        files = {item.nodeid.split("::")[0] for item in items}
        self.stale = sorted(t for t in unwanted.keys() - there if t.split("::")[0] in files)
        config.hook.pytest_deselected(items=[i for i in items if i.nodeid in unwanted])
        items[:] = [item for item in items if item.nodeid not in unwanted]
        part, parts = map(int, os.environ.get("INTEROP_PART", "0/1").split("/"))
        items[:] = items[part::parts]
        limit = float(os.environ.get("INTEROP_TIMEOUT", "300"))
        for item in items:
            own = item.get_closest_marker("timeout")
            seconds = own and (own.args[0] if own.args else own.kwargs.get("timeout"))
            if not seconds or seconds > limit:
                item.add_marker(pytest.mark.timeout(limit), append=False)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self):
        """Closes the connections that applications of tests before have left.

        Some tests compare what the server's clients listen to before and after
        a step, so this must not happen in between.
        """
        gc.collect()

    def pytest_runtest_logreport(self, report):
        outcome = report.outcome
        if hasattr(report, "wasxfail"):
            outcome = "xfailed" if report.skipped else "xpassed"
        elif outcome == "passed" and report.when != "call":
            outcome = None
        before = self.outcomes.get(report.nodeid)
        if outcome and (before is None or WEIGHT.index(outcome) > WEIGHT.index(before)):
            self.outcomes[report.nodeid] = outcome
        taken = self.seconds.get(report.nodeid, 0.0) + getattr(report, "duration", 0.0)
        self.seconds[report.nodeid] = round(taken, 3)

    def pytest_sessionfinish(self, session):
        path = os.environ.get("INTEROP_REPORT")
        if not path:
            return
        report = {
            "outcomes": self.outcomes,
            "seconds": self.seconds,
            "excluded": self.excluded,
            "stale": self.stale,
            "took": round(time.monotonic() - self.started, 1),
        }
        with open(path, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)


def pytest_configure(config):
    # Told to stop, it stops its worker first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    gc.disable()
    config.pluginmanager.register(Outcomes(), "interop-outcomes")
