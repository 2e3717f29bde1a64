"""Takes messages with a kombu consumer and prints each as a line of JSON.

With `--hold` it acknowledges nothing, and waits to be killed.
"""

import json
import sys
import time

from kombu import Connection, Consumer, Queue

url, queue, count, *flags = sys.argv[1:]
options = {}
for flag in flags:
    if flag.startswith("--visibility="):
        options["visibility_timeout"] = float(flag.split("=")[1])
    if flag.startswith("--prefix="):
        options["global_keyprefix"] = flag.split("=")[1]
left = int(count)


def on_message(message):
    global left
    left -= 1
    print(
        json.dumps(
            {
                "body": message.body if isinstance(message.body, str) else message.body.decode(),
                "content_type": message.content_type,
                "content_encoding": message.content_encoding,
                "headers": message.headers,
                "properties": {
                    key: value
                    for key, value in message.properties.items()
                    if key not in ("delivery_tag", "body_encoding")
                },
            }
        ),
        flush=True,
    )
    if "--hold" not in flags:
        message.ack()


with Connection(url, transport_options=options) as connection:
    channel = connection.channel()
    with Consumer(channel, [Queue(queue, channel=channel)], on_message=on_message, prefetch_count=10):
        deadline = time.time() + 30
        while left > 0 and time.time() < deadline:
            try:
                connection.drain_events(timeout=1)
            except TimeoutError:
                pass
    while "--hold" in flags:
        time.sleep(1)
