"""A whole cluster as processes on this machine, for `odradek dev`, tests and demos."""
