import pytest
import torch

from radvqa.errors import DataError
from radvqa.explain.asked import answer_ids, answer_logprobs, ask
from radvqa.models.layout import Row
from radvqa.train.pictures import StoredPictures


def asked_of(vlm, sample, store, answer=None):
    ids = answer_ids(vlm, answer or sample.answers[0], where=sample.sample_id)
    return ask(vlm, sample, ids, torch.from_numpy(store.pixels(sample.image)))


def test_log_probabilities_are_those_of_training(vlm, samples, store):
    sample = samples[0]
    asked = asked_of(vlm, sample, store)
    row = Row(sample.image, (vlm.question(sample, answer=True),))
    with torch.no_grad():
        logits = vlm.supervised_logits(vlm.batch([row]), StoredPictures(store).vision([row], update=0))
    expected = logits.log_softmax(-1)[torch.arange(len(asked.answer_ids)), list(asked.answer_ids)]
    torch.testing.assert_close(answer_logprobs(asked)[0], expected, atol=1e-5, rtol=0)


def test_the_pieces_and_spans_fit_together(vlm, samples, store):
    asked = asked_of(vlm, samples[0], store)
    assert len(asked.pieces) == asked.text.stop - asked.text.start
    assert asked.rows.stop - asked.rows.start == len(asked.answer_ids)
    assert asked.batch.input_ids[0, asked.answer].tolist() == list(asked.answer_ids)


def test_hidden_image_tokens_cannot_be_told_apart(vlm, samples, store):
    asked = asked_of(vlm, samples[0], store)
    hidden = torch.zeros(2, vlm.tokens.image_tokens, dtype=torch.bool)
    hidden[1, :5] = True
    changed = asked.embeddings.clone()
    changed[:, :5] += 3.0
    own, other = answer_logprobs(asked, hidden=hidden), answer_logprobs(asked, embeddings=changed, hidden=hidden)
    torch.testing.assert_close(own[1], other[1], atol=1e-5, rtol=0)
    assert not torch.allclose(own[0], other[0], atol=1e-5)
    torch.testing.assert_close(own[:1], answer_logprobs(asked), atol=1e-5, rtol=0)


def test_an_answer_without_tokens_is_refused(per_question, samples, store):
    with pytest.raises(DataError, match="no answer token"):
        ask(per_question, samples[0], [per_question.tokens.eos_id], torch.from_numpy(store.pixels(samples[0].image)))
