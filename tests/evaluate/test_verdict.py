from collections import Counter
from pathlib import Path

import pytest
import yaml
from replies import reply

from radvqa.evaluate.metrics import score_answer
from radvqa.evaluate.statements import clauses
from radvqa.evaluate.verdict import offers_alternatives, read_verdict

CORPUS = yaml.safe_load(Path(__file__).with_name("indirect_replies.yaml").read_text(encoding="utf-8"))


def outcomes(part):
    """How many verdicts are right, missed (none read), wrong, or invented where the reply gives none."""
    found = Counter()
    for row in CORPUS[part]:
        question, text, expected = row.split(" | ")
        got = score_answer(reply(text, "yes", question=question)).verdict or "none"
        if got == expected:
            found["right"] += 1
        else:
            found["invented" if expected == "none" else "wrong" if got != "none" else "missed"] += 1
    return found


def test_the_corpus_is_large_enough_and_balanced():
    parts = {part: Counter(row.split(" | ")[2] for row in rows) for part, rows in CORPUS.items()}
    assert parts["tuned"].total() + parts["held_out"].total() >= 200
    assert all(count >= 20 for part in ("tuned", "held_out") for count in parts[part].values())
    rows = [row for rows in CORPUS.values() for row in rows]
    assert len(rows) == len(set(rows))


@pytest.mark.parametrize("part", ["tuned", "traps"])
def test_every_reply_that_the_rules_were_written_for_is_read_rightly(part):
    assert outcomes(part) == {"right": len(CORPUS[part])}


def test_held_out_replies_are_read_rightly_and_no_verdict_is_invented():
    found = outcomes("held_out")
    assert found["invented"] == found["wrong"] == 0
    assert found["right"] / found.total() >= 0.95


@pytest.mark.parametrize("part", ["adversarial", "adversarial_repaired", "adversarial_held_out"])
def test_no_verdict_is_invented_or_turned_round(part):
    found = outcomes(part)
    assert found["invented"] == found["wrong"] == 0
    assert found["right"] / found.total() >= 0.95


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("Yes, there is no mass.", "ambiguous"),
        ("No, I cannot answer that question.", "refused"),
        ("No, it is not possible to determine this.", "unsure"),
        ("Yes, maybe.", "unsure"),
        ("Yes?", "unsure"),
        ("A) Yes B) No", "ambiguous"),
        ("The answer is yes. The answer is no.", "ambiguous"),
        ("If the border is sharp, there is a mass.", "no_verdict"),
        ("Certainly! I can help with that.", "no_verdict"),
    ],
)
def test_why_there_is_no_verdict(text, state):
    found = read_verdict(text, question="Is there a mass?")
    assert (found.state, found.verdict) == (state, None)


@pytest.mark.parametrize(
    ("text", "verdict", "rule"),
    [
        ("Nodule: yes. Mass: no.", "no", "labelled"),
        ("No. Wait, looking again, there is a mass.", "yes", "corrected"),
        ("Certainly! There is no mass.", "no", "denied"),
        ("Certainly.", "yes", "opening"),
    ],
)
def test_the_rule_that_gave_the_verdict(text, verdict, rule):
    found = read_verdict(text, question="Is there a mass?")
    assert (found.verdict, found.rule) == (verdict, rule)


@pytest.mark.parametrize("word", ["Yes", "yes", "YES", "Yeah", "No", "no", "NO", "Nope"])
@pytest.mark.parametrize(
    "frame",
    [
        "{}",
        "{}.",
        " {} \n",
        "**{}**",
        '"{}"',
        "{}, the lung is as expected.",
        "{}. There is a mass in the right lung.",
        "{}, it appears normal.",
        "{} - normal heart",
        "{}\nThe heart is normal.",
        "{} because the angle is sharp",
        "{}! No doubt about it.",
        "Well, {}.",
        "A) {}",
        "The answer is {}.",
        "I would say {}",
        "{} {} {}",
    ],
)
def test_a_verdict_that_opens_the_reply_wins(word, frame):
    text = frame.replace("{}", word)
    found = score_answer(reply(text, "Yes", question="Is there a pleural effusion?"))
    assert found.verdict == ("yes" if word.lower().startswith("y") else "no"), found
    assert found.scores["accuracy"] == float(found.verdict == "yes")


@pytest.mark.parametrize(
    "trap",
    ["normal", "not", "know", "note", "diagnosis", "nodule", "nothing", "noted", "yesterday", "abnormal", "eyes"],
)
@pytest.mark.parametrize("frame", ["{}", "The {}.", "{} {} {}", "known {} of the nose"])
def test_letters_within_words_are_no_verdict(trap, frame):
    found = score_answer(reply(frame.replace("{}", trap), "No", question="Is there a fracture of the femur?"))
    assert (found.verdict, found.scores["accuracy"]) == (None, 0.0), found


def test_none_is_a_verdict_only_about_presence():
    assert read_verdict("None.", question="Is the heart enlarged?").verdict is None
    assert read_verdict("none", question="What is seen?").verdict is None
    assert read_verdict("None.", question="Are there any fractures?").verdict == "no"


@pytest.mark.parametrize(
    "text", ["yes or no", "Yes/No", "yes and no", "No or yes", "yes no yes no", "No. Yes.", "Yes, No"]
)
def test_both_verdicts_are_ambiguous(text):
    assert read_verdict(text, question="Is there a mass?").state == "ambiguous"


def test_contradicting_statements_are_ambiguous():
    found = read_verdict("There is a mass. There is no mass.", question="Is there a mass?")
    assert (found.state, found.rule) == ("ambiguous", "contradiction")


def test_the_span_shows_what_was_read():
    text = "I looked at the image. There is no pleural effusion visible. The heart is large."
    found = read_verdict(text, question="Is there a pleural effusion?")
    assert (found.verdict, found.rule) == ("no", "denied")
    assert text[slice(*found.span)] == "There is no pleural effusion visible"


def test_a_statement_to_a_question_that_is_not_yes_or_no_has_no_verdict():
    for question in ("Which lung is abnormal?", "Is it left or right?", "", "?", "Where is it"):
        assert read_verdict("The lung is abnormal.", question=question).verdict is None


@pytest.mark.parametrize(
    ("text", "offers"),
    [
        ("left or right", True),
        ("Either the left or the right lung.", True),
        ("yes, no", True),
        ("left", False),
        ("left and right", False),
        ("a mass, or so it seems, which has grown since the last examination of the patient", False),
    ],
)
def test_alternatives(text, offers):
    assert offers_alternatives(text) is offers


def test_clauses_open_contractions_and_keep_decimals():
    found = [clause.words for clause in clauses("It isn't 3.5 cm, but it's large. Can’t see?")]
    assert found == [("it", "is", "not", "3", ",", "5", "cm"), ("it", "is", "large")]
