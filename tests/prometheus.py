"""A real Prometheus for the tests: Debian's package, unpacked beside the virtual environment and not installed.

`python -m tests.prometheus` brings it, and is called by `make test`.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from remit.embedded import Process, free_port
from remit.settings import ROOT

__all__ = ["DEPLOY", "Prometheus", "binary"]

DEPLOY = ROOT / "deploy" / "observability"
UNPACKED = Path(sys.prefix) / "prometheus"
START_SECONDS = 60
MISSING = "Prometheus isn't here, and this machine has no Debian package of it: put `prometheus` and `promtool` on the PATH."


def _found(name: str) -> str | None:
    return shutil.which(name) or shutil.which(str(UNPACKED / "usr" / "bin" / name))


def binary(name: str) -> str:
    """The command `prometheus` or `promtool`; the test is left out, with one sentence, where they can't be had."""
    found = _found(name)
    if not found:
        pytest.skip(MISSING)
    return found


def _apt(*arguments: str, folder: Path) -> bool:
    return subprocess.run(["apt-get", "-qq", *arguments], cwd=folder, capture_output=True, check=False).returncode == 0


def bring() -> str:
    """Unpack Debian's package, unless Prometheus is here already. Returns why it can't be had; nothing when it is here.

    It takes no root: neither is anything installed, nor are the system's package lists written to.
    """
    if _found("prometheus") and _found("promtool"):
        return ""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        return MISSING
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # apt gives up root's rights for the download
        if not _apt("download", "prometheus", folder=folder):
            state = folder / "state"
            (state / "lists" / "partial").mkdir(parents=True)
            own = ("-o", f"Dir::State::Lists={state / 'lists'}", "-o", f"Dir::Cache={state}")
            if not (_apt(*own, "update", folder=folder) and _apt(*own, "download", "prometheus", folder=folder)):
                return "Debian's package `prometheus` can't be downloaded: " + MISSING
        [package] = folder.glob("prometheus_*.deb")
        subprocess.run(["dpkg", "--extract", str(package), str(UNPACKED)], check=True)
    return ""


class Prometheus:
    """Prometheus on loopback with the configuration that ships, scraping `targets` once a second."""

    def __init__(self, folder: Path, *targets: str) -> None:
        config: Any = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        for job in config["scrape_configs"]:
            job["static_configs"] = [{"targets": list(targets)}]
        shutil.copy(DEPLOY / "alerts.yml", folder)
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        self._process = Process(
            [
                binary("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=warn",
            ],
            folder / "prometheus.log",
        )
        end = time.monotonic() + START_SECONDS
        while not self._ready():
            assert self._process.running, self._process.last_words()
            assert time.monotonic() < end, "Prometheus doesn't get ready"
            time.sleep(0.1)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    def stop(self) -> None:
        self._process.stop()

    def _get(self, path: str, **parameters: str) -> Any:
        try:
            with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as got:
                found = json.load(got)
        except urllib.error.HTTPError as e:
            raise AssertionError(e.read().decode()) from None
        assert found["status"] == "success", found
        return found["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The instant vector of an expression: labels and value of each series. One that can't be parsed fails the test."""
        data = self._get("query", query=expression)
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(series["metric"], float(series["value"][1])) for series in data["result"]]

    def value(self, expression: str) -> float:
        """The sum of what an expression gives; 0 when it gives nothing."""
        return sum(value for _, value in self.query(expression))

    def until(self, expression: str, least: float = 1) -> float:
        """Wait until an expression's sum is at least `least`."""
        end = time.monotonic() + START_SECONDS
        while (found := self.value(expression)) < least:
            assert time.monotonic() < end, f"`{expression}` is {found}, and not {least}"
            time.sleep(0.2)
        return found

    def names(self) -> set[str]:
        """All metrics that were scraped."""
        return {*self._get("label/__name__/values")}

    def labels(self) -> set[str]:
        """All values of all labels of ours, and of OpenTelemetry's."""
        found: set[str] = set()
        for series in self._get("series", **{"match[]": '{__name__=~"(remit|gen_ai)_.*"}'}):
            found |= {value for name, value in series.items() if name not in ("__name__", "instance", "job")}
        return found

    def rules(self) -> dict[str, str]:
        """The health of each alert rule, by name."""
        return {rule["name"]: rule["health"] for group in self._get("rules")["groups"] for rule in group["rules"]}


if __name__ == "__main__":
    said = bring()
    if said:
        print(said, file=sys.stderr)
    # A machine without Debian's packages runs the other tests; where root and apt are, there is no excuse.
    sys.exit(1 if said and shutil.which("apt-get") and os.geteuid() == 0 else 0)
