import math

import pytest
import torch
from torch.nn import functional

from radvqa.train.loss import denominator, question_losses

LENGTHS = [1, 4, 2]


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 11, generator=generator, requires_grad=True)
    return logits, torch.randint(0, 11, (7,), generator=generator)


def loss(logits, targets, lengths, norm):
    return question_losses(logits, targets, lengths, norm=norm).sum() / denominator(lengths, norm=norm)


def test_token_norm_is_the_mean_over_tokens(case):
    logits, targets = case
    torch.testing.assert_close(loss(logits, targets, LENGTHS, "token"), functional.cross_entropy(logits, targets))


def test_example_norm_is_the_mean_over_questions_of_their_means(case):
    logits, targets = case
    means = [
        functional.cross_entropy(some, right)
        for some, right in zip(logits.split(LENGTHS), targets.split(LENGTHS), strict=True)
    ]
    expected = sum(means) / 3
    torch.testing.assert_close(loss(logits, targets, LENGTHS, "example"), expected)
    assert (expected - functional.cross_entropy(logits, targets)).detach().abs() > 1e-3  # the norms are two things


def test_losses_are_in_nats():
    uniform = torch.zeros(3, 8)
    found = question_losses(uniform, torch.tensor([0, 1, 2]), [1, 2], norm="token")
    assert found.tolist() == pytest.approx([math.log(8), 2 * math.log(8)])


@pytest.mark.parametrize("norm", ["example", "token"])
def test_micro_batches_add_up_to_the_whole(case, norm):
    logits, targets = case
    (whole,) = torch.autograd.grad(loss(logits, targets, LENGTHS, norm), logits)
    divisor = denominator(LENGTHS, norm=norm)
    total = question_losses(logits[:5], targets[:5], LENGTHS[:2], norm=norm).sum() / divisor
    total = total + question_losses(logits[5:], targets[5:], LENGTHS[2:], norm=norm).sum() / divisor
    torch.testing.assert_close(total, loss(logits, targets, LENGTHS, norm))
    torch.testing.assert_close(torch.autograd.grad(total, logits)[0], whole)
