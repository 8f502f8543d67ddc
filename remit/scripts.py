"""Reading what people put into files and options: inputs, scripts, edits. Each failure is one sentence that names the place."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue, TypeAdapter, ValidationError

from policies.bundle import explain
from policies.errors import InvalidInput
from workflows.messages import ScriptTurn

__all__ = ["changes_of", "edited", "inputs_of", "read_inputs_file", "read_script"]

_SCRIPTS: TypeAdapter[dict[str, tuple[ScriptTurn, ...]]] = TypeAdapter(dict[str, tuple[ScriptTurn, ...]])
_INPUTS: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])


def inputs_of(text: str, where: str = "`--inputs`") -> dict[str, JsonValue]:
    """The inputs in JSON text.

    Raises:
        InvalidInput: it isn't one JSON object, or holds half of a character.
    """
    try:
        found = _INPUTS.validate_python(json.loads(text))
    except (ValueError, RecursionError):
        raise InvalidInput(f'{where} must be one JSON object, for example `{{"ticket_id": "T-1001"}}`.') from None
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidInput(
            f"{where} holds half of a character, such as `\\ud83d` without its other half; correct it."
        ) from None
    return found


def read_inputs_file(path: Path) -> list[dict[str, JsonValue]]:
    """The inputs in a JSON Lines file, one run a line; blank lines are passed over.

    Raises:
        InvalidInput: it can't be read, is empty, or a line isn't a JSON object.
    """
    lines = _read(path).split("\n")  # not `splitlines`: JSON may hold U+2028 and the like as they are
    found = [inputs_of(line, f"`{path}`, line {n}:") for n, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise InvalidInput(f"`{path}` holds no inputs; put one JSON object on each line.")
    return found


def read_script(reference: str) -> tuple[ScriptTurn, ...]:
    """The turns that `FILE#NAME` names.

    Raises:
        InvalidInput: the file can't be read, isn't of the right form, or has no such script.
    """
    file, _, name = reference.rpartition("#")
    if not file or not name:
        raise InvalidInput("`--script` takes `FILE#NAME`: a JSON file, and the name of a script in it.")
    try:
        scripts = _SCRIPTS.validate_json(_read(Path(file)))
    except ValidationError as e:
        raise InvalidInput(f"`{file}` isn't a file of scripts: {explain(e)}.") from None
    if name not in scripts:
        raise InvalidInput(f"`{file}` has no script `{name}`; it has: {', '.join(sorted(scripts)) or 'none'}.")
    return scripts[name]


def changes_of(options: Sequence[str] | None) -> dict[str, str]:
    """What `--set NAME=VALUE` says, by name.

    Raises:
        InvalidInput: one has no `=`, or a name is set twice.
    """
    found: dict[str, str] = {}
    for option in options or ():
        name, equals, value = option.partition("=")
        if not equals or not name:
            raise InvalidInput(f"`--set {option[:80]}` must be `--set NAME=VALUE`, for example `--set amount_cents=3000`.")
        if name in found:
            raise InvalidInput(f"`--set` names `{name[:80]}` twice; give each argument once.")
        found[name] = value
    return found


def edited(arguments: Mapping[str, object], changes: Mapping[str, str]) -> dict[str, JsonValue]:
    """`arguments` with `changes`. A value is JSON where that fits; for what was text before, or isn't JSON, it is text."""
    found = _INPUTS.validate_python(dict(arguments))
    for name, text in changes.items():
        value: JsonValue = text
        try:
            parsed: JsonValue = json.loads(text)
        except (ValueError, RecursionError):
            parsed = text
        if isinstance(parsed, str) or not isinstance(found.get(name), str):
            value = parsed
        found[name] = value
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise InvalidInput(f"`{path}` can't be read: {getattr(e, 'strerror', None) or 'it is not text'}.") from None
