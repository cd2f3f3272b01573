"""The cluster's state and every rule that changes it. Pure.

A rule is `decide(draft, request)`: it looks at the draft's image, records what changes and returns
a reply. `ClusterImage.apply(record)` is the only mutation, the same live and on replay.
"""
