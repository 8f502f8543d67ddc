"""`remit ARGS` in a process of its own, forked from one that has imported it all: the tests type hundreds of commands, and
what a start costs is imports. Plain starts of the command stay where a test is about them, and in blocks of shell."""

import functools
import importlib
import io
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path

__all__ = ["LOADED", "remit"]

LOADED = ("remit.cli", "remit.apps", "remit.replay", "remit.history", "worker")
TIMEOUT_SECONDS = 120


def remit(args: Sequence[str], cwd: Path, env: Mapping[str, str]) -> tuple[int, str, str]:
    """Its exit code, negative for a signal, and what it printed on stdout and stderr."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        child = _nursery().Process(target=_main, args=(tuple(args), str(cwd), dict(env), str(out), str(err)), daemon=True)
        child.start()
        child.join(TIMEOUT_SECONDS)
        if child.exitcode is None:
            child.kill()
            child.join()
            raise TimeoutError(f"`remit {' '.join(args)}` took more than {TIMEOUT_SECONDS} s")
        return child.exitcode, _said(out), _said(err)


def _said(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else ""


@functools.cache
def _nursery() -> ForkServerContext:
    found = multiprocessing.get_context("forkserver")
    # With `DyingWorker`'s, for a test process has one such server.
    found.set_forkserver_preload([*LOADED, "tests.guarantees.dying"])
    return found


def _main(args: Sequence[str], cwd: str, env: Mapping[str, str], out: str, err: str) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
        os.dup2(file, number)
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8", write_through=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), encoding="utf-8", write_through=True)
    sys.argv = ["remit", *args]
    importlib.import_module("remit.cli").main()
