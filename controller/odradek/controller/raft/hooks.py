"""The one place where pysyncobj's module is adjusted, and the list of what we rely on in it.

Problem: pysyncobj reads its clock, journal and poller from module globals, and its methods are
private. Idea: replace the four globals here; name every private attribute that `core` overrides or
reads, so that a test can prove each present, with its signature, in the pinned version.
"""

from collections.abc import Callable

from pysyncobj import syncobj

PINNED_VERSION = "0.3.17"

OVERRIDDEN = {
    "_SyncObj__connectedToAnyone": (),
    "_SyncObj__doApplyCommand": ("command",),
    "_SyncObj__generateRaftTimeout": (),
    "_SyncObj__loadDumpFile": ("clearJournal",),
    "_SyncObj__onBecomeLeader": (),
    "_SyncObj__onMessageReceived": ("node", "message"),
    "_SyncObj__onNodeDisconnected": ("node",),
    "_SyncObj__sendAppendEntries": (),
    "_SyncObj__sendNextNodeIdx": ("node", "reset", "nextNodeIdx", "success"),
    "_SyncObj__setCurrentTerm": ("term", "votedForNodeId"),
    "_SyncObj__setState": ("newState",),
    "_SyncObj__tryLogCompaction": (),
    "_applyCommand": ("command", "callback", "commandType"),
    "_checkCommandsToApply": (),
}
"""Methods we override: name -> parameters after self."""

CALLED = {
    "_SyncObj__getCurrentLogIndex": (),
    "_SyncObj__getCurrentLogTerm": (),
    "_SyncObj__onNodeConnected": ("node",),
    "doTick": ("timeToWait",),
}
"""Methods we call: name -> parameters after self."""

ATTRIBUTES = (
    "_SyncObj__commandsWaitingCommit",
    "_SyncObj__connectedNodes",
    "_SyncObj__lastResponseTime",
    "_SyncObj__needLoadDumpFile",
    "_SyncObj__newAppendEntriesTime",
    "_SyncObj__noopIDx",
    "_SyncObj__otherNodes",
    "_SyncObj__raftCommitIndex",
    "_SyncObj__raftCurrentTerm",
    "_SyncObj__raftElectionDeadline",
    "_SyncObj__raftLastApplied",
    "_SyncObj__raftLeader",
    "_SyncObj__raftLog",
    "_SyncObj__raftMatchIndex",
    "_SyncObj__raftState",
    "_SyncObj__serializer",
    "_SyncObj__transport",
    "_SyncObj__votedForNodeId",
)
"""Instance attributes we read or write."""

GLOBALS = ("createJournal", "createPoller", "monotonicTime", "PIPE_NOTIFIER_ENABLED")
"""Module globals we replace."""


class _NullPoller:
    """Our transport has no sockets in pysyncobj's poller."""

    def poll(self, _timeout_s: float) -> None:
        """Return at once."""


def _journal_itself(journal: object) -> object:
    return journal


def _null_poller(_kind: str) -> _NullPoller:
    return _NullPoller()


def install(clock: Callable[[], float]) -> None:
    """Adjust pysyncobj's module; the clock is the process's, or a simulation's."""
    syncobj.createJournal = _journal_itself  # the configuration carries the journal as its "file"
    syncobj.createPoller = _null_poller
    syncobj.monotonicTime = clock
    syncobj.PIPE_NOTIFIER_ENABLED = False  # it would leak two descriptors
