"""How programs speak gRPC: channels, servers, TLS, backoff. The only builder of either end."""
