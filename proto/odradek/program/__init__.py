"""What the two server programs have in common as processes: settings and log events."""
