"""Tests of odradek.protocol."""
