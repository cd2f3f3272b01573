"""Odradek's client."""
