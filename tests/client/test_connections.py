"""What a client's connections do to its process."""

import asyncio
import sys
from typing import Final

_MESSAGES: Final = """
import asyncio, resource
from odradek.client.cluster.connections import Connections

def receive_and_forget():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        messages = [bytes([number]) * (1 << 20) for number in range(4)]
        del messages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

async def main():
    connections = Connections()
    connections.to("127.0.0.1:1")
    receive_and_forget()
    print(receive_and_forget())
    await connections.close()

asyncio.run(main())
"""


async def test_memory_of_received_messages_is_used_again() -> None:
    """In a process of its own: what was freed before, elsewhere, decides too."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _MESSAGES, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        printed, _ = await process.communicate()
    # Mapped anew, 80 MiB take a page fault every 4 KiB: 20,480.
    assert int(printed) < 1_000
