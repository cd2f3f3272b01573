"""Measurements: `python -m bench`. Not tests: nothing here passes or fails."""

import odradek.client as _before_grpc  # noqa: F401  it chooses gRPC's event engine
