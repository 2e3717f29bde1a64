"""References to continuations, for Celery workers.

Celery copies all that follows a task into the task's message: the rest of its
chain, the body of its chord. The Rust library ``canvas`` can keep that in Redis
instead and send a reference, a signature named ``canvas.ref``, when its setting
``continuation_reference_size`` says so. With this module a Celery worker
understands references. It is one file without dependencies of its own: put it
where the worker can import it, and have it imported, in one of these ways::

    celery -A shop worker -I canvas_references      # on the command line
    app.conf.imports = ("canvas_references", ...)   # or as a setting
    import canvas_references                        # or beside the tasks

Importing it is all: every pool works, and every application in the process.
The result backend must be the Redis that the senders of references keep
results in (``redis://``, ``rediss://``, sockets, Sentinel; the global key prefix
is respected).

How it works. A reference is a type of signature of its own, which is something
that Celery has a registry for. When its turn comes, and not before, it reads
the steps that it stands for and sends the first of them; the steps after that
travel as they were kept, ending in a reference to the next ones. So a worker
reads a chain piece by piece, once, and reads a chord's body only if it
completes the chord. When a task fails, all that was to follow has to fail too,
so all of it is read. Only for that do two methods of the Redis backend read
references before they do what they did.

What it does not do: write references. Canvases that Python sends have the form
that they always had, also a chord that Python opens in the middle of a chain
from Rust: its body is in each of its members' messages. Rust and Python workers
take such messages as they take references.

Written for Celery 5.7.
"""

from __future__ import annotations

import json
from functools import wraps

from celery.backends.redis import RedisBackend
from celery.canvas import Signature, maybe_signature
from celery.exceptions import ImproperlyConfigured
from celery.utils.log import get_logger

__all__ = ("Reference",)

logger = get_logger(__name__)

#: The task name and the ``subtask_type`` of a reference.
NAME = "canvas.ref"

#: What Celery's keys of results begin with, and what is there in these keys.
RESULT, KEPT = "celery-task-meta-", "canvas-ref-"


@Signature.register_type(NAME)
class Reference(Signature):
    """Stands for signatures that are kept in the result backend.

    In a chain these are several steps, the next one last, of which the first
    may be another reference. In place of a chord's body it is that body.
    """

    @classmethod
    def from_dict(cls, d, app=None):
        if "task" in d:
            return cls(d, app=app)
        # Only what cannot be filled in is sent. The key of a chord's body begins
        # with the id of the body.
        task_id, dot, _ = d["key"].partition(".")
        options = ({"task_id": task_id} if dot else {}) | d.get("options", {})
        kwargs = {"key": d["key"]}
        return cls(NAME, (), kwargs, options, subtask_type=NAME, immutable=True, app=app)

    def kept(self) -> list[dict] | None:
        """The signatures that it stands for; None if they have expired."""
        backend = self.app.backend
        if not isinstance(backend, RedisBackend):
            raise ImproperlyConfigured(
                f"{NAME} needs the Redis result backend, not {type(backend).__name__}"
            )
        prefix = backend.task_keyprefix.decode().removesuffix(RESULT)
        key = f"{prefix}{KEPT}{self.kwargs['key']}"
        found = backend.ensure(backend.client.get, (key,))
        return None if found is None else json.loads(found)

    @property
    def expired(self) -> str:
        """Why it stands for nothing, in the words of the Rust workers."""
        return f"what follows it was kept as {self.kwargs['key']}, and has expired"

    def apply_async(self, args=None, kwargs=None, chain=None, **options):
        """Sends the first step; ``chain`` is what comes after the last one."""
        kept = self.kept()
        if not kept:
            raise ImproperlyConfigured(self.expired)
        steps = [*(chain or ()), *kept]
        step = maybe_signature(steps.pop(), app=self.app)
        # A chord's body has the steps after it in its own options.
        if steps:
            options["chain"] = steps
        return step.apply_async(args, kwargs, **options)


def is_reference(signature) -> bool:
    return isinstance(signature, dict) and signature.get("subtask_type") == NAME


def has_references(chain) -> bool:
    return isinstance(chain, (list, tuple)) and any(map(is_reference, chain))


def expanded(steps, app) -> list[dict]:
    """All steps, the next one last, with what references stand for in place."""
    steps, found = list(steps), []
    while steps:
        step = steps.pop()
        if is_reference(step):
            reference = Reference.from_dict(step, app=app)
            kept = reference.kept()
            if kept is None:
                logger.error("Steps that failed cannot be told so: %s", reference.expired)
            steps.extend(kept or ())
        else:
            found.append(step)
    return found[::-1]


def whole(body, app) -> Signature:
    """A chord's body and all that follows it, read.

    The reference to it if it has expired: that has the id of the body.
    """
    steps = expanded([body], app)
    if not steps:
        return body
    body = maybe_signature(steps.pop(), app=app)
    steps += body.options.get("chain") or ()
    if steps:
        body.options["chain"] = expanded(steps, app)
    return body


def install(backend: type[RedisBackend] = RedisBackend) -> None:
    """Has a class of backends read references where what follows must fail."""
    if hasattr(backend, "reads_references"):
        return
    fail, fail_body = backend.mark_as_failure, backend.chord_error_from_stack

    @wraps(fail)
    def mark_as_failure(self, task_id, exc, traceback=None, request=None, *args, **kwargs):
        if request and has_references(request.chain):
            request.chain = expanded(request.chain, self.app)
        return fail(self, task_id, exc, traceback, request, *args, **kwargs)

    @wraps(fail_body)
    def chord_error_from_stack(self, callback, exc=None):
        return fail_body(self, whole(callback, self.app), exc)

    backend.mark_as_failure = mark_as_failure
    backend.chord_error_from_stack = chord_error_from_stack
    backend.reads_references = True


install()
