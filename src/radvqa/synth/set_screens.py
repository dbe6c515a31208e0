"""Screens over the whole set, one after another, and what every screen removed."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from radvqa.synth.balance import answerable_without_image, yes_no_balance
from radvqa.synth.embedding import open_embedder
from radvqa.synth.near_duplicates import Embed, SetPair, alike_questions, contradictions, duplicates, opposite
from radvqa.synth.pair import SyntheticPair, Verdict
from radvqa.synth.screens import SCREEN_NAMES, ScreenSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenStatistics:
    """What one screen did: pairs it saw and failed, those that no other screen failed, and the share failed, 0 to 1."""

    screen: str
    seen: int
    failed: int
    failed_alone: int
    share: float


def screen_set(
    pairs: Sequence[SyntheticPair], settings: ScreenSettings, *, embed: Embed | None = None
) -> dict[str, tuple[Verdict, ...]]:
    """The verdicts of the screens over the whole set by sample id, in the order of ``SET_SCREENS``.

    ``pairs``: those that passed all pair screens. A pair that fails is not seen by later screens, so that what is left
    is balanced. The order of the pairs does not matter. ``embed``: for ``settings.embeddings``; None opens the model.

    Raises:
        ModelError: the sentence embeddings are switched on and cannot be opened.
    """
    everything = [_set_pair(pair) for pair in pairs]
    stages = _Stages(everything, settings.off)
    stages.apply("contradiction", contradictions(stages.left))
    stages.apply("duplicate", duplicates(stages.left))
    _near_duplicates(stages, settings, embed)
    stages.apply("broken_dialogue", _broken_dialogues(pairs, {one.sample_id for one in stages.left}))
    if "answerable_without_image" not in settings.off:
        known = answerable_without_image(
            stages.left, least_groups=settings.prior_groups, share=settings.prior_share, seed=settings.seed
        )
        stages.apply("answerable_without_image", known)
    if settings.yes_share is not None:
        surplus = yes_no_balance(
            stages.left, target=settings.yes_share, tolerance=settings.yes_tolerance, seed=settings.seed
        )
        stages.apply("yes_no_balance", surplus)
    return {sample_id: tuple(verdicts) for sample_id, verdicts in stages.verdicts.items()}


def screen_statistics(verdicts: Iterable[Sequence[Verdict]]) -> tuple[ScreenStatistics, ...]:
    """The statistics of every screen that saw a pair, in the order of the screens, from the verdicts on each pair."""
    seen: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    alone: Counter[str] = Counter()
    for some in verdicts:
        seen.update(verdict.screen for verdict in some)
        wrong = [verdict.screen for verdict in some if not verdict.passed]
        failed.update(wrong)
        if len(wrong) == 1:
            alone[wrong[0]] += 1
    return tuple(
        ScreenStatistics(
            screen=name, seen=seen[name], failed=failed[name], failed_alone=alone[name], share=failed[name] / seen[name]
        )
        for name in SCREEN_NAMES
        if seen[name]
    )


def _broken_dialogues(pairs: Sequence[SyntheticPair], left: Set[str]) -> dict[str, str]:
    """The turns whose earlier turns are not all left: nobody could know what they refer to."""
    turns: dict[str, list[SyntheticPair]] = defaultdict(list)
    for pair in pairs:
        if pair.sample.dialogue_id and pair.sample.sample_id in left:
            turns[pair.sample.dialogue_id].append(pair)
    return {
        pair.sample.sample_id: f"turn {pair.sample.turn} without the {pair.sample.turn - 1} before it"
        for chain in turns.values()
        for place, pair in enumerate(sorted(chain, key=lambda pair: pair.sample.turn), start=1)
        if pair.sample.turn != place
    }


class _Stages:
    """Pairs that are left, and the verdicts so far."""

    def __init__(self, pairs: Sequence[SetPair], off: Sequence[str]) -> None:
        self.left = list(pairs)
        self.verdicts: dict[str, list[Verdict]] = {one.sample_id: [] for one in pairs}
        self._off = off

    def apply(self, screen: str, failed: dict[str, str]) -> None:
        """Note the verdict of one screen on each pair that is left, and leave out those in ``failed``."""
        if screen in self._off:
            return
        for one in self.left:
            detail = failed.get(one.sample_id, "")
            self.verdicts[one.sample_id].append(Verdict(screen=screen, passed=not detail, detail=detail))
        self.left = [one for one in self.left if one.sample_id not in failed]

    def withdraw(self, screen: str, failed: dict[str, str]) -> None:
        """Turn the verdict of a screen that pairs had passed."""
        for sample_id, detail in failed.items():
            self.verdicts[sample_id] = [
                Verdict(screen=screen, passed=False, detail=detail) if verdict.screen == screen else verdict
                for verdict in self.verdicts[sample_id]
            ]
        self.left = [one for one in self.left if one.sample_id not in failed]


def _near_duplicates(stages: _Stages, settings: ScreenSettings, embed: Embed | None) -> None:
    if "near_duplicate" in settings.off:
        return
    if settings.embeddings and embed is None:
        embed = open_embedder()
    found = list(alike_questions(stages.left, settings.near_duplicate, embed=embed if settings.embeddings else None))
    opposed: dict[str, str] = {}
    if "contradiction" not in settings.off:
        for first, later in found:
            if opposite(first, later):
                opposed[first.sample_id] = f"{later.question!r} about this image has the answer {later.answer!r}"
                opposed[later.sample_id] = f"{first.question!r} about this image has the answer {first.answer!r}"
    stages.withdraw("contradiction", opposed)
    stages.apply("near_duplicate", {later.sample_id: f"asks the same as {first.sample_id}" for first, later in found})


def _set_pair(pair: SyntheticPair) -> SetPair:
    sample = pair.sample
    return SetPair(
        sample_id=sample.sample_id,
        image_id=sample.image_id,
        group_id=sample.group_id,
        question=sample.question,
        answer=sample.answers[0],
        subject=pair.subject,
    )
