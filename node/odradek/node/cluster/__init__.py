"""What this node knows of the cluster, and how it talks to the controllers."""
