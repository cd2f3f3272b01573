"""House rules, kept by tests."""
