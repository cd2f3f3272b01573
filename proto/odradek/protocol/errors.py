"""The errors every program raises: one exception per code of `error.proto`.

Problem: a caller must know three facts about a failure (may I retry, must I refresh metadata, which
field was wrong) without parsing text. Idea: they are facts of the class. Errors travel as
`odradek.v1.Error` inside responses and are rebuilt as the same class on the other side.

Invariant: `error_class` knows every code of the contract; an unknown one (a newer peer) becomes a
fatal `UnknownServerError` that keeps the number.

Source: Apache Kafka's Errors table; retriable and invalid-metadata are its notions.
"""

from typing import Any, ClassVar

from odradek.v1 import error_pb2


class OdradekError(Exception):
    """The root of everything Odradek raises.

    Attributes:
        message: One sentence for a person.
        field: The request's field at fault, dotted; empty when no single one is.
        value: The value found there.
        limit: The limit it broke.
        suggestions: Near names, when the value named something unknown.
    """

    retriable: ClassVar[bool] = False
    refreshes_metadata: ClassVar[bool] = False

    def __init__(
        self,
        message: str = "",
        *,
        field: str = "",
        value: object = "",
        limit: object = "",
        suggestions: tuple[str, ...] = (),
    ) -> None:
        self.message = message or (type(self).__doc__ or type(self).__name__)
        self.field = field
        self.value = str(value)
        self.limit = str(limit)
        self.suggestions = suggestions
        super().__init__(self.message)

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive a process pool, whatever arguments a subclass takes."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(
    kind: type[OdradekError], args: tuple[str, ...], attributes: dict[str, Any]
) -> OdradekError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class BrokerError(OdradekError):
    """An error with a code in the contract: it can travel."""

    code: ClassVar[error_pb2.ErrorCode.ValueType] = error_pb2.ERROR_CODE_UNKNOWN_SERVER_ERROR
    # The code as a peer sent it; differs from the class's only for codes newer than this release.
    received_code: int | None = None


class UnknownServerError(BrokerError):
    """The server met an error it cannot name; its log has the cause."""

    code = error_pb2.ERROR_CODE_UNKNOWN_SERVER_ERROR


class OffsetOutOfRangeError(BrokerError):
    """The offset lies below the log start, or beyond an end its epoch proves never was."""

    code = error_pb2.ERROR_CODE_OFFSET_OUT_OF_RANGE


class CorruptMessageError(BrokerError):
    """A batch failed its CRC, is truncated, or has an impossible header."""

    code = error_pb2.ERROR_CODE_CORRUPT_MESSAGE
    retriable = True


class UnknownTopicOrPartitionError(BrokerError):
    """This cluster has no such topic, or the topic no such partition."""

    code = error_pb2.ERROR_CODE_UNKNOWN_TOPIC_OR_PARTITION
    refreshes_metadata = True


class LeaderNotAvailableError(BrokerError):
    """The partition has no leader at the moment."""

    code = error_pb2.ERROR_CODE_LEADER_NOT_AVAILABLE
    retriable = True
    refreshes_metadata = True


class NotLeaderOrFollowerError(BrokerError):
    """This node does not lead (or does not host) the partition."""

    code = error_pb2.ERROR_CODE_NOT_LEADER_OR_FOLLOWER
    retriable = True
    refreshes_metadata = True


class RequestTimedOutError(BrokerError):
    """The request was not finished within its deadline; its outcome is unknown."""

    code = error_pb2.ERROR_CODE_REQUEST_TIMED_OUT
    retriable = True


class ReplicaNotAvailableError(BrokerError):
    """The replica is not available on this node."""

    code = error_pb2.ERROR_CODE_REPLICA_NOT_AVAILABLE
    retriable = True
    refreshes_metadata = True


class RecordTooLargeError(BrokerError):
    """The batch is larger than the topic's max.message.bytes."""

    code = error_pb2.ERROR_CODE_RECORD_TOO_LARGE


class CoordinatorLoadInProgressError(BrokerError):
    """The coordinator is still replaying its internal partition."""

    code = error_pb2.ERROR_CODE_COORDINATOR_LOAD_IN_PROGRESS
    retriable = True


class CoordinatorNotAvailableError(BrokerError):
    """The internal partition of this group has no leader at the moment."""

    code = error_pb2.ERROR_CODE_COORDINATOR_NOT_AVAILABLE
    retriable = True
    refreshes_metadata = True


class NotCoordinatorError(BrokerError):
    """Another node coordinates this group."""

    code = error_pb2.ERROR_CODE_NOT_COORDINATOR
    retriable = True
    refreshes_metadata = True


class InvalidTopicError(BrokerError):
    """The topic name is illegal, or the topic is internal."""

    code = error_pb2.ERROR_CODE_INVALID_TOPIC


class NotEnoughReplicasError(BrokerError):
    """Fewer in-sync replicas than min.insync.replicas; nothing was appended."""

    code = error_pb2.ERROR_CODE_NOT_ENOUGH_REPLICAS
    retriable = True
    refreshes_metadata = True


class NotEnoughReplicasAfterAppendError(BrokerError):
    """Fewer in-sync replicas than min.insync.replicas; the batch was appended all the same."""

    code = error_pb2.ERROR_CODE_NOT_ENOUGH_REPLICAS_AFTER_APPEND
    retriable = True
    refreshes_metadata = True


class InvalidGroupIdError(BrokerError):
    """The group name is illegal."""

    code = error_pb2.ERROR_CODE_INVALID_GROUP_ID


class UnknownMemberIdError(BrokerError):
    """The group has no such member: it left, or its session expired."""

    code = error_pb2.ERROR_CODE_UNKNOWN_MEMBER_ID


class InvalidTimestampError(BrokerError):
    """A timestamp lies too far in the future."""

    code = error_pb2.ERROR_CODE_INVALID_TIMESTAMP


class TopicAlreadyExistsError(BrokerError):
    """A topic of this name exists."""

    code = error_pb2.ERROR_CODE_TOPIC_ALREADY_EXISTS


class InvalidPartitionsError(BrokerError):
    """The partition count is out of bounds, or smaller than the present one."""

    code = error_pb2.ERROR_CODE_INVALID_PARTITIONS


class InvalidReplicationFactorError(BrokerError):
    """The replication factor cannot be satisfied."""

    code = error_pb2.ERROR_CODE_INVALID_REPLICATION_FACTOR


class InvalidReplicaAssignmentError(BrokerError):
    """The replica assignment names unknown or repeated nodes."""

    code = error_pb2.ERROR_CODE_INVALID_REPLICA_ASSIGNMENT


class InvalidConfigError(BrokerError):
    """A configuration key is unknown or its value is out of bounds."""

    code = error_pb2.ERROR_CODE_INVALID_CONFIG


class NotControllerError(BrokerError):
    """This controller is not the active one."""

    code = error_pb2.ERROR_CODE_NOT_CONTROLLER
    retriable = True
    refreshes_metadata = True


class InvalidRequestError(BrokerError):
    """The request contradicts itself or breaks a limit."""

    code = error_pb2.ERROR_CODE_INVALID_REQUEST


class UnsupportedForMessageFormatError(BrokerError):
    """The batch's magic is not 2."""

    code = error_pb2.ERROR_CODE_UNSUPPORTED_FOR_MESSAGE_FORMAT


class OutOfOrderSequenceNumberError(BrokerError):
    """A producer's sequence has a gap."""

    code = error_pb2.ERROR_CODE_OUT_OF_ORDER_SEQUENCE_NUMBER


class DuplicateSequenceNumberError(BrokerError):
    """The batch was appended before, at an offset no longer known."""

    code = error_pb2.ERROR_CODE_DUPLICATE_SEQUENCE_NUMBER


class InvalidProducerEpochError(BrokerError):
    """A newer producer with this id has fenced this one."""

    code = error_pb2.ERROR_CODE_INVALID_PRODUCER_EPOCH


class InvalidTxnStateError(BrokerError):
    """The transaction is not in a state that allows this."""

    code = error_pb2.ERROR_CODE_INVALID_TXN_STATE


class InvalidProducerIdMappingError(BrokerError):
    """The producer id does not belong to this transactional id."""

    code = error_pb2.ERROR_CODE_INVALID_PRODUCER_ID_MAPPING


class InvalidTransactionTimeoutError(BrokerError):
    """The transaction time-out is out of bounds."""

    code = error_pb2.ERROR_CODE_INVALID_TRANSACTION_TIMEOUT


class ConcurrentTransactionsError(BrokerError):
    """The previous transaction is still being completed."""

    code = error_pb2.ERROR_CODE_CONCURRENT_TRANSACTIONS
    retriable = True


class TransactionCoordinatorFencedError(BrokerError):
    """A newer transaction coordinator has taken over."""

    code = error_pb2.ERROR_CODE_TRANSACTION_COORDINATOR_FENCED


class StorageError(BrokerError):
    """The node's disk failed."""

    code = error_pb2.ERROR_CODE_STORAGE_ERROR
    retriable = True
    refreshes_metadata = True


class UnknownProducerIdError(BrokerError):
    """The node holds no state for this producer id."""

    code = error_pb2.ERROR_CODE_UNKNOWN_PRODUCER_ID


class ReassignmentInProgressError(BrokerError):
    """The partition is being reassigned."""

    code = error_pb2.ERROR_CODE_REASSIGNMENT_IN_PROGRESS


class NonEmptyGroupError(BrokerError):
    """The group still has members."""

    code = error_pb2.ERROR_CODE_NON_EMPTY_GROUP


class GroupIdNotFoundError(BrokerError):
    """This cluster has no such group."""

    code = error_pb2.ERROR_CODE_GROUP_ID_NOT_FOUND


class FencedLeaderEpochError(BrokerError):
    """The request carries an older leader epoch than the node's."""

    code = error_pb2.ERROR_CODE_FENCED_LEADER_EPOCH
    retriable = True
    refreshes_metadata = True


class UnknownLeaderEpochError(BrokerError):
    """The request carries a newer leader epoch than the node's."""

    code = error_pb2.ERROR_CODE_UNKNOWN_LEADER_EPOCH
    retriable = True


class UnsupportedCompressionTypeError(BrokerError):
    """The batch names a codec this node does not know."""

    code = error_pb2.ERROR_CODE_UNSUPPORTED_COMPRESSION_TYPE


class StaleBrokerEpochError(BrokerError):
    """The node has registered again since; this is an older incarnation."""

    code = error_pb2.ERROR_CODE_STALE_BROKER_EPOCH


class OffsetNotAvailableError(BrokerError):
    """The new leader's high watermark has not reached its epoch's start yet."""

    code = error_pb2.ERROR_CODE_OFFSET_NOT_AVAILABLE
    retriable = True


class FencedInstanceIdError(BrokerError):
    """Another member joined with this instance id."""

    code = error_pb2.ERROR_CODE_FENCED_INSTANCE_ID


class EligibleLeadersNotAvailableError(BrokerError):
    """No eligible replica is alive to be elected."""

    code = error_pb2.ERROR_CODE_ELIGIBLE_LEADERS_NOT_AVAILABLE
    retriable = True
    refreshes_metadata = True


class ElectionNotNeededError(BrokerError):
    """The preferred replica leads already."""

    code = error_pb2.ERROR_CODE_ELECTION_NOT_NEEDED


class InvalidRecordError(BrokerError):
    """A record breaks a rule of its topic."""

    code = error_pb2.ERROR_CODE_INVALID_RECORD


class UnstableOffsetCommitError(BrokerError):
    """A transaction that commits these offsets is still open."""

    code = error_pb2.ERROR_CODE_UNSTABLE_OFFSET_COMMIT
    retriable = True


class ThrottledError(BrokerError):
    """The node's bound on uncommitted bytes is reached; wait and send again."""

    code = error_pb2.ERROR_CODE_THROTTLED
    retriable = True


class ProducerFencedError(BrokerError):
    """A newer producer with this transactional id has fenced this one."""

    code = error_pb2.ERROR_CODE_PRODUCER_FENCED


class InvalidUpdateVersionError(BrokerError):
    """A compare-and-set on the partition epoch failed."""

    code = error_pb2.ERROR_CODE_INVALID_UPDATE_VERSION


class UnknownTopicIdError(BrokerError):
    """No topic has this id: it was deleted, or is not known here yet."""

    code = error_pb2.ERROR_CODE_UNKNOWN_TOPIC_ID
    retriable = True
    refreshes_metadata = True


class DuplicateNodeRegistrationError(BrokerError):
    """Another data directory is registered under this node id."""

    code = error_pb2.ERROR_CODE_DUPLICATE_NODE_REGISTRATION


class NodeIdNotRegisteredError(BrokerError):
    """No node is registered under this id."""

    code = error_pb2.ERROR_CODE_NODE_ID_NOT_REGISTERED


class InconsistentTopicIdError(BrokerError):
    """The topic's name and id do not belong together: it was re-created."""

    code = error_pb2.ERROR_CODE_INCONSISTENT_TOPIC_ID
    retriable = True
    refreshes_metadata = True


class InconsistentClusterIdError(BrokerError):
    """The data directory, or the peer, belongs to another cluster."""

    code = error_pb2.ERROR_CODE_INCONSISTENT_CLUSTER_ID


class IneligibleReplicaError(BrokerError):
    """A proposed in-sync replica is fenced or has restarted since."""

    code = error_pb2.ERROR_CODE_INELIGIBLE_REPLICA


class FencedMemberEpochError(BrokerError):
    """The member was fenced; it must join again with epoch 0."""

    code = error_pb2.ERROR_CODE_FENCED_MEMBER_EPOCH


class UnreleasedInstanceIdError(BrokerError):
    """The instance id is held by a live member."""

    code = error_pb2.ERROR_CODE_UNRELEASED_INSTANCE_ID


class UnsupportedAssignorError(BrokerError):
    """The assignor is unknown."""

    code = error_pb2.ERROR_CODE_UNSUPPORTED_ASSIGNOR


class StaleMemberEpochError(BrokerError):
    """The member epoch is older than the assignment; take the next assignment first."""

    code = error_pb2.ERROR_CODE_STALE_MEMBER_EPOCH
    retriable = True


class StorageFullError(BrokerError):
    """The node's disk reserve is reached; reads go on, writes resume when room is made."""

    code = error_pb2.ERROR_CODE_STORAGE_FULL
    retriable = True


class OutcomeUnknownError(BrokerError):
    """The active controller changed during the request; it may or may not have taken effect."""

    code = error_pb2.ERROR_CODE_OUTCOME_UNKNOWN
    retriable = True
    refreshes_metadata = True


class NodeShuttingDownError(BrokerError):
    """The node is stopping; another one will take over."""

    code = error_pb2.ERROR_CODE_NODE_SHUTTING_DOWN
    retriable = True
    refreshes_metadata = True


class GroupMaxSizeReachedError(BrokerError):
    """The group is full."""

    code = error_pb2.ERROR_CODE_GROUP_MAX_SIZE_REACHED


_CLASS_BY_CODE: dict[int, type[BrokerError]] = {
    cls.code: cls for cls in BrokerError.__subclasses__()
}


def error_class(code: int) -> type[BrokerError]:
    """Return the class of a code; `UnknownServerError` for one this release does not know."""
    return _CLASS_BY_CODE.get(code, UnknownServerError)


def error_from_proto(error: error_pb2.Error) -> BrokerError:
    """Rebuild the exception a peer sent."""
    rebuilt = error_class(error.code)(
        error.message,
        field=error.field,
        value=error.value,
        limit=error.limit,
        suggestions=tuple(error.suggestions),
    )
    rebuilt.received_code = error.code
    return rebuilt


def error_to_proto(error: BrokerError) -> error_pb2.Error:
    """Make the message that carries an exception to a peer."""
    return error_pb2.Error(
        code=error.code,
        message=error.message,
        field=error.field,
        value=error.value,
        limit=error.limit,
        suggestions=error.suggestions,
    )
