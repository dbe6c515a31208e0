"""Dialogues: later turns after the model's own earlier answers, after the right ones, and alone."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from radvqa.data.adapters.synthetic import history
from radvqa.evaluate.metrics import accuracy
from radvqa.evaluate.probes.result import Ask, ProbeResult, example, result
from radvqa.sample import Prediction, VqaSample


def dialogue(samples: Sequence[VqaSample], predictions: Sequence[Prediction], ask: Ask) -> ProbeResult:
    """Ask the later turns of dialogues with three histories; see ``radvqa.data.adapters.synthetic`` for their form.

    Right answers in front, the model's own answers in front, nothing in front. Errors of own answers carry over; the
    difference to right ones tells how much.
    """
    chains = _chains(samples, predictions)
    own: dict[str, list[Prediction]] = {name: [turns[0][1]] for name, turns in chains.items()}
    bare = {name: _bare_questions([sample for sample, _ in turns]) for name, turns in chains.items()}
    later = [(name, turn) for name, turns in chains.items() for turn in range(1, len(turns))]
    alone = ask([replace(chains[name][turn][0], question=bare[name][turn]) for name, turn in later], False)
    after_right = ask([_asked(chains[name], bare[name], turn) for name, turn in later], False)
    for turn in range(1, max((len(turns) for turns in chains.values()), default=0)):
        names = [name for name, turns in chains.items() if len(turns) > turn]
        asked = []
        for name in names:
            before = history(bare[name][:turn], [answer.text.strip().rstrip(".") for answer in own[name]])
            asked.append(replace(chains[name][turn][0], question=before + bare[name][turn]))
        for name, answer in zip(names, ask(asked, False), strict=True):
            own[name].append(answer)
    groups = [chains[name][turn][0].group_id for name, turn in later]
    after_own = [own[name][turn] for name, turn in later]
    examples = [
        example(right, mine, held=accuracy(right) == accuracy(mine))
        for right, mine in zip(after_right, after_own, strict=True)
    ]
    first = [(turns[0][1], turns[0][0].group_id) for turns in chains.values()]
    right_right, own_right = list(map(accuracy, after_right)), list(map(accuracy, after_own))
    return result(
        tests="What do errors in earlier turns of a dialogue cost?",
        questions=3 * len(later),
        left_out={
            "no_dialogue": sum(not sample.dialogue_id for sample in samples),
            "earlier_turn_missing": sum(bool(sample.dialogue_id) for sample in samples)
            - sum(len(turns) for turns in chains.values()),
        },
        shares={
            "first_turn": ([accuracy(one) for one, _ in first], [group for _, group in first]),
            "later_after_right_answers": (right_right, groups),
            "later_after_own_answers": (own_right, groups),
            "later_alone": (list(map(accuracy, alone)), groups),
            "lost": ([one - other for one, other in zip(right_right, own_right, strict=True)], groups),
        },
        meanings={
            "first_turn": "first turns right",
            "later_after_right_answers": "later turns right, with the right answers to the earlier ones in front",
            "later_after_own_answers": "the same with the model's own answers in front",
            "later_alone": "the same with nothing in front",
            "lost": "paired difference of right and own history (0 is best)",
        },
        examples=examples,
        differences=("lost",),
    )


def _asked(turns: Sequence[tuple[VqaSample, Prediction]], bare: Sequence[str], turn: int) -> VqaSample:
    """A later turn with the right answers to the earlier ones in front."""
    before = history(bare[:turn], [sample.answers[0] for sample, _ in turns[:turn]])
    return replace(turns[turn][0], question=before + bare[turn])


def _chains(
    samples: Sequence[VqaSample], predictions: Sequence[Prediction]
) -> dict[str, list[tuple[VqaSample, Prediction]]]:
    """The turns of each dialogue in their order, as far as they follow one another from the first."""
    found: dict[str, dict[int, tuple[VqaSample, Prediction]]] = defaultdict(dict)
    for sample, prediction in zip(samples, predictions, strict=True):
        if sample.dialogue_id:
            found[sample.dialogue_id][sample.turn] = (sample, prediction)
    chains = {}
    for name, turns in found.items():
        last = 0
        while last + 1 in turns:
            last += 1
        if last:
            chains[name] = [turns[turn] for turn in range(1, last + 1)]
    return chains


def _bare_questions(turns: Sequence[VqaSample]) -> list[str]:
    """The questions without the earlier turns that may stand in front of them."""
    bare: list[str] = []
    for sample in turns:
        before = history(bare, [one.answers[0] for one in turns[: len(bare)]])
        bare.append(sample.question.removeprefix(before))
    return bare
