"""How administrative calls reach a node: any live one, retried elsewhere while that can help."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import grpc

from odradek.client.cluster.connections import Connection, unary
from odradek.client.cluster.scope import Scope
from odradek.client.errors import NodesUnreachableError
from odradek.protocol.errors import BrokerError, OdradekError
from odradek.rpc.backoff import delays

Q = TypeVar("Q")
A = TypeVar("A")

_INT32_MAX: Final = 2**31 - 1


class AdminCalls:
    """One client's."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def any_node(
        self,
        method: Callable[[Connection], grpc.aio.UnaryUnaryMultiCallable[Q, A]],
        request: Q,
        *,
        what: str,
    ) -> tuple[A, bool]:
        """Ask one node after the other until one answers.

        Returns:
            The answer, and whether an attempt before it may have taken effect unheard.

        Raises:
            BrokerError: The first that is not retriable.
            NodesUnreachableError: Time is over; says what was met last.
        """
        self._scope.check()
        last: OdradekError | None = None
        timeout_s = self._scope.options.operation_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                for pause_s in delays(self._scope.chance):
                    for address in self._scope.metadata.addresses():
                        try:
                            connection = self._scope.connections.to(address)
                            answer = await unary(
                                method(connection),
                                request,
                                timeout_s=self._scope.options.request_timeout_s,
                            )
                        except OdradekError as error:
                            if not error.retriable:
                                raise
                            last = error
                            self._scope.metadata.suspect()
                        else:
                            return answer, last is not None
                    await asyncio.sleep(pause_s)
        except TimeoutError:
            pass
        raise NodesUnreachableError(
            f"cannot {what}: no node did within {timeout_s:g} s; last: {last}",
            field="operation_timeout_s",
            value=timeout_s,
        ) from last

    async def see(self, version: int) -> None:
        """Wait until this client's own metadata holds a change."""
        await self._scope.metadata.at_least(
            version, timeout_s=self._scope.options.operation_timeout_s
        )


def int32(value: int, *, field: str, refusal: type[BrokerError]) -> int:
    """Return an argument that fits into a request; whether it makes sense, the cluster judges.

    Raises:
        BrokerError: The `refusal`, which is what the cluster would say; nothing was sent.
    """
    if abs(value) > _INT32_MAX:
        raise refusal(
            f"{field} is {value}, not in 0..{_INT32_MAX}",
            field=field,
            value=value,
            limit=f"0..{_INT32_MAX}",
        )
    return value


def raise_first(errors: Iterable[OdradekError]) -> None:
    """Raise the first of some errors, if there is one."""
    for error in errors:
        raise error
