"""Tests of the node's cluster."""
