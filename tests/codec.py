"""A `remit codec-server` as a process of its own, and Temporal's remote codec protocol as its clients speak it."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import httpx2
from google.protobuf import json_format
from temporalio.api.common.v1 import Payload, Payloads

from remit.settings import ROOT
from tests.console import BIN, Console

__all__ = ["CodecServer", "as_json", "payloads_of"]


def as_json(*payloads: Payload) -> bytes:
    """The body of a request."""
    return json_format.MessageToJson(Payloads(payloads=payloads)).encode()


def payloads_of(answer: httpx2.Response) -> list[Payload]:
    """What an answer holds."""
    assert answer.status_code == 200, answer.text
    return [*json_format.Parse(answer.text, Payloads()).payloads]


class CodecServer:
    """A running server on a free port. Use it as a context manager.

    Attributes:
        code: its exit code, after it was stopped with SIGTERM.
    """

    def __init__(self, home: Path, *, env: Mapping[str, str] | None = None, args: Sequence[str] = ()) -> None:
        self.home = home
        self._console = Console(ROOT, {"REMIT_HOME": str(home), **(env or {})})
        self._args = args
        self.url = ""
        self.code: int | None = None

    def __enter__(self) -> Self:
        with (self.home / "codec-server.log").open("wb") as log:
            self._child = subprocess.Popen(
                [BIN / "remit", "codec-server", *self._args],
                cwd=ROOT,
                env=self._console.env,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._child.stdout
        said = self._child.stdout.readline()
        assert said.startswith("Codec server: http://"), (self.home / "codec-server.log").read_text()
        self.url = said.split()[2].rstrip(",")
        return self

    def __exit__(self, *_: object) -> None:
        self._child.terminate()
        with self._child:  # waits, and closes the pipe
            self.code = self._child.wait(30)

    def ask(self, what: str, body: bytes, **headers: str) -> httpx2.Response:
        """POST `body` as the Temporal UI and CLI do; names in `headers` may have underscores for dashes."""
        sent = {"content-type": "application/json", "x-namespace": "default"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx2.post(f"{self.url}/{what}", content=body, headers=sent, timeout=30)
