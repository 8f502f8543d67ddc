"""External storage in S3: against a server that speaks its protocol over HTTP, alone and below a whole run."""

import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import boto3
import pytest

from activities import storage
from activities.storage import S3Storage, storage_at
from policies.canonical import sha256
from policies.errors import InvalidInput, StoredValueLost, Unavailable
from remit.embedded import TemporalServer, free_port
from remit.settings import ROOT
from tests.engine import Engine, call, final, turn
from tools import registry
from tools.builtin import CATALOG


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """moto's S3 server as a process of its own; its address."""
    port = free_port()
    log = (tmp_path_factory.mktemp("s3") / "log").open("w")
    child = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stdout=log, stderr=log)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert child.poll() is None
            time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    child.terminate()
    child.wait()
    log.close()


@pytest.fixture(autouse=True)
def account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials and a region as the AWS SDK takes them from the environment, and nothing of this machine's."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket(s3: str, request: pytest.FixtureRequest) -> str:
    """A bucket for one test."""
    name = f"b-{sha256(request.node.nodeid.encode())[7:27]}"
    boto3.client("s3", endpoint_url=s3).create_bucket(  # pyright: ignore[reportUnknownMemberType]
        Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )
    return name


def objects(s3: str, bucket: str) -> list[str]:
    client = boto3.client("s3", endpoint_url=s3)  # pyright: ignore[reportUnknownMemberType]
    return [str(found.get("Key")) for found in client.list_objects_v2(Bucket=bucket).get("Contents", [])]


async def test_a_file_keeps_its_name(s3: str, bucket: str) -> None:
    """As the sink of sealed traces keeps them, below its prefix; what isn't there is nothing, and no error."""
    files = S3Storage(bucket, "traces", s3)
    await files.put_file("wf/run.capsule.gz", b"sealed")
    assert objects(s3, bucket) == ["traces/wf/run.capsule.gz"]
    assert await files.get_file("wf/run.capsule.gz") == b"sealed"
    assert await files.get_file("wf/other.capsule.gz") is None


async def test_a_value_is_an_object_named_by_its_digest(s3: str, bucket: str) -> None:
    """Below the prefix; the same bytes are one object, whoever stores them."""
    first, second = S3Storage(bucket, "remit/prod/", s3), S3Storage(bucket, "remit/prod", s3)
    data = b"\x00\xff" * 1_000_000
    key = await first.put(data)
    assert key == sha256(data) == await second.put(data)
    assert await second.get(key) == data
    assert objects(s3, bucket) == [f"remit/prod/{key.removeprefix('sha256:')}"]


async def test_a_changed_object_is_refused(s3: str, bucket: str) -> None:
    """Whoever may write to the bucket can't put words into a run's mouth."""
    kept = S3Storage(bucket, endpoint=s3)
    key = await kept.put(b"refund $10")
    client = boto3.client("s3", endpoint_url=s3)  # pyright: ignore[reportUnknownMemberType]
    client.put_object(Bucket=bucket, Key=key.removeprefix("sha256:"), Body=b"refund $99")
    with pytest.raises(StoredValueLost, match=f"^`{key}` in the bucket `s3://{bucket}/` isn't what was stored"):
        await kept.get(key)


async def test_a_missing_object_says_where_it_looked(s3: str, bucket: str) -> None:
    """Absence is final; the sentence names the bucket."""
    with pytest.raises(StoredValueLost, match=f"isn't in the bucket `s3://{bucket}/p/`; point `REMIT_STORAGE`"):
        await S3Storage(bucket, "p", s3).get(sha256(b"never"))


async def test_a_missing_bucket_and_a_server_that_is_away_are_unavailable(s3: str) -> None:
    """They may come back: what waits for them isn't given up. No request, and so no credential, is in the sentence."""
    for kept, reason in (
        (S3Storage("no-such-bucket", endpoint=s3), "NoSuchBucket"),
        (S3Storage("b", endpoint=f"http://127.0.0.1:{free_port()}"), "EndpointConnectionError"),
    ):
        with pytest.raises(Unavailable, match=rf"^Can't write to the bucket `s3://.*/`: {reason}\.$"):
            await kept.put(b"x")
        with pytest.raises(Unavailable, match=rf"^Can't read from the bucket `s3://.*/`: {reason}\.$"):
            await kept.get(sha256(b"x"))


def test_without_the_sdk_the_worker_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, not to the first run with a long result."""
    monkeypatch.setattr(storage, "find_spec", lambda _: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    with pytest.raises(InvalidInput, match=r"^S3 needs the AWS SDK; install it with `pip install 'remit\[s3\]'`\.$"):
        storage_at("s3://bucket")


@pytest.fixture
async def engine(
    server: TemporalServer, home: Path, s3: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Engine]:
    """A worker with the app `archive` that stores in the bucket."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3)
    overrides = {"app": ROOT / "tests" / "apps" / "archive", "storage": f"s3://{bucket}/remit"}
    async with Engine(await server.ready(), home, overrides=overrides) as found:
        yield found
    registry.install(CATALOG)


async def test_a_run_stores_in_the_bucket_that_the_setting_names(engine: Engine, s3: str, bucket: str) -> None:
    """A long result and a large start input both go there, and nothing goes to the home folder."""
    turns = [turn(call("export", kind="sales", lines=5000), text="t" * 200_000), final()]
    run = await engine.start(turns, agent="archivist")
    assert (await engine.closed(run.id)).status == "completed"
    [answer] = await engine.answers(run.id)
    found = objects(s3, bucket)
    assert f"remit/{answer['ref'].removeprefix('sha256:')}" in found
    assert len([name for name in found if name.startswith("remit/payloads/")]) >= 2
    assert not (engine.home / "storage").exists()
