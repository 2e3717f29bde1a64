"""Has Celery and kombu declare all that a worker declares, in one of the ways."""

import sys

from celery import Celery
from kombu.transport.native_delayed_delivery import (
    bind_queue_to_native_delayed_delivery_exchange,
    declare_native_delayed_delivery_exchanges_and_queues,
)

url, way = sys.argv[1:]
app = Celery("app", broker=url)
if way == "priorities":
    app.conf.task_queue_max_priority = 10
if way in ("quorum", "topic"):
    app.conf.task_default_queue_type = "quorum"
    app.conf.task_create_missing_queue_type = "quorum"
if way == "topic":
    app.conf.task_default_exchange_type = "topic"
    app.conf.task_create_missing_queue_exchange_type = "topic"
with app.connection() as connection:
    channel = connection.channel()
    queues = [app.amqp.queues["celery"], app.amqp.queues["other"]]
    for queue in queues:
        queue(channel).declare()
    if way in ("quorum", "topic"):
        declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum")
        for queue in queues:
            bind_queue_to_native_delayed_delivery_exchange(connection, queue)
    app.control.mailbox.exchange(channel).declare()
    app.events.Receiver(connection, handlers={}).exchange(channel).declare()
