"""The replicated log under the controller: Raft (pysyncobj) with our own disk, wire and guards.

Problem: the controller's decisions must survive any minority of controllers, and pysyncobj's
election core is sound while its persistence, transport, pickling and apply path are not. Idea:
keep the core, replace the rest through its hooks. This package knows commands as opaque bytes and
nothing of clusters; it is the only importer of pysyncobj.

How to use it::

    log = ReplicatedLog(options, state_machine, open_channel=open_channel)
    raft_pb2_grpc.add_RaftServiceServicer_to_server(log.servicer, server)   # before server.start()
    async with log:                                 # opens the disk, starts the tick thread
        async for event in log.leadership():        # Leadership(term, is_leader, leader_id)
            if event.is_leader:
                answer = await log.propose(command, term=event.term, timeout_s=5.0)
        index = await log.barrier(timeout_s=5.0)    # linearizable reads: all before is applied

    log.term, log.is_leader, log.leader_id, log.status()

What is promised:

- `propose` returns what `StateMachine.apply` returned once the command is on the disks of a quorum
  and applied here. It raises `NotControllerError` or `ThrottledError` when the command is certainly
  not in the log, `OutcomeUnknownError` when it may or may not be (leadership lost, or time-out):
  propose it again with the same request id, and deduplicate in `apply`.
- `term=` fences: a command decided under one leadership is refused under any other, even when this
  controller leads again. Since a term has one leader, and the log keeps a leader's commands in the
  order of its `propose` calls, the term *is* the controller epoch; `BecomeController(epoch=term)`
  is the first command a controller's shell commits after `is_leader`.
- Commands are not wrapped. What makes sense only with a cluster's meaning, (controller epoch,
  sequence, request id), is checked by the state machine's `apply`.
- A leader that gives way to itself is announced: between two `is_leader` events of different
  terms there is one without it. Otherwise events may be merged; the latest always arrives.
- `apply`, `capture`, `restore` run on the tick thread, `serialize` on the snapshot thread; results
  and events arrive on the event loop, in the order in which they happened.
- `fatal` (by default: log and end the process) is called on a failed fsync, a full disk, a corrupt
  file, or an exception in the state machine. Nothing is acknowledged afterwards.
"""

from odradek.controller.raft.interface import (
    COMMAND_BYTES_MAX,
    DataDirectoryError,
    Leadership,
    RaftOptions,
    RaftStatus,
    StateMachine,
)
from odradek.controller.raft.replicated_log import ReplicatedLog

__all__ = [
    "COMMAND_BYTES_MAX",
    "DataDirectoryError",
    "Leadership",
    "RaftOptions",
    "RaftStatus",
    "ReplicatedLog",
    "StateMachine",
]
