"""From a push to the application's hands: fetching, groups, commits. `Consumer` is its face."""
