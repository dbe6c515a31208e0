"""What a comparison of models shows and what it does not, in sentences."""

from collections.abc import Mapping

from radvqa.evaluate.model_comparison import ModelComparison, Paired, PairedComparisons, Verdict
from radvqa.report.wording import p_value, points

READINGS: Mapping[Verdict, str] = {
    "better": "better",
    "worse": "worse",
    "same": "same within the margin",
    "not_worse": "no difference shown; not worse by the margin",
    "unclear": "no difference shown",
    "too_few": "too few groups to show a difference",
    "undefined": "cannot be tested",
}


def conclusions(comparisons: PairedComparisons) -> dict[str, list[str]]:
    """For each model, sentences on what may be concluded from the comparison with the reference, and what may not."""
    return {name: _conclusions(name, model, comparisons) for name, model in comparisons["models"].items()}


def coverage(comparisons: PairedComparisons) -> list[str]:
    """Sentences on which questions were compared and which were left out or not answered."""
    reference, metric = comparisons["reference"], comparisons["metric"].replace("_", " ")
    sentences = [
        f"Compared by {metric} on {comparisons['samples']:,} questions in {comparisons['groups']:,} groups (images, "
        f"cases or patients); differences are model minus {reference}."
    ]
    if comparisons["finer_groups"]:
        finer = ", ".join(f"{count:,} of {name}" for name, count in comparisons["finer_groups"].items())
        sentences.append(
            f"The answers come with different groups: the {comparisons['groups']:,} of {comparisons['groups_of']} are "
            f"used, which hold the finer ones ({finer})."
        )
    for name, model in comparisons["models"].items():
        if model["only_reference"] or model["only_model"]:
            sentences.append(
                f"{model['only_reference']:,} questions that {reference} answered are missing in {name}, and "
                f"{model['only_model']:,} of {name} are missing in {reference}."
            )
    unanswered = {reference: comparisons["unanswered"]}
    unanswered |= {name: model["unanswered"] for name, model in comparisons["models"].items()}
    if any(unanswered.values()):
        counts = ", ".join(f"{count:,} by {name}" for name, count in unanswered.items() if count)
        sentences.append(f"Questions without any answer count as wrong: {counts}.")
    if any(model["only_reference"] or model["only_model"] for model in comparisons["models"].values()):
        sentences.append(
            "Only questions that all have are compared; models that skip hard questions look better than they are."
        )
    return sentences


def difference(one: Paired) -> str:
    """The difference in points with its interval, as "+3.1 (+0.4 to +5.8)"."""
    limits = one["clustered_t"]
    if limits["low"] is None or limits["high"] is None:
        return f"{points(one['difference'])} (no interval)"
    return f"{points(one['difference'])} ({points(limits['low'])} to {points(limits['high'])})"


def reading(one: Paired, level: float) -> str:
    """What may be claimed, in a few words; names the test that failed where the interval alone would show more."""
    failed = _failed(one, level)
    return f"{READINGS[one['verdict']]}; {failed}" if failed else READINGS[one["verdict"]]


def _failed(one: Paired, level: float) -> str:
    """The test that keeps an interval without 0 from being called a difference, or ``""``."""
    limits = one["clustered_t"]
    if one["verdict"] not in ("not_worse", "unclear", "too_few") or limits["low"] is None or limits["high"] is None:
        return ""
    if limits["low"] <= 0 <= limits["high"]:
        return ""
    if one["p_randomisation"] is not None and one["p_randomisation"] >= 1 - level:
        return f"random swaps of groups p {_equals(one['p_randomisation'])}"
    return f"adjusted p {_equals(one['adjusted_p'])}"


def _conclusions(name: str, model: ModelComparison, comparisons: PairedComparisons) -> list[str]:
    reference, overall = comparisons["reference"], model["parts"]["all"]
    if not model["other_texts"]:
        return [f"{name} gave the same text as {reference} to every question: there is nothing to tell apart."]
    sentences = [_main(name, reference, overall, comparisons)]
    sentences += _reservations(name, reference, overall, comparisons)
    parts = [f"{part} questions {difference(one)}: {reading(one, comparisons['level'])}"
             for part, one in model["parts"].items() if part != "all"]  # fmt: skip
    if len(parts) > 1:
        sentences.append(f"By answer type, each by itself: {'; '.join(parts)}.")
    sentences += _slices(model, several=len(comparisons["models"]) > 1)
    return sentences


def _main(name: str, reference: str, one: Paired, comparisons: PairedComparisons) -> str:
    amount = f"{100 * abs(one['difference']):.1f} points"
    found = f"{100 * comparisons['level']:g} % interval of the difference {_span(one)}; {_p(one, comparisons)}"
    margin = f"{100 * comparisons['margin']:g} points"
    if one["verdict"] in ("better", "worse"):
        return f"{name} is {one['verdict']} than {reference} by {amount} ({found})."
    if one["verdict"] == "same":
        equivalence = one["equivalence"]
        return (
            f"{name} and {reference} are the same within {margin}{_alone(comparisons)}: they differ by "
            f"{points(one['difference'])} points "
            f"({100 * (2 * comparisons['level'] - 1):g} % interval {points(equivalence['low'])} to "
            f"{points(equivalence['high'])})."
        )
    if one["verdict"] == "undefined":
        return (
            f"Nothing can be concluded about {name} and {reference}: all questions belong to one group, so chance "
            f"cannot be told from a difference ({points(one['difference'])} points)."
        )
    return f"It is not shown that {name} and {reference} differ: {points(one['difference'])} points ({found})."


def _reservations(name: str, reference: str, one: Paired, comparisons: PairedComparisons) -> list[str]:
    margin, verdict = f"{100 * comparisons['margin']:g} points", one["verdict"]
    alpha, detectable = 1 - comparisons["level"], one["detectable"]
    sentences = []
    if verdict in ("better", "worse") and one["equivalence"]["equivalent"]:
        sentences.append(
            f"The difference is smaller than {margin}, the margin below which differences are of no interest."
        )
    if verdict in ("not_worse", "unclear", "too_few"):
        if _failed(one, comparisons["level"]) and one["p"] is not None and one["p"] >= alpha:
            sentences.append(
                "The interval excludes 0, but a claim needs two tests: swapping both models in whole groups at random "
                f"gives p {_equals(one['p_randomisation'])}."
            )
        if one["p"] is not None and one["p"] < alpha and one["least_p"] is not None and one["least_p"] < alpha:
            sentences.append(
                f"Alone it would count as a difference, but {len(comparisons['models'])} models were compared, and one "
                "of several looks different by chance more easily."
            )
        if verdict == "not_worse":
            sentences.append(f"It is shown that {name} is not worse than {reference} by {margin} or more"
                             f"{_alone(comparisons)}.")  # fmt: skip
        else:
            sentences.append(f"Nor is it shown that they are the same within {margin}.")
        if one["least_p"] is not None and one["least_p"] >= alpha:
            sentences.append(
                f"These are too few groups: with {one['groups']} no difference, however large, could be claimed, since "
                f"swaps of groups give an adjusted p of {one['least_p']:.2g} at best."
            )
        if detectable is not None:
            sentences.append(
                f"With these questions a true difference smaller than {100 * detectable:.1f} points is missed more "
                "often than one time in five (80 % power): no difference shown does not mean that there is none."
            )
    return sentences


def _alone(comparisons: PairedComparisons) -> str:
    """Equivalence is not adjusted for the number of models."""
    return ", each model tested by itself" if len(comparisons["models"]) > 1 else ""


def _slices(model: ModelComparison, *, several: bool) -> list[str]:
    found = [(tag, value, one) for tag, values in model["slices"].items() for value, one in values.items()]
    if not found:
        return []
    told = {
        verdict: ", ".join(
            f"{tag.replace('_', ' ')} {value} {difference(one)}"
            for tag, value, one in found
            if one["verdict"] == verdict
        )
        for verdict in ("better", "worse")
    }
    told = {verdict: values for verdict, values in told.items() if values}
    if not told:
        return [f"No single one of {len(found)} slices differs clearly once adjusted for their number."]
    claims = "; ".join(f"{verdict} on {values}" for verdict, values in told.items())
    alone = ", each model by itself" if several else ""
    return [f"Of {len(found)} slices, adjusted for their number{alone}: {claims}."]


def _p(one: Paired, comparisons: PairedComparisons) -> str:
    text = f"p {_equals(one['p'])}"
    if len(comparisons["models"]) > 1:
        text += f", adjusted for {len(comparisons['models'])} models {_equals(one['adjusted_p'])}"
    return text


def _equals(p: float | None) -> str:
    text = p_value(p)
    return text if text.startswith("<") else f"= {text}"


def _span(one: Paired) -> str:
    limits = one["clustered_t"]
    return f"{points(limits['low'])} to {points(limits['high'])}"
