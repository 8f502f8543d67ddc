"""What people put into files and options: read as it is meant, or refused with the file's name."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import InvalidInput
from remit.scripts import changes_of, edited, inputs_of, read_inputs_file, read_script
from workflows.messages import ScriptCall, ScriptTurn


def message(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidInput) as caught:
        call()
    return caught.value.message


VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x, max_size=3))
OBJECTS = st.dictionaries(st.text(max_size=20), VALUES, max_size=4)
MUST_BE = 'must be one JSON object, for example `{"ticket_id": "T-1001"}`.'
NOT_OBJECTS = ("", "T-1001", "{", "{'ticket_id': 'T-1'}", "[]", "null", '"{}"', "{} {}", "[" * 100_000, "9" * 5000)


@given(OBJECTS)
def test_inputs_are_what_the_json_says(given: dict[str, object]) -> None:
    """Any JSON object comes back as it was written."""
    assert inputs_of(json.dumps(given)) == given


@pytest.mark.parametrize("text", NOT_OBJECTS, ids=lambda t: t[:20] or "empty")
def test_inputs_are_one_json_object(text: str) -> None:
    """Anything else is one sentence, with an example."""
    assert message(lambda: inputs_of(text)) == f"`--inputs` {MUST_BE}"


@pytest.mark.parametrize("text", ['{"a": "\\ud83d"}', '{"a": ["x", "\\udc00"]}', '{"\\ud83d": 1}'])
def test_half_of_a_character_is_refused_before_a_run_starts(text: str, tmp_path: Path) -> None:
    """It couldn't be sent: of a file with such a line, no run is started."""
    said = "holds half of a character, such as `\\ud83d` without its other half; correct it."
    assert message(lambda: inputs_of(text)) == f"`--inputs` {said}"
    path = tmp_path / "inputs.jsonl"
    path.write_text(f'{{"ticket_id": "T-1001"}}\n{text}\n')
    assert message(lambda: read_inputs_file(path)) == f"`{path}`, line 2: {said}"


@given(st.lists(OBJECTS, min_size=1, max_size=5))
def test_each_line_is_a_run(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]) -> None:
    """A file of JSON lines gives one run's inputs a line, whatever characters are in them; blank lines are passed over."""
    path = tmp_path_factory.getbasetemp() / "inputs.jsonl"
    path.write_bytes("\n\n".join(json.dumps(r, ensure_ascii=False) for r in rows).encode() + b"\r\n \r\n")
    assert read_inputs_file(path) == rows


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("amount_cents=3000", 3000),
        ("text=3000", "3000"),
        ('text="quoted"', "quoted"),
        ("text=a=b", "a=b"),
        ("text=", ""),
        ("amount_cents=many", "many"),
        ("tags=[1]", [1]),
    ],
)
def test_a_changed_argument_is_json_or_text(option: str, value: object) -> None:
    """What was text stays text, though it looks like a number; the tool says whether a value fits."""
    name = option.partition("=")[0]
    before: dict[str, object] = {"amount_cents": 1, "text": "x", "other": None}
    assert edited(before, changes_of([option])) == {**before, name: value}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["amount_cents"], "`--set amount_cents` must be `--set NAME=VALUE`, for example `--set amount_cents=3000`."),
        (["=1"], "`--set =1` must be `--set NAME=VALUE`, for example `--set amount_cents=3000`."),
        (["a=1", "a=2"], "`--set` names `a` twice; give each argument once."),
    ],
)
def test_a_change_that_says_nothing_is_refused(options: list[str], message: str) -> None:
    """Each has its sentence."""
    with pytest.raises(InvalidInput) as refused:
        changes_of(options)
    assert refused.value.message == message


def test_a_line_separator_in_a_text_is_text(tmp_path: Path) -> None:
    """Only a newline ends a line: JSON may hold U+2028 and the like, and mail clients write them."""
    path = tmp_path / "inputs.jsonl"
    path.write_text('{"note": "one\u2028two\x85three"}\n')
    assert read_inputs_file(path) == [{"note": "one\u2028two\x85three"}]


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    """The sentence has the file and the line's number, blank lines counted."""
    path = tmp_path / "inputs.jsonl"
    path.write_text('{"a": "b"}\n\nT-1001\n')
    assert message(lambda: read_inputs_file(path)) == f"`{path}`, line 3: {MUST_BE}"


@pytest.mark.parametrize("content", ["", "\n \n"], ids=["empty", "blank"])
def test_a_file_without_inputs_is_refused(tmp_path: Path, content: str) -> None:
    """Starting no run at all is a mistake."""
    path = tmp_path / "inputs.jsonl"
    path.write_text(content)
    assert message(lambda: read_inputs_file(path)) == f"`{path}` holds no inputs; put one JSON object on each line."


def test_a_file_that_cant_be_read_says_why(tmp_path: Path) -> None:
    """Missing, a folder, or not text: the reason is in the sentence."""
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    missing = tmp_path / "missing.jsonl"
    assert message(lambda: read_inputs_file(missing)) == f"`{missing}` can't be read: No such file or directory."
    assert message(lambda: read_inputs_file(tmp_path)) == f"`{tmp_path}` can't be read: Is a directory."
    assert message(lambda: read_inputs_file(binary)) == f"`{binary}` can't be read: it is not text."
    assert message(lambda: read_script(f"{missing}#a")) == f"`{missing}` can't be read: No such file or directory."


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    path = tmp_path / "odd#name.json"
    turns = [{"text": "I look.", "tool_calls": [{"name": "get_ticket", "arguments": {"ticket_id": "T-1"}}]}, {"text": "Done."}]
    path.write_text(json.dumps({"look": turns, "nothing": []}))
    return path


def test_a_script_is_found_by_its_name(scripts: Path) -> None:
    """`FILE#NAME` names the turns of one script, even where the file's name has a `#`."""
    call = ScriptCall(name="get_ticket", arguments={"ticket_id": "T-1"})
    assert read_script(f"{scripts}#look") == (ScriptTurn(text="I look.", tool_calls=(call,)), ScriptTurn(text="Done."))
    assert read_script(f"{scripts}#nothing") == ()


@pytest.mark.parametrize("reference", ["scripts.json", "#name", "scripts.json#", "#", ""])
def test_a_script_needs_file_and_name(reference: str) -> None:
    """Half a reference is refused with its form."""
    assert message(lambda: read_script(reference)) == (
        "`--script` takes `FILE#NAME`: a JSON file, and the name of a script in it."
    )


def test_an_unknown_script_is_refused_with_those_that_exist(scripts: Path, tmp_path: Path) -> None:
    """The sentence lists the scripts that the file has."""
    assert message(lambda: read_script(f"{scripts}#loo")) == f"`{scripts}` has no script `loo`; it has: look, nothing."
    empty = tmp_path / "empty.json"
    empty.write_text("{}")
    assert message(lambda: read_script(f"{empty}#a")) == f"`{empty}` has no script `a`; it has: none."


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "`$` Invalid JSON: EOF while parsing an object at line 1 column 1"),
        ("[]", "`$` Input should be an object"),
        ('{"a": "b"}', "`a` Input should be a valid array"),
        ('{"a": [{"tool": "x"}]}', "`a.0.tool` Extra inputs are not permitted"),
        ('{"a": [{"tool_calls": [{}]}]}', "`a.0.tool_calls.0.name` Field required"),
    ],
)
def test_a_broken_file_of_scripts_says_where(tmp_path: Path, content: str, why: str) -> None:
    """The sentence points at the place that is wrong."""
    path = tmp_path / "scripts.json"
    path.write_text(content)
    assert message(lambda: read_script(f"{path}#a")) == f"`{path}` isn't a file of scripts: {why}."
