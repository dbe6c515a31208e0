import json
from collections.abc import Mapping
from typing import Any

from radvqa.llm import Reply
from radvqa.synth.drafts import RULES, Asked, Drafting, drafted
from radvqa.synth.pair import SLOTS, Slot, Source
from radvqa.synth.prompt import load_prompt
from radvqa.synth.screens import ScreenSettings

SOURCE = Source(caption_id="c1", text="Axial CT shows a large cyst in the left kidney.", facts={"modality": "CT"})
YES = "Is there a large cyst with thin walls in the left kidney?"


def reply(form: Mapping[str, Any] | str) -> Reply:
    text = form if isinstance(form, str) else json.dumps(form)
    return Reply(key="k", text=text, finished=True, prompt_tokens=1, completion_tokens=1, seconds=0.0)


def drafting(counts: Mapping[Slot, int], **changes: Any) -> Drafting:
    asked = (Asked(prompt=load_prompt("slots@1"), counts=counts),)
    values: dict[str, Any] = {
        "asked": asked, "rule_counts": {}, "styles": ("plain",), "screens": ScreenSettings(), "seed": 0,
    }  # fmt: skip
    return Drafting(**{**values, **changes})


def test_a_rule_words_the_yes_questions_of_a_model_where_it_words_the_no() -> None:
    form = reply({"yes": {"question": YES, "answer": "yes"}})
    (own,) = drafted((SOURCE, (form,)), drafting({"yes": 1})).drafts
    assert own.candidate.question == YES
    (worded,) = drafted((SOURCE, (form,)), drafting({"yes": 1}, reword_yes=True)).drafts
    assert worded.candidate.question != YES
    assert "cyst" in worded.candidate.question
    assert (worded.candidate.answer, worded.candidate.style) == ("yes", "plain")
    assert worded.candidate.subject in worded.candidate.question
    assert worded.reply == form.text


def test_a_yes_question_without_a_known_finding_stays() -> None:
    question = "Is the left kidney shown?"
    form = reply({"yes": {"question": question, "answer": "yes"}})
    (one,) = drafted((SOURCE, (form,)), drafting({"yes": 1}, reword_yes=True)).drafts
    assert one.candidate.question == question


def test_what_a_reply_does_not_hold_is_a_reject_with_the_reply() -> None:
    found = drafted((SOURCE, (reply("no idea"),)), drafting({"organ": 1, "finding": 1}))
    assert not found.drafts
    assert {(one.caption_id, one.prompt, one.reply) for one in found.rejects} == {("c1", "slots@1", "no idea")}
    assert all(one.reason for one in found.rejects)


def test_without_a_reply_rules_still_write() -> None:
    found = drafted((SOURCE, (None,)), drafting({"organ": 1}, rule_counts=dict.fromkeys(SLOTS, 1)))
    assert not found.rejects
    assert {one.prompt for one in found.drafts} == {RULES}
    assert {one.candidate.slot for one in found.drafts} >= {"modality", "organ", "finding", "yes"}
