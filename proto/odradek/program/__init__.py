"""What the two server programs have in common as processes: settings, log events, their end."""
