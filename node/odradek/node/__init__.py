"""Odradek's node."""
