"""Odradek's controller."""
