"""Tests of odradek.program."""
