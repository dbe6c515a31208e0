import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radvqa.data.answers import is_yes_no
from radvqa.sample import VqaSample
from radvqa.synth.balance import FOLDS, answerable_without_image, folds, question_only_floor, yes_no_balance
from radvqa.synth.near_duplicates import SetPair
from radvqa.synth.pair import Origin, SyntheticPair, Verdict
from radvqa.synth.screens import SET_SCREENS, ScreenSettings, reason_of
from radvqa.synth.set_screens import screen_set


def pair(number: int, answer: str, subject: str = "fracture", **changes: Any) -> SetPair:
    return SetPair(
        **{
            "sample_id": f"s{number}",
            "image_id": f"i{number}",
            "group_id": f"g{number}",
            "question": f"Is there {subject}?",
            "answer": answer,
            "subject": subject,
            **changes,
        }
    )


def balance(pairs: list[SetPair], *, target: float = 0.5, tolerance: float = 0.02, seed: int = 0) -> list[SetPair]:
    dropped = yes_no_balance(pairs, target=target, tolerance=tolerance, seed=seed)
    assert all(dropped.values())
    return [one for one in pairs if one.sample_id not in dropped]


def counts(pairs: list[SetPair]) -> tuple[int, int]:
    answers = Counter(one.answer.casefold() for one in pairs)
    return answers["yes"], answers["no"]


def test_every_subject_is_balanced() -> None:
    pairs = [pair(number, "yes" if number < 30 else "no", "fracture") for number in range(40)]
    pairs += [pair(100 + number, "yes" if number < 5 else "no", "effusion") for number in range(25)]
    kept = balance(pairs)
    for subject in ("fracture", "effusion"):
        yes, no = counts([one for one in kept if one.subject == subject])
        assert abs(yes - no) <= 1
        assert min(yes, no) in (5, 10)


def test_subjects_of_one_answer_give_first() -> None:
    both = [pair(number, "yes" if number % 2 else "no", "fracture") for number in range(20)]
    alone = [pair(100 + number, "yes", "effusion") for number in range(20)]
    kept = balance(both + alone)
    assert [one for one in kept if one.subject == "fracture"] == both
    assert len(kept) <= 22


def test_a_single_answer_gives_before_a_like_surplus() -> None:
    both = [pair(1, "yes", "atrophy"), pair(2, "yes", "atrophy"), pair(3, "no", "atrophy")]
    alone = pair(4, "yes", "edema")
    assert balance([*both, alone]) == both


def test_without_a_subject_the_finding_of_the_question_counts() -> None:
    pairs = [pair(number, "yes" if number else "no", "", question="Is there a fracture?") for number in range(9)]
    pairs += [pair(10 + number, "no" if number else "yes", "", question="Can edema be seen?") for number in range(9)]
    assert counts(balance(pairs)) == (3, 3)


def test_open_answers_are_left_alone() -> None:
    pairs = [pair(1, "liver"), pair(2, "Yes"), pair(3, "No.", question="Is it?")]
    assert balance(pairs) == pairs


@pytest.mark.parametrize("target", [0.3, 0.5, 0.8])
def test_the_target_is_that_asked_for(target: float) -> None:
    pairs = [pair(number, "yes" if number % 5 else "no", f"subject {number % 7}") for number in range(500)]
    yes, no = counts(balance(pairs, target=target, tolerance=0.01))
    assert abs(yes / (yes + no) - target) <= 0.01


SETS = st.lists(
    st.tuples(st.sampled_from(["yes", "no", "Yes.", "liver"]), st.sampled_from(["fracture", "edema", "cyst", ""])),
    max_size=60,
).map(lambda rows: [pair(number, answer, subject) for number, (answer, subject) in enumerate(rows)])


@given(SETS, st.sampled_from([0.3, 0.5, 0.7]), st.randoms(use_true_random=False))
def test_rebalancing_reaches_the_target_once_for_all(
    pairs: list[SetPair], target: float, chance: random.Random
) -> None:
    kept = balance(pairs, target=target)
    closed = [one for one in kept if is_yes_no(one.answer)]
    yes = sum(one.answer.casefold().startswith("yes") for one in closed)
    assert abs(yes - target * len(closed)) <= max(0.02 * len(closed), 0.5) + 1e-6
    mixed = pairs.copy()
    chance.shuffle(mixed)
    assert {one.sample_id for one in balance(mixed, target=target)} == {one.sample_id for one in kept}
    assert balance(kept, target=target) == kept


def test_another_seed_drops_others() -> None:
    pairs = [pair(number, "yes" if number < 40 else "no") for number in range(50)]
    first, second = ({one.sample_id for one in balance(pairs, seed=seed)} for seed in (0, 1))
    assert first != second
    assert len(first) == len(second) == 20 or abs(len(first) - len(second)) <= 1


def without_image(pairs: list[SetPair]) -> set[str]:
    return set(answerable_without_image(pairs, least_groups=5, share=0.9, seed=0))


def test_a_question_that_always_has_one_answer_needs_no_image() -> None:
    always = [pair(number, "yes") for number in range(20)]
    assert without_image(always) == {one.sample_id for one in always}
    seldom = [pair(number, "yes" if number % 3 else "no") for number in range(20)]
    assert without_image(seldom) == set()


def test_an_exception_to_the_rule_is_kept() -> None:
    pairs = [pair(number, "no" if number == 7 else "yes") for number in range(40)]
    assert without_image(pairs) == {one.sample_id for one in pairs} - {"s7"}


def test_few_groups_teach_nothing() -> None:
    assert without_image([pair(number, "yes") for number in range(5)]) == set()
    assert without_image([pair(number, "yes", group_id="one patient") for number in range(50)]) == set()
    many = [pair(number, "yes", question=f"Is there a fracture of rib {number}?") for number in range(50)]
    assert without_image(many) == set()


def test_folds_are_even_and_do_not_hang_on_order() -> None:
    names = [f"g{number}" for number in range(53)]
    found = folds(names, seed=0)
    assert found == folds(reversed(names), seed=0)
    assert found != folds(names, seed=1)
    assert set(Counter(found.values()).values()) <= {53 // FOLDS, 53 // FOLDS + 1}


def sample(number: int, question: str, answer: str, group: str) -> VqaSample:
    return VqaSample(
        sample_id=f"s{number}",
        image_id=f"i{number}",
        image=Path("x.png"),
        question=question,
        answers=(answer,),
        answer_type="closed" if is_yes_no(answer) else "open",
        group_id=group,
        split="train",
    )


def test_the_floor_never_sees_the_group_it_answers() -> None:
    # Within a group everything could be looked up; across groups nothing can.
    rows = [sample(number, "Who is it?", f"patient {number // 4}", f"g{number // 4}") for number in range(80)]
    assert question_only_floor(rows, seed=0).exact_match == 0
    same = [sample(number, "Which modality?", "CT", f"g{number}") for number in range(20)]
    assert question_only_floor(same, seed=0).exact_match == 1


def test_the_floor_tells_yes_no_and_open_apart() -> None:
    generator = np.random.default_rng(0)
    rows = [
        sample(number, "Is there a mass?", str(generator.choice(["yes", "no"])), f"g{number}") for number in range(200)
    ]
    rows += [sample(1000 + number, "Which modality?", "CT", f"g{number}") for number in range(100)]
    found = question_only_floor(rows, seed=0)
    assert (found.questions, found.groups) == (300, 200)
    assert found.open == 1
    assert found.yes_no is not None
    assert found.exact_match is not None
    assert 0.3 < found.yes_no < 0.7 < found.exact_match + 0.1


def test_there_is_no_floor_of_nothing() -> None:
    assert question_only_floor([], seed=0).exact_match is None
    lonely = question_only_floor([sample(1, "What?", "liver", "g")], seed=0)
    assert (lonely.questions, lonely.groups, lonely.exact_match, lonely.yes_no, lonely.open) == (1, 1, None, None, None)


def synthetic(one: SetPair) -> SyntheticPair:
    origin = Origin(
        caption_id="c",
        caption_sha256="",
        facts={},
        prompt="",
        prompt_sha256="",
        backend="rules",
        model="",
        model_digest="",
        sampling={},
        reply="",
    )
    made = replace(sample(0, one.question, one.answer, one.group_id), sample_id=one.sample_id, image_id=one.image_id)
    return SyntheticPair(
        sample=made,
        slot="yes" if one.answer == "yes" else "no" if one.answer == "no" else "open",
        style="",
        basis="caption",
        subject=one.subject,
        origin=origin,
        verdicts=(),
    )


SET = [
    pair(1, "left", question="Where is the mass?", image_id="a"),
    pair(2, "right", question="Where is the mass?", image_id="a"),
    pair(3, "CT", question="Which modality is shown?", image_id="a"),
    pair(4, "CT", question="Which modality is shown?", image_id="a"),
    pair(5, "CT", question="What imaging technique was used?", image_id="a"),
    pair(6, "yes", question="Is there a cyst?", image_id="a"),
    pair(7, "no", question="Can a cyst be seen?", image_id="a"),
    *(pair(number, "yes", "edema", question="Is there edema?") for number in range(10, 20)),
    *(pair(number, "yes", "ulcer", question=f"Is there an ulcer near rib {number}?") for number in range(20, 26)),
    *(pair(number, "no", "ulcer", question=f"Is there an ulcer near rib {number}?") for number in range(30, 33)),
]


DEFAULTS = ScreenSettings()


def set_reasons(settings: ScreenSettings = DEFAULTS, pairs: list[SetPair] = SET) -> dict[str, str]:
    found = screen_set([synthetic(one) for one in pairs], settings)
    assert set(found) == {one.sample_id for one in pairs}
    return {sample_id: reason_of(verdicts) for sample_id, verdicts in found.items()}


def test_a_turn_falls_with_those_before_it() -> None:
    chain = [pair(number, f"answer {number}", question=f"Question {number} about it?") for number in range(50, 58)]
    turns = [("d1", 1), ("d1", 2), ("d1", 3), ("d2", 1), ("d2", 3), ("d3", 2), ("", 0), ("", 0)]
    pairs = [
        replace(made, sample=replace(made.sample, dialogue_id=dialogue, turn=turn))
        for made, (dialogue, turn) in zip(map(synthetic, chain), turns, strict=True)
    ]
    found = screen_set(list(reversed(pairs)), DEFAULTS)
    fallen = {sample_id for sample_id, verdicts in found.items() if reason_of(verdicts) == "broken_dialogue"}
    assert fallen == {"s54", "s55"}


def test_the_set_screens_run_one_after_another() -> None:
    found = set_reasons()
    assert {name for name in found.values() if name} == set(SET_SCREENS) - {"broken_dialogue"}
    told = {name: {sample_id for sample_id, reason in found.items() if reason == name} for name in SET_SCREENS}
    assert told["contradiction"] == {"s1", "s2", "s6", "s7"}
    assert told["duplicate"] == {"s4"}
    assert told["near_duplicate"] == {"s5"}
    assert told["answerable_without_image"] == {f"s{number}" for number in range(10, 20)}
    assert len(told["yes_no_balance"]) in (2, 3)
    assert found == set_reasons(pairs=SET[::-1])
    assert set(set_reasons(pairs=[one for one in SET if not found[one.sample_id]]).values()) == {""}


def test_a_pair_that_fails_is_not_seen_again() -> None:
    found = screen_set([synthetic(one) for one in SET], ScreenSettings())
    assert found["s4"] == (
        Verdict(screen="contradiction", passed=True),
        Verdict(screen="duplicate", passed=False, detail="the same question as s3"),
    )
    assert tuple(one.screen for one in found["s3"]) == SET_SCREENS


@pytest.mark.parametrize("name", SET_SCREENS)
def test_a_set_screen_switched_off_gives_no_verdict(name: str) -> None:
    found = screen_set([synthetic(one) for one in SET], ScreenSettings(off=(name,)))
    assert name not in {verdict.screen for verdicts in found.values() for verdict in verdicts}


def test_no_share_no_rebalancing() -> None:
    assert "yes_no_balance" not in set_reasons(ScreenSettings(yes_share=None)).values()


def test_embeddings_are_used_where_they_are_switched_on() -> None:
    pairs = [
        pair(1, "cyst", question="What anomaly catches attention?", image_id="a"),
        pair(2, "cyst", question="What irregularity stands out?", image_id="a"),
    ]

    def embed(texts: Any) -> Any:
        return np.tile(np.float32([1, 0]), (len(texts), 1))

    for on in (False, True):
        found = screen_set([synthetic(one) for one in pairs], ScreenSettings(embeddings=on), embed=embed)
        assert reason_of(found["s2"]) == ("near_duplicate" if on else "")


@settings(max_examples=30)
@given(SETS)
def test_screening_what_was_kept_removes_nothing_more_by_duplicates(pairs: list[SetPair]) -> None:
    once = set_reasons(pairs=pairs)
    kept = [one for one in pairs if not once[one.sample_id]]
    assert not {"contradiction", "duplicate", "near_duplicate"} & set(set_reasons(pairs=kept).values())
