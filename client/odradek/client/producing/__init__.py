"""From a record to its acknowledgement: batches, requests, retries. `Producer` is its face."""
