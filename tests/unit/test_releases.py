"""A candidate beside an agent: what it may change, what is refused, and which of the two a run gets."""

import shutil
from pathlib import Path

import pytest

from activities.library import Library
from activities.releases import Releases
from policies.errors import AgentInvalid
from policies.rollout import Rollout
from remit.settings import ROOT
from tools.builtin import CATALOG
from tools.connectors.corpus import Corpora

AGENT = "billing-resolution"
NOW = 1_760_000_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the built-in agents and bundles, with a candidate that has another prompt beside `billing-resolution`."""
    shutil.copytree(ROOT / "agents", tmp_path / "agents")
    shutil.copytree(ROOT / "policies" / "bundles", tmp_path / "policies" / "bundles")
    beside(tmp_path).mkdir()
    (beside(tmp_path) / "prompt.md").write_text("Refund nothing without reading the invoice.")
    return tmp_path


def beside(root: Path) -> Path:
    return root / "agents" / AGENT / "candidate"


@pytest.fixture
def library(root: Path) -> Library:
    return Library([root], CATALOG)


@pytest.fixture
def releases(root: Path, library: Library) -> Releases:
    return Releases(library, Corpora(*library.corpora), "build-1")


def begun(releases: Releases, *, people: bool = False, stage: int = 100, status: str = "running") -> Rollout:
    """A rollout of what lies in the folders."""
    candidate = releases.candidate(AGENT, people=people)
    assert candidate
    return Rollout.model_validate(
        {
            "agent": AGENT,
            "status": status,
            "stage": stage,
            "salt": "s",
            "candidate": releases.definition(candidate),
            "stable": "" if people else releases.stable(AGENT),
            "started_at": NOW,
            "stage_at": NOW,
        }
    )


def test_a_candidate_is_the_agent_but_for_what_lies_beside_it(root: Path, library: Library) -> None:
    """A prompt alone changes the prompt; keys and tables of an `agent.toml` take the place of the agent's."""
    stable, candidate = library.agent(AGENT), library.candidate(AGENT)
    assert candidate
    assert candidate.model_copy(update={"prompt": stable.prompt}) == stable
    (beside(root) / "agent.toml").write_text('mode = "draft"\n[limits]\ntool_calls = 3\n')
    changed = library.candidate(AGENT)
    assert changed
    assert (changed.mode, changed.limits, changed.tools) == ("draft", {"tool_calls": 3}, stable.tools)
    assert library.names().count(AGENT) == 1
    assert library.candidate("support-triage") is None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('id = "other@service"', "`id` must be as in `agents/billing-resolution/agent.toml`: it is the same agent."),
        ('status = "suspended"', "`status` must be as in `agents/billing-resolution/agent.toml`: it is the same agent."),
        ("[subject]\nkind = 'ticket'\ninput = 'ticket_id'\n[inputs.ticket_id]\npattern = '.*'", "`inputs` must be as in "),
        ('name = "other"', "`agent.toml` says that its name is `other`; name it as its folder."),
        ('tools = ["nothing"]', "there is no tool `nothing`; `remit tools` lists them."),
        ("mode = ", "`agent.toml` isn't valid TOML: "),
        ('mode = "wild"', "`agent.toml`: `mode` "),
    ],
)
def test_what_a_candidate_cannot_be_is_one_sentence(root: Path, library: Library, content: str, sentence: str) -> None:
    """`remit policy check` says it, and a worker doesn't start with it."""
    (beside(root) / "agent.toml").write_text(content)
    with pytest.raises(AgentInvalid) as caught:
        library.candidate(AGENT)
    assert caught.value.message.startswith(f"Agent `{AGENT}`, its candidate: {sentence}")
    assert library.problems() == [caught.value.message]


def test_a_run_gets_the_arm_of_its_rollout(releases: Releases, library: Library) -> None:
    """Without a rollout the agent as it is, in no arm; with one, the candidate or the stable release."""
    agent = library.agent(AGENT)
    assert releases.chosen(agent, None, "Customer:1") == (agent, "")
    assert releases.chosen(agent, begun(releases), "Customer:1") == (library.candidate(AGENT), "candidate")
    assert releases.chosen(agent, begun(releases, status="aborted"), "Customer:1") == (agent, "stable")
    assert releases.chosen(agent, begun(releases, status="done"), "Customer:1") == (library.candidate(AGENT), "")
    assert releases.chosen(agent, begun(releases, people=True), "Customer:1") == (agent, "candidate")
    assert releases.chosen(agent, begun(releases, people=True, status="paused"), "Customer:1") == (agent, "human")


def test_a_candidate_that_changed_gets_no_run(root: Path, releases: Releases, library: Library) -> None:
    """What was never started under its gates doesn't slip in under another's name: its share goes to the baseline."""
    agent, rollout = library.agent(AGENT), begun(releases)
    assert releases.notes(rollout) == ()
    (beside(root) / "prompt.md").write_text("Refund everything.")
    assert releases.chosen(agent, rollout, "Customer:1") == (agent, "stable")
    assert releases.notes(rollout) == ("The candidate in its folder isn't what was started; its share goes to the baseline.",)
    (beside(root) / "agent.toml").write_text("mode = ")
    assert releases.chosen(agent, rollout, "Customer:1") == (agent, "stable")
    assert releases.chosen(agent, rollout.model_copy(update={"status": "done"}), "Customer:1") == (agent, "")


def test_a_stable_release_that_changed_is_not_compared(root: Path, releases: Releases, library: Library) -> None:
    """Its runs go on, in no arm: nobody knows what the candidate would be compared with."""
    rollout = begun(releases).model_copy(update={"status": "aborted"})
    (root / "agents" / AGENT / "prompt.md").write_text("Changed.")
    agent = library.agent(AGENT)
    assert releases.chosen(agent, rollout, "Customer:1") == (agent, "")
    assert releases.notes(rollout) == ("`agents/billing-resolution/` has changed since the start; its runs aren't compared.",)


def test_what_was_promoted_last_is_to_be_moved(root: Path, releases: Releases) -> None:
    """Until then, new runs take it from its own folder; when it has been moved, the folder is what was promoted."""
    done = begun(releases).model_copy(update={"status": "done"})
    assert releases.notes(done) == (
        f"New runs take the candidate from its own folder; move it into `agents/{AGENT}/` before you prepare another.",
    )
    (beside(root) / "prompt.md").rename(root / "agents" / AGENT / "prompt.md")
    beside(root).rmdir()
    assert (releases.notes(done), releases.stable(AGENT)) == ((), done.candidate)
    (root / "agents" / AGENT / "prompt.md").write_text("Changed by hand.")
    assert releases.notes(done) == (
        "New runs get what lies in `agents/billing-resolution/`, which isn't the release that was promoted.",
    )


def test_new_code_keeps_the_definition(library: Library, releases: Releases) -> None:
    """A rollout goes on through a deploy; what a run is pinned to is another release."""
    agent = library.agent(AGENT)
    other = Releases(library, Corpora(*library.corpora), "build-2")
    bundle = library.bundle(agent.policy)
    assert other.definition(agent) == releases.definition(agent)
    assert other.release(agent, bundle).digest != releases.release(agent, bundle).digest
