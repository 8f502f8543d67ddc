"""Starts oidc-provider, the OpenID Connect server that others wrote, and logs in to it as a browser would."""

import json
import re
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urljoin

import httpx2

from tests.wire.packages import NODE, install

__all__ = ["CLIENT", "ROLES", "SECRET", "WORKER", "OidcServer"]

HERE = Path(__file__).parent
CLIENT, WORKER, SECRET = "remit-cli", "remit-worker", "a secret: with+odd%letters"
ROLES: Mapping[str, tuple[str, ...]] = {
    "ana": ("refund-approver", "support-lead"),
    "bo": ("refund-approver",),
    "cleo": ("support-lead",),
    "sam": (),
}


class OidcServer:
    """A running server with the people of `ROLES`. Use it as a context manager.

    Attributes:
        url: the issuer.
    """

    def __init__(self) -> None:
        self.url = ""
        self._drain: threading.Thread | None = None

    def __enter__(self) -> Self:
        install(HERE)
        self._process = subprocess.Popen(
            [NODE, HERE / "server.js"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self._process.stdout
        said: list[str] = []
        for line in self._process.stdout:
            said.append(line)
            if "listening on" in line:
                self.url = line.split()[-1]
                break
        if not self.url:
            self.__exit__()
            raise RuntimeError(f"oidc-provider didn't start:\n{''.join(said)}")
        # A full pipe would stop it.
        self._drain = threading.Thread(target=self._process.stdout.read, daemon=True)
        self._drain.start()
        self.reset()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with self._process:  # waits, and closes the pipe
            if self._drain:
                self._drain.join()

    def _control(self, what: str, **given: object) -> Any:
        answer = httpx2.post(f"{self.url}/control/{what}", json=given)
        return json.loads(answer.raise_for_status().text)

    def reset(self) -> None:
        """The people as they were, one new RSA key, and everything reachable."""
        self.reach(True)
        self.rotate()
        self.device_nonce(False)
        for name, roles in ROLES.items():
            self.person(name, roles=roles)

    def person(self, name: str, *, verified: bool | None = True, **claims: object) -> None:
        """Who logs in as `name`, with these claims."""
        email = {"email": f"{name}@example.com", "name": name.title()}
        told = {} if verified is None else {"email_verified": verified}
        self._control("person", name=name, claims={**email, **told, **claims})

    def rotate(self, alg: str = "RS256", *, keep: bool = False, lifetimes: Mapping[str, int] | None = None) -> None:
        """Sign with a new key; without `keep`, the old one is published no more. Sessions end."""
        self._control("rotate", alg=alg, keep=keep, lifetimes=lifetimes or {})

    def reach(self, reachable: bool) -> None:
        """Whether the server answers, or breaks connections off."""
        self._control("away", away=not reachable)

    def device_nonce(self, carried: bool) -> None:
        """Whether an ID token of the device flow has the nonce that was asked for."""
        self._control("device", nonce=carried)

    def keys_asked(self) -> int:
        """How often the published keys were fetched so far."""
        return self._control("asked")

    def private_keys(self) -> list[dict[str, Any]]:
        """The signing keys, newest first, for tokens that the server itself would never issue."""
        return self._control("keys")

    def log_in(self, address: str, name: str) -> httpx2.Response:
        """Open `address`, say who you are, and follow to where the server sends the browser at the end."""
        with httpx2.Client(follow_redirects=True, timeout=30) as browser:
            page = browser.get(address)
            return browser.post(str(page.url), data={"name": name})

    def type_code(self, address: str, code: str, name: str) -> httpx2.Response:
        """Type a code of the device flow, confirm it, and say who you are."""
        with httpx2.Client(follow_redirects=True, timeout=30) as browser:
            page = browser.get(address)
            for extra in ({}, {"confirm": "yes"}):
                (xsrf,) = re.findall(r'name="xsrf" value="([^"]+)"', page.text)
                (action,) = re.findall(r'action="([^"]+)"', page.text)
                page = browser.post(urljoin(str(page.url), action), data={"xsrf": xsrf, "user_code": code, **extra})
            return browser.post(str(page.url), data={"name": name})
