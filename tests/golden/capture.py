#!/usr/bin/env python3
"""Record what Python Celery 5.7.0 really produces for a set of canvases.

Usage::

    python3 tests/golden/capture.py [--out DIR]        # DIR: this folder

Three files are written.  They are the golden data that the Rust tests are
compared with, and they only change when this script changes:

``signatures.json``
    ``[{"name", "expr", "signature"}]``: the canvas as Celery serialises it
    (``kombu.utils.json``) *before* it is applied.

``messages.json``
    ``[{"name", "expr", "messages", "result"}]``: each message in the order of
    publication, and ``as_tuple()`` of the result that the call returned.  A
    message is ``{"headers", "properties", "body", "exchange", "routing_key",
    "content-type", "content-encoding"}``: the envelope of kombu's virtual
    transports (Redis, memory), except that ``body`` is decoded.

``results.json``
    ``[{"name", "meta"}]``: documents that the Redis result backend would
    store under ``celery-task-meta-<id>``.

An entry of the first two files may have two more keys:

``apply``
    the Python expression that applied the canvas (the canvas is ``sig``),
    when it is not ``sig.apply_async()``;
``conf``
    Celery settings that differ from the defaults while the entry was made.

Nothing is sorted: object keys keep the order in which Celery made them, which
is the order on the wire.

Both expressions are *evaluated* from the text that is recorded, so text and
data cannot disagree.  Names in them: ``add mul tsum identity double fail
on_error noop`` (tasks), ``chain group chord signature chunks`` (celery),
``T0`` (the fixed "now"), ``datetime date time timedelta timezone Decimal
UUID`` (standard library), ``app``, ``HeaderVisitor``.

What is pinned, so that two runs give the same bytes:

* every uuid4 that Celery or kombu takes comes from a counter, which starts at
  1 again for each canvas: ``00000000-0000-4000-8000-000000000001`` and so on.
  Numbers are skipped in the output, because Celery also draws ids that it
  does not use: compare ids up to renaming;
* delivery tags have a counter of their own (``...-4000-9000-...``);
* ``reply_to`` (the thread's oid), ``origin`` and the clock are constants;
* PYTHONHASHSEED is 0, because Celery makes ``stamped_headers`` with
  ``list(set(...))``.  With more than one stamp, compare that list as a set.
"""

import argparse
import base64
import json as stdjson
import os
import subprocess
import sys
import venv
import warnings
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from uuid import UUID

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
REQUIRED = {'celery': '5.7.0', 'kombu': '5.7.0'}


# --------------------------------------------------------------------------
# Step 1: an interpreter that has the right Celery
# --------------------------------------------------------------------------

def has_required_versions():
    try:
        import celery
        import kombu
    except ImportError:
        return False
    return (celery.__version__, kombu.__version__) == (
        REQUIRED['celery'], REQUIRED['kombu'])


def ensure_interpreter():
    """Re-execute in a suitable interpreter unless this one is suitable.

    kombu is pinned too: it makes the envelope and the JSON of dates.
    """
    env = dict(os.environ, PYTHONHASHSEED='0')
    # Settings must come from this file only.
    for key in list(env):
        if key.startswith('CELERY') or key == 'TEST_BROKER':
            del env[key]

    if has_required_versions():
        python = sys.executable
        if os.environ == env:
            return
    else:
        home = ROOT / 'target' / 'golden-venv'
        python = str(home / ('Scripts' if os.name == 'nt' else 'bin') / 'python')
        if Path(sys.prefix).resolve() == home.resolve():
            sys.exit(f'{home} does not hold {REQUIRED}; delete it and try again')
        probe = ('import celery, kombu; '
                 'print(celery.__version__, kombu.__version__)')
        have = subprocess.run([python, '-c', probe], capture_output=True,
                              text=True) if Path(python).exists() else None
        if have is None or have.stdout.split() != list(REQUIRED.values()):
            print(f'capture.py: making {home}', file=sys.stderr)
            venv.create(home, with_pip=True, clear=home.exists())
            subprocess.run(
                [python, '-m', 'pip', 'install', '--quiet',
                 *(f'{name}=={version}' for name, version in REQUIRED.items())],
                check=True, stdout=sys.stderr)
    os.execve(python, [python, str(Path(__file__).resolve()), *sys.argv[1:]], env)


if __name__ == '__main__':
    ensure_interpreter()
# Imported (not run), the module needs a Celery that is already there.

import kombu.transport.memory  # noqa: E402
import kombu.transport.virtual.base  # noqa: E402
import kombu.utils.json as kombu_json  # noqa: E402
from kombu.utils.uuid import uuid as kombu_uuid  # noqa: E402
from kombu import serialization  # noqa: E402
from kombu.compression import decompress  # noqa: E402

import celery.app.amqp  # noqa: E402
from celery import Celery, chain, chord, chunks, group, signature  # noqa: E402
from celery.app.task import Context  # noqa: E402
from celery.backends.base import KeyValueStoreBackend  # noqa: E402
from celery.canvas import StampingVisitor, _regen  # noqa: E402
from celery.exceptions import (  # noqa: E402
    ChordError, NotRegistered, SoftTimeLimitExceeded, TimeLimitExceeded,
    WorkerLostError)
from celery.result import GroupResult  # noqa: E402

warnings.simplefilter('ignore')  # chord.link_error() warns about the future

# --------------------------------------------------------------------------
# Step 2: everything that differs between runs becomes a constant
# --------------------------------------------------------------------------

THREAD_OID = '11111111-1111-4111-8111-111111111111'
ORIGIN = 'gen1@golden'
#: "Now", for countdown, numeric expires, expiration and date_done.
T0 = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)


class Counter:
    """Sequence of ids with the shape of a version 4 UUID."""

    def __init__(self, prefix):
        self.prefix, self.n = prefix, 0

    def __call__(self):
        self.n += 1
        return f'{self.prefix}{self.n:012d}'


next_id = Counter('00000000-0000-4000-8000-')
next_delivery_tag = Counter('00000000-0000-4000-9000-')

# kombu.utils.uuid.uuid(_uuid=uuid4) is what both packages call and import by
# name.  Changing its default argument reaches all those copies of the name.
kombu_uuid.__defaults__ = (next_id,)
kombu.transport.virtual.base.Channel._next_delivery_tag = (
    lambda self: next_delivery_tag())
celery.app.amqp.anon_nodename = lambda *args, **kwargs: ORIGIN


# --------------------------------------------------------------------------
# Step 3: an app whose messages and results stay in this process
# --------------------------------------------------------------------------

published = []


def record_publish(channel, message, exchange, routing_key, **kwargs):
    """Replacement of Channel.basic_publish: keep the message, send nothing.

    This is the last point before the transport writes: everything has been
    serialised, and the envelope is complete.
    """
    channel._inplace_augment_message(message, exchange, routing_key)
    headers, properties = message['headers'], message['properties']
    assert properties['body_encoding'] == 'base64'
    data = base64.b64decode(message['body'])
    if 'compression' in headers:
        data = decompress(data, headers['compression'])
    if message['content-type'] == 'application/json':
        # The standard decoder, so that {"__type__": ...} stays as it is.
        body = stdjson.loads(data)
    else:
        body = serialization.loads(
            data, message['content-type'], message['content-encoding'],
            accept=[message['content-type']])
    # Round trip: snapshot now, since Celery may still change the objects.
    published.append(stdjson.loads(kombu_json.dumps({
        'headers': headers,
        'properties': properties,
        'body': body,
        'exchange': exchange,
        'routing_key': routing_key,
        'content-type': message['content-type'],
        'content-encoding': message['content-encoding'],
    })))


kombu.transport.memory.Channel.basic_publish = record_publish


class MemoryBackend(KeyValueStoreBackend):
    """The Redis backend as far as the client can see it, in a dict.

    With Redis, starting a chord publishes no celery.chord_unlock message, and
    stores the GroupResult only if the header has complex members.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.store = {}

    def get(self, key):
        return self.store.get(key)

    def set(self, key, value):
        self.store[key] = value

    def delete(self, key):
        self.store.pop(key, None)

    def apply_chord(self, header_result_args, body, **kwargs):
        if not isinstance(header_result_args[1], _regen):
            result = self.app.GroupResult(*header_result_args)
            if any(isinstance(child, GroupResult) for child in result.results):
                self.save_group(result.id, result)


class GoldenApp(Celery):
    thread_oid = THREAD_OID
    oid = THREAD_OID

    def now(self):
        return T0

    def _get_backend(self):
        return MemoryBackend(app=self)


app = GoldenApp('golden', broker='memory://', fixups=[])
app.set_default()


@app.task(name='tasks.add')
def add(x, y, z=None):
    return x + y if z is None else x + y + z


@app.task(name='tasks.mul')
def mul(x, y):
    return x * y


@app.task(name='tasks.tsum')
def tsum(nums):
    return sum(nums)


@app.task(name='tasks.identity')
def identity(x):
    return x


@app.task(name='tasks.double')
def double(x):
    return x * 2


@app.task(name='tasks.fail')
def fail(*args):
    raise ValueError(*args)


@app.task(name='tasks.on_error')
def on_error(request_id):
    return request_id


@app.task(name='tasks.noop', ignore_result=True)
def noop():
    pass


app.finalize()


class HeaderVisitor(StampingVisitor):
    """A visitor that stamps every signature with its own name."""

    def on_signature(self, sig, **headers):
        return {'stamped_by': sig.task, 'stamped_headers': ['stamped_by']}


NAMESPACE = {
    'add': add, 'mul': mul, 'tsum': tsum, 'identity': identity,
    'double': double, 'fail': fail, 'on_error': on_error, 'noop': noop,
    'chain': chain, 'group': group, 'chord': chord, 'chunks': chunks,
    'signature': signature, 'app': app, 'HeaderVisitor': HeaderVisitor,
    'T0': T0, 'datetime': datetime, 'date': date, 'time': time,
    'timedelta': timedelta, 'timezone': timezone, 'Decimal': Decimal,
    'UUID': UUID,
}

# --------------------------------------------------------------------------
# Step 4: the canvases
# --------------------------------------------------------------------------

APPLY = 'sig.apply_async()'
CASES = []


def case(name, expr, apply=APPLY, **conf):
    """Add a canvas.  ``apply=None``: it cannot be applied, say why there.

    Methods that do not return the signature (link, link_error, freeze, stamp
    of a canvas) are called inside a tuple: ``(c := x, c.link(y), c)[-1]``.
    """
    CASES.append((name, expr, apply, conf))


# ---- one task ------------------------------------------------------------
case('task_args', 'add.s(2, 2)')
case('task_kwargs', 'add.s(x=2, y=3)')
case('task_args_kwargs', 'add.s(2, y=3, z=4)')
case('task_no_args', 'identity.s()', 'sig.delay(7)')
case('task_ignore_result_task', 'noop.s()')
case('task_immutable', 'add.si(2, 2)')
case('task_immutable_ignores_partial', 'add.si(2, 2)', 'sig.apply_async((9,), {"z": 1}, priority=1)')
case('task_partial', 'add.s(2)', 'sig.apply_async((1,))')
case('task_partial_kwargs', 'add.s(2)', 'sig.apply_async(kwargs={"y": 5})')
case('task_partial_kwargs_override', 'add.s(2, 3, z=1)', 'sig.apply_async(kwargs={"z": 5})')
# typing=True rejects a call without the missing argument on the client.
case('task_partial_unapplied', 'add.s(2)', None)
case('task_signature_method', 'add.signature((2, 2), {"z": 1}, countdown=10)')
case('task_signature_by_name', 'signature("tasks.add", args=(2, 2), app=app)')
case('task_unregistered', 'signature("other.task", args=(1,), kwargs={"k": "v"}, app=app)')
case('task_from_dict', 'signature({"task": "tasks.add", "args": [2, 2], "kwargs": {}, "options": {}, '
     '"subtask_type": None, "immutable": False}, app=app)')
case('task_from_dict_extra_keys', 'signature({"task": "tasks.add", "args": [2, 2], "kwargs": {}, "options": {}, '
     '"subtask_type": None, "immutable": False, "extra": 1}, app=app)')
case('task_clone_args', 'add.s(2).clone((1,))')
case('task_clone_kwargs', 'add.s(2, 2, z=1).clone(kwargs={"z": 3})')
case('task_clone_args_kwargs_options', 'add.s(2).set(priority=1).clone((1,), {"z": 3}, priority=5, queue="hi")')
case('task_clone_immutable', 'add.si(2, 2).clone((1,), {"z": 3}, priority=5)')
case('task_replace_args', 'add.s(2, 2).set(priority=3).replace(args=(3, 4))')
case('task_replace_all', 'add.s(2, 2).replace(args=(3,), kwargs={"y": 4}, options={"priority": 5})')
case('task_set_immutable', 'add.s(2, 2).set(immutable=True)', 'sig.apply_async((9,))')
case('task_set_mutable', 'add.si(2).set(immutable=False)', 'sig.apply_async((9,))')

# ---- options -------------------------------------------------------------
case('opt_queue', 'add.s(2, 2).set(queue="hi")')
case('opt_exchange_routing_key', 'add.s(2, 2).set(exchange="ex", routing_key="rk")')
case('opt_priority', 'add.s(2, 2).set(priority=7)')
case('opt_countdown', 'add.s(2, 2).set(countdown=10)')
case('opt_countdown_float', 'add.s(2, 2).set(countdown=0.5)')
case('opt_countdown_zero', 'add.s(2, 2).set(countdown=0)')
case('opt_eta', 'add.s(2, 2).set(eta=T0 + timedelta(hours=1))')
case('opt_eta_other_zone', 'add.s(2, 2).set(eta=datetime(2026, 5, 6, 7, 8, 9, tzinfo=timezone(timedelta(hours=2))))')
case('opt_eta_naive', 'add.s(2, 2).set(eta=datetime(2026, 5, 6, 7, 8, 9))')
case('opt_eta_string', 'add.s(2, 2).set(eta="2026-05-06T07:08:09+00:00")')
case('opt_expires_seconds', 'add.s(2, 2).set(expires=60)')
case('opt_expires_datetime', 'add.s(2, 2).set(expires=T0 + timedelta(hours=1))')
case('opt_expires_past', 'add.s(2, 2).set(expires=T0 - timedelta(hours=1))')
case('opt_eta_and_expires', 'add.s(2, 2).set(eta=T0 + timedelta(minutes=1), expires=T0 + timedelta(hours=1))')
case('opt_time_limits', 'add.s(2, 2).set(time_limit=10, soft_time_limit=5)')
case('opt_headers', 'add.s(2, 2).set(headers={"x": 1})')
case('opt_headers_override_protocol', 'add.s(2, 2).set(headers={"shadow": "from-headers", "x": [1]})')
case('opt_ignore_result_true', 'add.s(2, 2).set(ignore_result=True)')
case('opt_ignore_result_false', 'noop.s().set(ignore_result=False)')
case('opt_shadow', 'add.s(2, 2).set(shadow="alias")')
case('opt_retry_policy', 'add.s(2, 2).set(retry=True, retry_policy={"max_retries": 3, "interval_start": 0, '
     '"interval_step": 0.2, "interval_max": 0.2})')
case('opt_retries', 'add.s(2, 2).set(retries=3)')
case('opt_serializer_json', 'add.s(2, 2).set(serializer="json")')
# The recorded body is the unpickled one, so tuples show as lists.
case('opt_serializer_pickle', 'add.s(2, 2).set(serializer="pickle")')
case('opt_compression', 'add.s(2, 2).set(compression="gzip")')
case('opt_delivery_mode', 'add.s(2, 2).set(delivery_mode="transient")')
case('opt_unknown', 'add.s(2, 2).set(foo="bar")')
case('opt_none_values', 'add.s(2, 2).set(queue=None, priority=None, countdown=None)')
case('opt_task_id', 'add.s(2, 2).set(task_id="my-id")')
case('opt_root_parent', 'add.s(2, 2).set(root_id="my-root", parent_id="my-parent")')
case('opt_reply_to', 'add.s(2, 2).set(reply_to="my-reply-queue")')
case('opt_group_id', 'add.s(2, 2).set(group_id="my-group", group_index=3)')
case('opt_at_apply', 'add.s(2, 2).set(priority=1, queue="lo")',
     'sig.apply_async(priority=9, countdown=30, headers={"x": 1}, shadow="s", task_id="my-id")')
case('opt_many', 'add.s(2, 2).set(queue="hi", priority=3, countdown=5, expires=60, time_limit=10, '
     'soft_time_limit=5, shadow="s", headers={"x": 1}, ignore_result=True, foo="bar")')
case('freeze', '(c := add.s(2, 2), c.freeze("my-id"), c)[-1]')
case('freeze_generated_id', '(c := add.s(2, 2), c.freeze(), c)[-1]')
case('freeze_all', '(c := add.s(2, 2), c.freeze("my-id", group_id="g", chord=tsum.s(), root_id="r", parent_id="p", '
     'group_index=2), c)[-1]')

# ---- callbacks -----------------------------------------------------------
case('link', '(c := add.s(2, 2), c.link(mul.s(8)), c)[-1]')
case('link_two', '(c := add.s(2, 2), c.link(mul.s(8)), c.link(double.s()), c)[-1]')
case('link_same_twice', '(c := add.s(2, 2), c.link(mul.s(8)), c.link(mul.s(8)), c)[-1]')
case('link_nested', '(c := add.s(2, 2), m := mul.s(8), m.link(double.s()), c.link(m), c)[-1]')
case('link_immutable', '(c := add.s(2, 2), c.link(noop.si()), c)[-1]')
case('link_option_bare', 'add.s(2, 2).set(link=mul.s(8))')
case('link_option_list', 'add.s(2, 2).set(link=[mul.s(8), double.s()])')
case('link_at_apply', '(c := add.s(2, 2), c.link(mul.s(8)), c)[-1]', 'sig.apply_async(link=double.s())')
case('link_chain', '(c := add.s(2, 2), c.link(mul.s(8) | double.s()), c)[-1]')
case('link_group', '(c := add.s(2, 2), c.link(group(mul.s(8), double.s())), c)[-1]')
case('link_chord', '(c := add.s(2, 2), c.link(chord([mul.s(8), double.s()], tsum.s())), c)[-1]')
case('link_error', '(c := fail.s("x"), c.link_error(on_error.s()), c)[-1]')
case('link_error_two', '(c := fail.s("x"), c.link_error(on_error.s()), c.link_error(noop.si()), c)[-1]')
case('on_error', 'fail.s("x").on_error(on_error.s())')
case('link_and_link_error', '(c := add.s(2, 2), c.link(mul.s(8)), c.link_error(on_error.s()), c)[-1]')
case('link_of_chain', '(c := add.s(2, 2) | mul.s(8), c.link(double.s()), c)[-1]')
case('link_of_chain_at_apply', 'add.s(2, 2) | mul.s(8)', 'sig.apply_async(link=double.s(), link_error=on_error.s())')
case('link_error_of_chain', '(c := add.s(2, 2) | mul.s(8) | fail.s(), c.link_error(on_error.s()), c)[-1]')
case('on_error_of_chain', 'chain(add.s(2, 2), mul.s(8)).on_error(on_error.s())')
case('link_of_chain_then_or', '((c := add.s(2, 2) | mul.s(8), c.link(noop.si()), c.link_error(on_error.s()), c)[-1]) '
     '| double.s()')
case('chain_into_linked_chain', 'add.s(1, 1) | (c := add.s(2) | mul.s(8), c.link(noop.si()), '
     'c.link_error(on_error.s()), c)[-1]')
case('link_of_group', '(c := group(add.s(1, 1), add.s(2, 2)), c.link(noop.s()), c)[-1]')
case('link_error_of_group', '(c := group(add.s(1, 1), add.s(2, 2)), c.link_error(on_error.s()), c)[-1]')
case('link_of_chord', '(c := chord([add.s(1, 1), add.s(2, 2)], tsum.s()), c.link(double.s()), c)[-1]')
case('link_error_of_chord', '(c := chord([add.s(1, 1), add.s(2, 2)], tsum.s()), c.link_error(on_error.s()), c)[-1]')
case('link_error_of_chord_with_header', '(c := chord([add.s(1, 1), add.s(2, 2)], tsum.s()), '
     'c.link_error(on_error.s()), c)[-1]', task_allow_error_cb_on_chord_header=True)
case('link_error_of_nested_chord', '(c := chord([add.s(1, 1), chord([add.s(2, 2)], tsum.s())], tsum.s()), '
     'c.link_error(on_error.s()), c)[-1]')
case('link_of_chord_at_apply', 'chord([add.s(1, 1), add.s(2, 2)], tsum.s())',
     'sig.apply_async(link=double.s(), link_error=on_error.s())')
case('link_of_chord_group_body_at_apply', 'chord([add.s(1, 1), add.s(2, 2)], group(tsum.s(), tsum.s()))',
     'sig.apply_async(link=double.s(), link_error=on_error.s())')
case('link_error_of_chain_with_chord', '(c := add.s(1, 1) | group(add.s(2), add.s(3)) | tsum.s() | double.s(), '
     'c.link_error(on_error.s()), c)[-1]')

# ---- chain ---------------------------------------------------------------
case('chain_empty', 'chain()')
case('chain_empty_list', 'chain([])')
case('chain_one', 'chain(add.s(2, 2))')
case('chain_one_list', 'chain([add.s(2, 2)])')
case('chain_add_mul', 'chain(add.s(2, 2), mul.s(8))')
case('chain_or', 'add.s(2, 2) | mul.s(8)')
case('chain_three_or', 'add.s(2, 2) | mul.s(8) | double.s()')
case('chain_five', 'chain(add.s(1, 1), add.s(2), mul.s(3), double.s(), identity.s())')
case('chain_list', 'chain([add.s(2, 2), mul.s(8)])')
case('chain_generator', 'chain(add.s(i) for i in range(3))', 'sig.apply_async((10,))')
case('chain_immutable', 'chain(add.si(1, 1), add.si(2, 2), noop.si())')
case('chain_partial', 'chain(add.s(2), mul.s(8))', 'sig.apply_async((10,), {"z": 1})')
case('chain_delay', 'chain(add.s(2), mul.s(8))', 'sig.delay(10)')
case('chain_or_chain', '(add.s(1, 1) | mul.s(2)) | (add.s(3) | double.s())')
case('task_or_chain', 'add.s(1, 1) | (mul.s(2) | add.s(3))')
case('chain_of_chains', 'chain(chain(add.s(1, 1), mul.s(2)), chain(add.s(3), double.s()))')
case('chain_with_empty_chain', 'chain(add.s(1, 1), chain(), mul.s(2))')
case('chain_or_empty_chain', 'add.s(1, 1) | chain()')
case('chain_step_options', 'chain(add.s(1, 1).set(queue="a"), mul.s(2).set(queue="b", countdown=3), double.s())')
case('chain_options', '(add.s(1, 1) | mul.s(2)).set(queue="hi", priority=4, task_id="last-id")')
case('chain_apply_options', 'add.s(1, 1) | mul.s(2)',
     'sig.apply_async(queue="hi", countdown=5, task_id="last-id", root_id="r", parent_id="p")')
# A chain's or group's clone() loses the arguments: from_dict() ignores them.
case('chain_clone', '(add.s(1, 1) | mul.s(2)).clone((5,), priority=2)')
case('chain_freeze', '(c := add.s(1, 1) | mul.s(2) | double.s(), c.freeze("my-id"), c)[-1]')
case('chain_links_inside', 'chain((c := add.s(1, 1), c.link(noop.si()), c)[-1], mul.s(2).on_error(on_error.s()))')
case('chain_from_dict', 'signature(dict(add.s(1, 1) | mul.s(2)), app=app)')

# ---- group ---------------------------------------------------------------
case('group_empty', 'group()')
case('group_empty_list', 'group([])')
case('group_one', 'group(add.s(2, 2))')
case('group_one_list', 'group([add.s(2, 2)])')
case('group_two', 'group(add.s(2, 2), add.s(4, 4))')
case('group_list', 'group([add.s(2, 2), mul.s(4, 4), identity.s(5)])')
case('group_generator', 'group(add.s(i, i) for i in range(3))')
case('group_partial', 'group(add.s(2), mul.si(4, 4), double.s())', 'sig.apply_async((10,))')
case('group_options', 'group(add.s(2, 2), add.s(4, 4)).set(queue="hi", priority=3)')
case('group_apply_options', 'group(add.s(2, 2), add.s(4, 4).set(queue="own"))',
     'sig.apply_async(queue="hi", countdown=5, task_id="my-group")')
case('group_nested', 'group(group(add.s(1, 1), add.s(2, 2)), add.s(3, 3))')
case('group_nested_middle', 'group(add.s(1, 1), group(add.s(2, 2), group(add.s(3, 3), add.s(4, 4))), add.s(5, 5))')
case('group_of_group', 'group(group(add.s(1, 1), add.s(2, 2)))')
case('group_of_chains', 'group(add.s(1, 1) | mul.s(2), add.s(3, 3) | mul.s(4))')
case('group_with_chain_ending_in_group', 'group(add.s(1, 1) | group(add.s(2), add.s(3)), add.s(4, 4))')
case('group_of_one_chain_ending_in_group', 'group([add.s(1, 1) | group(add.s(2), add.s(3))])')
case('group_with_chord', 'group(chord([add.s(1, 1), add.s(2, 2)], tsum.s()), add.s(3, 3))')
case('group_with_empty_chain', 'group(add.s(1, 1), chain(), add.s(2, 2))')
case('group_skew', 'group(add.s(i, i) for i in range(3)).skew(start=1, step=2)')
case('group_freeze', '(c := group(add.s(1, 1), group(add.s(2, 2), add.s(3, 3))), c.freeze(), c)[-1]')
case('group_set_immutable', 'group(add.s(1, 1), add.s(2, 2)).set(immutable=True)', 'sig.apply_async((9,))')
case('group_from_dict', 'signature(dict(group(add.s(1, 1), add.s(2, 2))), app=app)')

# ---- compositions with groups --------------------------------------------
case('task_or_group', 'add.s(1, 1) | group(add.s(2), add.s(3))')
case('task_or_group_of_one', 'add.s(1, 1) | group(add.s(2))')
case('task_or_empty_group', 'add.s(1, 1) | group()')
case('chain_or_empty_group', 'add.s(1, 1) | mul.s(2) | group()')
case('group_or_task', 'group(add.s(1, 1), add.s(2, 2)) | tsum.s()')
case('group_of_one_or_task', 'group(add.s(1, 1)) | identity.s()')
case('empty_group_or_task', 'group() | tsum.s()')
case('group_or_group', 'group(add.s(1, 1), add.s(2, 2)) | group(tsum.s(), identity.s())')
case('group_or_group_of_one', 'group(add.s(1, 1), add.s(2, 2)) | group(tsum.s())')
case('group_or_empty_group', 'group(add.s(1, 1), add.s(2, 2)) | group()')
case('group_or_chain', 'group(add.s(1, 1), add.s(2, 2)) | (tsum.s() | double.s())')
case('group_or_task_or_task', 'group(add.s(1, 1), add.s(2, 2)) | tsum.s() | double.s()')
case('group_or_task_or_group', 'group(add.s(1, 1), add.s(2, 2)) | tsum.s() | group(add.s(3), add.s(4))')
case('group_or_task_or_group_or_task',
     'group(add.s(1, 1), add.s(2, 2)) | tsum.s() | group(add.s(3), add.s(4)) | tsum.s()')
case('group_or_group_or_task', 'group(add.s(1, 1), add.s(2, 2)) | group(tsum.s(), tsum.s()) | tsum.s()')
case('task_or_group_or_task', 'add.s(1, 1) | group(add.s(2), add.s(3)) | tsum.s()')
case('task_or_group_or_task_or_task', 'add.s(1, 1) | group(add.s(2), add.s(3)) | tsum.s() | double.s()')
case('task_or_group_or_group', 'add.s(1, 1) | group(add.s(2), add.s(3)) | group(tsum.s(), identity.s())')
case('task_or_group_or_task_or_group_or_task',
     'add.s(1, 1) | group(add.s(2), add.s(3)) | tsum.s() | group(add.s(4), add.s(5)) | tsum.s()')
case('chain_group_first', 'chain(group(add.s(1, 1), add.s(2, 2)), tsum.s())')
case('chain_empty_group_first', 'chain(group(), add.s(1, 1))')
case('chain_empty_group_first_partial', 'chain(group(), add.s(1))', 'sig.apply_async((5,))')
case('chain_empty_group_middle', 'chain(add.s(1, 1), group(), mul.s(2))')
case('chain_only_empty_group', 'chain([group()])')
case('chain_group_middle', 'chain(add.s(1, 1), group(add.s(2), add.s(3)), tsum.s())')
case('chain_two_groups_middle', 'chain(add.s(1, 1), group(add.s(2), add.s(3)), group(tsum.s(), tsum.s()), tsum.s())')
case('chain_ending_in_group_in_chain', 'chain(add.s(1, 1), chain(mul.s(2), group(add.s(3), add.s(4))), tsum.s())')
case('group_or_task_immutable', 'group(add.si(1, 1), add.si(2, 2)) | noop.si()')
case('group_of_groups_or_task', 'group(group(add.s(1, 1), add.s(2, 2)), add.s(3, 3)) | tsum.s()')
case('group_of_chains_or_task', 'group(add.s(1, 1) | mul.s(2), add.s(3, 3) | mul.s(4)) | tsum.s()')
case('group_generator_or_task', 'group(add.s(i, i) for i in range(3)) | tsum.s()')

# ---- chord ---------------------------------------------------------------
case('chord', 'chord([add.s(1, 1), add.s(2, 2)], tsum.s())')
case('chord_call', 'chord([add.s(1, 1), add.s(2, 2)])', 'sig(tsum.s())')
case('chord_header_group', 'chord(group(add.s(1, 1), add.s(2, 2)), tsum.s())')
case('chord_header_generator', 'chord((add.s(i, i) for i in range(3)), tsum.s())')
case('chord_header_one', 'chord([add.s(1, 1)], tsum.s())')
case('chord_header_task', 'chord(add.s(1, 1), tsum.s())')
case('chord_header_chain', 'chord(add.s(1, 1) | mul.s(2), tsum.s())', None)  # see below
case('chord_header_chain_in_list', 'chord([add.s(1, 1) | mul.s(2), add.s(3, 3)], tsum.s())')
case('chord_header_chain_ending_in_group', 'chord([add.s(1, 1) | group(add.s(2), add.s(3)), add.s(4, 4)], tsum.s())')
case('chord_header_nested_group', 'chord([group(add.s(1, 1), add.s(2, 2)), add.s(3, 3)], tsum.s())')
case('chord_header_ignores_results', 'chord([noop.si(), noop.si()], noop.si())')
case('chord_header_ignores_results_option',
     'chord([add.si(1, 1).set(ignore_result=True), add.si(2, 2)], identity.s())')
case('chord_empty_header', 'chord([], tsum.s())')
case('chord_empty_header_group', 'chord(group(), identity.s())')
case('chord_immutable_body', 'chord([add.s(1, 1), add.s(2, 2)], add.si(5, 5))')
case('chord_partial', 'chord([add.s(1), add.s(2)], tsum.s())', 'sig.apply_async((10,))')
case('chord_task_id', 'chord([add.s(1, 1), add.s(2, 2)], tsum.s())', 'sig.apply_async(task_id="body-id")')
case('chord_countdown', 'chord([add.s(1, 1), add.s(2, 2)], tsum.s())', 'sig.apply_async(countdown=10)')
case('chord_eta', 'chord([add.s(1, 1), add.s(2, 2)], tsum.s()).set(eta=T0 + timedelta(hours=1))')
case('chord_options', 'chord([add.s(1, 1), add.s(2, 2)], tsum.s()).set(queue="hi", priority=3)')
case('chord_apply_options', 'chord([add.s(1, 1), add.s(2, 2)], tsum.s())', 'sig.apply_async(queue="hi", priority=3)')
case('chord_body_options', 'chord([add.s(1, 1), add.s(2, 2)], tsum.s().set(queue="hi", countdown=5))')
case('chord_body_group', 'chord([add.s(1, 1), add.s(2, 2)], group(tsum.s(), identity.s()))')
case('chord_body_chain', 'chord([add.s(1, 1), add.s(2, 2)], tsum.s() | double.s())')
case('chord_body_chain_ending_in_group',
     'chord([add.s(1, 1), add.s(2, 2)], tsum.s() | group(add.s(3), add.s(4)))')
case('chord_body_chord', 'chord([add.s(1, 1), add.s(2, 2)], chord([tsum.s(), tsum.s()], tsum.s()))')
case('chord_or_task', 'chord([add.s(1, 1), add.s(2, 2)], tsum.s()) | double.s()')
case('chord_or_task_or_task', 'chord([add.s(1, 1), add.s(2, 2)], tsum.s()) | double.s() | identity.s()')
case('chord_or_group', 'chord([add.s(1, 1), add.s(2, 2)], tsum.s()) | group(add.s(3), add.s(4))')
case('chord_or_group_of_one', 'chord([add.s(1, 1), add.s(2, 2)], tsum.s()) | group(add.s(3))')
case('chord_or_chain', 'chord([add.s(1, 1), add.s(2, 2)], tsum.s()) | (double.s() | identity.s())')
case('chord_or_chord', 'chord([add.s(1, 1), add.s(2, 2)], tsum.s()) | chord([add.s(3), add.s(4)], tsum.s())')
case('task_or_chord', 'add.s(1, 1) | chord([add.s(2), add.s(3)], tsum.s())')
case('chain_of_chords', 'chain(chord([add.s(1, 1), add.s(2, 2)], tsum.s()), chord([add.s(3), add.s(4)], tsum.s()))')
case('chain_with_three_chords', 'chain(add.s(1, 1), chord([add.s(2), add.s(3)], tsum.s()), '
     'chord([add.s(4), add.s(5)], tsum.s()), chord([add.s(6), add.s(7)], tsum.s()), double.s())')
case('chord_in_chord_header', 'chord([chord([add.s(1, 1), add.s(2, 2)], tsum.s()), add.s(3, 3)], tsum.s())')
case('chord_in_chain_in_chord',
     'chord([add.s(1, 1), chain(add.s(2, 2), chord([add.s(3), add.s(4)], tsum.s()), identity.s())], tsum.s())')
case('chord_group_body_in_chord_header',
     'chord([chord([add.s(1, 1), add.s(2, 2)], group(tsum.s(), tsum.s())), add.s(3, 3)], identity.s())')
case('chord_three_levels',
     'chord([chord([chord([add.s(1, 1)], tsum.s()), add.s(2, 2)], tsum.s()), add.s(3, 3)], tsum.s())')
case('chord_freeze', '(c := chord([add.s(1, 1), add.s(2, 2)], tsum.s()), c.freeze("my-id"), c)[-1]')
case('chord_set_immutable', 'chord([add.s(1, 1), add.s(2, 2)], tsum.s()).set(immutable=True)',
     'sig.apply_async((9,))')
case('chord_clone', 'chord([add.s(1), add.s(2)], tsum.s()).clone((5,), priority=2)')
case('chord_from_dict', 'signature(dict(chord([add.s(1, 1), add.s(2, 2)], tsum.s())), app=app)')
# chord(chain, body) takes the chain apart, and runs its steps in parallel;
# mul.s(2) then lacks an argument, which the client's typing check rejects (so
# chord_header_chain has no messages).  The same shape that can be applied:
case('chord_header_chain_complete', 'chord(add.s(1, 1) | mul.s(2, 2), tsum.s())')

# ---- map, starmap, chunks ------------------------------------------------
case('map', 'double.map([1, 2, 3])')
case('map_range', 'double.map(range(3))')
case('map_options', 'double.map([1, 2]).set(queue="hi")')
case('starmap', 'add.starmap([(1, 2), (3, 4)])')
case('starmap_zip', 'add.starmap(zip(range(3), range(3)))')
case('map_in_chain', 'double.map([1, 2]) | tsum.s()')
case('chunks', 'add.chunks([(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)], 2)')
case('chunks_group', 'add.chunks([(1, 1), (2, 2), (3, 3)], 2).group()')
case('chunks_apply_options', 'add.chunks(zip(range(3), range(3)), 2)', 'sig.apply_async(queue="hi")')

# ---- stamps --------------------------------------------------------------
case('stamp_task', 'add.s(2, 2).stamp(foo="bar")')
case('stamp_task_list', 'add.s(2, 2).stamp(foo=["bar", "baz"])')
case('stamp_task_two', 'add.s(2, 2).stamp(foo="bar", num=5)')
case('stamp_task_twice', 'add.s(2, 2).stamp(foo="bar").stamp(foo="baz")')
case('stamp_task_append', 'add.s(2, 2).stamp(foo="bar").stamp(append_stamps=True, foo="baz")')
case('stamp_visitor', 'add.s(2, 2).stamp(visitor=HeaderVisitor())')
case('stamp_link', '(c := add.s(2, 2), c.link(mul.s(8)), c.link_error(on_error.s()), c.stamp(foo="bar"), c)[-1]')
case('stamp_chain', '(c := add.s(2, 2) | mul.s(8), c.stamp(foo="bar"), c)[-1]')
case('stamp_chain_visitor', '(c := add.s(2, 2) | mul.s(8), c.stamp(visitor=HeaderVisitor()), c)[-1]')
case('stamp_group', '(c := group(add.s(2, 2), add.s(4, 4)), c.stamp(foo="bar"), c)[-1]')
case('stamp_chord', '(c := chord([add.s(1, 1), add.s(2, 2)], tsum.s()), c.stamp(foo="bar"), c)[-1]')
case('stamp_chord_visitor', '(c := chord([add.s(1, 1), add.s(2, 2)], tsum.s()), '
     'c.stamp(visitor=HeaderVisitor()), c)[-1]')
case('stamp_and_headers', 'add.s(2, 2).set(headers={"x": 1}).stamp(foo="bar")')
case('stamp_header_option_kept', 'add.s(2, 2).stamp(foo="bar")', 'sig.apply_async(foo="other")')

# ---- values --------------------------------------------------------------
# NaN and infinities are left out: Python writes them as NaN and Infinity,
# which is not JSON, so the golden files could not be read.
case('arg_unicode', r'identity.s("na\u00efve \u2014 \u65e5\u672c\u8a9e \U0001f680 \x00\x1f\x7f\u2028")')
case('arg_unicode_kwarg', 'identity.s(x={"ключ": "значение"})')
case('arg_quotes', '''fail.s("it's", 'say "hi"', "both ' and \\"", "back\\\\slash", "tab\\tline\\n")''')
case('arg_float', 'fail.s(1.5, 0.1, -0.0, 1.0, 1e100, 1e16, 1e15, 1e-7, 0.0001, 5e-324, 1.7976931348623157e308)')
case('arg_null_bool', 'fail.s(None, True, False, "", 0)')
case('arg_nested', 'identity.s({"a": [1, 2, {"b": None, "c": [True, [1.5, "x"]]}], "d": {}, "e": [], "f": ()})')
case('arg_tuple', 'fail.s((1, 2), (3,), [4])')
case('arg_deep', 'identity.s([[[[[[1]]]]]])')
case('arg_dict_keys', 'identity.s({1: "int", 1.5: "float", True: "bool", None: "none", "s": "str"})')
case('arg_large_int', 'fail.s(2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -2**63, -2**63 - 1, 10**40)')
case('arg_datetime', 'identity.s(datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc))')
case('arg_datetime_naive', 'identity.s(datetime(2026, 1, 2, 3, 4, 5))')
case('arg_date_time', 'fail.s(date(2026, 1, 2), time(3, 4, 5), time(3, 4, 5, 6, tzinfo=timezone.utc))')
case('arg_decimal_uuid', 'fail.s(Decimal("1.50"), UUID("12345678-1234-4234-8234-123456789abc"))')
case('arg_bytes', 'fail.s(b"text", b"\\xff\\xfe\\x00", b"")')
case('arg_signature', 'identity.s(add.s(1, 2))')
case('arg_type_marker_lookalike', 'identity.s({"__type__": "datetime", "other": 1})')
case('arg_long_string', 'identity.s("x" * 3000)')
case('arg_long_list', 'tsum.s(list(range(400)))')
case('arg_long_kwargs', 'identity.s(x={"key%03d" % i: i for i in range(200)})')
case('arg_long_unicode', 'identity.s("\u65e5" * 2000)')
case('arg_many_strings', 'fail.s(*["item-%03d" % i for i in range(200)])')

# --------------------------------------------------------------------------
# Step 5: result documents
# --------------------------------------------------------------------------

TRACEBACK = ('Traceback (most recent call last):\n  File "tasks.py", line 1, in fail\n'
             "    raise ValueError('deliberate', 42)\nValueError: ('deliberate', 42)\n")


class ExpectedException(Exception):
    """Stands for the class of that name in Celery's own test suite."""


ExpectedException.__module__ = 't.integration.tasks'


class Outer:
    class Inner(Exception):
        """Its qualified name has a dot."""


Outer.Inner.__module__ = 't.integration.tasks'


class NotJson:
    def __repr__(self):
        return '<NotJson>'


def request(children=(), **fields):
    """A task request as the worker would have it."""
    context = Context({'id': 'task-id', 'task': 'tasks.add', 'args': [2, 2],
                       'kwargs': {'z': None}, 'hostname': 'w1@golden', 'retries': 0,
                       'delivery_info': {'exchange': '', 'routing_key': 'celery',
                                         'priority': 0, 'redelivered': False},
                       'called_directly': False, **fields})
    context.children.extend(children)
    return context


def capture_results():
    """Documents as BaseKeyValueStoreBackend stores them; Redis inherits it.

    The route is the worker's own: mark_as_* -> store_result ->
    _get_result_meta -> encode -> set.
    """
    entries = []

    def record(name, store, *, extended=False):
        backend = MemoryBackend(app=app)
        app.conf.result_extended = extended
        try:
            store(backend)
        finally:
            app.conf.result_extended = False
        (value,) = backend.store.values()
        entries.append({'name': name, 'meta': stdjson.loads(value)})

    def success(name, value, req=None, **kwargs):
        record(name, lambda b: b.mark_as_done('task-id', value, request=req), **kwargs)

    def failure(name, exc, req=None, traceback=TRACEBACK, **kwargs):
        # A chord's body id is stored by fail_from_current_stack, without a
        # request: children is null there.
        record(name, lambda b: b.mark_as_failure(
            'task-id', exc, traceback=traceback, request=req), **kwargs)

    child = app.AsyncResult('child-id')
    child_group = app.GroupResult('group-id', [app.AsyncResult('m1'), app.AsyncResult('m2')])
    grandchild = app.AsyncResult('grandchild-id', parent=app.AsyncResult('parent-id'))

    success('success', 4, request())
    success('success_no_request', 4)
    success('success_none', None, request())
    success('success_nested', {'a': [1, 2.5, None, True], 'ключ': 'значение'}, request())
    success('success_tuple', (1, (2, 3)), request())
    success('success_datetime', T0, request())
    success('success_bytes', b'abc', request())
    success('success_large_int', 2**64, request())
    success('success_async_result', grandchild, request())
    success('success_group_result', child_group, request())
    success('success_children', 4, request(children=[child]))
    success('success_children_group', 4, request(children=[child, child_group, grandchild]))
    success('success_group_id', 4, request(group='group-id'))
    success('success_parent_id', 4, request(parent_id='parent-id', root_id='root-id'))
    success('success_group_and_parent', 4, request(group='group-id', parent_id='parent-id'))
    failure('failure', ValueError('deliberate', 42), request())
    failure('failure_no_traceback', ValueError('deliberate', 42), request(), traceback=None)
    failure('failure_no_args', KeyError(), request())
    failure('failure_unserialisable_args', ValueError('x', NotJson(), 1), request())
    failure('failure_chord_error', ChordError(
        "Dependency 00000000-0000-4000-8000-000000000001 raised ValueError('deliberate', 42)"))
    failure('failure_custom_class', ExpectedException('message', 1), request())
    failure('failure_nested_class', Outer.Inner('message'), request())
    failure('failure_group_and_parent', ValueError('x'), request(group='group-id', parent_id='parent-id'))
    failure('failure_time_limit', TimeLimitExceeded(1), request(), traceback=None)
    failure('failure_soft_time_limit', SoftTimeLimitExceeded(), request())
    failure('failure_worker_lost', WorkerLostError('Worker exited prematurely: signal 9 (SIGKILL) Job: 0.'), request())
    failure('failure_not_registered', NotRegistered('tasks.missing'), request())
    record('retry', lambda b: b.mark_as_retry(
        'task-id', ValueError('deliberate', 42), TRACEBACK, request=request(
            children=[app.AsyncResult('task-id')])))
    record('retry_without_cause', lambda b: b.mark_as_retry('task-id', None, TRACEBACK, request=request()))
    record('started', lambda b: b.store_result(
        'task-id', {'pid': 123, 'hostname': 'w1@golden'}, 'STARTED', request=request()))
    record('started_no_request', lambda b: b.mark_as_started('task-id', pid=123, hostname='w1@golden'))
    record('revoked', lambda b: b.mark_as_revoked('task-id', 'revoked', request=request()))
    record('revoked_expired', lambda b: b.mark_as_revoked('task-id', 'expired', request=request()))
    record('revoked_terminated', lambda b: b.mark_as_revoked('task-id', 'terminated', request=request()))
    # As the worker's remote control command "revoke" does.
    record('revoked_no_request', lambda b: b.mark_as_revoked('task-id', 'revoked'))
    record('custom_state', lambda b: b.store_result(
        'task-id', {'done': 1, 'total': 2}, 'PROGRESS', request=request()))
    success('extended_success', 4, request(), extended=True)
    success('extended_success_all', 4, request(
        children=[child], group='group-id', parent_id='parent-id', retries=2,
        stamps={'foo': 'bar'}, stamped_headers=['foo']), extended=True)
    success('extended_success_no_request', 4, extended=True)
    success('extended_no_delivery_info', 4, request(delivery_info=None), extended=True)
    failure('extended_failure', ValueError('deliberate', 42), request(), extended=True)
    record('extended_revoked', lambda b: b.mark_as_revoked('task-id', 'revoked', request=request()), extended=True)
    # Not a task meta: the document under celery-taskset-meta-<group id>.
    record('taskset', lambda b: b.save_group('group-id', child_group))
    record('taskset_nested', lambda b: b.save_group('outer-id', app.GroupResult(
        'outer-id', [child, child_group, grandchild])))
    return entries


# --------------------------------------------------------------------------
# Step 6: run
# --------------------------------------------------------------------------

def plain(obj):
    """What a reader without Celery gets from Celery's JSON of ``obj``."""
    return stdjson.loads(kombu_json.dumps(obj))


def evaluate(expr):
    """A fresh canvas from its text, with the ids starting again at 1."""
    next_id.n = next_delivery_tag.n = 0
    published.clear()
    return eval(expr, dict(NAMESPACE))  # the text comes from this file


def capture_canvases():
    signatures, messages, seen = [], [], set()
    for name, expr, apply, conf in CASES:
        assert name not in seen, name
        seen.add(name)
        head = {'name': name, 'expr': expr}
        defaults = {key: app.conf[key] for key in conf}
        app.conf.update(conf)
        try:
            # Once to look at it, and once more to apply: serialising reads
            # the generators in a canvas, and could so change what is sent.
            tail = {'conf': conf} if conf else {}
            signatures.append({**head, 'signature': plain(evaluate(expr)), **tail})
            if apply is None:
                continue
            sig = evaluate(expr)
            result = eval(apply, dict(NAMESPACE, sig=sig))
            if apply != APPLY:
                tail = {'apply': apply, **tail}
            messages.append({
                **head,
                'messages': list(published),
                'result': None if result is None else plain(result.as_tuple()),
                **tail,
            })
        except Exception as exc:
            raise RuntimeError(f'canvas {name}: {expr}') from exc
        finally:
            app.conf.update(defaults)
    return signatures, messages


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--out', type=Path, default=HERE, help='folder to write to')
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    signatures, messages = capture_canvases()
    files = {'signatures.json': signatures, 'messages.json': messages,
             'results.json': capture_results()}
    for name, entries in files.items():
        text = stdjson.dumps(entries, indent=1, allow_nan=False)
        (out / name).write_text(text + '\n', encoding='ascii')
        print(f'{out / name}: {len(entries)} entries')


if __name__ == '__main__':
    main()
