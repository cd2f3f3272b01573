"""What this node does for the consumer groups it coordinates.

The controller owns memberships and assignments; this package owns liveness and committed offsets.
A group is coordinated by the node that leads its partition of `__consumer_offsets`.

    coordination  every partition led here; what the node's composition root feeds and runs
    groups        the shell of one partition: performs what the pure modules decide
    members       pure: frames and silence -> proposals; the word of the controller -> replies
    sessions      pure: who is alive
    outbox        pure: what waits for the controller, debounced and bounded
    offset_log    the partition itself: replay, then batched appends
    offsets       pure: committed offsets, which commits are valid, what retention removes
    records       pure: keys and values of the log
    boundaries    what is asked of the rest of the node

A join travels: frame -> members -> outbox -> controller -> feed (`on_groups`) -> members -> reply.
A commit travels: check_committer, accept_commit -> offset_log -> committed -> offsets -> answer.
"""
