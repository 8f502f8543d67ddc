"""Apps: what a folder adds, what it can't shadow, and the sentence for each thing that is wrong with one."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import tools.billing
from policies.errors import InvalidInput, RemitError
from remit.apps import PACKAGE, Parts, assemble
from remit.settings import ROOT, Settings
from tools import builtin
from tools.subjects import Subjects

DESK = ROOT / "tests" / "apps" / "desk"


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The app `desk`, to be changed."""
    return shutil.copytree(DESK, tmp_path / "desk")


def parts(app: Path | None) -> Parts:
    return assemble(Settings(app=app, home=app or Path(".remit")))


def everything(app: Path) -> None:
    """What a worker does before it starts."""
    found = parts(app)
    found.check()
    _ = found.connectors


def test_without_an_app_there_is_what_is_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in tools and agents come through the same door; an empty `REMIT_APP` is none."""
    monkeypatch.setenv("REMIT_APP", "")
    assert Settings().app is None
    found = parts(None)
    assert found.catalog.digest == builtin.CATALOG.digest
    assert "billing-resolution" in found.library.names()


def test_an_app_adds_to_what_is_built_in(app: Path) -> None:
    """Tools, agents and bundles of both; the built-in ones keep their digests, so runs in flight aren't refused."""
    found = parts(app)
    assert set(found.catalog.specs) == {*builtin.CATALOG.specs, "close_case"}
    assert {n: s.digest for n, s in found.catalog.specs.items() if n != "close_case"} == {
        n: s.digest for n, s in builtin.CATALOG.specs.items()
    }
    assert "desk-closer" in found.library.names()
    assert "desk_v1" in found.library.bundles()
    assert found.library.problems() == []


def test_an_app_cant_shadow_our_modules(app: Path) -> None:
    """The app has a `tools/billing.py` too: ours stays ours, also for the app itself, and nothing enters `sys.path`."""
    before = list(sys.path)
    found = parts(app)
    theirs = found.sources[1].modules["tools/billing.py"]
    assert theirs.__name__.startswith(f"{PACKAGE}.")
    assert sys.modules["tools.billing"] is tools.billing
    assert vars(theirs)["Billing"] is tools.billing.Billing
    assert sys.path == before


def test_two_apps_with_the_same_file_names_dont_meet(app: Path, tmp_path: Path) -> None:
    """Each app's `tools/billing.py` is its own, and imports its own `desk.py`."""
    other = shutil.copytree(app, tmp_path / "other")
    (other / "tools" / "desk.py").write_text((app / "tools" / "desk.py").read_text() + "\nOTHER = True\n")
    first, second = (parts(root).sources[1].modules for root in (app, other))
    assert first["tools/billing.py"] is not second["tools/billing.py"]
    assert vars(first["tools/billing.py"])["Desk"] is vars(first["tools/desk.py"])["Desk"]
    assert vars(second["tools/billing.py"])["Desk"] is vars(second["tools/desk.py"])["Desk"]


def test_a_tools_digest_doesnt_depend_on_the_folder(app: Path, tmp_path: Path) -> None:
    """Workers may have the same app in different folders."""
    other = shutil.copytree(app, tmp_path / "elsewhere")
    assert parts(app).catalog.digest == parts(other).catalog.digest
    assert parts(other).sources[1].modules["tools/desk.py"].__file__ == str(other / "tools" / "desk.py")


async def test_an_app_answers_for_its_own_kinds_only(app: Path) -> None:
    """`ticket` stays with the built-in business, whatever the app would say; `case` goes to the app."""
    append(app, "tools/desk.py", "SqliteDesk.subject_of = _anything", before="def connectors()")
    append(app, "tools/desk.py", "async def _anything(*_): return 'Customer:mine'", before="SqliteDesk.subject_of")
    subjects = parts(app).connectors[Subjects]
    assert isinstance(subjects, Subjects)
    assert await subjects.subject_of("case", "C-1") == "Customer:mine"
    assert await subjects.subject_of("ticket", "T-9") is None


# ---- what can be wrong ----------------------------------------------------------------------------------------------


def append(app: Path, file: str, text: str, before: str = "") -> None:
    path = app / file
    content = path.read_text() if path.exists() else ""
    place = content.index(before) if before else len(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{content[:place]}\n{text}\n\n{content[place:]}")


def edit(app: Path, file: str, old: str, new: str) -> None:
    content = (app / file).read_text()
    assert old in content
    (app / file).write_text(content.replace(old, new))


@dataclass(frozen=True)
class Wrong:
    name: str
    change: Callable[[Path], object]
    message: str


AGENT, BILLING = "agents/desk-closer/agent.toml", "tools/billing.py"
WRONG = (
    Wrong(
        "empty",
        lambda app: [shutil.rmtree(app / d) for d in ("agents", "tools", "policies")],
        "`{app}` isn't an app: it has no `agents/`, no `tools/` and no `policies/bundles/`.",
    ),
    Wrong(
        "missing import",
        lambda app: append(app, "tools/extra.py", "import no_such_package"),
        "`tools/extra.py` can't be imported: ModuleNotFoundError: No module named 'no_such_package'.",
    ),
    Wrong(
        "error in a module that another one imports",
        lambda app: append(app, "tools/desk.py", "1 / 0"),
        "`tools/desk.py` can't be imported: ZeroDivisionError: division by zero.",
    ),
    Wrong(
        "syntax",
        lambda app: append(app, "tools/desk.py", "def ("),
        "`tools/desk.py` can't be imported: SyntaxError: invalid syntax (desk.py, line 43).",
    ),
    Wrong(
        "exit",
        lambda app: append(app, "tools/extra.py", "raise SystemExit"),
        "`tools/extra.py` can't be imported: SystemExit.",
    ),
    Wrong(
        "tool name taken",
        lambda app: edit(app, BILLING, "close_case", "request_refund"),
        "`tools/billing.py`: there is a tool `request_refund` already; rename this one.",
    ),
    Wrong(
        "tool name reserved",
        lambda app: edit(app, BILLING, "close_case", "final_answer"),
        "`tools/billing.py`: A tool can't be called `final_answer`: the name is taken; rename it.",
    ),
    Wrong(
        "a write without a strategy",
        lambda app: edit(app, BILLING, '    idempotency="native_key",\n', ""),
        "`tools/billing.py`: Tool `close_case` writes but declares no `idempotency`;"
        " use `native_key`, `lookup` or `at_most_once`.",
    ),
    Wrong(
        "an argument without a Cedar type",
        lambda app: edit(app, BILLING, "Annotated[int, Field(ge=0)] = 0", "float = 0.0"),
        "`tools/billing.py`: Tool `close_case`: `float` has no Cedar type; use strings, integers, booleans, literals, lists or"
        " models.",
    ),
    Wrong(
        "unknown tool",
        lambda app: edit(app, AGENT, '"close_case"', '"open_case"'),
        "Agent `desk-closer`: there is no tool `open_case`; `remit tools` lists them.",
    ),
    Wrong(
        "bundle",
        lambda app: edit(app, "policies/bundles/desk_v1/policy.cedar", "permit (", "allow ("),
        "Bundle `desk_v1`: `policy.cedar` doesn't parse: ",
    ),
    Wrong(
        "agent name taken",
        lambda app: (app / "agents" / "desk-closer").rename(app / "agents" / "support-triage"),
        "There are two agents called `support-triage`; rename the app's.",
    ),
    Wrong(
        "bundle name taken",
        lambda app: (app / "policies" / "bundles" / "desk_v1").rename(app / "policies" / "bundles" / "refunds_v7"),
        "There are two policy bundles called `refunds_v7`; rename the app's.",
    ),
    Wrong(
        "corpus name taken",
        lambda app: (app / "agents" / "corpora" / "support-kb-v1").mkdir(parents=True),
        "There are two corpora called `support-kb-v1`; rename the app's.",
    ),
    Wrong(
        "connectors without a setting",
        lambda app: append(app, "tools/extra.py", "import os\ndef connectors():\n    return os.environ['NO_SUCH_VARIABLE']"),
        "`tools/extra.py`: `connectors()` failed: KeyError: 'NO_SUCH_VARIABLE'.",
    ),
    Wrong(
        "connectors that aren't any",
        lambda app: append(app, "tools/extra.py", "def connectors():\n    return {int: 5}"),
        "`tools/extra.py`: `connectors()` must return a dict of ports, subclasses of `Connector`, to their connectors.",
    ),
    Wrong(
        "a built-in port",
        lambda app: edit(
            app, "tools/desk.py", "return {Desk: desk", "from tools.connectors.corpus import Corpora\n    from tools.kb import"
            " Knowledge\n    return {Knowledge: Corpora(), Desk: desk",
        ),
        "The port `Knowledge` has a connector already; give the app a port of its own.",
    ),
)  # fmt: skip


@pytest.mark.parametrize("case", WRONG, ids=lambda c: c.name)
def test_what_is_wrong_is_said_in_one_sentence(app: Path, case: Wrong) -> None:
    """Each fault is refused before a worker starts, by the file or the name that it is in."""
    case.change(app)
    with pytest.raises(RemitError) as refused:
        everything(app)
    assert isinstance(refused.value, InvalidInput)
    assert refused.value.message.startswith(case.message.format(app=app))
    assert "\n" not in refused.value.message


def test_a_folder_that_doesnt_exist_is_refused(tmp_path: Path) -> None:
    """A typo in `--app` doesn't mean: no app."""
    with pytest.raises(InvalidInput) as refused:
        parts(tmp_path / "nowhere")
    assert (
        refused.value.message
        == f"There is no folder `{tmp_path / 'nowhere'}`; `--app` and `REMIT_APP` take the folder of an app."
    )
