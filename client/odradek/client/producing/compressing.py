"""A request whose batches are compressed off the loop.

Invariant: compressed bytes count only if the request is still asked for; meanwhile a batch may be
given up, or move on with another request.
"""

import asyncio
from collections.abc import Callable

from odradek.client.producing.produce_request import Request, encode
from odradek.client.producing.sender_settings import SenderSettings
from odradek.protocol.record_batch import Codec, compress


class Compressing:
    """One request.

    Args:
        correlation_id: Its own.
        request: Its batches are built.
        settings: The producer's.
        on_done: Called in the loop once they are compressed.
    """

    def __init__(
        self,
        correlation_id: int,
        request: Request,
        settings: SenderSettings,
        on_done: Callable[[], None],
    ) -> None:
        self._correlation_id = correlation_id
        self._request = request
        self._settings = settings
        codec = settings.codec
        batches = [attempt.batch for attempt in request.attempts]
        payloads = [(batch.data, batch.codec is Codec.NONE) for batch in batches]
        self._payloads = asyncio.get_running_loop().run_in_executor(
            settings.compressor,
            lambda: [
                bytearray(compress(data, codec)) if plain else data for data, plain in payloads
            ],
        )
        self._payloads.add_done_callback(lambda _: on_done())

    def encoded(self) -> bytes | None:
        """Return the request as it travels, once it can."""
        if not self._payloads.done():
            return None
        payloads = self._payloads.result()
        with self._settings.lock:
            for attempt, data in zip(self._request.attempts, payloads, strict=True):
                attempt.batch.on_compressed(data, self._settings.codec)
        return encode(self._correlation_id, self._request, payloads, self._settings.options)
