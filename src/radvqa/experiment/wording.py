"""What an experiment shows, in sentences no stronger than its intervals."""

import math
from collections.abc import Iterable, Mapping, Sequence

from radvqa.experiment.contents import Control, Shared
from radvqa.experiment.estimates import ALPHA, FEWEST_GROUPS, Difference, Effect, Estimated, Slope
from radvqa.experiment.measured import Measured
from radvqa.report.wording import points


def spelled(found: Difference) -> str:
    """``+2.1 points (95 % interval −0.4 to +4.6)``."""
    if math.isnan(found.low):
        return f"{points(found.difference)} points (no interval: too few images)"
    return f"{points(found.difference)} points (95 % interval {points(found.low)} to {points(found.high)})"


def p_text(p: float) -> str:
    """A p value with three decimals, or "below 0.001"; "n/a" where undefined."""
    if math.isnan(p):
        return "n/a"
    return "below 0.001" if p < 0.001 else f"{p:.3f}"


def claim_text(found: Estimated) -> str:
    """What a claim would be about, or why there is none, for a table."""
    why = {"interim": "no claim: interim", "groups": "no claim: too few groups", "spread": "no claim: no spread"}
    if found.withheld is not None:
        return why[found.withheld]
    return "the recipe" if found.about_the_recipe else "these trained models"


def shared_text(found: Shared) -> str:
    """Counts of shared pictures, groups and rows."""
    if found.against is None:
        return "not looked for: the run is of an earlier version"
    pictures = "not compared" if found.pictures is None else f"{found.pictures:,}"
    return f"pictures: {pictures}; groups: {found.groups:,}; rows: {found.rows:,}"


def conclusion(effect: Effect, *, margin: float | None) -> str:
    """One paragraph on a cell against the reference."""
    what = f"{effect.cell} against {effect.reference} on {effect.where}, {effect.part}: {spelled(effect.decisive)}"
    what += f", {_over(effect)}"
    if effect.withheld:
        return " ".join([f"{what}.", _no_claim(effect), *_both(effect)])
    what += f"; {'Holm-adjusted ' if effect.comparisons > 1 else ''}p {p_text(effect.adjusted_p)}."
    if effect.part != "all":
        what += " It is not adjusted across the parts: read it by itself."
    return " ".join([what, _judged(effect), *_size(effect, margin), *_both(effect), *_scope(effect)])


def floor_sentences(controls: Sequence[Control], cells: Sequence[str]) -> list[str]:
    """Whether the cells beat the question-only floor and use the images, one paragraph each per split."""
    said = []
    for where in dict.fromkeys(one.where for one in controls):
        for condition, what in (
            ("question_only", "the question-only floor, which never sees an image"),
            ("shuffled", "the same models on shuffled images"),
        ):
            some = [one for one in controls if (one.where, one.condition) == (where, condition)]
            if not some:
                said.append(f"On {where}, nothing is known against {what}: it was not evaluated.")
                continue
            gains = sorted(one.found.gain.difference for one in some)
            spread = points(gains[0]) + (f" to {points(gains[-1])}" if len(gains) > 1 else "")
            judged = _judged_cells(some, cells)
            said.append(
                f"On {where}, against {what}: {judged}. The cells' gains are {spread} points (over images, for just "
                "these seeds; each cell by itself, unadjusted)."
            )
    return said


def trend_sentence(slope: Slope, label: str, at: Mapping[str, float]) -> str:
    """One paragraph on the straight line through the cells."""
    found = slope.decisive
    line = "A straight line" if slope.about_the_recipe else "A straight line through these trained models"
    if slope.withheld is not None:
        judged = f"{line} changes by {spelled(found)}"
    elif not found.clear:
        judged = f"{line} shows no clear change: {spelled(found)}"
    else:
        judged = f"{line} {'rises' if found.difference > 0 else 'falls'}: {spelled(found)}"
    ends = f"from {slope.first} ({at[slope.first]:g}) to {slope.last} ({at[slope.last]:g})"
    said = [f"“{label}” on {slope.where}, {slope.part}, {ends}. {judged}, {_over(slope)}; unadjusted"]
    said[0] += "." if slope.withheld else f" p {p_text(found.p)}."
    if slope.unfinished:
        said.append(f"Interim: no claim. Cells that are not finished: {', '.join(slope.unfinished)}.")
    elif slope.withheld:
        said.append(_no_claim(slope))
    said += [*_both(slope), *([] if slope.withheld else _scope(slope))]
    return " ".join([*said, "A line cannot show a peak between the ends; the curve may."])


def no_line_sentence(measured: Measured, label: str, at: Mapping[str, float]) -> str:
    """Why there is no straight line through the cells."""
    there = {cell: measured.seeds(cell) for cell in at if measured.seeds(cell)}
    if len({at[cell] for cell in there}) < 2:
        why = (
            f"only {' and '.join(there) or 'no cell'} of it is finished" if len(there) < 2 else "all lie at one number"
        )
    else:
        have = "; ".join(f"{cell}: {_listed(seeds)}" for cell, seeds in there.items())
        why = f"its cells have no seed in common yet ({have})"
    return f"There is no straight line over “{label}” on {measured.where}: {why}."


def _judged_cells(some: Sequence[Control], cells: Sequence[str]) -> str:
    """Which of all cells are above and below a control."""
    told: dict[str, list[str]] = {}
    measured = {one.cell: one.found for one in some}
    for cell in cells:
        found = measured.get(cell)
        if found is None:
            kind = "not measured"
        elif found.withheld == "interim":
            kind = "interim, no claim"
        elif found.withheld is not None:
            kind = "no claim (too few groups, or no spread)"
        else:
            kind = (
                "falls behind" if found.gain.high < 0 else "beats it" if found.gain.low > 0 else "no clear difference"
            )
        told.setdefault(kind, []).append(cell)
    if len(told) == 1 and len(cells) > 1:
        kind = next(iter(told))
        return f"every cell {kind}" if kind in ("falls behind", "beats it") else f"every cell: {kind}"
    return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in told.items())


def _over(found: Estimated) -> str:
    seeds = len(found.seeds)
    if found.decisive is found.for_the_recipe:
        return f"over images and {seeds} seeds"
    return {1: "over images alone, one seed", 2: "over images alone, two seeds"}.get(seeds, "over images alone")


def _no_claim(found: Estimated) -> str:
    if found.withheld == "interim":
        return f"Interim: no claim. Seeds that are finished for both: {_listed(found.seeds)}."
    if found.withheld == "groups":
        return f"No claim: it needs {FEWEST_GROUPS} groups (images, cases or patients), and there are {found.groups}."
    return "No claim: the groups (images, cases or patients) do not differ, so there is no spread to judge it by."


def _judged(effect: Effect) -> str:
    found = effect.decisive
    if effect.shown:
        better = "better" if found.difference > 0 else "worse"
        if effect.about_the_recipe:
            return f"{effect.cell} is {better} here."
        if len(effect.seeds) == 1:
            return f"The one model of {effect.cell} is {better} than the one of {effect.reference}."
        return f"The two models of {effect.cell} are on average {better} than those of {effect.reference}."
    if found.clear:
        return "Alone the interval excludes zero, but not when all comparisons are counted: this is a hint, no finding."
    between = "" if effect.about_the_recipe else " between these trained models"
    return f"No difference is shown{between}; that is no proof of sameness."


def _size(effect: Effect, margin: float | None) -> list[str]:
    said: list[str] = []
    between = "" if effect.about_the_recipe else "between these trained models "
    level = f"at {100 * ALPHA / effect.comparisons:.2g} %"
    if margin is not None and effect.within_margin is not None:
        large = f"{100 * margin:g} points"
        reached = max(effect.decisive.low, -effect.decisive.high)
        if effect.within_margin:
            said.append(f"A true difference of {large} or more {between}is ruled out (two one-sided tests {level}).")
        elif effect.shown:
            unadjusted = " (by its unadjusted interval)" if effect.comparisons > 1 and reached > margin else ""
            judged = "larger than" if reached > margin else "not shown to reach"
            said.append(f"It is {judged} the margin of {large}{unadjusted}.")
        else:
            said.append(f"A true difference of {large} {between}is not ruled out.")
    if math.isnan(effect.detectable):
        return said
    many = (
        f"{level[0].upper()}{level[1:]}, for {effect.comparisons} comparisons, the" if effect.comparisons > 1 else "The"
    )
    enough = f"80 % is reached from {100 * effect.detectable:.1f} points on"
    if margin is None or effect.power is None:
        return [*said, f"{many} power of {enough}."]
    power = f"{many} power to find a difference of {100 * margin:g} points was {100 * effect.power:.0f} %"
    return [*said, f"{power}; {enough}."]


def _both(found: Estimated) -> list[str]:
    """The other interval, and what each seed says."""
    if found.for_the_recipe is None:
        return []
    seeds = ", ".join(f"{seed}: {points(value)}" for seed, value in found.by_seed.items())
    if found.decisive is found.for_the_recipe:
        return [f"Over images alone, for just these {len(found.seeds)} seeds: {_limits(found.for_these_models)}."]
    return [f"Over images and seeds: {_limits(found.for_the_recipe)}. By seed: {seeds}."]


def _limits(found: Difference) -> str:
    return f"{points(found.low)} to {points(found.high)}"


def _scope(found: Estimated) -> list[str]:
    if len(found.seeds) == 1:
        return [
            "One seed: this is about these trained models on other images; another training may differ, and how much "
            "is unknown."
        ]
    if not found.about_the_recipe:
        return ["Two seeds do not allow a claim about the recipe, only about these trained models."]
    if found.for_these_models.clear and not found.decisive.clear:
        return ["So these trained models differ (unadjusted), but not clearly the recipes that they were trained by."]
    return []


def _listed(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, seeds))
