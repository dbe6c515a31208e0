"""What an experiment shows, in sentences no stronger than its intervals."""

import math
from collections.abc import Sequence

from radvqa.experiment.contents import Control
from radvqa.experiment.effects import Difference, Effect, Slope
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


def conclusion(effect: Effect, *, margin: float | None, comparisons: int) -> str:
    """One paragraph on a cell against the reference.

    ``comparisons``: how many p values were adjusted together.
    """
    found = effect.decisive
    what = f"{effect.cell} against {effect.reference} on {effect.where}, {effect.part}: {spelled(found)}"
    what += f", {'Holm-adjusted ' if comparisons > 1 else ''}p {p_text(effect.adjusted_p)}."
    return " ".join([what, _judged(effect), *_size(effect, margin), *_scope(effect)])


def floor_sentences(controls: Sequence[Control]) -> list[str]:
    """Whether the cells beat the question-only floor and use the images, one sentence each per split."""
    said = []
    for where in dict.fromkeys(one.where for one in controls):
        for condition, what in (
            ("question_only", "the question-only floor, which never sees an image"),
            ("shuffled", "the same models on shuffled images"),
        ):
            some = [one for one in controls if (one.where, one.condition) == (where, condition)]
            above = [one.cell for one in some if one.gain.low > 0]
            if not some:
                said.append(f"On {where}, nothing is known against {what}: it was not evaluated.")
                continue
            gains = [one.gain.difference for one in some]
            spread = (
                f"{points(min(gains))} to {points(max(gains))} points"
                if len(some) > 1
                else f"{points(gains[0])} points"
            )
            who = "every cell beats" if len(above) == len(some) else "no cell clearly beats" if not above else None
            who = who or f"of {len(some)} cells only {', '.join(above)} clearly beat{'s' * (len(above) == 1)}"
            said.append(f"On {where}, {who} {what} ({spread}; over images, for just these seeds).")
    return said


def trend_sentence(slope: Slope, label: str) -> str:
    """One sentence on the straight line through the cells."""
    found = slope.change
    clear = found.p < 0.05 and (found.low > 0 or found.high < 0)
    said = "A straight line rises" if found.difference > 0 else "A straight line falls"
    judged = said if clear else "A straight line shows no clear change"
    over = "over images alone, one seed" if slope.for_these_models else f"over images and {len(slope.seeds)} seeds"
    return (
        f"{judged} from the lowest to the highest “{label}” ({slope.where}, {slope.part}): {spelled(found)}, "
        f"p {p_text(found.p)}, {over}. A line cannot show a peak between the ends; the curve may."
    )


def _judged(effect: Effect) -> str:
    found = effect.decisive
    if math.isnan(found.p):
        return "Nothing can be concluded: there is no interval."
    if effect.shown:
        better = "better" if found.difference > 0 else "worse"
        if effect.for_the_recipe is None:
            return f"The one model of {effect.cell} is {better} than the one of {effect.reference}."
        return f"{effect.cell} is {better} here."
    if found.low > 0 or found.high < 0:
        return "Alone the interval excludes zero, but not when all comparisons are counted: this is a hint, no finding."
    return "No difference is shown; that is no proof of sameness."


def _size(effect: Effect, margin: float | None) -> list[str]:
    said: list[str] = []
    between = "" if effect.for_the_recipe is not None else "between these two trained models "
    if margin is not None and effect.within_margin is not None:
        large = f"{100 * margin:g} points"
        reached = max(effect.decisive.low, -effect.decisive.high)
        if effect.within_margin:
            said.append(f"A true difference of {large} or more {between}is ruled out (two one-sided tests, 5 % each).")
        elif effect.shown:
            said.append(f"It is {'larger than' if reached > margin else 'not shown to reach'} the margin of {large}.")
        else:
            said.append(f"A true difference of {large} {between}is not ruled out.")
        if effect.power is not None:
            said.append(f"The power to find one of {large} was {100 * effect.power:.0f} %.")
    if not math.isnan(effect.detectable):
        said.append(f"With 80 % power this experiment finds differences from {100 * effect.detectable:.1f} points on.")
    return said


def _scope(effect: Effect) -> list[str]:
    if effect.for_the_recipe is None:
        return [
            "One seed: this is about these two trained models on other images; another training may differ, and how "
            "much is unknown."
        ]
    narrow = effect.for_these_models
    said = f"Over images alone, for just these {len(effect.seeds)} seeds: {spelled(narrow)}."
    clear = narrow.p < 0.05 and (narrow.low > 0 or narrow.high < 0)
    if clear and not effect.shown:
        said += " So these trained models differ (unadjusted), but not clearly the recipes that they were trained by."
    return [said]
