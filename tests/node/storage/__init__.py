"""Tests of where batches live."""
