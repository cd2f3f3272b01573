"""The quick start without asyncio. Start a cluster first: `odradek dev`."""

from odradek.client import serdes
from odradek.client.blocking import Client


def main() -> None:
    """Create a topic, produce, consume."""
    with Client("localhost:7070") as client:
        client.admin.create_topic("orders", partitions=3, exist_ok=True)
        with client.producer(key=serdes.string, value=serdes.json) as producer:
            ack = producer.send("orders", key="customer-1", value={"item": "spool", "count": 2})
            print(ack.partition, ack.offset)
        with client.consumer(
            "orders", group="warehouse", key=serdes.string, value=serdes.json
        ) as consumer:
            for record in consumer:
                print(record.key, record.value)
                break


if __name__ == "__main__":
    main()
