"""Systems behind an OpenAI-compatible HTTP interface, with a page to try them on.

One thread makes all answers, a token of each in turn; the event loop only reads and writes. What is served comes from outside:
this room knows the protocols of `core`, no model and no run.
"""

from softguard.serving.app import create_app
from softguard.serving.served import Limits, Served
from softguard.serving.server import Address, serve

__all__ = ["Address", "Limits", "Served", "create_app", "serve"]
