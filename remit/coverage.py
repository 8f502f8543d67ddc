"""Which test files name a tool. Whether they test anything is for a reviewer to read."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["naming"]

ASIDE = frozenset({"node_modules", "__pycache__"})


def naming(roots: Mapping[str, Path]) -> dict[str, list[str]]:
    """For each tool, the files `test_*.py` in the folder `tests` under its root that name it, with their path in it."""
    texts = {root: _tests(root) for root in set(roots.values())}
    return {
        tool: [name for name, text in texts[root].items() if re.search(rf"\b{re.escape(tool)}\b", text)]
        for tool, root in roots.items()
    }


def _tests(root: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for folder, below, files in os.walk(root / "tests"):
        below[:] = sorted(d for d in below if d not in ASIDE and not d.startswith("."))
        for file in sorted(files):
            if file.startswith("test_") and file.endswith(".py"):
                path = Path(folder, file)
                found[path.relative_to(root).as_posix()] = path.read_text(encoding="utf-8", errors="replace")
    return found
