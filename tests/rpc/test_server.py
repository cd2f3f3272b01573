"""What a caller sees of the server shell: typed errors, health, limits, a refused second server."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from odradek.protocol.errors import (
    InvalidPartitionsError,
    InvalidRequestError,
    NotControllerError,
    RequestTimedOutError,
    UnknownServerError,
)
from odradek.rpc.channels import ConnectionLostError, error_from_rpc, open_channel
from odradek.rpc.errors import ERROR_METADATA_KEY
from odradek.rpc.server import REQUEST_BYTES_MAX, AddressInUseError, Server
from odradek.v1 import metadata_pb2, metadata_pb2_grpc


class _Metadata(metadata_pb2_grpc.MetadataServiceServicer):
    """Raises whatever the test asks for."""

    def __init__(self, error: Exception | None = None, *, hangs: bool = False) -> None:
        self.error = error
        self.hangs = hangs

    async def GetMetadata(  # noqa: N802
        self, request: metadata_pb2.GetMetadataRequest, context: object
    ) -> metadata_pb2.GetMetadataResponse:
        if self.hangs:
            await asyncio.Event().wait()
        if self.error:
            raise self.error
        return metadata_pb2.GetMetadataResponse(cluster_id="c")

    async def WatchMetadata(  # noqa: N802
        self, request: metadata_pb2.WatchMetadataRequest, context: object
    ) -> AsyncIterator[metadata_pb2.WatchMetadataResponse]:
        yield metadata_pb2.WatchMetadataResponse(cluster_id="c")
        if self.error:
            raise self.error


class _Fixture:
    def __init__(self, servicer: _Metadata, *, connections_max: int = 100) -> None:
        self.server = Server("127.0.0.1:0", connections_max=connections_max)
        metadata_pb2_grpc.add_MetadataServiceServicer_to_server(servicer, self.server.grpc)

    async def __aenter__(self) -> Self:
        self.port = await self.server.start()
        self.channel = open_channel(f"127.0.0.1:{self.port}")
        self.stub = metadata_pb2_grpc.MetadataServiceStub(self.channel)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()
        await self.server.drain(0)


async def _failure(fixture: _Fixture) -> Exception:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await fixture.stub.GetMetadata(metadata_pb2.GetMetadataRequest(), timeout=5)
    return error_from_rpc(caught.value)


async def test_an_error_crosses_the_wire_as_itself() -> None:
    raised = InvalidPartitionsError(
        "0 partitions", field="partitions", value=0, limit="1..10000", suggestions=("a", "b")
    )
    async with _Fixture(_Metadata(raised)) as fixture:
        error = await _failure(fixture)
    assert type(error) is InvalidPartitionsError
    assert (error.message, error.field, error.value) == ("0 partitions", "partitions", "0")
    assert (error.limit, error.suggestions) == ("1..10000", ("a", "b"))
    assert not error.retriable


@pytest.mark.parametrize("method", ["GetMetadata", "WatchMetadata"])
async def test_what_cannot_be_decoded_is_refused_by_name(method: str) -> None:
    async with _Fixture(_Metadata()) as fixture:
        # To the wire, a call with one response is a stream of one.
        call: Any = fixture.channel.unary_stream(f"/odradek.v1.MetadataService/{method}")

        async def refusal(data: bytes) -> Exception:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(data, timeout=5).read()
            return error_from_rpc(caught.value)

        too_large = await refusal(b"\x0a\x00" * (REQUEST_BYTES_MAX // 2 + 1))
        assert isinstance(too_large, InvalidRequestError)
        assert too_large.field == "request"
        assert too_large.value == str(REQUEST_BYTES_MAX + 2)
        assert too_large.limit == str(REQUEST_BYTES_MAX)
        assert isinstance(await refusal(b"\xff"), InvalidRequestError)


async def test_an_error_ends_a_stream_after_what_was_sent() -> None:
    async with _Fixture(_Metadata(NotControllerError("ask 3"))) as fixture:
        call = fixture.stub.WatchMetadata(metadata_pb2.WatchMetadataRequest(), timeout=5)
        first = await call.read()
        assert isinstance(first, metadata_pb2.WatchMetadataResponse)
        assert first.cluster_id == "c"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    error = error_from_rpc(caught.value)
    assert isinstance(error, NotControllerError)
    assert error.retriable


async def test_a_silent_peer_is_a_time_out_and_a_dead_one_a_lost_connection() -> None:
    async with _Fixture(_Metadata(hangs=True)) as fixture:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await fixture.stub.GetMetadata(metadata_pb2.GetMetadataRequest(), timeout=0.05)
        assert isinstance(error_from_rpc(caught.value), RequestTimedOutError)
        await fixture.server.drain(0)
        assert isinstance(await _failure(fixture), ConnectionLostError)


def test_rubbish_in_place_of_an_error_is_an_unknown_error() -> None:
    rubbish = grpc.aio.AioRpcError(
        grpc.StatusCode.UNKNOWN,
        grpc.aio.Metadata(),
        grpc.aio.Metadata((ERROR_METADATA_KEY, b"\xff\xff\xff")),
        details="boom",
    )
    assert isinstance(error_from_rpc(rubbish), UnknownServerError)


async def test_health_follows_what_the_process_reports() -> None:
    async with _Fixture(_Metadata()) as fixture:
        health = health_pb2_grpc.HealthStub(fixture.channel)
        status = health_pb2.HealthCheckResponse.ServingStatus
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert answer.status == status.NOT_SERVING
        await fixture.server.health.set(serving=True)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert answer.status == status.SERVING


async def test_a_second_server_on_the_port_is_refused() -> None:
    async with _Fixture(_Metadata()) as fixture:
        second = Server(f"127.0.0.1:{fixture.port}")
        with pytest.raises(AddressInUseError, match=f"cannot listen on 127.0.0.1:{fixture.port}"):
            await second.start()
        await second.grpc.stop(0)


@pytest.fixture
async def crowded() -> AsyncIterator[_Fixture]:
    async with _Fixture(_Metadata(), connections_max=2) as fixture:
        yield fixture


async def test_connections_beyond_the_limit_leave_the_standing_ones_alone(
    crowded: _Fixture,
) -> None:
    await crowded.stub.GetMetadata(metadata_pb2.GetMetadataRequest(), timeout=5)
    second = open_channel(f"127.0.0.1:{crowded.port}")
    third = open_channel(f"127.0.0.1:{crowded.port}")
    try:
        request = metadata_pb2.GetMetadataRequest()
        await metadata_pb2_grpc.MetadataServiceStub(second).GetMetadata(request, timeout=5)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await metadata_pb2_grpc.MetadataServiceStub(third).GetMetadata(request, timeout=2)
        assert isinstance(error_from_rpc(caught.value), ConnectionLostError | RequestTimedOutError)
        await crowded.stub.GetMetadata(request, timeout=5)
    finally:
        await second.close()
        await third.close()
