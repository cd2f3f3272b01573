"""Tests of odradek.rpc."""
