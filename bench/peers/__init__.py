"""Other brokers beside ours, on the same machine in the same minutes: `make bench-peers`.

Problem: a figure of another broker from another machine, or from an hour ago, compares nothing;
this machine alone drifts by a factor of two. Idea: every broker runs as a child process on
loopback, with its data on the disk that ours uses, and takes its turn at each workload, round after
round.

Fairness:
- The same values in the same order, the same number of records; a broker that is still busy after
  some seconds is asked for no more, and judged by what it has acknowledged until then.
- Six partitions where a broker has the notion, six streams where it has not; one copy of the data.
- Each is used through its usual Python client, from one process with asyncio's own loop, in the way
  that the client documents for throughput: batches where the API has them, pipelining otherwise.
- A record counts as produced when the broker acknowledged it, as consumed when Python holds its
  value as `bytes`.
- "fsync" is said of a broker only where each acknowledgement waits for the disk.
- Settings that differ from the defaults are printed with the figures.
"""
