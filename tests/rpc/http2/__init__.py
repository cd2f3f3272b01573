"""The transport: its pure core, against real gRPC, against hostile peers."""
