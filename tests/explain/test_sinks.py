import pytest
import torch

from radvqa.errors import DataError
from radvqa.explain.rollout import row_shares
from radvqa.explain.sinks import find_sinks, without_sinks

IMAGE, TEXT, LENGTH = slice(0, 64), slice(64, 80), 80
FIRST = 63
ROWS = slice(FIRST, LENGTH - 1)


def rows_of(seed=0, *, sinks=()):
    """Rows that predict the text tokens: even attention with some noise, ten times as much on a text position."""
    generator = torch.Generator().manual_seed(seed)
    weights = 1.0 + 0.3 * torch.rand(ROWS.stop - ROWS.start, LENGTH, generator=generator)
    weights[:, TEXT] *= 10
    for column, size in sinks:
        weights[:, column] *= size
    return causal(weights)


def causal(weights):
    seen = torch.arange(LENGTH)[None] <= torch.arange(ROWS.start, ROWS.stop)[:, None]
    seen[:, : TEXT.start + 8] = True  # the prompt sees itself
    return row_shares(weights.masked_fill(~seen, 0.0))


def found(rows, **rule):
    return find_sinks(rows, positions=ROWS, image=IMAGE, **rule).nonzero()[:, 0].tolist()


def test_nothing_is_found_where_nothing_stands_out():
    assert found(rows_of()) == []


def test_planted_sinks_are_found_in_image_and_text():
    assert found(rows_of(sinks=[(5, 40), (TEXT.start, 40)])) == [5, TEXT.start]


def test_a_place_that_a_few_rows_look_at_is_no_sink():
    """The mean alone would call it one: the answer's four rows put almost everything on it."""
    weights = rows_of()
    weights[-4:, 9] = 3.0
    rows = row_shares(weights)
    assert rows.mean(0)[9] > 10 * rows.mean(0)[:9].max()
    assert found(rows) == []
    assert found(rows, share=0.2) == [9]


def test_a_late_position_is_judged_by_the_rows_that_see_it():
    late = TEXT.start + 9
    assert found(rows_of(sinks=[(late, 40)])) == [late]
    assert found(rows_of(sinks=[(LENGTH - 5, 40)])) == [LENGTH - 5]  # three rows and its own
    assert found(rows_of(sinks=[(LENGTH - 4, 40)])) == []  # its own row is no evidence, and two are too few


def test_rows_and_positions_must_agree():
    with pytest.raises(DataError, match="differ in number"):
        find_sinks(rows_of(), positions=slice(0, 3), image=IMAGE)


def test_removing_shares_the_weight_out_and_never_touches_the_rows_own_position():
    weights = torch.tensor([[0.4, 0.1, 0.5, 0.0], [0.4, 0.1, 0.3, 0.2]])
    sinks = torch.tensor([False, False, True, False])
    result = without_sinks(weights, sinks, positions=slice(2, 4))
    torch.testing.assert_close(result[0], weights[0])
    torch.testing.assert_close(result[1], torch.tensor([0.4, 0.1, 0.0, 0.2]) / 0.7)
    stacked = without_sinks(weights.repeat(3, 1, 1), sinks, positions=slice(2, 4))
    torch.testing.assert_close(stacked[2], result)
    only = without_sinks(torch.tensor([[0.0, 0.0, 1.0, 0.0]]), sinks, positions=slice(3, 4))
    assert not only.any()
