"""Commands as users type them: subprocesses with their own exit codes, against a `remit dev` of the test's own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remit.settings import ROOT
from tests import forked

__all__ = ["BIN", "Answer", "Console", "DevEngine"]

BIN = Path(sys.executable).parent
FOREIGN = ("REMIT_", "TEMPORAL_", "OPENAI_", "ANTHROPIC_", "OTEL_")


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Console:
    """A terminal in a folder, with `remit` and `temporal` on its PATH and nothing of ours in its environment."""

    def __init__(self, cwd: Path, env: Mapping[str, str]) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        self.env = {**clean, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "200", **env}
        self.cwd = cwd

    def remit(self, *args: str, code: int | None = 0) -> Answer:
        """Run `remit ARGS`; its exit code must be `code`, unless that is None."""
        return self._judged(Answer(*forked.remit(args, self.cwd, self.env)), ["remit", *args], code)

    def sh(self, script: str, *, code: int | None = 0) -> Answer:
        """Run a block of shell, stopping at the first command that fails."""
        return self.run(["bash", "-euo", "pipefail", "-c", script], code=code)

    def run(self, argv: list[str], *, code: int | None = 0) -> Answer:
        found = subprocess.run(argv, cwd=self.cwd, env=self.env, capture_output=True, text=True, timeout=120, check=False)
        return self._judged(Answer(found.returncode, found.stdout, found.stderr), argv, code)

    def _judged(self, answer: Answer, argv: list[str], code: int | None) -> Answer:
        assert code is None or answer.code == code, f"{argv} ended with {answer}"
        assert "Traceback" not in answer.err
        return answer


class DevEngine:
    """A `remit dev` in the background, with an app if there is one. `build` is the version that its code passes for."""

    def __init__(self, home: Path, app: Path | None = None, env: Mapping[str, str] | None = None, build: str = "") -> None:
        self.home = home
        argv = [str(BIN / "remit"), *(["--app", str(app)] if app else []), "dev"]
        self.console = Console(ROOT, {"REMIT_HOME": str(home), "REMIT_BUILD_ID": build, **(env or {})})
        home.mkdir(parents=True, exist_ok=True)
        self.log = home / "dev.log"
        with self.log.open("ab") as out:
            self._child = subprocess.Popen(
                argv, cwd=ROOT, env=self.console.env, stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )
        end = time.monotonic() + 60
        while not (home / "dev.json").exists():
            assert self._child.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)
        self.console.env["TEMPORAL_ADDRESS"] = json.loads((home / "dev.json").read_text())["address"]

    @property
    def pid(self) -> int:
        return self._child.pid

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        with suppress(ProcessLookupError):
            self._child.terminate()
        return self._child.wait(60)
