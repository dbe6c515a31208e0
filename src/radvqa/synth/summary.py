"""The figures of a synthesis: what was asked, what screens removed, how answers are spread, what a blind guess gets."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from radvqa.data.answers import is_yes_no
from radvqa.evaluate.normalise import normalise_answer
from radvqa.llm import Failure, ModelIdentity
from radvqa.recipe import SynthRecipe
from radvqa.synth.assembly import Made
from radvqa.synth.balance import question_only_floor
from radvqa.synth.captions import Selection
from radvqa.synth.pair import SLOTS, SyntheticPair
from radvqa.synth.set_screens import screen_statistics

MOST_FREQUENT = 15


def summarise(
    made: Made,
    selection: Selection,
    failures: Sequence[Failure],
    identity: ModelIdentity,
    *,
    recipe: SynthRecipe,
    source: Mapping[str, str],
) -> dict[str, Any]:
    """The content of ``summary.json``; it hangs on data, recipe and replies alone.

    ``source`` names adapter, licence, citation and homepage of the captions. Shares are 0 to 1, None where nothing
    could be counted.
    """
    pairs = [*made.kept, *made.rejected]
    captions = len(selection.captions)
    return {
        "layout": 1,
        "generator": {
            "backend": identity.backend,
            "model": identity.name,
            "model_digest": identity.digest,
            "sampling": asdict(identity.sampling),
            "prompts": _counted(pair.origin.prompt for pair in pairs),
        },
        "captions": {
            "source": dict(source),
            "read": selection.read,
            "rejected": _counted(one.reason for one in selection.rejects),
            "not_drawn": selection.undrawn,
            "asked": captions,
            "failed": _counted(one.reason for one in failures),
            "with_a_kept_pair": len({pair.origin.caption_id for pair in made.kept}),
        },
        "pairs": {
            "candidates": len(pairs),
            "kept": len(made.kept),
            "kept_share": len(made.kept) / len(pairs) if pairs else None,
            "kept_per_caption": len(made.kept) / captions if captions else None,
            "by_rule_added_negatives": made.negatives,
            "dialogues": len({pair.sample.dialogue_id for pair in made.kept if pair.sample.dialogue_id}),
            "splits": _counted(pair.sample.split for pair in made.kept),
        },
        "slots": {slot: _slot(slot, made) for slot in SLOTS},
        "empty_slots": _counted(one.reason for one in made.rejected_slots),
        "screens": screen_counts(pairs),
        "reasons": _counted(pair.reason for pair in made.rejected),
        "yes_no": {"candidates": _yes_no(pairs), "kept": _yes_no(made.kept)},
        "floor": asdict(question_only_floor([pair.sample for pair in made.kept], seed=recipe.seed)),
        "distributions": {
            "content_type": _counted(pair.sample.tags.get("content_type", "") for pair in made.kept),
            "basis": _counted(pair.basis for pair in made.kept),
            "modality": _counted(pair.sample.tags.get("modality", "not stated") for pair in made.kept),
            "answers": dict(Counter(_answer(pair) for pair in made.kept).most_common(MOST_FREQUENT)),
            "different_answers": len({_answer(pair) for pair in made.kept}),
            "question_words": _lengths(pair.sample.question for pair in made.kept),
            "answer_words": _lengths(pair.sample.answers[0] for pair in made.kept),
        },
    }


def _slot(slot: str, made: Made) -> dict[str, int]:
    kept = sum(pair.slot == slot for pair in made.kept)
    rejected = sum(pair.slot == slot for pair in made.rejected)
    return {
        "candidates": kept + rejected,
        "kept": kept,
        "empty": sum(one.slot.partition("_")[0] == slot for one in made.rejected_slots),
    }


def screen_counts(pairs: Sequence[SyntheticPair]) -> dict[str, dict[str, int]]:
    """For each screen: pairs it saw, pairs it failed, and pairs that no other screen failed."""
    return {
        one.screen: {"seen": one.seen, "failed": one.failed, "failed_alone": one.failed_alone}
        for one in screen_statistics(pair.verdicts for pair in pairs)
    }


def _yes_no(pairs: Iterable[SyntheticPair]) -> dict[str, Any]:
    answers = [pair.sample.answers[0].casefold() for pair in pairs if is_yes_no(pair.sample.answers[0])]
    yes = answers.count("yes")
    return {"pairs": len(answers), "yes": yes, "yes_share": yes / len(answers) if answers else None}


def _answer(pair: SyntheticPair) -> str:
    return normalise_answer(pair.sample.answers[0])


def _lengths(texts: Iterable[str]) -> dict[str, Any]:
    lengths = sorted(len(text.split()) for text in texts)
    if not lengths:
        return {"median": None, "mean": None, "longest": None}
    return {
        "median": lengths[len(lengths) // 2],
        "mean": round(sum(lengths) / len(lengths), 2),
        "longest": lengths[-1],
    }


def _counted(names: Iterable[str]) -> dict[str, int]:
    """Counts, the most frequent first; equal ones by name, so that the order never depends on that of the rows."""
    return dict(sorted(Counter(names).items(), key=lambda pair: (-pair[1], pair[0])))
