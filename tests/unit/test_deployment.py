"""Which version of the code a worker is."""

from pathlib import Path

import pytest

from policies.errors import InvalidInput
from remit import __version__
from remit.deployment import build_id, worker_version
from remit.settings import Settings


def test_the_build_id_follows_what_decides(tmp_path: Path) -> None:
    """Another tool of the app is another version; another prompt isn't, for runs pin their own."""
    app = tmp_path / "app"
    (app / "tools").mkdir(parents=True)
    (app / "agents").mkdir()
    bare = build_id(Settings(app=app))
    assert bare == build_id(Settings()) and bare.startswith(f"{__version__}-")
    (app / "agents" / "prompt.md").write_text("Be brief.")
    assert build_id(Settings(app=app)) == bare
    (app / "tools" / "more.py").write_text("A = 1\n")
    one = build_id(Settings(app=app))
    (app / "tools" / "more.py").write_text("A = 2\n")
    assert len({bare, one, build_id(Settings(app=app))}) == 3


def test_a_build_id_can_be_given() -> None:
    """For those whose releases have numbers of their own."""
    assert build_id(Settings(build_id="2026-11-28.1")) == "2026-11-28.1"


def test_a_deployment_is_named_like_its_task_queue() -> None:
    """So that two groups of workers in a namespace don't take each other's new runs away."""
    assert Settings(deployment="", task_queue="refunds").deployment_name == "refunds"
    assert Settings(deployment="ours", task_queue="refunds").deployment_name == "ours"
    assert worker_version(Settings(deployment="ours")).use_worker_versioning


def test_workers_can_be_unversioned() -> None:
    """They still say which code they are."""
    found = worker_version(Settings(deployment="none", build_id="b"))
    assert (found.use_worker_versioning, found.version.build_id) == (False, "b")


@pytest.mark.parametrize("name", ["a.b", "a:b"])
def test_a_name_that_temporal_does_not_take_is_refused(name: str) -> None:
    """At once, and not by a worker that polls in vain."""
    with pytest.raises(InvalidInput) as refused:
        _ = Settings(deployment="", task_queue=name).deployment_name
    assert refused.value.message == (
        f"`{name}` can't name a Worker Deployment, for it has `.` or `:` in it; set `REMIT_DEPLOYMENT`."
    )
