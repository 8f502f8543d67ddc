"""Knowledge corpora as folders of Markdown, searched through SQLite FTS5 in memory. Nothing is written to disk."""

import asyncio
import re
import sqlite3
import threading
from dataclasses import dataclass, field
from pathlib import Path

from policies.canonical import digest, sha256
from policies.errors import ToolRefusal
from tools.kb import Document, Documents, Knowledge

__all__ = ["Corpora"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TOKEN = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class _Index:
    """One version of a corpus, by document id, and its full-text index."""

    digest: str
    documents: dict[str, Document]
    fts: sqlite3.Connection
    lock: threading.Lock = field(default_factory=threading.Lock)

    def search(self, query: str, limit: int) -> tuple[Document, ...]:
        words = list(dict.fromkeys(_TOKEN.findall(query)))
        if not words:
            return ()
        # Each token is quoted, for a customer's `AND`, `*`, `-` or `"` is text, not FTS syntax.
        match = " OR ".join(f'"{word}"' for word in words)
        sql = "SELECT id FROM article WHERE article MATCH ? ORDER BY bm25(article, 0.0, 4.0, 1.0), id LIMIT ?"
        with self.lock:
            found: list[tuple[str]] = self.fts.execute(sql, (match, limit)).fetchall()
        return tuple(self.documents[id] for (id,) in found)


class Corpora(Knowledge):
    """The corpora under `roots`: a folder each, named after corpus and version, with a Markdown file per document.

    Raises (each operation):
        ToolRefusal: `unknown_corpus`.
    """

    def __init__(self, *roots: Path | str) -> None:
        self.roots = tuple(Path(root) for root in roots)
        self._indexes: dict[str, _Index] = {}
        self._lock = threading.Lock()

    async def search(self, corpus: str, query: str, limit: int) -> Documents:
        """The best `limit` documents by BM25 for any of the words in `query`; none is a fine answer."""

        def work() -> Documents:
            index = self._index(corpus)
            return Documents(corpus=corpus, corpus_digest=index.digest, documents=index.search(query, limit))

        return await asyncio.to_thread(work)

    def digest(self, corpus: str) -> str:
        """`sha256:<hex>` over the sorted ids and digests of the corpus' documents, read from disk now (blocking)."""
        return _digest(self._read(corpus))

    def _index(self, corpus: str) -> _Index:
        documents = self._read(corpus)
        version = _digest(documents)
        with self._lock:
            index = self._indexes.get(corpus)
            if index is None or index.digest != version:
                index = self._indexes[corpus] = _Index(version, documents, _fts(documents))
            return index

    def _read(self, corpus: str) -> dict[str, Document]:
        # A corpus name comes from an agent's TOML: it must not lead out of its root.
        named = self.roots if _NAME.fullmatch(corpus) else ()
        folder = next((root / corpus for root in named if (root / corpus).is_dir()), None)
        if folder is None:
            raise ToolRefusal("unknown_corpus", f"There is no corpus `{corpus[:100]}`.")
        documents: dict[str, Document] = {}
        for path in sorted(folder.glob("*.md")):
            data = path.read_bytes()
            text = data.decode(errors="replace")
            heading = next((line.lstrip("#").strip() for line in text.splitlines() if line.startswith("#")), "")
            documents[path.stem] = Document(document_id=path.stem, title=heading or path.stem, digest=sha256(data), text=text)
        return documents


def _digest(documents: dict[str, Document]) -> str:
    return digest(sorted([d.document_id, d.digest] for d in documents.values()))


def _fts(documents: dict[str, Document]) -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", check_same_thread=False)
    db.execute("CREATE VIRTUAL TABLE article USING fts5(id UNINDEXED, title, text, tokenize = 'porter unicode61')")
    db.executemany("INSERT INTO article VALUES (?, ?, ?)", [(d.document_id, d.title, d.text) for d in documents.values()])
    return db
