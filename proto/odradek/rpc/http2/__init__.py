"""gRPC over HTTP/2 on asyncio, made for a broker's long-lived streams; speaks with any other gRPC.

From below: `frames`, `streams`, `sender`, `connection` and `status` are pure; `wire` ties one
connection to a socket; `channel` calls, `server` is called.
"""
