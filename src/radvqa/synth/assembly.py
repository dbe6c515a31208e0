"""From the drafts of all captions to pairs: negatives by rule, screens over the whole set, ids and provenance."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from radvqa.llm import ModelIdentity
from radvqa.recipe import SynthRecipe
from radvqa.sample import CaptionedImage, VqaSample
from radvqa.synth.drafts import (
    RULES,
    Draft,
    DraftedCaption,
    SlotReject,
    caption_sha256,
    screened,
    subject_of,
)
from radvqa.synth.pair import Origin, Source, SyntheticPair, Verdict
from radvqa.synth.rules import balanced_negatives
from radvqa.synth.screens import ScreenSettings, reason_of
from radvqa.synth.set_screens import screen_set
from radvqa.synth.vocabulary import vocabulary_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Everything that was made, in the order of the captions. ``negatives`` counts those that a rule added."""

    kept: tuple[SyntheticPair, ...]
    rejected: tuple[SyntheticPair, ...]
    rejected_slots: tuple[SlotReject, ...]
    negatives: int


def assemble(
    drafts: Sequence[DraftedCaption],
    captions: Sequence[CaptionedImage],
    *,
    recipe: SynthRecipe,
    prompts: Mapping[str, str],
    identity: ModelIdentity,
    settings: ScreenSettings,
) -> Made:
    """All pairs with their verdicts. ``prompts`` maps the name of a prompt to the SHA-256 of its file."""
    negatives = _negatives(drafts, recipe, settings)
    pairs = [
        _pair(draft, one.source, caption, sample_id, prompts=prompts, identity=identity)
        for one, caption in zip(drafts, captions, strict=True)
        for sample_id, draft in _named((*one.drafts, *negatives.get(one.source.caption_id, ())), caption)
    ]
    verdicts = screen_set([pair for pair in pairs if not pair.reason], settings)
    finished = [with_verdicts(pair, verdicts.get(pair.sample.sample_id, ())) for pair in pairs]
    return Made(
        kept=tuple(pair for pair in finished if not pair.reason),
        rejected=tuple(pair for pair in finished if pair.reason),
        rejected_slots=tuple(miss for one in drafts for miss in one.rejects),
        negatives=sum(map(len, negatives.values())),
    )


def _negatives(
    drafts: Sequence[DraftedCaption], recipe: SynthRecipe, settings: ScreenSettings
) -> dict[str, list[Draft]]:
    wanted = recipe.questions.get("no", 0)
    if not wanted or recipe.negatives == "model":
        return {}
    passed = [draft.candidate for one in drafts for draft in one.drafts if not reason_of(draft.verdicts)]
    made = balanced_negatives(
        [one.source for one in drafts if one.source.text],
        Counter(subject_of(one) for one in passed if one.slot == "yes"),
        already_no=Counter(subject_of(one) for one in passed if one.slot == "no"),
        per_caption=wanted,
        styles=recipe.styles,
        seed=recipe.seed,
    )
    sources = {one.source.caption_id: one.source for one in drafts}
    return {
        caption_id: [screened(one, sources[caption_id], settings, prompt=RULES) for one in candidates]
        for caption_id, candidates in made.items()
    }


def _named(drafts: Sequence[Draft], caption: CaptionedImage) -> list[tuple[str, Draft]]:
    """Each draft with an id that says caption, slot and number, or dialogue and turn."""
    numbers: Counter[str] = Counter()
    named = []
    for draft in drafts:
        one = draft.candidate
        if one.dialogue:
            name = f"d{one.dialogue}-t{one.turn}"
        else:
            numbers[one.slot] += 1
            name = f"{one.slot}{numbers[one.slot]}"
        named.append((f"synth-{caption.sample_id}-{name}", draft))
    return named


def _pair(
    draft: Draft,
    source: Source,
    caption: CaptionedImage,
    sample_id: str,
    *,
    prompts: Mapping[str, str],
    identity: ModelIdentity,
) -> SyntheticPair:
    candidate = draft.candidate
    by_rule = draft.prompt == RULES
    sample = VqaSample(
        sample_id=sample_id,
        image_id=caption.image_id,
        image=caption.image,
        question=candidate.question,
        answers=(candidate.answer,),
        answer_type="closed" if candidate.slot in ("yes", "no") else "open",
        answer_type_stated=False,
        group_id=caption.group_id,
        split=caption.split,
        language=caption.language,
        dialogue_id=f"synth-{caption.sample_id}-d{candidate.dialogue}" if candidate.dialogue else "",
        turn=candidate.turn,
        synthetic=True,
        tags={**caption.tags, "content_type": "presence" if candidate.slot in ("yes", "no") else candidate.slot},
    )
    return SyntheticPair(
        sample=sample,
        slot=candidate.slot,
        style=candidate.style,
        basis=candidate.basis,
        subject=subject_of(candidate),
        origin=Origin(
            caption_id=source.caption_id,
            caption_sha256=caption_sha256(source),
            facts=source.facts,
            prompt=draft.prompt,
            prompt_sha256=vocabulary_digest() if by_rule else prompts[draft.prompt],
            backend="rules" if by_rule else identity.backend,
            model=RULES if by_rule else identity.name,
            model_digest=vocabulary_digest() if by_rule else identity.digest,
            sampling={} if by_rule else asdict(identity.sampling),
            reply=draft.reply,
        ),
        verdicts=draft.verdicts,
        reason=reason_of(draft.verdicts),
    )


def with_verdicts(pair: SyntheticPair, verdicts: Sequence[Verdict]) -> SyntheticPair:
    """The pair with the verdicts of set screens added, unless a pair screen has removed it already."""
    if pair.reason or not verdicts:
        return pair
    return replace(pair, verdicts=(*pair.verdicts, *verdicts), reason=reason_of(verdicts))
