"""Topics, settings, groups and the cluster, as `Client.admin` offers them."""
