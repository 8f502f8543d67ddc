"""The check of the production deployment (`docker-compose.yml`, its scripts, the `Dockerfile`), without docker or a network."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, Protocol, cast

import yaml
from jsonschema import Draft202012Validator
from jsonschema import ValidationError as SchemaError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

__all__ = ["ROOT", "problems"]

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "tests" / "data" / "compose-spec.json"

_IMAGE = re.compile(r"[a-z0-9./_-]+(:[0-9]+/[a-z0-9./_-]+)?(:(?P<tag>[\w][\w.-]*))?(@sha256:[0-9a-f]{64})?")
_SECRET = re.compile(r"PASSWORD|PASSWD|PWD|SECRET|TOKEN|KEY|CREDENTIAL")
_REQUIRED = re.compile(r"\$\{[A-Z_]+:\?[^}]+\}")
_CREDENTIALS_IN_URL = re.compile(r"://[^/\s:@]*:[^/\s@$]+@")


class _Validator(Protocol):
    """The one method used here, typed: jsonschema's own stub leaves its instance unknown."""

    def iter_errors(self, instance: object) -> Iterable[SchemaError]: ...


class _Dependency(BaseModel):
    condition: Literal["service_started", "service_healthy", "service_completed_successfully"]


class _Service(BaseModel):
    """What the checks look at; of the forms that compose allows, only the explicit ones."""

    model_config = ConfigDict(extra="ignore")

    image: str | None = None
    build: object = None
    restart: Literal["no", "unless-stopped"]
    depends_on: dict[str, _Dependency] = Field(default_factory=dict[str, _Dependency])
    environment: dict[str, str | int | bool | None] = Field(default_factory=dict[str, str | int | bool | None])
    healthcheck: dict[str, object] | None = None
    ports: list[str] = Field(default_factory=list[str])
    volumes: list[str] = Field(default_factory=list[str])

    @property
    def one_shot(self) -> bool:
        return self.restart == "no"


class _Compose(BaseModel):
    model_config = ConfigDict(extra="ignore")

    services: dict[str, _Service]
    volumes: dict[str, object] = Field(default_factory=dict[str, object])


def problems(root: Path = ROOT) -> list[str]:
    """All that is wrong with the deployment in `root`, one sentence each; an empty list when nothing is."""
    return [*_compose_problems(root), *_script_problems(root), *_dockerfile_problems(root)]


def _compose_problems(root: Path) -> Iterator[str]:
    file = root / "docker-compose.yml"
    try:
        document: object = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        yield f"`{file.name}` can't be read: {error}"
        return
    validator = cast("_Validator", Draft202012Validator(json.loads(SCHEMA.read_text())))
    broken = [f"`{error.json_path}`: {error.message}" for error in validator.iter_errors(document)]
    if not broken:
        try:
            compose = _Compose.model_validate(document)
        except ValidationError as error:
            broken = [f"`{'.'.join(map(str, each['loc']))}`: {each['msg']}" for each in error.errors()]
        else:
            yield from _whole_problems(compose)
            for name, service in compose.services.items():
                yield from (f"service `{name}`: {problem}" for problem in _service_problems(service, compose, root))
    yield from broken


def _whole_problems(compose: _Compose) -> Iterator[str]:
    waited_for = {name for service in compose.services.values() for name in service.depends_on}
    for name, service in compose.services.items():
        if service.one_shot and name not in waited_for:
            yield f"service `{name}`: nothing waits for this one-shot job"
    temporal = {(service.image or "").partition(":")[2] for service in compose.services.values() if _is_server(service)}
    if len(temporal) > 1:
        yield f"temporalio/server and temporalio/admin-tools must have one tag, not {', '.join(sorted(temporal))}"


def _is_server(service: _Service) -> bool:
    return (service.image or "").startswith(("temporalio/server:", "temporalio/admin-tools:"))


def _service_problems(service: _Service, compose: _Compose, root: Path) -> Iterator[str]:
    if service.image is None and service.build is None:
        yield "has neither `image` nor `build`"
    if service.image is not None and not _is_pinned(service.image):
        yield f"image `{service.image}` isn't pinned to a version"
    for target, dependency in service.depends_on.items():
        yield from _dependency_problems(target, dependency, compose)
    for port in service.ports:
        if not port.startswith("127.0.0.1:"):
            yield f"port `{port}` isn't bound to 127.0.0.1"
    for variable, value in service.environment.items():
        yield from _secret_problems(variable, value)
    for volume in service.volumes:
        source = volume.partition(":")[0]
        if source.startswith("."):
            # Docker would make an empty folder in its place, and the container would fail far from the cause.
            if not (root / source).exists():
                yield f"mounts `{source}`, which doesn't exist"
        elif source not in compose.volumes:
            yield f"volume `{source}` isn't a named volume of this file"


def _dependency_problems(target: str, dependency: _Dependency, compose: _Compose) -> Iterator[str]:
    found = compose.services.get(target)
    if found is None:
        yield f"depends on `{target}`, which doesn't exist"
    elif found.one_shot and dependency.condition != "service_completed_successfully":
        yield f"must wait for the one-shot job `{target}` with service_completed_successfully"
    elif not found.one_shot and dependency.condition == "service_completed_successfully":
        yield f"waits for the end of `{target}`, which never ends"
    elif dependency.condition == "service_healthy" and found.healthcheck is None:
        yield f"waits until `{target}` is healthy, which has no healthcheck"


def _secret_problems(variable: str, value: str | int | bool | None) -> Iterator[str]:
    if value is None:
        return
    if _SECRET.search(variable) and not _REQUIRED.fullmatch(str(value)):
        yield f"`{variable}` must come from the environment as `${{NAME:?message}}`, with no literal and no default"
    if _CREDENTIALS_IN_URL.search(str(value)):
        yield f"`{variable}` holds a password in its URL"


def _is_pinned(image: str) -> bool:
    match = _IMAGE.fullmatch(image)
    if match is None:
        return False
    return "@sha256:" in image or match["tag"] not in (None, "latest")


def _script_problems(root: Path) -> Iterator[str]:
    scripts = sorted((root / "deploy" / "temporal").glob("*.sh"))
    if not scripts:
        yield "`deploy/temporal` has no scripts"
    for script in scripts:
        checked = subprocess.run(["sh", "-n", str(script)], capture_output=True, text=True, check=False)
        if checked.returncode != 0:
            yield f"`{script.name}` isn't valid sh: {checked.stderr.strip()}"


def _dockerfile_problems(root: Path) -> Iterator[str]:
    lines = (root / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    instructions = [(word.upper(), rest) for word, _, rest in (line.strip().partition(" ") for line in lines)]
    users = [rest for word, rest in instructions if word == "USER"]
    if not users or users[-1].partition(":")[0] in ("root", "0"):
        yield "`Dockerfile`: the worker runs as root"
    for word, rest in instructions:
        if word == "FROM" and not _is_pinned(rest.split()[0]):
            yield f"`Dockerfile`: base image `{rest}` isn't pinned to a version"
        if word == "RUN" and "pip install" in rest and "--require-hashes" not in rest:
            yield "`Dockerfile`: pip installs without --require-hashes"
        if word in ("ENV", "ARG"):
            names = re.findall(r"(?:^|\s)([A-Za-z_]+)(?==|\s|$)", rest)
            yield from (
                f"`Dockerfile`: {word} `{name}` would keep a secret in the image" for name in names if _SECRET.search(name)
            )


if __name__ == "__main__":
    found = problems()
    for each in found:
        print(each, file=sys.stderr)
    sys.exit(1 if found else 0)
