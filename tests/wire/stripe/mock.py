"""Starts stripe-stateful-mock, a fake of Stripe that others wrote, and looks into it. `server.js` adds faults to it."""

import json
import subprocess
import threading
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlencode, urlsplit

from tests.wire.packages import NODE, install

__all__ = ["KEY", "Fault", "StripeMock"]

KEY = "sk_test_wire"
HERE = Path(__file__).parent
Fault = Literal["429", "500", "500_after", "hang_after", "drop_after"]
"""What befalls a refund: an error instead of it, or an error, silence or a broken connection after it was made."""


class StripeMock:
    """A running mock that takes `KEY`. Use it as a context manager.

    Attributes:
        url: where it listens.
    """

    def __init__(self) -> None:
        self.url = ""
        self._drain: threading.Thread | None = None

    def __enter__(self) -> Self:
        install(HERE)
        command = [NODE, HERE / "server.js"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self._process.stdout
        said: list[str] = []
        for line in self._process.stdout:
            said.append(line)
            if "listening on" in line:
                self.url = line.split()[-1]
                break
        if not self.url:
            self.__exit__()
            raise RuntimeError(f"stripe-stateful-mock didn't start:\n{''.join(said)}")
        # A full pipe would stop it.
        self._drain = threading.Thread(target=self._process.stdout.read, daemon=True)
        self._drain.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with self._process:  # waits, and closes the pipe
            if self._drain:
                self._drain.join()

    def call(self, method: str, path: str, body: str = "") -> Any:
        """The parsed answer to a request.

        Raises:
            RuntimeError: it was refused.
        """
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=10)
        try:
            fields = {"authorization": f"Bearer {KEY}", "content-type": "application/x-www-form-urlencoded"}
            connection.request(method, path, body, fields)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {text}")
        return json.loads(text) if text else None

    def post(self, path: str, /, **fields: str | int) -> Any:
        """The object that a POST under `/v1/` made; `metadata__x` is written `metadata[x]`."""
        form = {name.replace("__", "[", 1) + "]" * ("__" in name): value for name, value in fields.items()}
        return self.call("POST", f"/v1/{path}", urlencode(form))

    def charge(self, amount: int = 4900, *, source: str = "tok_visa", **fields: str | int) -> str:
        """The id of a new charge in dollars."""
        return self.post("charges", amount=amount, currency="usd", source=source, **fields)["id"]

    def refunds(self, charge: str) -> list[dict[str, Any]]:
        """The refunds of a charge, as the mock lists them."""
        return self.call("GET", f"/v1/refunds?charge={charge}")["data"]

    def fail(self, *faults: Fault) -> None:
        """What befalls the next refunds, one after the other; nothing clears it."""
        self.call("POST", "/control/faults", json.dumps(faults))

    def answer(self, path: str, body: object) -> None:
        """Answer a GET of `path` with `body`, for what the mock doesn't know, such as invoices."""
        self.call("POST", f"/control{path}", json.dumps(body))

    def asked(self, key: str) -> list[dict[str, Any]]:
        """The calls that came with this idempotency key; `replayed` tells those that were answered from memory."""
        return [call for call in self.call("GET", "/control/asked") if call["key"] == key]
