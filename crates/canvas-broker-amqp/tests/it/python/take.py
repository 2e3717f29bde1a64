"""Takes the messages of a queue with kombu and prints each as a line of JSON."""

import json
import sys

from kombu import Connection

url, queue = sys.argv[1:]
with Connection(url) as connection:
    channel = connection.channel()
    while message := channel.basic_get(queue):
        message = channel.message_to_python(message)
        body = message.body if isinstance(message.body, str) else message.body.decode()
        print(
            json.dumps(
                {
                    "body": body,
                    "properties": message.properties,
                    "redelivered": message.delivery_info["redelivered"],
                }
            ),
            flush=True,
        )
        message.ack()
