"""The settings of topics, as far as the controller has to obey them. Pure."""

from collections.abc import Mapping

from odradek.controller.state.elections import change
from odradek.controller.state.image import Draft
from odradek.controller.state.records import Topic, TopicSettings
from odradek.protocol.errors import InvalidConfigError
from odradek.protocol.topic_config import check_settings, parse_topic_config


def settings_of(config: Mapping[str, str]) -> TopicSettings:
    """Return settings as they are kept: canonical, in order.

    Raises:
        InvalidConfigError: Unknown keys or values out of bounds, all of them.
    """
    return tuple(sorted(check_settings(config).items()))


def check_insync(config: TopicSettings, replication: int) -> None:
    """Refuse a minimum ISR that no partition could ever have."""
    minimum = parse_topic_config(dict(config)).min_insync(replication)
    if minimum > replication > 0:
        raise InvalidConfigError(
            f"min.insync.replicas = {minimum} is more than the {replication} replicas there are:"
            " nothing could be acknowledged",
            field="config.min.insync.replicas",
            value=minimum,
            limit=replication,
        )


def adapt_insync(draft: Draft, topic: Topic, config: TopicSettings) -> None:
    """Let the ELR follow a new minimum ISR, before that is in force.

    A leader that hears of a lower minimum commits without the ELR: it must not be elected any more.
    """
    for partition in list(draft.image.partitions_of(topic)):
        change(draft, partition, partition, config=config)
