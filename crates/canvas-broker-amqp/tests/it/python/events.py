"""Prints the first event that is broadcast, with its routing key."""

import json
import sys

from celery import Celery

app = Celery("app", broker=sys.argv[1])
with app.connection() as connection:

    def on_event(event):
        print(json.dumps(event), flush=True)
        receiver.should_stop = True

    receiver = app.events.Receiver(connection, handlers={"*": on_event})
    print("ready", flush=True)
    receiver.capture(limit=None, timeout=20, wakeup=False)
