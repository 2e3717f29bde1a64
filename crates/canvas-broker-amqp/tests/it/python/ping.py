"""Pings the workers as Celery's remote control does, and prints who answers."""

import json
import sys

from celery import Celery

app = Celery("app", broker=sys.argv[1])
print(json.dumps(app.control.ping(timeout=5, limit=1)))
