"""Placeholders: what is hidden from a model, what comes back, and what an attacker can't do with them."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.privacy.known import PAGE, facts_of
from activities.privacy.names import Entry, Names, Written
from activities.privacy.recognizers import Recognizers
from activities.privacy.veil import Hider
from policies.privacy import PrivacyRules, first_placeholder
from tools.subjects import PersonalDetail, record
from workflows.messages import AssistantMessage, Message, ToolMessage, ToolRequest, UserMessage
from workflows.window import NOTE

RECORD = record(
    name="Maren Holt",
    email="maren@holtphysio.example",
    phone="+44 20 7946 0958",
    street="14 Garden Row",
    postal_code="SE1 6HG",
    city="London",
)
CARD = "4242424242424242"


def hider(*details: PersonalDetail) -> Hider:
    """That of a run which is for somebody of whom the business knows this."""
    facts = facts_of("Customer:cus_101", details or RECORD)
    written = Written(entries=tuple(Entry(name=f.name, kind=f.kind, value=f.value, fact=f.name) for f in facts))
    return Hider(Names(written), Recognizers.of(PrivacyRules()))


def named(name: str) -> Hider:
    return hider(PersonalDetail(kind="name", value=name))


def answer(arguments: object = None, text: str = "") -> AssistantMessage:
    """What a model says, and one call of its, if there are arguments."""
    written = arguments if isinstance(arguments, str) else json.dumps(arguments)
    calls = () if arguments is None else (ToolRequest(id="c1", name="draft_reply", arguments=written),)
    return AssistantMessage(text=text, tool_calls=calls)


# ---- to the model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("MAREN HOLT and maren  holt", "<customer_1.name> and <customer_1.name>"),
        ("Holt, Maren", "<customer_1.last_name>, <customer_1.first_name>"),
        ("Maren@HoltPhysio.EXAMPLE", "<customer_1.email>"),
        ("diana.maren@holtphysio.example", "<email_1>"),
        ("020 7946 0958, 0044 20 79460958", "<customer_1.phone>, <customer_1.phone>"),
        ("14 garden row, se1 6hg LONDON", "<customer_1.address>"),
        ("Ma\u200bren Ho\u00adlt", "<customer_1.name>"),
        ("\uff4d\uff41\uff52\uff45\uff4e\uff20holtphysio.example", "<customer_1.email>"),
        ("https://x.example/?to=maren%40holtphysio.example", "https://x.example/?to=<customer_1.email_url>"),
        ("https://x.example/maren/1", "https://x.example/<customer_1.first_name_url>/1"),
        ("card 4242 4242 4242 4242 or 4242-4242-4242-4242", "card <card_1> or <card_1>"),
        ("b@x.example, a@x.example, B@x.example", "<email_1>, <email_2>, <email_1>"),
        ("cus_maren, in_1001, 14 apples, marenholtz", "cus_maren, in_1001, 14 apples, marenholtz"),
    ],
)
def test_spellings_of_one_value_share_a_placeholder(text: str, shown: str) -> None:
    """Case, spaces, invisible characters and other forms make no difference; longer values are others."""
    assert hider().text(text) == shown


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC"])
@pytest.mark.parametrize(
    ("name", "text"), [("José Muñoz", "José Muñoz"), ("José Muñoz", "jose munoz"), ("Jürgen Weiß", "Juergen Weiss")]
)
def test_accents_may_be_composed_or_left_out(name: str, text: str, form: str) -> None:
    """A name is found in each form of Unicode, without its accents, and with umlauts written out."""
    found = named(name).text(unicodedata.normalize(form, f"{text} called"))  # pyright: ignore[reportArgumentType]
    assert found == "<customer_1.name> called"


@pytest.mark.parametrize(
    ("name", "text", "shown"),
    [
        ("Will Young", "Will you refund it? The young will.", "Will you refund it? The young will."),
        ("Will Young", "Hi Will, ask WILL YOUNG", "Hi <customer_1.first_name>, ask <customer_1.name>"),
        ("Will Young", "Bye,\nWill", "Bye,\n<customer_1.first_name>"),
        ("May Park", "The park opens in May. May we?", "The park opens in May. May we?"),
        ("May Park", "Dear May, hello", "Dear <customer_1.first_name>, hello"),
        ("Li Wu", "an li element; LI; <li>", "an li element; LI; <li>"),
        ("Li Wu", "Li Wu, that is Li", "<customer_1.name>, that is <customer_1.first_name>"),
        ("de la Cruz", "de la Cruz said la vida", "<customer_1.name> said la vida"),
        ("田中太郎", "田中 太郎様", "<customer_1.name>様"),
    ],
)
def test_a_name_that_is_a_word_is_one_where_it_is_meant_so(name: str, text: str, shown: str) -> None:
    """A whole name always is; a part that is a common word, or two letters long, by its place in the sentence."""
    assert named(name).text(text) == shown


def test_overlapping_values_leave_nothing_over() -> None:
    """The longest wins, and what is left of a shorter one is hidden by its parts."""
    mine = hider(*record(name="Ana Diaz", street="Diaz 12", postal_code="28013", city="Madrid"))
    assert mine.text("Ana Diaz 12, 28013 Madrid") == "<customer_1.first_name> <customer_1.address>"


def test_json_is_read_as_json() -> None:
    """Names of fields, JSON in strings, escapes and numbers are looked at; all else stays to the byte."""
    content = json.dumps(
        {"to": "maren@holtphysio.example", "inner": json.dumps({"n": "Maren Holt", "k": ["b@x.example"]}), "b@x.example": 1.50}
    )
    found = hider().text(content)
    assert json.loads(found)["to"] == "<customer_1.email>"
    assert json.loads(json.loads(found)["inner"]) == {"n": "<customer_1.name>", "k": ["<email_1>"]}
    assert found.endswith('"<email_1>": 1.5}')
    assert hider().text('{ "a":1.50,"b" : [true] }') == '{ "a":1.50,"b" : [true] }'
    assert hider().text('{"n": "Ma\\u0072en Holt"}') == '{"n": "<customer_1.name>"}'


def test_a_card_may_be_a_number() -> None:
    """It becomes text for the model, and a number again for the tool; amounts and times are left alone."""
    mine = hider()
    shown = mine.text(f'{{"card": {CARD}, "as_text": "{CARD}", "cents": 120000, "at": 1760000000123}}')
    assert shown == '{"card": "<card_1>", "as_text": "<card_2>", "cents": 120000, "at": 1760000000123}'
    restored = mine.restore(answer('{"card": "<card_1>", "as_text": "<card_2>", "text": "it is <card_1>"}'))
    assert json.loads(restored.tool_calls[0].arguments) == {"card": int(CARD), "as_text": CARD, "text": f"it is {CARD}"}


def test_the_name_of_a_field_says_what_its_digits_are() -> None:
    """Ten digits are a phone number in the field `phone`, and an order's in the field `order_number`."""
    shown = hider().text('{"phone": "2125550143", "order_number": "2125550143"}')
    assert shown == '{"phone": "<phone_1>", "order_number": "<phone_1>"}'  # once it is known, it is the same everywhere
    assert hider().text('{"order_number": "2125550143"}') == '{"order_number": "2125550143"}'


def test_a_page_may_end_within_a_value() -> None:
    """What is known is hidden on both pages, and each half comes back as it was."""
    whole = "x " * PAGE + "write to maren@holtphysio.example soon, " + "y " * PAGE
    cut = whole.index("physio.example")
    mine = hider()
    first, second = mine.text(whole[:cut]), mine.text(whole[cut:])
    assert first.endswith("write to <customer_1.email_part>")
    assert second.startswith("<customer_1.email_part_2> soon")
    assert mine.restored(first) + mine.restored(second) == whole


def test_json_that_is_cut_off_is_looked_at_as_far_as_it_goes() -> None:
    """The head of a long result is no JSON any more, and its strings have escapes."""
    assert (
        hider().text('{"a": "line\\nMaren Holt", "b": "maren@holtph')
        == '{"a": "line\\n<customer_1.name>", "b": "<customer_1.first_name>@holtph'
    )


def test_the_agents_own_text_keeps_its_words() -> None:
    """In a prompt only what is beyond doubt is hidden: prompts are the same for all runs of an agent."""
    prompt = "May I ask: will you park? Write to support@brightdesk.example."
    assert named("May Park").certain(prompt) == prompt
    assert hider().certain("Never write to maren@holtphysio.example.") == "Never write to <customer_1.email>."


# ---- from the model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("<customer_1.email>", "maren@holtphysio.example"),
        ("<CUSTOMER_1.Email>", "maren@holtphysio.example"),
        ("< customer_1.email >", "maren@holtphysio.example"),
        ("<a href='mailto:&lt;customer_1.email&gt;'>", "<a href='mailto:maren@holtphysio.example'>"),
        ("https://x/?to=%3Ccustomer_1.email%3E", "https://x/?to=maren%40holtphysio.example"),
        ("<<customer_1.name>>", "<Maren Holt>"),
        ("<customer_1.email", "<customer_1.email"),
        ("customer_1.email>", "customer_1.email>"),
        ("<customer_1>", "<customer_1>"),
        ("<customer_2.email> <email_1> <name_1> <b_1>", "<customer_2.email> <email_1> <name_1> <b_1>"),
    ],
)
def test_placeholders_come_back_as_values(said: str, meant: str) -> None:
    """In capitals, with spaces, escaped for HTML or a URL too; a part of one, and one of nobody's, stay as they are."""
    mine = hider()
    assert mine.restored(said) == meant
    [call] = mine.restore(answer({"text": said, said: "key"})).tool_calls
    assert json.loads(call.arguments) == {"text": meant, meant: "key"}


def test_values_are_written_as_json_inside_of_json() -> None:
    """Quotes and backslashes in a value don't break the arguments, however deep they are nested."""
    mine = named('Max "The\\Axe" Müller')
    [call] = mine.restore(answer({"a": "<customer_1.name>", "b": json.dumps({"c": "<customer_1.name>"})})).tool_calls
    found = json.loads(call.arguments)
    assert found["a"] == json.loads(found["b"])["c"] == 'Max "The\\Axe" Müller'


def test_arguments_that_are_no_json_are_restored_as_text() -> None:
    """They are refused later, with the model's own words."""
    [call] = hider().restore(answer('{"to": "<customer_1.email>')).tool_calls
    assert call.arguments == '{"to": "maren@holtphysio.example'


@pytest.mark.parametrize(
    "form",
    [
        "<customer_1.email>",
        "<CUSTOMER_1.EMAIL>",
        "<  customer_1.email\n>",
        "&lt;customer_1.email&gt;",
        "%3Ccustomer_1.email%3E",
        "\uff1ccustomer_1.email\uff1e",
        "<cust\u200bomer_1.email>",
        "<<email_1>>",
        "<card_1>",
        "<customer_1.email_url_2>",
    ],
)
def test_what_looks_like_a_placeholder_in_a_ticket_is_none(form: str) -> None:
    """Copied by the model letter by letter, it is no value, whatever it stands for in the run."""
    mine = hider()
    mine.text(f"b@x.example {CARD}")  # so that there is an `email_1`, and a `card_1`
    for content in (form, json.dumps({"body": form, form: [form]}), json.dumps({"nested": json.dumps({"body": form})})):
        shown = mine.message(ToolMessage(call_id="c", name="get_ticket", content=content))
        assert isinstance(shown, ToolMessage)
        assert mine.restored(shown.content) == shown.content
        assert first_placeholder(json.dumps({"text": shown.content})) == ""


def test_a_value_that_looks_like_a_placeholder_is_not_restored_again() -> None:
    """A customer who is called `<email_1>` doesn't get somebody's address; what is left is refused."""
    mine = named("<email_1> <card_1>")
    mine.text(f"b@x.example {CARD}")
    [call] = mine.restore(answer({"text": "Dear <customer_1.name>"})).tool_calls
    assert json.loads(call.arguments) == {"text": "Dear <email_1> <card_1>"}
    assert first_placeholder(call.arguments) == "<email_1>"


def test_a_placeholder_inside_of_a_longer_word_of_an_attacker() -> None:
    """Brackets around what is hidden make no placeholder of another name."""
    mine = hider()
    shown = mine.text("<customer_1.<b@x.example>email> <email_maren@holtphysio.example>")
    assert "maren" not in shown
    assert mine.restored(mine.text("<email_b@x.example>")) == "<email_b@x.example>"


# ---- turn after turn ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        answer({"text": "< CUSTOMER_1.name >, <customer_1.first_name> asked"}, "I write to <customer_1.email>."),
        answer({"text": "\u00fc &lt;customer_1.email&gt;"}),
        answer('{ "text" : "Ma\\u0072en? <customer_9.email>" }'),
        answer({"text": "Ask support@brightdesk.example or +1 212 555 0187"}),
        answer(None, "Nothing of anybody."),
    ],
)
def test_the_model_gets_back_what_it_wrote(said: AssistantMessage) -> None:
    """To the letter, also at another worker: vendors cache what they have seen, and sign reasoning over it."""
    mine = hider()
    meant = mine.restore(said)
    elsewhere = Hider(Names(Written.model_validate_json(mine.names.written.model_dump_json())), Recognizers.of(PrivacyRules()))
    again = elsewhere.message(meant)
    if "Ma\\u0072en" in repr(said):  # the model guessed what is hidden: it stays hidden
        assert "<customer_1.first_name>?" in repr(again)
    else:
        assert again == said


def test_a_summary_is_shown_as_the_model_wrote_it() -> None:
    """Though it comes back as a message of a user."""
    mine = named("Will Young")
    meant = mine.restore(answer(None, "<customer_1.first_name> asked for a refund."))
    assert meant.text == "Will asked for a refund."
    assert mine.message(UserMessage(text=NOTE + meant.text)) == UserMessage(
        text=NOTE + "<customer_1.first_name> asked for a refund."
    )


def test_a_draft_that_a_tool_repeats_is_hidden_as_the_model_wrote_it() -> None:
    """`Will asked` says a name only where it is known that a placeholder stood there."""
    mine = named("Will Young")
    mine.restore(answer({"text": "Will he pay? <customer_1.first_name> asked."}))
    assert (
        mine.text(json.dumps({"draft": "Will he pay? Will asked."}))
        == '{"draft": "Will he pay? <customer_1.first_name> asked."}'
    )


def test_a_retry_names_the_same() -> None:
    """Two attempts of one call that know nothing of each other number alike; names that differ show."""
    one, two = hider(), hider()
    messages: list[Message] = [
        UserMessage(text="b@x.example"),
        ToolMessage(call_id="c", name="t", content=f'{{"c": "{CARD}"}}'),
    ]
    assert [one.message(m) for m in messages] == [two.message(m) for m in messages]
    assert one.names.written == two.names.written
    assert one.names.merge(two.names.written)
    other = hider()
    other.text("z@x.example")
    assert not one.names.merge(other.names.written)


def test_two_numbers_with_one_ending_are_told_apart() -> None:
    """A number without its country code is taken for one that is known only where it can be no other."""
    mine = hider()
    assert mine.text("+1 212 555 0187 and +49 212 555 0187") == "<phone_1> and <phone_2>"
    assert mine.text("phone 212 555 0187") == "phone <phone_3>"


VALUES = ("Maren Holt", "maren@holtphysio.example", "+44 20 7946 0958", "14 Garden Row", CARD, "b@x.example")


@given(
    st.lists(st.sampled_from([*VALUES, " ", "\n", ", ", '"', "{", "\\", "<", "é", "<email_1>", "\u200b", "Hi"]), max_size=14)
)
def test_nothing_that_is_hidden_shows(parts: list[str]) -> None:
    """Whatever stands between values, no value is left in what a model is shown, and all of them come back."""
    text = " ".join(parts)
    mine = hider()
    shown = mine.text(text)
    assert all(value not in shown for value in VALUES)
    restored = mine.restored(shown)
    assert [v for v in VALUES if v in text and v not in restored] == []
