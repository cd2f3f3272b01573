"""What a client knows of the cluster and how it talks to its nodes."""
