"""Send one record and read it back. Start a cluster first: `odradek dev`."""

import asyncio

from odradek.client import Client, serdes


async def main() -> None:
    """Create a topic, produce, consume."""
    async with Client("localhost:7070") as client:
        await client.admin.create_topic("positions", partitions=6, exist_ok=True)
        async with client.producer(key=serdes.string, value=serdes.json) as producer:
            ack = await producer.send("positions", key="van-7", value={"x": 1.0, "y": 2.0})
            print(ack.partition, ack.offset)
        async with client.consumer(
            "positions", group="dashboard", key=serdes.string, value=serdes.json
        ) as consumer:
            async for record in consumer:
                print(record.key, record.value)
                break


if __name__ == "__main__":
    asyncio.run(main())
