"""Hallucination of absent findings: saying yes to what is not there, or does not exist at all."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from radvqa.data.answers import is_yes_no
from radvqa.evaluate.metrics import score_answer
from radvqa.evaluate.probes.contradiction import opposite
from radvqa.evaluate.probes.result import Ask, Example, ProbeResult, result
from radvqa.sample import Prediction, VqaSample

INVENTED = (
    "a Brellwick opacity",
    "a tessulated hemangofibre",
    "Orvendal's crescent",
    "a pyrocline nodule",
    "the Harnigast sign",
    "a quaternary fissurolith",
    "a velomorphic shadow",
    "Dunmarrow calcification",
)
"""Findings that exist in no textbook: whoever sees one would see anything."""


def absent(samples: Sequence[VqaSample], predictions: Sequence[Prediction], ask: Ask) -> ProbeResult:
    """Yes to invented findings (one question per image), and yes to absent against yes to present ones.

    The latter two come from the data set's own questions for which ``opposite`` knows that they ask whether something
    is there. A model that always says no scores well on absent findings alone, so look at the difference.

    Source: the fake questions of Wu et al., Hallucination Benchmark in Medical VQA, arXiv 2401.05827, 2024.
    """
    first_of_image = {sample.image_id: sample for sample in reversed(samples)}
    invented = []
    for sample in sorted(first_of_image.values(), key=lambda one: one.sample_id):
        name = INVENTED[hashlib.sha256(sample.image_id.encode()).digest()[0] % len(INVENTED)]
        invented.append(
            replace(
                sample,
                question=f"Is there {name} in this image?",
                answers=("No",),
                answer_type="closed",
                answer_type_stated=False,
                choices=(),
                link_id="",
                dialogue_id="",
                turn=0,
            )
        )
    answers = ask(invented, False)
    said_yes = {
        "invented": ([float(score_answer(one).verdict == "yes") for one in answers], [s.group_id for s in invented])
    }
    left_out: Counter[str] = Counter()
    own: dict[str, tuple[list[float], list[str]]] = {"absent": ([], []), "present": ([], [])}
    for sample, prediction in zip(samples, predictions, strict=True):
        if not is_yes_no(sample.answers[0]) or opposite(sample.question) is None:
            left_out["asks_for_no_presence"] += 1
            continue
        kind = "present" if sample.answers[0].strip().lower().startswith("yes") else "absent"
        own[kind][0].append(float(score_answer(prediction).verdict == "yes"))
        own[kind][1].append(sample.group_id)
    examples = [
        Example(
            sample_id=sample.sample_id,
            question="",
            answer="",
            probe_question=sample.question,
            probe_answer=answer.text,
            wanted="No",
            held=score_answer(answer).verdict == "no",
        )
        for sample, answer in zip(invented, answers, strict=True)
    ]
    return result(
        tests="Does the model say yes to findings that are not there?",
        questions=len(invented),
        left_out=left_out,
        shares={f"yes_to_{name}": scores for name, scores in {**said_yes, **own}.items()},
        meanings={
            "yes_to_invented": "yes to a finding that no textbook knows (lower is better)",
            "yes_to_absent": "yes to questions of the data set whose answer is no (lower is better)",
            "yes_to_present": "yes to those whose answer is yes (higher is better)",
        },
        examples=examples,
    )
