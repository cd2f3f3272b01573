"""Odradek's SDK for programs without asyncio: the names of `odradek.client`, without `await`.

with Client("localhost:7070") as client: ...
"""

from odradek.client import serdes
from odradek.client.blocking.admin import Admin
from odradek.client.blocking.client import Client
from odradek.client.blocking.consumer import Consumer
from odradek.client.blocking.producer import Delivery, Producer

__all__ = ["Admin", "Client", "Consumer", "Delivery", "Producer", "serdes"]
