"""Settings of a Celery worker that understands references, and whose keys have
a prefix."""

imports = ("canvas_references",)
result_backend_transport_options = {"global_keyprefix": "shop"}
