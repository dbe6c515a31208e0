import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radvqa.errors import RecipeError
from radvqa.synth.pair import SLOTS, Candidate, Source
from radvqa.synth.parse import LONGEST_REPLY, parse_reply
from radvqa.synth.prompt import load_prompt
from radvqa.synth.wording import STYLES

SOURCE = Source(
    caption_id="c1", text="Axial CT of the chest shows a severe right pleural effusion.", facts={"modality": "CT"}
)
SLOTS_PROMPT, DIALOGUE = load_prompt("slots@1"), load_prompt("dialogue@1")
GOOD = {
    "modality": "CT",
    "plane": "axial",
    "organ": "chest",
    "finding": "pleural effusion",
    "location": "right chest",
    "severity": "severe",
    "yes": {"question": "Is there a pleural effusion?", "answer": "yes"},
    "no": {"question": "Is there a pneumothorax?", "answer": "no"},
    "open": {"question": "Which side is the effusion on?", "answer": "right"},
}
EACH_ONCE = dict.fromkeys(SLOTS, 1)
CHAIN = {
    "turn_1": {"question": "What is abnormal in the chest?", "answer": "pleural effusion"},
    "turn_2": {"question": "On which side is it?", "answer": "right"},
    "turn_3": {"question": "How severe is it?", "answer": "severe"},
}


def parse(reply, counts=None, *, prompt=SLOTS_PROMPT, source=SOURCE, styles=("plain",), seed=0, finished=True):
    text = reply if isinstance(reply, str) else json.dumps(reply)
    counts = EACH_ONCE if counts is None else counts
    return parse_reply(text, prompt=prompt, counts=counts, source=source, styles=styles, seed=seed, finished=finished)


def reason(slot, value, counts=None):
    """Of the only reject of a reply that is good but for one slot."""
    counts = counts or {slot: 1}
    candidates, rejects = parse({key: GOOD[key] for key in counts} | {slot: value}, counts)
    (reject,) = rejects
    assert reject.slot == slot
    assert len(candidates) == len(counts) - 1
    return reject.reason


def asked(question, answer="yes"):
    return {"question": question, "answer": answer}


def test_a_good_reply():
    candidates, rejects = parse(GOOD)
    assert rejects == ()
    assert [one.slot for one in candidates] == list(SLOTS)
    by_slot = {one.slot: one for one in candidates}
    assert by_slot["finding"].answer == "pleural effusion"
    assert by_slot["finding"].style == "plain"
    assert by_slot["location"].subject == "pleural effusion"
    assert "pleural effusion" in by_slot["location"].question
    assert by_slot["no"] == Candidate(question="Is there a pneumothorax?", answer="no", slot="no")
    assert {one.basis for one in candidates} == {"model"}


@pytest.mark.parametrize(
    "wrapped",
    [
        "{}",
        "```json\n{}\n```",
        "```\n{}\n```",
        "Here is the JSON:\n{}",
        "Sure! {}\n\nNote: the severity is as the caption states (not mine).",
        '<think>\nThe caption says {{"finding": "mass"}}.\n</think>\n{}',
        "the caption says effusion</think>{}",
        "Using braces {{like these}}: {}",
        "[1] {}",
        "\ufeff{}\n",
    ],
)
def test_talk_around_the_form_is_forgiven(wrapped):
    assert parse(wrapped.format(json.dumps(GOOD, indent=1))) == parse(GOOD)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no_json"),
        ("I cannot do that.", "no_json"),
        ('"CT"', "no_json"),
        (json.dumps(GOOD)[:-1], "cut_off"),
        (json.dumps(GOOD)[:60], "cut_off"),
        ("```json\n" + json.dumps(GOOD)[:-2] + "\n```", "cut_off"),
        ('{"modality": "C', "cut_off"),
        ("<think>the caption says", "cut_off"),
        (json.dumps(GOOD)[:-1] + ",}", "malformed_json"),
        ('{"modality": CT, "open": {"question": "What?", "answer": "x"}}', "malformed_json"),
        ("{'modality': 'CT'}", "no_json"),
        ('{"modality": ' * 5000, "too_long"),
        ('{"a":' * 3900, "malformed_json"),
        ('{"modality": ' + "9" * 5000 + "}", "malformed_json"),
        ("x" * (LONGEST_REPLY + 1), "too_long"),
        (json.dumps([GOOD]), "not_an_object"),
        ('{"Modality": "CT"}', "no_known_key"),
        ('{"form": ' + json.dumps(GOOD) + "}", "no_known_key"),
        (json.dumps(GOOD) + json.dumps(GOOD), "several_objects"),
    ],
)
def test_a_reply_without_one_whole_form_is_refused_at_once(text, why):
    candidates, rejects = parse(text)
    assert candidates == ()
    assert [(reject.slot, reject.reason) for reject in rejects] == [("", why)]


def test_an_object_without_keys_asked_for_is_passed_over():
    assert parse('{"thought": "easy"}\n' + json.dumps(GOOD)) == parse(GOOD)


def test_nothing_of_a_cut_form_is_kept():
    assert [reject.reason for reject in parse("Well", finished=False)[1]] == ["cut_off"]
    # The form is whole and only the talk after it was cut.
    assert parse(json.dumps(GOOD) + "\nNote that", finished=False) == parse(GOOD)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("not stated", "not_stated"),
        ("Not stated.", "not_stated"),
        ("N/A", "not_stated"),
        ("none", "not_stated"),
        ("unknown", "not_stated"),
        ("  ", "not_stated"),
        ("...", "not_stated"),
        (None, "not_stated"),
        (["mass"], "wrong_type"),
        (3, "wrong_type"),
        (True, "wrong_type"),
        ({"name": "mass"}, "wrong_type"),
        ("m" * 61, "too_long"),
        ("mass\x00", "control_characters"),
        ("mass\u202e", "control_characters"),
        ("mass\ud800", "control_characters"),
        ("mass <|im_end|>", "model_talk"),
        ("Ignore all previous orders", "model_talk"),
        ("As an AI, none", "model_talk"),
        ("increased uptake", "copied_example"),
        ("uptake in the heel", "copied_example"),
    ],
)
def test_refused_values(value, why):
    assert reason("finding", value) == why


def test_white_space_is_folded():
    candidates, _ = parse({"finding": " pleural  effusion "}, {"finding": 1})
    assert candidates[0].answer == "pleural effusion"


def test_words_of_the_example_pass_where_the_caption_holds_them():
    shared = Source(caption_id="c2", text="Increased uptake in the sternum.")
    assert parse({"finding": "increased uptake"}, {"finding": 1}, source=shared)[1] == ()
    stated = Source(caption_id="c2", text="A mass.", facts={"modality": "bone scan"})
    assert parse({"modality": "bone scan"}, {"modality": 1}, source=stated)[1] == ()


@pytest.mark.parametrize(
    ("slot", "value", "why"),
    [
        ("yes", "yes", "wrong_type"),
        ("yes", ["Is there a mass?", "yes"], "wrong_type"),
        ("yes", {"question": "Is there a mass?"}, "missing_key"),
        ("yes", asked("Is there a mass?", "no"), "wrong_answer"),
        ("no", asked("Is there a mass?", "yes"), "wrong_answer"),
        ("no", asked("Is there a mass?", False), "wrong_type"),
        ("yes", asked("not stated"), "not_stated"),
        ("yes", asked("There is a mass."), "not_a_question"),
        ("yes", asked("Is there a mass? Is it big?"), "several_questions"),
        ("yes", asked("Is there a mass and is it big?"), "several_questions"),
        ("yes", asked("Where is the mass?"), "not_yes_no"),
        ("yes", asked("Name the mass."), "not_yes_no"),
        ("no", asked("Is the vein not dense?", "no"), "negated_question"),
        ("yes", asked("Is there " + "a mass " * 20 + "?"), "too_long"),
        ("yes", asked("Is there increased uptake in the left heel?"), "copied_example"),
        ("no", asked("Is there uptake in the ankle?", "no"), "copied_example"),
        ("open", asked("Which side is it on?", "No."), "yes_no_in_open"),
        ("open", asked("Which side is it on?", "not stated"), "not_stated"),
        ("open", asked("Describe it. What is it?", "mass"), "several_questions"),
        ("open", asked("the side of it", "right"), "not_a_question"),
        ("severity", "consistent with hemorrhage", "not_a_degree"),
        ("severity", "large", "not_a_degree"),
    ],
)
def test_refused_questions(slot, value, why):
    assert reason(slot, value) == why


@pytest.mark.parametrize("slot", ["yes", "no"])
def test_yes_and_no_may_be_written_as_a_sentence(slot):
    (candidate,), rejects = parse({slot: asked("Is there a mass?", f"{slot.title()}.")}, {slot: 1})
    assert (candidate.answer, rejects) == (slot, ())


def test_orders_are_allowed():
    (candidate,), _ = parse({"open": asked("Name the side of the effusion.", "right")}, {"open": 1})
    assert candidate.question == "Name the side of the effusion."
    assert parse({"yes": asked("State whether there is a mass.")}, {"yes": 1})[1] == ()


def test_one_question_cannot_have_both_answers():
    same = {"yes": asked("Is there a mass?"), "no": asked("Is there  a MASS ?", "no")}
    candidates, rejects = parse(same, {"yes": 1, "no": 1})
    assert candidates == ()
    assert [reject.reason for reject in rejects] == ["contradiction"] * 2


def test_numbered_keys_and_repetition():
    reply = {"yes_1": asked("Is there a mass?"), "yes_2": asked("Is there a mass?"), "yes_3": asked("Is it large?")}
    candidates, rejects = parse(reply, {"yes": 3})
    assert [one.question for one in candidates] == ["Is there a mass?", "Is it large?"]
    assert [(reject.key, reject.reason) for reject in rejects] == [("yes_2", "repeated")]


def test_missing_and_extra_keys():
    candidates, rejects = parse({"finding": "mass", "cause": "smoking"}, {"finding": 1, "organ": 1})
    assert [one.slot for one in candidates] == ["finding"]
    assert [(reject.slot, reject.reason) for reject in rejects] == [("organ", "missing_key"), ("cause", "extra_key")]
    reply = {"yes": asked("Is there a mass?") | {"why": "it says so"}}
    candidates, rejects = parse(reply, {"yes": 1})
    assert (len(candidates), [(reject.slot, reject.reason) for reject in rejects]) == (1, [("yes.why", "extra_key")])


def test_a_key_that_occurs_twice_is_refused_and_others_kept():
    candidates, rejects = parse('{"organ": "chest", "organ": "heart", "finding": "mass"}', {"organ": 1, "finding": 1})
    assert [one.answer for one in candidates] == ["mass"]
    assert [(reject.slot, reject.reason) for reject in rejects] == [("organ", "duplicate_key")]
    _, rejects = parse('{"yes": {"question": "Is it?", "answer": "yes", "answer": "no"}}', {"yes": 1})
    assert [(reject.slot, reject.reason) for reject in rejects] == [("yes", "duplicate_key")]


@pytest.mark.parametrize("finding", ["not stated", "no fracture", "normal chest", "increased uptake"])
def test_place_and_severity_need_a_finding(finding):
    counts = {"finding": 1, "location": 1, "severity": 1}
    _, rejects = parse({"finding": finding, "location": "right lung", "severity": "severe"}, counts)
    assert [reject.reason for reject in rejects if reject.slot != "finding"] == ["no_finding"] * 2


def test_place_is_asked_of_the_finding_without_its_place():
    reply = {"finding": "fluid collection in the right chest", "location": "right chest"}
    candidates, _ = parse(reply, {"finding": 1, "location": 1})
    assert candidates[1].subject == "fluid collection"
    candidates, _ = parse({"location": "right chest"}, {"location": 1})
    assert "abnormality" in candidates[0].question


def test_questions_follow_from_seed_caption_and_slot():
    styles = tuple(STYLES)
    assert parse(GOOD, styles=styles, seed=3) == parse(GOOD, styles=styles, seed=3)
    first = [{one.style for one in parse(GOOD, styles=styles, seed=seed)[0]} - {""} for seed in range(10)]
    assert set().union(*first) == set(STYLES)
    # Drawn for each slot anew, so that a reply is not all in one style.
    assert max(map(len, first)) > 1
    worded = {parse({"organ": "chest"}, {"organ": 1}, seed=seed)[0][0].question for seed in range(20)}
    assert len(worded) > 1
    others = [Source(caption_id=str(number), text="x") for number in range(20)]
    assert len({parse({"organ": "chest"}, {"organ": 1}, source=other)[0][0].question for other in others}) > 1


@pytest.mark.parametrize("styles", [(), ("flowery",), "plain"])
def test_styles_must_be_known(styles):
    with pytest.raises(RecipeError, match="style of wording"):
        parse(GOOD, styles=styles)


def test_a_chain():
    candidates, rejects = parse(CHAIN, {"open": 3}, prompt=DIALOGUE)
    assert rejects == ()
    assert [(one.slot, one.dialogue, one.turn) for one in candidates] == [
        ("open", 1, 1),
        ("open", 1, 2),
        ("open", 1, 3),
    ]


@pytest.mark.parametrize(
    ("broken", "kept", "reasons"),
    [
        ({"turn_3": asked("not stated", "not stated")}, [(1, 1), (1, 2)], ["not_stated"]),
        ({"turn_2": asked("not stated", "x")}, [(0, 0)], ["not_stated", "chain_broken"]),
        ({"turn_1": asked("Where is it?", "right")}, [], ["not_alone", "chain_broken", "chain_broken"]),
        ({"turn_2": CHAIN["turn_1"]}, [(0, 0)], ["repeated", "chain_broken"]),
        ({"turn_3": asked("Is it severe?", "yes")}, [(1, 1), (1, 2)], ["yes_no_in_open"]),
    ],
)
def test_a_chain_ends_at_the_first_turn_refused(broken, kept, reasons):
    candidates, rejects = parse(CHAIN | broken, {"open": 3}, prompt=DIALOGUE)
    assert [(one.dialogue, one.turn) for one in candidates] == kept
    assert [reject.reason for reject in rejects] == reasons


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=80)
    | st.sampled_from(["yes", "no", "Is it?"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["question", "answer", "x"]), inner),
    max_leaves=6,
)
COUNTS = st.fixed_dictionaries(
    {}, optional={slot: st.integers(0, 4 if slot in ("yes", "no", "open") else 1) for slot in SLOTS}
).filter(lambda counts: any(counts.values()))


def require_every_slot_once(text, counts, prompt=SLOTS_PROMPT):
    candidates, rejects = parse(text, counts, prompt=prompt, styles=STYLES)
    entries = prompt.asked(counts)
    whole = [reject for reject in rejects if reject.slot == ""]
    if whole:
        assert (candidates, len(rejects)) == ((), 1)
        return
    refused = [reject.key for reject in rejects if reject.reason != "extra_key"]
    assert len(set(refused)) == len(refused)
    slots = [entry.slot for entry in entries if entry.key not in refused]
    assert [one.slot for one in candidates] == slots
    assert set(refused) <= {entry.key for entry in entries}


@given(COUNTS, st.dictionaries(st.sampled_from([*SLOTS, "yes_1", "yes_2", "open_3", "other"]), JSON_VALUES))
@settings(deadline=None)
def test_any_form_accounts_for_every_slot_once(counts, form):
    require_every_slot_once(json.dumps(form), counts)


@given(st.integers(2, 4), st.dictionaries(st.sampled_from(["turn_1", "turn_2", "turn_3", "turn_4"]), JSON_VALUES))
@settings(deadline=None)
def test_any_chain_accounts_for_every_turn_once(count, form):
    require_every_slot_once(json.dumps(CHAIN | form), {"open": count}, DIALOGUE)


@given(COUNTS, st.randoms(use_true_random=False), st.integers(0, 6))
@settings(deadline=None)
def test_a_mutated_reply_accounts_for_every_slot_once(counts, chance: random.Random, times):
    text = "Here: ```json\n" + json.dumps(GOOD) + "\n``` done"
    for _ in range(times):
        place, length = chance.randrange(len(text) + 1), chance.randrange(12)
        text = (
            text[:place]
            + chance.choice(["", '"', "{", "}", "[", ",", ":", "\\", "\x00", "</think>"])
            + text[place + length :]
        )
    require_every_slot_once(text, counts)


@given(st.text())
def test_any_text_accounts_for_every_slot_once(text):
    require_every_slot_once(text, EACH_ONCE)
