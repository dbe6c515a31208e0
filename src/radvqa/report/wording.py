"""What the numbers of a run say, in sentences, and no more than they say."""

import math
from collections.abc import Mapping, Set

from radvqa.evaluate.metrics import HEADLINE
from radvqa.report.contents import UNDEFINED, Estimate, RunSummary

LAYOUTS: Mapping[str, str] = {"per_question": "per-question", "shared_image": "shared-image"}


def verdict(summary: RunSummary, *, trained: Set[str] = frozenset(), watched: bool = False) -> list[str]:
    """Sentences that say what the numbers say, and no more: score, floor, use of the image, layout, reservations.

    A difference counts only if its interval excludes zero.
    """
    overall = summary.reference.overall
    score = overall.metrics.get(HEADLINE, UNDEFINED)
    interval = f"{100 * summary.reference.level:g} % interval"
    if HEADLINE not in overall.metrics:
        return [
            f"The {overall.samples:,} answers were scored by an earlier version, without {HEADLINE}.",
            "`radvqa evaluate` on this run scores them anew; until then nothing is said here of what they show.",
        ]
    sentences = [
        f"On {overall.samples:,} questions in {overall.groups:,} groups (images, cases or patients) of "
        f"{summary.dataset}, split {summary.split}, the model's answer is right in {percent(score.mean)} % of cases "
        f"(accuracy, {interval} {span(score)}).",
        _floor_sentence(summary, interval),
        _image_sentence(summary, interval),
        _layout_sentence(summary, trained),
    ]
    without = overall.samples - overall.states.get("answered", 0) if overall.states else 0
    if overall.empty or overall.unfinished or without:
        others = {state: count for state, count in overall.states.items() if state != "answered"}
        named = ", ".join(f"{state.replace('_', ' ')} {count:,}" for state, count in others.items())
        found = f"Without a usable answer: {without:,} ({named})" if named else f"Empty answers: {overall.empty:,}"
        sentences.append(f"{found}; cut at the token limit: {overall.unfinished:,}; all of them count in every score.")
    if summary.limit is not None:
        sentences.append(f"Only the first {summary.limit:,} images of the split were evaluated.")
    if summary.split == "train":
        sentences.append("These are training questions: the scores say nothing about new images.")
    elif watched:
        sentences.append("Some of these images were also watched during training, so this is not an untouched test.")
    return sentences


def percent(value: float | None) -> str:
    """A share as percent with one decimal and no sign, or "n/a"."""
    return "n/a" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """A difference of shares in percentage points with its sign, or "n/a"."""
    if value is None or math.isnan(value):
        return "n/a"
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def span(estimate: Estimate, *, signed: bool = False) -> str:
    """The limits of an estimate as "58.1 to 66.4", or "n/a"."""
    if estimate.low is None or estimate.high is None:
        return "n/a"
    show = points if signed else percent
    return f"{show(estimate.low)} to {show(estimate.high)}"


def number(value: float | None) -> str:
    """A plain number with three decimals, or "n/a"."""
    return "n/a" if value is None or math.isnan(value) else f"{value:.3f}"


def p_value(p: float | None) -> str:
    """A p value as "0.045", "< 0.001" or "n/a"."""
    if p is None or math.isnan(p):
        return "n/a"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def duration(seconds: float) -> str:
    """Seconds as "42 s", "12 min" or "1 h 05 min"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _floor_sentence(summary: RunSummary, interval: str) -> str:
    difference = summary.difference("question_only")
    if difference is None:
        return (
            "The question-only floor was not evaluated, so it is unknown what the answers owe to the questions alone."
        )
    amount = f"{points(difference.mean)} points ({interval} {span(difference, signed=True)})"
    return {
        "better": f"It beats the question-only floor, which never sees an image, by {amount.lstrip('+')}.",
        "worse": f"It falls behind the question-only floor, which never sees an image: {amount}.",
        "unclear": f"It does not differ clearly from the question-only floor, which never sees an image: {amount}.",
        "undefined": f"Whether it beats the question-only floor cannot be told, for lack of an interval: {amount}.",
    }[difference.effect]


def _image_sentence(summary: RunSummary, interval: str) -> str:
    differences = {
        name: difference for name in ("blank", "shuffled") if (difference := summary.difference(name)) is not None
    }
    if not differences:
        return "Whether it uses the image was not tested: neither blank nor shuffled images were evaluated."
    effects = [difference.effect for difference in differences.values()]
    if "undefined" in effects:
        judgement = "Whether it uses the image cannot be told, for lack of an interval"
    elif all(effect == "better" for effect in effects):
        judgement = "It uses the image"
    elif "better" in effects:
        judgement = "The evidence that it uses the image is mixed"
    else:
        judgement = "There is no clear sign that it uses the image"
    amounts = " and ".join(
        f"{points(difference.mean)} points over {name} images ({interval} {span(difference, signed=True)})"
        for name, difference in differences.items()
    )
    untested = (
        ""
        if len(differences) == 2
        else f" {'Blank' if 'shuffled' in differences else 'Shuffled'} images were not tested."
    )
    return f"{judgement}: real images are worth {amounts}.{untested}"


def _layout_sentence(summary: RunSummary, trained: Set[str]) -> str:
    evaluated = summary.layout
    if evaluated is None:
        return "The summary does not say in which layout the model was evaluated."
    shown = LAYOUTS.get(evaluated, evaluated)
    if trained and trained != {evaluated}:
        others = " and ".join(sorted(LAYOUTS.get(layout, layout) for layout in trained))
        first = f"Trained in the {others} layout but evaluated in the {shown} layout: the two do not fit."
    else:
        first = f"{'Trained and evaluated' if trained else 'Evaluated'} in the {shown} layout"
        first += ", which is PaliGemma's own prefix-LM mask." if evaluated == "per_question" else "."
    if "shared_image" in trained | {evaluated}:
        first += (
            " The shared-image layout differs from PaliGemma's own mask: all questions share one reading of the image, "
            "and image tokens do not see the question."
        )
    return first
