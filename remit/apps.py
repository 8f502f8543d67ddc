"""Where agents, tools, bundles and connectors come from: what is built in and an app's folder, through one door.

An app is a folder with `agents/`, `tools/*.py` and `policies/bundles/`, any of them. Its modules load as
`remit_app.<digest>.tools.<file>`, never through `sys.path`: nothing of ours can be shadowed, and `from .other import x` works.
"""

import hashlib
import importlib
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import cast

import structlog
from pydantic import TypeAdapter

from activities.library import Library
from policies.errors import InvalidInput, MissingKey, RemitError, ToolInvalid
from policies.reviews import Shipped
from remit.settings import ROOT, Settings
from tools import builtin
from tools.billing import Billing
from tools.catalog import Catalog
from tools.connectors import sandbox
from tools.connectors.corpus import Corpora
from tools.connectors.sandbox import Sandbox
from tools.incidents import Incidents
from tools.kb import Knowledge
from tools.spec import Connector, ToolSpec
from tools.subjects import EveryRecord, Personal, Subjects, SubjectsByKind
from tools.support import Support

__all__ = ["PACKAGE", "REVIEWED", "Connectors", "Parts", "Source", "assemble"]

PACKAGE = "remit_app"
"""Every module of an app lies below it; the worker passes it through the workflow sandbox."""

REVIEWED = Path(builtin.__file__).with_name("reviews.json")
_REVIEWED = TypeAdapter(dict[str, Shipped])

Connectors = Mapping[type[Connector], Connector]


@dataclass(frozen=True)
class Source:
    """What one folder brings: what is built in, or an app.

    Attributes:
        modules: those whose tools count, by the path that a message names them with.
        connectors: makes its connectors, by port; called by a worker only, for it may need secrets.
    """

    root: Path
    modules: Mapping[str, ModuleType]
    connectors: Callable[[], Connectors]


@dataclass(frozen=True)
class Parts:
    """Everything that the sources bring together.

    Raises (each attribute):
        InvalidInput: a name exists twice, or a tool can't be registered.
    """

    sources: tuple[Source, ...]

    @cached_property
    def catalog(self) -> Catalog:
        found = Catalog([])
        for source in self.sources:
            for file, module in source.modules.items():
                try:
                    mine = Catalog.of(module)
                    taken = sorted(set(found.specs) & set(mine.specs))
                    if taken:
                        raise ToolInvalid(f"there is a tool `{taken[0]}` already; rename this one.")
                    found += mine
                except ToolInvalid as e:
                    raise ToolInvalid(f"`{file}`: {e.message}") from None
        return found

    def specs(self, source: Source) -> list[ToolSpec]:
        """The tools that `source` brings."""
        return [spec for module in source.modules.values() for spec in Catalog.of(module).specs.values()]

    @cached_property
    def reviewed(self) -> dict[str, Shipped]:
        """The reviews that came with this release of Remit, by tool. Those of an app's tools are in the ledger."""
        return _REVIEWED.validate_json(REVIEWED.read_bytes())

    @cached_property
    def library(self) -> Library:
        return Library([s.root for s in self.sources], self.catalog)

    @cached_property
    def corpora(self) -> Corpora:
        return Corpora(*self.library.corpora)

    @cached_property
    def connectors(self) -> Connectors:
        found: dict[type[Connector], Connector] = {Knowledge: self.corpora}
        for source in self.sources:
            for port, connector in source.connectors().items():
                first = found.get(port)
                if isinstance(first, Subjects) and isinstance(connector, Subjects):
                    found[port] = SubjectsByKind(first, sandbox.KINDS, connector)
                elif isinstance(first, Personal) and isinstance(connector, Personal) and port is Personal:
                    found[port] = EveryRecord((first, connector))
                elif first is not None:
                    raise InvalidInput(f"The port `{port.__name__}` has a connector already; give the app a port of its own.")
                else:
                    found[port] = connector
        return found

    def check(self) -> None:
        """Look at every agent and bundle.

        Raises:
            InvalidInput: one can't be used.
        """
        if problems := self.library.problems():
            raise InvalidInput(problems[0])


def assemble(settings: Settings, root: Path = ROOT) -> Parts:
    """What is built in, in `root`, and what the app of `settings` adds.

    Raises:
        InvalidInput: the app's folder doesn't exist, or one of its modules can't be imported.
    """
    sources = [_builtin(settings, root)]
    if settings.app:
        sources.append(_app(settings.app))
    return Parts(tuple(sources))


def _builtin(settings: Settings, root: Path) -> Source:
    def connectors() -> Connectors:
        path = settings.business_path
        if not path.is_file():
            structlog.get_logger("remit.worker").warning("new empty sandbox business", path=str(path))
            sandbox.create(path, {})
        business = Sandbox(path)
        billing = _billing(settings)
        return {
            Billing: billing or business,
            Support: business,
            Incidents: business,
            Subjects: business,
            Personal: EveryRecord((billing, business)) if isinstance(billing, Personal) else business,
        }

    return Source(root, {m.__name__: m for m in builtin.MODULES}, connectors)


def _billing(settings: Settings) -> Billing | None:
    """The vendor's billing; None for the sandbox's."""
    if settings.connector_billing == "sandbox":
        return None
    from tools.connectors.stripe import ChargeInvoices, StripeBilling, StripeInvoices  # 0.15 s of imports

    if settings.stripe_api_key is None:
        raise MissingKey("`REMIT_CONNECTOR_BILLING=stripe` needs `STRIPE_API_KEY`.")
    source = StripeInvoices if settings.stripe_invoices == "invoices" else ChargeInvoices
    return StripeBilling(settings.stripe_api_key.get_secret_value(), settings.stripe_api_base, invoices=source)


def _app(folder: Path) -> Source:
    root = folder.expanduser().resolve()
    if not root.is_dir():
        raise InvalidInput(f"There is no folder `{folder}`; `--app` and `REMIT_APP` take the folder of an app.")
    if not any((root / part).is_dir() for part in ("agents", "tools", "policies/bundles")):
        raise InvalidInput(f"`{folder}` isn't an app: it has no `agents/`, no `tools/` and no `policies/bundles/`.")
    tools = root / "tools"
    files = sorted(p for p in tools.rglob("*.py") if "__pycache__" not in p.parts)
    content = hashlib.sha256()
    for file in files:
        content.update(f"{file.relative_to(root)}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    modules = _modules(root, content.hexdigest()[:16])
    return Source(root, modules, lambda: _connectors(modules))


@lru_cache
def _modules(root: Path, digest: str) -> dict[str, ModuleType]:
    """The modules `tools/*.py` under `root`. Named after their content, for a tool's digest must not depend on a path."""
    package = f"{PACKAGE}.{digest}"
    for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
        del sys.modules[name]  # the same files in another folder
    importlib.invalidate_caches()
    for name, path in ((PACKAGE, []), (package, []), (f"{package}.tools", [str(root / "tools")])):
        if name not in sys.modules:
            module = sys.modules[name] = ModuleType(name, "A Remit app.")
            module.__path__ = path
    found: dict[str, ModuleType] = {}
    for file in sorted((root / "tools").glob("[!_]*.py")):
        try:
            found[f"tools/{file.name}"] = importlib.import_module(f"{package}.tools.{file.stem}")
        except ToolInvalid as e:
            raise ToolInvalid(f"`{_blame(root, file, e)}`: {e.message}") from None
        except (Exception, SystemExit) as e:  # an app's code may do anything
            raise InvalidInput(f"`{_blame(root, file, e)}` can't be imported: {_said(e)}.") from None
    return found


def _blame(root: Path, file: Path, error: BaseException) -> str:
    """The file of the app that `error` comes from: `file`, or one that it imports."""
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        frames.append(error.filename)
    inside = [Path(name) for name in frames if Path(name).is_relative_to(root)]
    return (inside[-1] if inside else file).relative_to(root).as_posix()


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _connectors(modules: Mapping[str, ModuleType]) -> Connectors:
    """What the functions `connectors()` of the modules return."""
    found: dict[type[Connector], Connector] = {}
    for file, module in modules.items():
        make = getattr(module, "connectors", None)
        if not callable(make) or getattr(make, "__module__", "") != module.__name__:
            continue
        try:
            made = make()
        except RemitError as e:
            raise InvalidInput(f"`{file}`: `connectors()`: {e.message}") from None
        except (Exception, SystemExit) as e:
            raise InvalidInput(f"`{file}`: `connectors()` failed: {_said(e)}.") from None
        for port, connector in _checked(file, made).items():
            if port in found:
                raise InvalidInput(f"`{file}`: the port `{port.__name__}` has a connector already; return one only.")
            found[port] = connector
    return found


def _checked(file: str, made: object) -> Connectors:
    given = dict(cast(Mapping[object, object], made)) if isinstance(made, Mapping) else {None: None}
    found: dict[type[Connector], Connector] = {}
    for port, connector in given.items():
        if not (isinstance(port, type) and issubclass(port, Connector) and isinstance(connector, port)):
            raise InvalidInput(
                f"`{file}`: `connectors()` must return a dict of ports, subclasses of `Connector`, to their connectors."
            )
        found[port] = connector
    return found
