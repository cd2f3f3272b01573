"""What this node does for the partitions it hosts."""
