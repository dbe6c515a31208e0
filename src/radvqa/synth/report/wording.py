"""What the names on the page mean, in sentences a radiologist reads, and how its numbers are written."""

import math
from collections.abc import Mapping

SCREENS: Mapping[str, str] = {
    "placeholder_caption": "Removes pairs on captions that stand in for one and say nothing.",
    "short_caption": "Removes pairs on captions with too few words to ask about.",
    "malformed_question": "Removes what is no question, is several at once, could be answered with anything, or whose "
    "answer is of another kind.",
    "wrong_kind": "Removes answers that are no value of what is asked for, such as a finding for an organ.",
    "wrong_language": "Removes pairs that are not in English.",
    "mentions_source": "Removes pairs that speak of a caption, report or case, which nobody sees in the picture.",
    "needs_history": "Removes pairs on the patient, the course, cause or treatment of the disease.",
    "needs_other_images": "Removes pairs on several pictures, or on what changed between them.",
    "text_overlay": "Removes pairs on arrows, letters and other marks drawn into the picture.",
    "measurement": "Removes pairs on sizes and other measures, which cannot be seen without a scale.",
    "speculation": "Removes guesses, refusals and answers that say nothing.",
    "long_answer": "Removes answers that are sentences: matching those tells little.",
    "answer_in_question": "Removes questions that give most of their answer away.",
    "invented_number": "Removes pairs with a number that caption and facts do not have.",
    "answer_not_licensed": "Removes answers that caption and facts do not bear out.",
    "contradiction": "Removes pairs about one picture that contradict each other.",
    "duplicate": "Removes a question that was asked of the same picture before.",
    "near_duplicate": "Removes a question that asks the same of the same picture in other words.",
    "broken_dialogue": "Removes later turns of a dialogue of which an earlier turn was removed.",
    "answerable_without_image": "Removes questions that get nearly the same answer whatever the picture.",
    "yes_no_balance": "Removes yes or no answers, drawn by the seed, until neither is favoured; nothing is wrong with "
    "these pairs.",
}
"""What each screen removes. The test of this page says that none is missing."""

BASES: Mapping[str, str] = {
    "model": "the language model wrote the answer",
    "fact": "stated by the data set beside the caption",
    "caption": "words of the caption, found by a rule",
    "negated": "the caption denies it",
    "absent": "the caption does not mention it, so a rule takes it for absent",
}
"""What the answer of a pair rests on."""

EMPTY_SLOTS: Mapping[str, str] = {
    "no_json": "The reply holds no form at all.",
    "cut_off": "The reply ends before its form does.",
    "too_long": "The reply, or one of its entries, is longer than allowed.",
    "malformed_json": "The form is broken, and mending it would be guessing.",
    "not_an_object": "The reply is a list where one form was asked for.",
    "no_known_key": "The form has none of the entries asked for.",
    "several_objects": "The reply holds several forms, and nothing says which one counts.",
    "missing_key": "The form lacks this entry.",
    "extra_key": "The form has an entry nobody asked for.",
    "duplicate_key": "The entry occurs twice with nothing to say which one counts.",
    "wrong_type": "The entry is not the text, or question with answer, that was asked for.",
    "not_stated": "The model says that the caption does not tell; that is no fault.",
    "control_characters": "The entry holds characters that are not text.",
    "model_talk": "The entry is talk of or to a model, not about the picture.",
    "not_a_question": "The question asks nothing.",
    "several_questions": "The entry asks more than one thing.",
    "not_yes_no": "A yes/no question was asked for, and this is none.",
    "yes_no_in_open": "An open question is answered by a bare yes or no.",
    "wrong_answer": "The answer is the opposite of the one asked for.",
    "negated_question": "Yes and no are ambiguous after a negation in the question.",
    "not_a_degree": "The severity holds no word of degree.",
    "contradiction": "The reply answers one question by yes and by no.",
    "copied_example": "The model copied the worked example of the prompt instead of reading the caption.",
    "repeated": "The reply asks the same question twice.",
    "no_finding": "There is no finding whose place or severity could be asked for.",
    "not_alone": "The first question of a dialogue refers to something before it.",
    "chain_broken": "An earlier turn of the dialogue was refused, and this one may refer to it.",
}
"""Why a slot that was asked for gave no pair."""

FAILURES: Mapping[str, str] = {
    "timeout": "no reply within the time limit",
    "rate_limited": "the endpoint asked to be left alone for longer than we try",
    "server_error": "the endpoint failed",
    "connection": "the endpoint could not be reached",
    "refused_request": "the endpoint refused the request",
    "malformed_response": "the endpoint answered in another form than its protocol says",
    "empty_reply": "the model wrote nothing",
    "endless_output": "the model did not stop writing",
    "model_error": "the model failed on this request",
}
"""Why a request has no reply."""

CAPTIONS: Mapping[str, str] = {
    "shared_caption": "several pictures have this caption, which rarely describes each of them",
    "missing_image": "the picture is not there",
    "empty_caption": "there is no text",
    "other_split": "counted with another split",
}
"""Why a caption was not asked about, for the most frequent reasons."""


def percent(value: float | None) -> str:
    """A share as percent with one decimal, or "n/a"."""
    return "n/a" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def grouped(value: float | None) -> str:
    """A number with its thousands apart, or "n/a"."""
    return "n/a" if value is None else f"{value:,}"


def decimal(value: float | None) -> str:
    """A number with two decimals, or "n/a"."""
    return "n/a" if value is None or math.isnan(value) else f"{value:,.2f}"


def money(value: float) -> str:
    """An amount with two decimals; a small one with two digits that are not 0, such as "0.0027"."""
    return f"{value:,.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"


def duration(seconds: float | None) -> str:
    """Seconds as "0.4 s", "42 s", "12 min" or "1 h 05 min"; "not known" for None."""
    if seconds is None:
        return "not known"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60:,} h {minutes % 60:02d} min"


def spelled(name: str) -> str:
    """A machine name as words: "near_duplicate" is "near duplicate"."""
    return name.replace("_", " ")


def shortened(text: str, longest: int) -> str:
    """At most ``longest`` characters of the text, with a mark where it was cut."""
    return text if len(text) <= longest else f"{text[:longest].rstrip()} …"
