"""A topic's name together with the types of its records."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from odradek.client.serdes import Serde

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True, eq=False)
class Topic(Generic[K, V]):
    """Made by `Client.topic`; producers and consumers take it wherever they take a name.

    Attributes:
        name: The topic's name.
        key: Serde of the keys.
        value: Serde of the values.
    """

    name: str
    key: Serde[K]
    value: Serde[V]
