"""Tests of the node's replication."""
