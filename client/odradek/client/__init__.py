"""Odradek's SDK: produce to, consume from and administer a cluster.

    async with Client("localhost:7070") as client: ...

`odradek.client.blocking` has the same names without asyncio. Errors a cluster answers are in
`odradek.protocol.errors`; all errors derive from `OdradekError`.
"""

from odradek.client import serdes
from odradek.client.administration.admin import Admin
from odradek.client.administration.descriptions import (
    ClusterDescription,
    CommittedOffset,
    ConfigEntry,
    ControllerDescription,
    GroupDescription,
    GroupMemberDescription,
    GroupMemberState,
    GroupState,
    GroupSummary,
    NewTopic,
    NodeDescription,
    PartitionDescription,
    Reassignment,
    TopicDescription,
    TopicSummary,
)
from odradek.client.client import Client
from odradek.client.config import (
    Acks,
    Compression,
    ConsumerOptions,
    DeliveryGuarantee,
    Isolation,
    ProducerOptions,
)
from odradek.client.consumer import Consumer
from odradek.client.consuming.batch import Batch
from odradek.client.consuming.handler_order import OrderedBy
from odradek.client.consuming.queries import Lag
from odradek.client.errors import (
    BufferFullError,
    ClientClosedError,
    ConsumerBusyError,
    DeliveryAbandonedError,
    DeliveryFailedError,
    DeliveryTimeoutError,
    DeserializationError,
    ForkedProcessError,
    InvalidOptionsError,
    LogTruncatedError,
    NoCommittedOffsetError,
    NodesUnreachableError,
    NotAssignedError,
    PartitionerError,
    SerializationError,
    WrongEventLoopError,
)
from odradek.client.producer import Producer
from odradek.client.producing.delivery import Acknowledgements, Delivery
from odradek.client.record import Header, Headers, Record, RecordMetadata
from odradek.client.serdes import Serde
from odradek.client.topic import Topic
from odradek.protocol.errors import BrokerError, OdradekError
from odradek.protocol.types import TopicPartition
from odradek.rpc.tls import TlsOptions

__all__ = [
    "Acknowledgements",
    "Acks",
    "Admin",
    "Batch",
    "BrokerError",
    "BufferFullError",
    "Client",
    "ClientClosedError",
    "ClusterDescription",
    "CommittedOffset",
    "Compression",
    "ConfigEntry",
    "Consumer",
    "ConsumerBusyError",
    "ConsumerOptions",
    "ControllerDescription",
    "Delivery",
    "DeliveryAbandonedError",
    "DeliveryFailedError",
    "DeliveryGuarantee",
    "DeliveryTimeoutError",
    "DeserializationError",
    "ForkedProcessError",
    "GroupDescription",
    "GroupMemberDescription",
    "GroupMemberState",
    "GroupState",
    "GroupSummary",
    "Header",
    "Headers",
    "InvalidOptionsError",
    "Isolation",
    "Lag",
    "LogTruncatedError",
    "NewTopic",
    "NoCommittedOffsetError",
    "NodeDescription",
    "NodesUnreachableError",
    "NotAssignedError",
    "OdradekError",
    "OrderedBy",
    "PartitionDescription",
    "PartitionerError",
    "Producer",
    "ProducerOptions",
    "Reassignment",
    "Record",
    "RecordMetadata",
    "Serde",
    "SerializationError",
    "TlsOptions",
    "Topic",
    "TopicDescription",
    "TopicPartition",
    "TopicSummary",
    "WrongEventLoopError",
    "serdes",
]
