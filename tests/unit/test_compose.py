"""The production deployment is right, and its check refuses each way in which it could be wrong."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from activities.ledger.store import Ledger
from tests.compose import ROOT, problems
from tests.postgres import PostgresServer

PASSWORD = "${POSTGRES_PASSWORD:?set it to a long random value, see docs/production.md}"


def _copy(to: Path) -> Path:
    """The files of the deployment in a folder where a test may break them."""
    shutil.copytree(ROOT / "deploy", to / "deploy")
    for name in ("docker-compose.yml", "Dockerfile"):
        shutil.copy(ROOT / name, to / name)
    return to


def test_the_deployment_has_no_problems() -> None:
    """The compose file, its scripts and the Dockerfile of this repository pass every check."""
    assert problems() == []


def test_the_check_is_a_command() -> None:
    """`python -m tests.compose` succeeds and says nothing when nothing is wrong, so that `make lint` can call it."""
    ran = subprocess.run([sys.executable, "-m", "tests.compose"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("docker-compose.yml", "services:\n", "services: [\n", "`docker-compose.yml` can't be read"),
        ("docker-compose.yml", "    init: true\n", "    initt: true\n", "'initt' was unexpected"),
        ("docker-compose.yml", "    restart: unless-stopped\n    stop_grace", "    stop_grace", "restart`: Field required"),
        ("docker-compose.yml", "      temporal-namespace:\n", "      temporal-names:\n", "depends on `temporal-names`"),
        (
            "docker-compose.yml",
            "      temporal-namespace:\n        condition: service_completed_successfully\n",
            "",
            "service `temporal-namespace`: nothing waits for this one-shot job",
        ),
        (
            "docker-compose.yml",
            "      temporal-schema:\n        condition: service_completed_successfully\n",
            "      temporal-schema:\n        condition: service_started\n",
            "service `temporal`: must wait for the one-shot job `temporal-schema`",
        ),
        (
            "docker-compose.yml",
            "      postgresql:\n        condition: service_healthy\n",
            "      postgresql:\n        condition: service_completed_successfully\n",
            "waits for the end of `postgresql`, which never ends",
        ),
        (
            "docker-compose.yml",
            "      temporal-namespace:\n        condition: service_completed_successfully\n",
            "      worker:\n        condition: service_healthy\n",
            "waits until `worker` is healthy, which has no healthcheck",
        ),
        ("docker-compose.yml", "- 127.0.0.1:7233:7233", "- 7233:7233", "port `7233:7233` isn't bound to 127.0.0.1"),
        ("docker-compose.yml", "- 127.0.0.1:8080:8080", "- 0.0.0.0:8080:8080", "port `0.0.0.0:8080:8080` isn't bound"),
        ("docker-compose.yml", f"SQL_PASSWORD: {PASSWORD}", "SQL_PASSWORD: temporal", "`SQL_PASSWORD` must come from"),
        ("docker-compose.yml", f"POSTGRES_PWD: {PASSWORD}", "POSTGRES_PWD: ${P:-temporal}", "`POSTGRES_PWD` must come from"),
        ("docker-compose.yml", "//remit@postgresql", "//remit:remit@postgresql", "holds a password in its URL"),
        ("docker-compose.yml", "image: postgres:17", "image: postgres", "image `postgres` isn't pinned"),
        ("docker-compose.yml", "image: temporalio/ui:2.54.1", "image: temporalio/ui:latest", "isn't pinned to a version"),
        ("docker-compose.yml", "image: temporalio/server:1.32.0", "image: temporalio/server:1.31.0", "must have one tag"),
        ("docker-compose.yml", "    build: .\n", "", "has neither `image` nor `build`"),
        (
            "docker-compose.yml",
            "- ./deploy/temporal:",
            "- ./deploy/temporel:",
            "mounts `./deploy/temporel`, which doesn't exist",
        ),
        ("docker-compose.yml", "- remit:/var", "- ledger:/var", "volume `ledger` isn't a named volume of this file"),
        ("deploy/temporal/setup-schema.sh", "\n}\n", "\n", "`setup-schema.sh` isn't valid sh"),
        ("Dockerfile", "USER 10001:10001\n", "", "the worker runs as root"),
        ("Dockerfile", "USER 10001:10001\n", "USER root\n", "the worker runs as root"),
        ("Dockerfile", " --require-hashes", "", "pip installs without --require-hashes"),
        ("Dockerfile", "FROM python:3.11-slim", "FROM python", "base image `python` isn't pinned"),
        ("Dockerfile", "ENV PYTHON", "ENV OPENAI_API_KEY=x PYTHON", "`OPENAI_API_KEY` would keep a secret in the image"),
    ],
)
def test_a_broken_deployment_is_refused(tmp_path: Path, file: str, old: str, new: str, said: str) -> None:
    """Each way to break the deployment is named in one sentence."""
    broken = _copy(tmp_path) / file
    text = broken.read_text()
    assert old in text
    broken.write_text(text.replace(old, new))
    assert any(said in problem for problem in problems(tmp_path))


def test_the_schema_job_gives_no_password_on_a_command_line(tmp_path: Path) -> None:
    """The schema job calls the tool for both databases in order, and leaves the password to the environment."""
    calls = tmp_path / "calls"
    tool = tmp_path / "temporal-sql-tool"
    tool.write_text(f'#!/bin/sh\necho "$@" >>{calls}\n')
    tool.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SQL_HOST": "postgresql", "SQL_PASSWORD": "not-to-be-seen"}
    script = ROOT / "deploy" / "temporal" / "setup-schema.sh"
    subprocess.run(["sh", str(script)], env=environment, check=True, capture_output=True)
    schemas = "/etc/temporal/schema/postgresql/v12"
    assert calls.read_text().splitlines() == [
        "--database temporal create-database --defaultdb postgres",
        "--database temporal setup-schema --version 0.0",
        f"--database temporal update-schema --schema-dir {schemas}/temporal/versioned",
        "--database temporal_visibility create-database --defaultdb postgres",
        "--database temporal_visibility setup-schema --version 0.0",
        f"--database temporal_visibility update-schema --schema-dir {schemas}/visibility/versioned",
    ]


def test_the_namespace_job_gives_up_with_the_reason(tmp_path: Path) -> None:
    """A namespace job that can't reach Temporal ends with a code other than zero and says what the client said."""
    client = tmp_path / "temporal"
    client.write_text("#!/bin/sh\necho 'connection refused' >&2\nexit 1\n")
    client.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "TEMPORAL_ADDRESS": "temporal:7233",
        "TEMPORAL_NAMESPACE": "default",
        "NAMESPACE_ATTEMPTS": "1",
    }
    script = ROOT / "deploy" / "temporal" / "create-namespace.sh"
    ran = subprocess.run(["sh", str(script)], env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (1, "gave up on: Temporal serves at temporal:7233: connection refused\n")


def test_the_ledger_job_makes_a_database_that_only_its_role_may_use(postgres: PostgresServer) -> None:
    """The ledger's job, run twice on a real PostgreSQL, leaves one database of one role, with the last password."""
    script = ROOT / "deploy" / "temporal" / "create-ledger.sh"
    base = {"PATH": f"{postgres.bin}:{os.environ['PATH']}", "PGHOST": str(postgres.folder), "PGUSER": "postgres"}
    for password in ("first", 'it\'s "odd" $HOME'):
        secrets = {"PGPASSWORD": "x", "PGDATABASE": "postgres", "LEDGER_PASSWORD": password}
        ran = subprocess.run(["sh", str(script)], env=base | secrets, capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "done: database remit\n", "")
    found = Ledger(f"postgresql+psycopg://remit@/remit?host={postgres.folder}")
    found.migrate()
    assert found.effects() == []
    found.close()
