"""Tests of the node's api."""
