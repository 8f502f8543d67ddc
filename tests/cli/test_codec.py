"""The codec as people meet it: a `remit dev` that encrypts, `temporal` and its codec server, and `remit codec-keys`."""

import base64
import json
import re
import socket
import time
from collections.abc import Generator
from pathlib import Path

import httpx2
import pytest
from temporalio.api.common.v1 import Payload

from policies.errors import InvalidInput
from remit.codec import EncryptingCodec
from remit.codec_keys import CodecKeyFile
from remit.codec_server import serve
from remit.privacy import codec_server
from remit.settings import ROOT, Settings
from tests.codec import CodecServer, as_json, payloads_of
from tests.console import Console, DevEngine
from workflows.messages import ENCRYPTED

RUN = ("run", "billing-resolution", "--inputs", '{"ticket_id": "T-1002"}', "--wait", "--json")
PLAIN = Payload(metadata={"encoding": b"json/plain"}, data=b'"Deepak Rao"')


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Generator[DevEngine]:
    """A running `remit dev` with the codec on."""
    found = DevEngine(tmp_path_factory.mktemp("private") / ".remit", env={"REMIT_CODEC": "on"})
    end = time.monotonic() + 60
    while b'"event": "working"' not in (found.home / "worker.log").read_bytes():
        assert time.monotonic() < end
        time.sleep(0.1)
    yield found
    found.stop()


@pytest.fixture(scope="module")
def run(private: DevEngine) -> str:
    """The id of a run that has closed."""
    script = private.home / "turns.json"
    final = {"name": "final_answer", "arguments": {"outcome": "resolved", "summary": "Deepak Rao was right."}}
    reads = {"tool_calls": [{"name": "get_ticket", "arguments": {"ticket_id": "T-1002"}}]}
    script.write_text(json.dumps({"turns": [reads, {"tool_calls": [final]}]}))
    return private.console.remit(*RUN, "--script", f"{script}#turns").json["workflow_id"]


def test_remit_reads_what_temporal_cannot(private: DevEngine, run: str) -> None:
    """`remit show` decrypts; `temporal workflow show` and `describe` show ciphertext."""
    assert "Deepak Rao was right." in private.console.remit("show", run).out
    shown = private.console.sh(f"temporal workflow show --workflow-id {run} --output json").out
    shown += private.console.sh(f"temporal workflow describe --workflow-id {run} --output json").out
    for word in ("Deepak", "T-1002", "decides", "Encoded failure"):
        assert word not in shown
    data = b"".join(base64.b64decode(found) for found in re.findall(r'"data": "([^"]+)"', shown))
    assert b"Deepak" not in data
    assert b"T-1002" not in data
    assert base64.b64encode(ENCRYPTED).decode() in shown


def test_temporal_reads_through_the_codec_server(private: DevEngine, run: str) -> None:
    """That of `remit dev`, which its UI is told of too."""
    state = json.loads((private.home / "dev.json").read_text())
    shown = private.console.sh(
        f"temporal workflow show --workflow-id {run} --output json --codec-endpoint {state['codec']}"
    ).out
    data = b"".join(base64.b64decode(found) for found in re.findall(r'"data": "([^"]+)"', shown))
    for word in (b"Deepak Rao was right.", b"T-1002", b"step 0: scripted-small decides"):
        assert word in data
    described = private.console.sh(f"temporal workflow describe --workflow-id {run} --codec-endpoint {state['codec']}").out
    assert "billing-resolution: ticket_id=T-1002" in described
    settings = httpx2.get(f"{state['ui']}/api/v1/settings").json()
    assert settings["Codec"]["Endpoint"] == state["codec"]


def test_who_has_no_key_is_told_so(private: DevEngine, run: str, tmp_path: Path) -> None:
    """A command with the codec off, or with another home's keys, says what to set, and ends with 1."""
    address = {"TEMPORAL_ADDRESS": private.console.env["TEMPORAL_ADDRESS"]}
    for env in ({}, {"REMIT_CODEC": "on"}):
        other = Console(ROOT, {"REMIT_HOME": str(tmp_path), **address, **env})
        answer = other.remit("show", run, code=1)
        assert "isn't here; set `REMIT_CODEC=on`, and `REMIT_CODEC_KEYS` to the file that the workers use." in answer.err
    production = Console(
        ROOT, {"REMIT_HOME": str(tmp_path / "none"), "REMIT_CODEC": "on", "REMIT_ENV": "production", **address}
    )
    assert production.remit("show", run, code=1).err.startswith(
        f"remit: There are no codec keys in `{tmp_path}/none/codec-keys.json`"
    )


def test_keys_are_listed_rotated_and_retired(tmp_path: Path) -> None:
    """A table, JSON, and one sentence for each change; no key is ever shown."""
    console = Console(ROOT, {"REMIT_HOME": str(tmp_path), "REMIT_ENV": "production"})
    assert console.remit("codec-keys", "rotate", "--if-none").out.startswith("Codec key 1 encrypts from now on.")
    assert console.remit("codec-keys", "rotate", "--if-none").out == "Codec key 1 encrypts already.\n"
    assert console.remit("codec-keys", "rotate").out.startswith("Codec key 2 encrypts from now on.")
    assert " on. Keep the older ones" in console.remit("codec-keys", "rotate", "--after", "1h").out
    assert (
        console.remit("codec-keys", "retire", "1").out == "Codec key 1 is retired; what it encrypted can't be read any more.\n"
    )
    listed = console.remit("codec-keys", "--json").json
    assert [(k["id"], k["use"]) for k in listed] == [(1, "retired"), (2, "encrypts"), (3, "will encrypt")]
    assert not any(k.key in json.dumps(listed) for k in CodecKeyFile(tmp_path / "codec-keys.json", env="dev").list() if k.key)
    refused = {
        ("retire", "2"): "remit: Codec key 2 encrypts, or is about to; run `remit codec-keys rotate` first.\n",
        (
            "rotate",
            "--after",
            "soon",
        ): "remit: `--after` takes a number with `s`, `m` or `h`, for example `10m`; a day at most.\n",
    }
    for args, said in refused.items():
        assert console.remit("codec-keys", *args, code=1).err == said


@pytest.mark.parametrize(
    ("settings", "host", "said"),
    [
        ({"env": "production"}, "127.0.0.1", "With `REMIT_ENV=production` the codec server needs `REMIT_OIDC_ISSUER`; see"),
        ({}, "0.0.0.0", "Without `REMIT_OIDC_ISSUER` the codec server listens on 127.0.0.1 only; leave out `--host`."),
        (
            {"oidc_issuer": "http://issuer.example", "oidc_client_id": "x"},
            "0.0.0.0",
            "`REMIT_OIDC_ISSUER` must be an https",
        ),
        ({"oidc_issuer": "https://issuer.example"}, "0.0.0.0", "`REMIT_OIDC_ISSUER` is set, but not `REMIT_OIDC_CLIENT_ID`"),
    ],
    ids=str,
)
def test_a_codec_server_that_would_answer_anybody_does_not_start(
    tmp_path: Path, settings: dict[str, str], host: str, said: str
) -> None:
    """It says why in one sentence."""
    with pytest.raises(InvalidInput) as caught:
        serve(Settings.model_validate({"home": tmp_path, **settings}), host=host, port=0, origins=[], encodes=True)
    assert caught.value.message.startswith(said)


def test_an_origin_has_no_path(tmp_path: Path) -> None:
    """A browser sends none, so that the UI would be refused."""
    with pytest.raises(InvalidInput) as caught:
        codec_server(ui_origin=["https://ui.example/namespaces"])
    assert caught.value.message.startswith("`--ui-origin` is a scheme and a host")


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    """With one sentence and 1, not a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = Console(ROOT, {"REMIT_HOME": str(tmp_path)}).remit("codec-server", "--port", str(port), code=1)
    assert answer.err == f"remit: The codec server can't listen on `127.0.0.1:{port}`: Address already in use.\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Generator[CodecServer]:
    """A codec server for this machine, and for the pages of one UI."""
    with CodecServer(tmp_path_factory.mktemp("served"), args=("--ui-origin", "http://ui.example:8233")) as found:
        yield found


async def test_it_decodes_and_encodes(served: CodecServer) -> None:
    """What the workers' codec makes, and for it; what is no ciphertext, or a forged one, comes back as it was."""
    codec = EncryptingCodec(CodecKeyFile(served.home / "codec-keys.json", env="dev"))
    (sealed,) = await codec.encode([PLAIN])
    forged = Payload(metadata=sealed.metadata, data=b"x" * 40)
    assert payloads_of(served.ask("decode", as_json(sealed, PLAIN, forged))) == [PLAIN, PLAIN, forged]
    (encoded,) = payloads_of(served.ask("encode", as_json(PLAIN)))
    assert await codec.decode([encoded]) == [PLAIN]


async def test_what_awaits_its_key_stays_encrypted(served: CodecServer, tmp_path: Path) -> None:
    """The rest is shown all the same."""
    ahead = CodecKeyFile(tmp_path / "ahead.json", env="dev")
    (tmp_path / "ahead.json").write_bytes((served.home / "codec-keys.json").read_bytes())
    (older,) = await EncryptingCodec(ahead).encode([PLAIN])
    ahead.rotate()
    (newer,) = await EncryptingCodec(ahead).encode([PLAIN])
    assert payloads_of(served.ask("decode", as_json(older, newer))) == [PLAIN, newer]


def test_only_the_ui_s_pages_may_ask(served: CodecServer) -> None:
    """A preflight of the UI's origin is granted what the UI sends; other pages get neither that nor an answer."""
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type,x-namespace"}
    granted = httpx2.options(f"{served.url}/decode", headers={"origin": "http://ui.example:8233", **asked})
    assert granted.status_code == 200
    assert granted.headers["access-control-allow-origin"] == "http://ui.example:8233"
    answer = served.ask("decode", as_json(PLAIN), origin="http://ui.example:8233")
    assert answer.headers["access-control-allow-origin"] == "http://ui.example:8233"
    for origin in ("http://evil.example", "null", "http://ui.example"):
        refused = httpx2.options(f"{served.url}/decode", headers={"origin": origin, **asked})
        assert refused.status_code == 400
        assert "access-control-allow-origin" not in refused.headers
        assert served.ask("decode", as_json(PLAIN), origin=origin).status_code == 403


def test_nonsense_is_refused(served: CodecServer) -> None:
    """Each with its status and a sentence: another namespace, another name in `Host`, other bodies, other methods."""
    assert served.ask("decode", as_json(PLAIN), **{"x-namespace": "others"}).status_code == 404
    assert served.ask("decode", as_json(PLAIN), host="evil.example").status_code == 400
    for body in (b"", b"null", b"{", b'{"payloads": 7}', b"\xff", b"[" * 100_000):
        answer = served.ask("decode", body)
        assert (answer.status_code, answer.text.partition(",")[0]) == (400, "The body must be Temporal's `Payloads`")
    assert served.ask("decode", b" " * (17 << 20)).status_code == 413
    assert httpx2.get(f"{served.url}/decode").status_code == 405
    assert served.ask("keys", as_json(PLAIN)).status_code == 404


def test_encoding_can_be_switched_off(tmp_path: Path) -> None:
    """Then there is no `/encode`; SIGTERM ends the server with 0."""
    with CodecServer(tmp_path, args=("--decode-only",)) as served:
        assert served.ask("encode", as_json(PLAIN)).status_code == 404
        assert served.ask("decode", as_json(PLAIN)).status_code == 200
    assert served.code == 0
