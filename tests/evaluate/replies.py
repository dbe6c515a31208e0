"""Predictions for tests of the scorer."""

from radvqa.sample import Prediction


def reply(text, *references, question="Which organ?", answer_type="open", finished=True, missing=False):
    return Prediction(
        sample_id="s1",
        group_id="g1",
        image_id="i1",
        question=question,
        references=references,
        answer_type=answer_type,
        text=text,
        prompt_id="p",
        finished=finished,
        token_ids=(5, 1),
        logprob=-0.5,
        missing=missing,
    )
