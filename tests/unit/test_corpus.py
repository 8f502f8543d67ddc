"""Search over a corpus: what it finds, that no text breaks it, and that digests pin what was read."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from policies.canonical import digest
from policies.errors import ToolRefusal
from tools.connectors.corpus import Corpora

ARTICLES = {
    "refunds": "# Refund policy\n\nWe refund duplicate charges in full.\n",
    "sso": "# Single sign-on\n\nSAML needs the Business plan.\n",
    "exports": "# Exporting data\n\nA CSV export holds every project, even those that were refunded.\n",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    (folder / "kb-v1").mkdir()
    for name, text in ARTICLES.items():
        (folder / "kb-v1" / f"{name}.md").write_text(text)
    return folder


@pytest.fixture(scope="module")
def corpora(root: Path) -> Corpora:
    return Corpora(root)


async def test_the_best_document_comes_first(corpora: Corpora) -> None:
    """A word in the title weighs more than one in the text, and word forms are found."""
    found = await corpora.search("kb-v1", "refunds", 3)
    assert [d.document_id for d in found.documents] == ["refunds", "exports"]
    assert found.documents[0].title == "Refund policy"
    assert found.documents[0].text == ARTICLES["refunds"]


async def test_the_limit_holds(corpora: Corpora) -> None:
    """No more documents than asked for come back."""
    assert len((await corpora.search("kb-v1", "refund SAML export", 2)).documents) == 2


async def test_nothing_found_is_an_answer(corpora: Corpora) -> None:
    """A query without a hit, or without a word, gives no documents and no error."""
    assert (await corpora.search("kb-v1", "zeppelin", 3)).documents == ()
    assert (await corpora.search("kb-v1", '"" *', 3)).documents == ()


async def test_digests_pin_text_and_corpus(root: Path, corpora: Corpora) -> None:
    """A document's digest is that of its bytes; the corpus' is over the sorted ids and digests."""
    found = await corpora.search("kb-v1", "SAML", 1)
    expected = "sha256:" + hashlib.sha256((root / "kb-v1" / "sso.md").read_bytes()).hexdigest()
    assert found.documents[0].digest == expected
    pairs = [[n, "sha256:" + hashlib.sha256(t.encode()).hexdigest()] for n, t in sorted(ARTICLES.items())]
    assert found.corpus_digest == corpora.digest("kb-v1") == digest(pairs)


async def test_an_edited_corpus_is_indexed_again(tmp_path: Path) -> None:
    """An edit changes the digest and what is found."""
    (tmp_path / "kb-v1").mkdir()
    article = tmp_path / "kb-v1" / "a.md"
    article.write_text("# A\n\napples\n")
    corpora = Corpora(tmp_path)
    before = await corpora.search("kb-v1", "apples", 3)
    article.write_text("# A\n\npears\n")
    after = await corpora.search("kb-v1", "apples", 3)
    assert (len(before.documents), len(after.documents)) == (1, 0)
    assert before.corpus_digest != after.corpus_digest


@pytest.mark.parametrize("name", ["missing-v1", "", "..", "../kb-v1", "kb-v1/../kb-v1", "/etc", "a\0b"])
async def test_an_unknown_corpus_is_refused(corpora: Corpora, name: str) -> None:
    """A corpus that doesn't exist, or a name that leads out of the root, is `unknown_corpus`."""
    with pytest.raises(ToolRefusal) as refusal:
        await corpora.search(name, "refund", 3)
    assert refusal.value.reason == "unknown_corpus"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.text(max_size=200))
@example('refund" OR title:*')
@example("NEAR(refund, 2) AND NOT -sso ^")
@example("{title}: refund*")
@example("'; DROP TABLE article; --")
@example("a\0b \ud800 ²")
async def test_no_text_breaks_the_query(corpora: Corpora, query: str) -> None:
    """Whatever a customer wrote, a search answers; FTS syntax in it is plain text."""
    found = await corpora.search("kb-v1", query, 5)
    assert {d.document_id for d in found.documents} <= set(ARTICLES)


@given(noise=st.text(alphabet="\"*^(){}:-+.,;'\\ \n", max_size=30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_words_are_found_whatever_surrounds_them(corpora: Corpora, noise: str) -> None:
    """Punctuation around a word doesn't hide the document that has it."""
    found = await corpora.search("kb-v1", f"{noise} SAML {noise}", 5)
    assert [d.document_id for d in found.documents] == ["sso"]
