"""Has kombu restore what is overdue, and prints how long the queue is then."""

import sys

from kombu import Connection

url, queue, *prefix = sys.argv[1:]
options = {"global_keyprefix": prefix[0]} if prefix else {}
with Connection(url, transport_options=options) as connection:
    channel = connection.channel()
    channel.qos.restore_visible(num=None, interval=1)
    print(channel._size(queue))
