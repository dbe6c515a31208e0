"""What the measured maps show, in sentences, and as a table in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Final

from radvqa.explain.measured import CHANCE, LABEL_PRIOR, SAME_MAP, Difference, Estimate, Evaluation, Row, SanityRow
from radvqa.report.wording import p_value, percent, points

MOST_VALUES: Final = 10
"""Columns of a table of strata."""
NAMES: Final[Mapping[str, str]] = {
    "hit": "Pointing hit, %",
    "hit@1": "Hit within 1 cell, %",
    "hit@2": "Hit within 2 cells, %",
    "energy": "Energy, %",
    "enrichment": "Enrichment",
    "auprc": "AUPRC, %",
    "auprc_elsewhere": "AUPRC elsewhere, %",
    "rra": "Rank accuracy, %",
    "iou_otsu": "IoU Otsu, %",
    "iou_tuned": "IoU tuned, %",
    "iou_area": "IoU area, %",
    "specificity": "Specificity",
}
"""Metric → heading of its column."""

FAITHFULNESS: Final[Mapping[str, str]] = {
    "gap_over_random": "nats per token by which this order beats random ones, putting in minus taking away",
    "deletion": "area under the log-probability while the strongest cells go first, 1 = whole picture; low is good",
    "insertion": "the same while the strongest cells are put in first; high is good",
    "comprehensiveness@5": "nats per token lost without the strongest 5 % of cells; high is good",
    "comprehensiveness@20": "the same for 20 %",
    "sufficiency@5": "nats per token lost with only the strongest 5 % of cells; low is good",
    "sufficiency@20": "the same for 20 %",
}
"""What is shown of the numbers of ``radvqa.explain.faithfulness``, with a line on each."""

PASSES: Final = "passes"
NOT_MEASURED: Final = "not measured"
FEWER: Final = (
    "n: the questions of a mean that is not of all questions of its row. Rows with different questions do not compare."
)

PLAIN_NUMBERS: Final = ("enrichment", "specificity")
"""Metrics that are no share; all others are printed in percent."""


def value(metric: str, found: float | None) -> str:
    """A mean as it stands in a cell."""
    if found is None:
        return "n/a"
    return f"{found:.2f}" if metric in PLAIN_NUMBERS else percent(found)


def limits(metric: str, estimate: Estimate) -> str:
    """An interval as it stands in a cell."""
    if estimate["low"] is None or estimate["high"] is None:
        return "n/a"
    return f"{value(metric, estimate['low'])} to {value(metric, estimate['high'])}"


def conclusions(found: Evaluation) -> list[str]:
    """Sentences that say what the numbers say, and no more."""
    table = found["table"]
    sentences = [
        f"On {table['questions']:,} questions about {table['images']:,} images of {found['dataset']}, split "
        f"{found['split']}, the region that a question asks about is known; the median one covers "
        f"{percent(table['median_area'])} % of the picture."
    ]
    for reference, name in ((LABEL_PRIOR, "the label-position prior, which never sees the image"), (CHANCE, "chance")):
        sentences.append(_against(table["differences"], reference, name))
    reliance = table["reliance"]
    if reliance["near_zero"] is not None and reliance["median"] is not None:
        sentences.append(
            f"In {percent(reliance['near_zero'])} % of the answers the image changes the probability of the answer by "
            f"less than a tenth (visual reliance within {reliance['near_zero_nats']:g} nats of 0; median "
            f"{reliance['median']:+.2f}): no map can explain such an answer."
        )
    sentences += _specificity(found)
    sentences += _sanity(found)
    return sentences


def not_shown() -> list[str]:
    """What these numbers do not show."""
    return [
        "A map that lies on the right place does not show that the model reasoned from it, and a map that lies "
        "elsewhere does not show that it did not: see the faithfulness columns.",
        "The target is what the question or the answer names. A model may need other places as well.",
        "Boxes hold more than the organ in them, and a cell of the grid may be larger than a small finding.",
        "A difference counts only if its interval excludes 0 after Holm's adjustment. This is made within each metric, "
        "for all methods and both references, not over the metrics. Methods are not compared with each other, and rows "
        "with fewer questions were measured on other questions: their means do not compare.",
        "Faithfulness hides image tokens, as token occlusion does to make its map, so it favours that method.",
    ]


def _against(differences: Sequence[Difference], reference: str, name: str) -> str:
    above: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for one in differences:
        if one["reference"] == reference and one["verdict"]:
            (above if one["verdict"] == "above" else below).setdefault(one["method"], []).append(one["metric"])
    asked = [one for one in differences if one["reference"] == reference]
    if not asked:
        return f"There is no comparison with {name}."
    said = f"Above {name}: {_listed(above)}." if above else f"No method is shown to be above {name}."
    if below:
        said += f" Below it: {_listed(below)}."
    untested = {one["method"]: None for one in asked if one["adjusted_p"] is None}
    for one in asked:
        if one["adjusted_p"] is not None:
            untested.pop(one["method"], None)
    return f"{said} Not measured against it: {', '.join(untested)}." if untested else said


def _listed(methods: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{method} ({', '.join(metrics)})" for method, metrics in methods.items())


def _specificity(found: Evaluation) -> list[str]:
    means = {method: found["table"]["rows"][method]["metrics"]["specificity"]["mean"] for method in found["methods"]}
    same = [method for method, mean in means.items() if mean is not None and mean < SAME_MAP]
    unknown = [method for method, mean in means.items() if mean is None]
    said = (
        [f"The same map for every word of an answer (specificity below {SAME_MAP:g}): {', '.join(same)}."]
        if same
        else []
    )
    return said + ([f"Specificity was not measured: {', '.join(unknown)}."] if unknown else [])


def _sanity(found: Evaluation) -> list[str]:
    sanity = found["sanity"]
    if sanity is None:
        return ["The sanity checks were not done."]
    told = []
    for key, what in (
        ("survives_weights", "with all weights randomised"),
        ("survives_question", "under another question"),
        ("survives_image", "on another image"),
    ):
        flagged = [f"{method} ({_questions(row)})" for method, row in sanity["methods"].items() if row.get(key)]
        if flagged:
            told.append(f"Hardly changes {what}, so it is a prior rather than an explanation: {', '.join(flagged)}.")
    passed = [f"{method} ({_questions(row)})" for method, row in sanity["methods"].items() if reading(row) == PASSES]
    if passed:
        told.append(f"Changes with weights, question and image: {', '.join(passed)}.")
    parts = [f"{name} ({reading(row)})" for name, row in sanity["methods"].items() if NOT_MEASURED in reading(row)]
    parts += [f"{method} ({NOT_MEASURED})" for method in found["methods"] if method not in sanity["methods"]]
    return [*told, f"Sanity not shown for all of it: {', '.join(parts)}."] if parts else told


def reading(row: SanityRow) -> str:
    """What the checks of one method say: what it is blind to, what could not be measured, or that it passes."""
    states = (
        ("model", row["survives_weights"]),
        ("question", row["survives_question"]),
        ("image", row["survives_image"]),
    )
    blind = [what for what, survives in states if survives]
    unknown = [what for what, survives in states if survives is None]
    said = [f"blind to the {' and the '.join(blind)}"] if blind else []
    said += [f"{NOT_MEASURED}: {', '.join(unknown)}"] if unknown else []
    return "; ".join(said) or PASSES


def _questions(row: SanityRow) -> str:
    return f"{row['questions']} question{'' if row['questions'] == 1 else 's'}"


def markdown(found: Evaluation) -> str:
    """Conclusions and tables as Markdown."""
    table = found["table"]
    metrics = [one for one in NAMES if any(one in row["metrics"] for row in table["rows"].values())]
    lines = [_inert(f"# Where the maps lie: {found['subject']} on {found['dataset']}, {found['split']}"), ""]
    lines += [*(f"- {one}" for one in conclusions(found)), "", "Research tool. Not for clinical use.", ""]
    lines += _table(["Row", "Questions", *(NAMES[one] for one in metrics), "Left out"])
    for name, row in table["rows"].items():
        cells = [
            f"{value(one, row['metrics'][one]['mean'])} ({limits(one, row['metrics'][one])}){few(row, one)}"
            if one in row["metrics"]
            else "–"
            for one in metrics
        ]
        title = name if row["kind"] == "method" else f"*{name}*"
        lines.append(_row([title, str(row["questions"]), *cells, _counted(row["excluded"])]))
    lines += [
        "",
        f"In brackets {100 * table['level']:g} % intervals from drawing whole images. Priors in italics. {FEWER}",
    ]
    head = ["Method", "Minus", "Metric", "Points", "Interval", "p, adjusted", "Questions", ""]
    lines += ["", "## Differences", "", *_table(head)]
    lines += [
        _row(
            [
                one["method"],
                one["reference"],
                one["metric"],
                points(one["difference"]),
                f"{points(one['low'])} to {points(one['high'])}",
                p_value(one["adjusted_p"]),
                str(one["questions"]),
                verdict(one),
            ]
        )
        for one in table["differences"]
    ]
    lines += _faithfulness_lines(found) + _sanity_lines(found) + _strata_lines(found)
    return "\n".join([*lines, "", "## What this does not show", "", *(f"- {one}" for one in not_shown()), ""])


def few(row: Row, metric: str) -> str:
    """How many questions a mean is of, where that is not all that the row was scored on."""
    questions = row["metrics"][metric]["questions"]
    return "" if questions == row["questions"] else f" n = {questions}"


def verdict(one: Difference) -> str:
    """What a comparison says."""
    return NOT_MEASURED if one["adjusted_p"] is None else one["verdict"] or "no difference shown"


def faithfulness_names(found: Evaluation) -> list[str]:
    """The numbers of faithfulness that the page shows; the file holds them all."""
    rows = found["table"]["faithfulness"].values()
    return [name for name in FAITHFULNESS if any(name in row for row in rows)]


def shown_strata(found: Evaluation) -> dict[str, dict[str, dict[str, dict[str, Estimate]]]]:
    """Of each stratum the values with the most questions, as far as a table can hold them."""
    return {stratum: dict(list(values.items())[:MOST_VALUES]) for stratum, values in found["table"]["strata"].items()}


def _faithfulness_lines(found: Evaluation) -> list[str]:
    names = faithfulness_names(found)
    if not names:
        return []
    title = f"## Faithfulness, {found['faithfulness_questions']} questions"
    lines = ["", title, "", *_table(["Order", *names])]
    for row, cells in found["table"]["faithfulness"].items():
        lines.append(_row([row, *(_plain(cells.get(name)) for name in names)]))
    return lines


def _sanity_lines(found: Evaluation) -> list[str]:
    sanity = found["sanity"]
    if sanity is None or not sanity["methods"]:
        return []
    names = list(next(iter(sanity["methods"].values()))["blocks"])
    lines = ["", f"## Sanity: rank correlation with the real map, {sanity['questions']} questions", ""]
    lines += _table(["Method", *(f"+ {name}" for name in names), "Wrong question", "Wrong image", "Questions", ""])
    for method, row in sanity["methods"].items():
        values = [*(row["blocks"][name] for name in names), row["wrong_question"], row["wrong_image"]]
        shown = ["n/a" if one["spearman"] is None else f"{one['spearman']:.2f}" for one in values]
        lines.append(_row([method, *shown, str(row["questions"]), reading(row)]))
    return lines


def _strata_lines(found: Evaluation) -> list[str]:
    lines: list[str] = []
    for stratum, values in shown_strata(found).items():
        lines += ["", f"## Pointing hit by {stratum}, %", "", *_table(["Row", *values])]
        for name in found["table"]["rows"]:
            cells = [
                f"{value('hit', rows[name]['hit']['mean'])} ({rows[name]['hit']['questions']})"
                for rows in values.values()
            ]
            lines.append(_row([name, *cells]))
    return lines


def _plain(estimate: Estimate | None) -> str:
    if estimate is None or estimate["mean"] is None:
        return "–"
    if estimate["low"] is None or estimate["high"] is None:
        return f"{estimate['mean']:.3f}, n = {estimate['questions']}"
    return f"{estimate['mean']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f}), n = {estimate['questions']}"


def _counted(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "none"


def _table(head: Sequence[str]) -> list[str]:
    return [_row(head), "|" + "---|" * len(head)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_inert(cell).replace("|", "/") for cell in cells) + " |"


def _inert(text: str) -> str:
    """Without what Markdown would take for HTML."""
    return text.replace("<", "&lt;")
