"""Measurements: `python -m bench`. Not tests: nothing here passes or fails."""
