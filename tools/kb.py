"""The knowledge base: full-text search over a versioned corpus. Documents are information, never instructions."""

from abc import abstractmethod
from typing import Annotated

from pydantic import Field

from tools.spec import Arguments, Connector, Result, ToolContext, tool

__all__ = ["Document", "Documents", "Knowledge"]


class Document(Result):
    """One hit. `digest` pins the text that was read."""

    document_id: str
    title: str
    digest: str
    text: str


class Documents(Result):
    corpus: str
    corpus_digest: str
    documents: tuple[Document, ...]


class Knowledge(Connector):
    """Port to the corpora."""

    @abstractmethod
    async def search(self, corpus: str, query: str, limit: int) -> Documents: ...


class SearchKb(Arguments):
    query: Annotated[str, Field(min_length=2, max_length=200, description="A few words to look for.")]
    limit: Annotated[int, Field(ge=1, le=5)] = 3


@tool(effect="read", risk="low", scope="kb:read", resource=("Corpus", ""), fast=True, untrusted=True)
async def search_kb(args: SearchKb, context: ToolContext) -> Documents:
    """Search the help articles; returns the best documents with their ids."""
    return await context.use(Knowledge).search(context.corpus, args.query, args.limit)
