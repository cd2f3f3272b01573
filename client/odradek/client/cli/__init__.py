"""The command `odradek`: everything a person does to a cluster from a terminal."""
