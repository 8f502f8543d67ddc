"""What a review of a tool is about: its declaration, and its code as a digest. Nothing is judged here."""

import ast
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import cast

from pydantic import JsonValue, TypeAdapter

from policies.canonical import digest
from policies.reviews import ToolDescription
from tools.spec import ToolSpec

__all__ = ["describe"]

OURS = frozenset({"tools.spec", "tools.catalog", "tools.results", "tools.subjects", "tools.registry"})
"""What tools are made with. It isn't part of any one of them."""
LOGGERS = frozenset({"print", "logging", "structlog", "sys.stdout", "sys.stderr"})
_JSON = TypeAdapter(dict[str, JsonValue])


def describe(spec: ToolSpec) -> ToolDescription:
    """The tool as its module is on disk now: call it when the module has just been loaded."""
    functions = [_defined(f) for f in (spec.run, spec.facts, spec.rules, spec.lookup) if f]
    modules = sorted({f.__module__ for f in functions})
    reached = [node for f in functions for node in _reached(f)]
    return ToolDescription(
        name=spec.name,
        version=spec.version,
        effect=spec.effect,
        risk=spec.risk,
        scope=spec.scope,
        description=spec.description,
        arguments=_JSON.validate_python(spec.schema),
        resource=f"{spec.resource_type} by {spec.resource_field}" if spec.resource_field else spec.resource_type,
        amount=" in ".join(spec.amount_fields or ()),
        idempotency=spec.idempotency or "",
        settle_seconds=spec.settle_seconds or 0,
        untrusted=spec.untrusted,
        rules=spec.rules is not None,
        facts=tuple(sorted({name for node in (_reached(_defined(spec.facts)) if spec.facts else ()) for name in _ports(node)})),
        connectors=tuple(sorted({name for node in reached for name in _ports(node)})),
        logs=tuple(sorted({name for node in reached for name in _loggers(node)})),
        code=_code(tuple(modules)),
    )


def _defined(function: Callable[..., object]) -> Callable[..., object]:
    """What has a definition in some module: a function, or the class of something else that can be called."""
    while isinstance(function, partial):
        function = function.func
    return function if hasattr(function, "__name__") else type(function)


def _reached(function: Callable[..., object]) -> list[ast.AST]:
    """The definition of `function`, and of those in its module that it names, and so on."""
    tree = _tree(function.__module__)
    defined: dict[str, ast.AST] = {
        node.name: node
        for node in (tree.body if tree else ())
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    found: dict[str, ast.AST] = {}
    todo = [function.__name__]
    while todo:
        name = todo.pop()
        if name in found or name not in defined:
            continue
        node = found[name] = defined[name]
        todo += [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]
    return list(found.values())


def _ports(node: ast.AST) -> Iterator[str]:
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "use" and call.args:
            yield ast.unparse(call.args[0])


def _loggers(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Name | ast.Attribute) and (name := ast.unparse(part)) in LOGGERS:
            yield name


def _code(names: tuple[str, ...]) -> str:
    """Digest of the modules, and of those of the same package that they import, by what their code says."""
    found: dict[str, JsonValue] = {}
    for name in names:
        package, folder = name.rpartition(".")[0], _folder(name)
        todo = [name]
        while todo:
            name = todo.pop()
            if name in OURS or not name.startswith(f"{package}."):
                continue
            # Found by its path, for one that is only imported when a function runs isn't loaded yet.
            path = folder / Path(*name.removeprefix(f"{package}.").split("."))
            file = next((f for f in (path.with_name(f"{path.name}.py"), path / "__init__.py") if f.is_file()), None)
            # An app's package is called by a digest of the whole app, which isn't part of any one tool.
            whose = "app" if package.startswith("remit_app.") else package
            if file is None or (label := f"{whose}/{file.relative_to(folder).as_posix()}") in found:
                continue
            tree = _read(file)
            found[label] = _plain(tree)
            todo += _imported(f"{name}.__init__" if file.name == "__init__.py" else name, tree)
    return digest(found) if found else ""


def _imported(name: str, tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(filter(None, (*name.split(".")[: -node.level], base)))
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _folder(name: str) -> Path:
    return Path(str(getattr(sys.modules.get(name), "__file__", ""))).parent


def _tree(name: str) -> ast.Module | None:
    """The code of a module that is loaded; None where there is none to read."""
    path = Path(str(getattr(sys.modules.get(name), "__file__", "")))
    return _read(path) if path.suffix == ".py" and path.is_file() else None


def _read(path: Path) -> ast.Module:
    found = path.stat()
    return _parsed(path, (found.st_mtime_ns, found.st_size))


@lru_cache(maxsize=256)
def _parsed(path: Path, version: tuple[int, int]) -> ast.Module:
    del version
    return ast.parse(path.read_bytes())


def _plain(node: object) -> JsonValue:
    """The tree as JSON, the same under all versions of Python: what a version adds is empty in code that doesn't use it."""
    if isinstance(node, ast.Constant):
        return ["Constant", ascii(node.value)]
    if isinstance(node, ast.AST):
        fields = {name: _plain(value) for name, value in ast.iter_fields(node) if name != "ctx" and value not in (None, [])}
        return [type(node).__name__, fields]
    if isinstance(node, list):
        return [_plain(each) for each in cast(list[object], node)]
    return ascii(node)
