"""`docs/controls.md` promises auditors commands and tests: each one is there, and no criterion is left out."""

import re

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from remit.cli import app
from remit.settings import ROOT

PAGE = (ROOT / "docs" / "controls.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if re.match(r"\| (G|CC|ASI)\d", line)
]
NAMED = sorted(set(re.findall(r"`remit ([^`]*)`", PAGE)))
TESTS = sorted(set(re.findall(r"\]\(\.\./(tests/[^)#]+)\)", PAGE)))


@pytest.mark.parametrize("line", NAMED)
def test_each_command_of_the_page_exists(line: str) -> None:
    """With its subcommand, and the options that are named with it."""
    command, words = get_command(app), line.split()
    while isinstance(command, TyperGroup) and words and re.fullmatch(r"[a-z][a-z-]*", words[0]):
        assert words[0] in command.commands, f"there is no `remit {line}`"
        command = command.commands[words.pop(0)]
    known = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known


@pytest.mark.parametrize("path", TESTS)
def test_each_test_of_the_page_exists(path: str) -> None:
    """And is one that holds something."""
    assert "def test_" in (ROOT / path).read_text(encoding="utf-8")


def test_every_criterion_has_its_line() -> None:
    """With a command and a test, or with the plain words that it isn't covered."""
    wanted = [
        *(f"G{n}" for n in range(1, 9)),
        *(f"CC6.{n}" for n in range(1, 9)),
        *(f"CC7.{n}" for n in range(1, 6)),
        "CC8.1",
        *(f"ASI{n:02}" for n in range(1, 11)),
    ]
    assert [row[0].split()[0] for row in ROWS] == wanted
    for row in ROWS:
        text = " ".join(row)
        covered = "`remit " in text and "../tests/" in text
        assert covered or row[1].startswith("not covered"), row[0]
