"""The command `odradek` in processes of its own, as a shell runs it."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from typing import Any

from tests.cluster.traffic import DEADLINE_S

COMMAND = [sys.executable, "-m", "odradek.client.cli.main"]


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        """The words of each line of its tables, headings included, rules left out."""
        lines = (line.split() for line in self.out.splitlines())
        return [words for words in lines if words and not set("".join(words)) <= {"─"}]


class Shell:
    """Runs `odradek` against one cluster."""

    def __init__(self, bootstrap: str) -> None:
        self._environment = {**os.environ, "ODRADEK_BOOTSTRAP": bootstrap, "COLUMNS": "200"}

    async def __call__(self, *arguments: str, stdin: bytes = b"") -> Ended:
        process = await self.start(*arguments)
        out, err = await asyncio.wait_for(process.communicate(stdin), DEADLINE_S)
        assert process.returncode is not None
        return Ended(process.returncode, out.decode(), err.decode())

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *COMMAND,
            *arguments,
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
