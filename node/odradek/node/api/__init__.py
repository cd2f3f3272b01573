"""One module per gRPC service: translate, call, translate."""
