"""All tools that a worker knows, their digest, and the Cedar schema that policies are checked against. Pure."""

import enum
import json
import re
import types
from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from policies.authorize import NAMESPACE
from policies.canonical import digest
from policies.errors import ToolInvalid, ToolRefusal
from policies.models import RISKS, ResourceFacts, RunFacts, Taint
from tools.spec import ToolSpec, spec_of

__all__ = ["Catalog"]

RESERVED_NAMES = ("read", "write", "final_answer")
"""The action groups of each policy, and the tool with which a model ends a run."""
RESERVED_TYPES = ("Agent", "Role")


class Catalog:
    """An immutable set of tools by name."""

    def __init__(self, specs: Iterable[ToolSpec]) -> None:
        """Raises:
        ToolInvalid: two tools share a name, one has a name or a resource type that is taken, or arguments without a
            Cedar type.
        """
        self.specs: dict[str, ToolSpec] = {}
        for spec in sorted(specs, key=lambda s: s.name):
            if spec.name in self.specs:
                raise ToolInvalid(f"Two tools are called `{spec.name}`; rename one.")
            if spec.name in RESERVED_NAMES:
                raise ToolInvalid(f"A tool can't be called `{spec.name}`: the name is taken; rename it.")
            if spec.resource_type in RESERVED_TYPES or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", spec.resource_type):
                raise ToolInvalid(
                    f"Tool `{spec.name}`: `{spec.resource_type}` can't be a resource type; use a word of letters and digits "
                    "other than `Agent` and `Role`."
                )
            self.specs[spec.name] = spec
        _ = self.cedar_schema

    @classmethod
    def of(cls, *modules: types.ModuleType) -> "Catalog":
        """The tools that `modules` define (not those that they import)."""
        found = [
            spec
            for module in modules
            for value in vars(module).values()
            if (spec := spec_of(value)) and getattr(value, "__module__", "") == module.__name__
        ]
        return cls(found)

    def __add__(self, other: "Catalog") -> "Catalog":
        return Catalog([*self.specs.values(), *other.specs.values()])

    def get(self, name: str) -> ToolSpec:
        """The tool called `name`.

        Raises:
            ToolRefusal: `unknown_tool`.
        """
        if spec := self.specs.get(name):
            return spec
        raise ToolRefusal("unknown_tool", f"There is no tool `{name[:80]}`; use one of those offered.")

    @cached_property
    def digest(self) -> str:
        return digest({name: spec.digest for name, spec in self.specs.items()})

    @cached_property
    def cedar_schema(self) -> str:
        """JSON of the Cedar schema: an action for each tool, grouped in `read` and `write`, and by risk, as in `risk:high`.

        Raises:
            ToolInvalid: an argument's type has no Cedar counterpart.
        """
        resources: dict[str, object] = {spec.resource_type: {} for spec in self.specs.values()}
        actions: dict[str, object] = {group: {} for group in ("read", "write", *(f"risk:{risk}" for risk in RISKS))}
        for spec in self.specs.values():
            try:
                context: dict[str, object] = {
                    "args": _record(spec.arguments),
                    "run": _record(RunFacts),
                    "taint": _record(Taint),
                }
            except TypeError as e:
                raise ToolInvalid(
                    f"Tool `{spec.name}`: {e}; use strings, integers, booleans, literals, lists or models."
                ) from None
            if spec.effect == "write":
                context["resource"] = _record(ResourceFacts)
            actions[spec.name] = {
                "memberOf": [{"id": spec.effect}, {"id": f"risk:{spec.risk}"}],
                "appliesTo": {
                    "principalTypes": ["Agent"],
                    "resourceTypes": [spec.resource_type],
                    "context": _attributes(context),
                },
            }
        agent = _attributes(
            {
                "mode": {"type": "String"},
                "status": {"type": "String"},
                "assurance": {"type": "Long"},
                "scopes": {"type": "Set", "element": {"type": "String"}},
            }
        )
        entities: dict[str, object] = {"Role": {}, "Agent": {"memberOfTypes": ["Role"], "shape": agent}, **resources}
        return json.dumps({NAMESPACE: {"entityTypes": entities, "actions": actions}}, sort_keys=True)


def _attributes(attributes: dict[str, Any]) -> dict[str, object]:
    return {"type": "Record", "attributes": attributes}


def _cedar_type(annotation: Any, inside: tuple[type[BaseModel], ...]) -> dict[str, object]:
    given: object = annotation
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _cedar_type(args[0], inside)
    if origin is Literal:
        if all(isinstance(a, str) for a in args):
            return {"type": "String"}
        if all(isinstance(a, int) and not isinstance(a, bool) for a in args):
            return {"type": "Long"}
    if origin in (set, list, frozenset) or (origin is tuple and args[1:] == (...,)):
        return {"type": "Set", "element": _cedar_type(args[0], inside)}
    if annotation is bool:
        return {"type": "Boolean"}
    if annotation is int:
        return {"type": "Long"}
    if annotation is str or (isinstance(annotation, type) and issubclass(annotation, enum.StrEnum)):
        return {"type": "String"}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _record(annotation, inside)
    raise TypeError(f"`{_name(given)}` has no Cedar type")


def _name(annotation: object) -> str:
    return str(getattr(annotation, "__name__", annotation))


def _record(model: type[BaseModel], inside: tuple[type[BaseModel], ...] = ()) -> dict[str, object]:
    if model in inside:
        raise TypeError(f"`{model.__name__}` contains itself, which has no Cedar type")
    attributes: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        annotation: Any = info.annotation
        optional = False
        if get_origin(annotation) in (Union, types.UnionType):
            rest = [a for a in get_args(annotation) if a is not type(None)]
            if len(rest) != 1 or len(get_args(annotation)) != 2:
                raise TypeError(f"`{name}` is a union, which has no Cedar type")
            annotation, optional = rest[0], True
        attributes[name] = {**_cedar_type(annotation, (*inside, model)), "required": not optional}
    return _attributes(attributes)
