"""Caps across runs, as their files say them now. They are no part of what a run is pinned to: a lowered one bites at once."""

import time
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
from pydantic import ValidationError

from activities.library import Library
from policies.bundle import Bundle, explain
from policies.caps import Caps, CapsFile, ScopedCaps, scoped
from policies.errors import InvalidInput, RemitError

__all__ = ["LiveCaps", "read_caps"]

FRESH_SECONDS = 1.0


@dataclass(frozen=True)
class _Read:
    """What the files of an agent said, and when (monotonic seconds) they were last looked at."""

    caps: tuple[ScopedCaps, ...]
    bundle: Caps
    files: tuple[Path, ...]
    stamp: tuple[tuple[int, int], ...]
    at: float


class LiveCaps:
    """The caps of each agent. Whether their files have changed is looked at once a second."""

    def __init__(self, library: Library, file: Path | None) -> None:
        """`file`: that of `REMIT_CAPS`.

        Raises:
            InvalidInput: it can't be used, or names an agent that there isn't: a cap that holds for nobody.
        """
        self._library = library
        self._path = file
        self._file = read_caps(file) if file else CapsFile()
        if unknown := sorted(set(self._file.agents) - set(library.names())):
            raise InvalidInput(f"`REMIT_CAPS`: `{file}` has caps of `{unknown[0][:80]}`, and there is no such agent.")
        self._read: dict[str, _Read] = {}

    def __call__(self, agent: str, pinned: Bundle | None = None) -> tuple[ScopedCaps, ...]:
        """All caps that hold for a run of `agent` now; none is the usual case, and costs nothing.

        Args:
            pinned: the run's own bundle, for an agent that can't be read here any more.
        """
        found, now = self._read.get(agent), time.monotonic()
        if found and now - found.at < FRESH_SECONDS:
            return found.caps
        if not found or not found.files or found.stamp != self._stamp(found.files):
            found = self._again(agent, found, pinned)
        self._read[agent] = replace(found, at=now)
        return found.caps

    def _again(self, agent: str, before: _Read | None, pinned: Bundle | None) -> _Read:
        """What the files say now. G6: one that can't be used lifts no cap, what was read last holds on."""
        # Taken before they are read: what changes meanwhile is seen the next time.
        stamp = self._stamp(before.files) if before else ()
        try:
            bundle, files = self._library.caps(agent)
            if before is None or files != before.files:
                stamp = ()
        except RemitError as e:
            files = before.files if before else ()
            bundle = before.bundle if before else pinned.limits().caps if pinned else Caps()
            _warn(e, agent)
        try:
            self._file = read_caps(self._path) if self._path else CapsFile()
        except RemitError as e:
            _warn(e, agent)
        return _Read(scoped(agent, bundle, self._file), bundle, files, stamp, 0.0)

    def _stamp(self, files: tuple[Path, ...]) -> tuple[tuple[int, int], ...]:
        return tuple(_changed((*files, self._path) if self._path else files))


def read_caps(file: Path) -> CapsFile:
    """The content of `file`.

    Raises:
        InvalidInput: it isn't there, isn't TOML, or has a field that doesn't exist.
    """
    try:
        return CapsFile.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError):
        raise InvalidInput(f"`REMIT_CAPS` names `{file}`, which can't be read; see docs/caps.md.") from None
    except tomllib.TOMLDecodeError as e:
        raise InvalidInput(f"`REMIT_CAPS`: `{file}` isn't valid TOML: {e}.") from None
    except ValidationError as e:
        raise InvalidInput(f"`REMIT_CAPS`: `{file}`: {explain(e)}.") from None


def _changed(files: Iterable[Path]) -> Iterable[tuple[int, int]]:
    for file in files:
        try:
            found = file.stat()
        except OSError:
            yield 0, 0
        else:
            yield found.st_mtime_ns, found.st_size


def _warn(error: RemitError, agent: str) -> None:
    structlog.get_logger("remit.caps").warning("the caps that were read last hold on", agent=agent, reason=error.message)
