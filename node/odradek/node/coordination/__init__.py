"""What this node does for the groups it coordinates."""
