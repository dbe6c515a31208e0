"""Pairs to review, made up for the tests of the review."""

import hashlib
from pathlib import Path

from radvqa.sample import VqaSample
from radvqa.synth.pair import Origin, SyntheticPair

IMAGE = Path("/nowhere/image.png")


def made_pair(
    number,
    *,
    slot="finding",
    basis="caption",
    reason="",
    image=IMAGE,
    question="",
    answer="",
    caption_id="",
    caption="",
    dialogue_id="",
    turn=0,
):
    caption_id = caption_id or f"caption-{number}"
    return SyntheticPair(
        sample=VqaSample(
            sample_id=f"pair/{number:04d}",
            image_id=f"image-of-{caption_id}",
            image=image,
            question=question or f"What is shown in place {number}?",
            answers=(answer or f"mass {number}",),
            answer_type="open",
            group_id=f"case-{number}",
            split="train",
            synthetic=True,
            dialogue_id=dialogue_id,
            turn=turn,
        ),
        slot=slot,
        style="plain",
        basis=basis,
        subject="",
        origin=Origin(
            caption_id=caption_id,
            caption_sha256=hashlib.sha256(caption.encode()).hexdigest(),
            facts={},
            prompt="rules@1",
            prompt_sha256="0" * 64,
            backend="rules",
            model="rules",
            model_digest="0" * 64,
            sampling={},
            reply="",
        ),
        verdicts=(),
        reason=reason,
    )


def made_pairs(*, kept=60, removed=30, image=IMAGE):
    """Kept pairs of three slots of very different size, and removed ones of two screens."""
    kinds = [("modality", "fact")] * 6 + [("finding", "caption")] * 3 + [("no", "absent")]
    pairs = [
        made_pair(number, slot=kinds[number % 10][0], basis=kinds[number % 10][1], image=image)
        for number in range(kept)
    ]
    screens = ["licence", "licence", "licence", "leak"]
    pairs += [made_pair(1000 + number, reason=screens[number % 4], image=image) for number in range(removed)]
    return pairs


def captions_of(pairs):
    return {pair.origin.caption_id: f"Caption of {pair.sample.image_id}." for pair in pairs}
