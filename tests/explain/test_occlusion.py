from dataclasses import fields

import pytest
import torch

from radvqa.errors import ModelError, RecipeError
from radvqa.explain.asked import Asked, answer_ids, answer_logprobs, ask
from radvqa.explain.occlusion import average_drop, filling, occlusion_map, scorer, visual_reliance, windows
from radvqa.explain.text_pass import TextPass, visible
from radvqa.models.layout import additive_mask

GRID = (4, 4)


@pytest.fixture
def pixels(samples, store):
    return torch.from_numpy(store.pixels(samples[0].image))


@pytest.fixture
def asked(vlm, samples, pixels):
    return ask(vlm, samples[0], answer_ids(vlm, "left", where="here"), pixels)


@pytest.fixture
def hidden():
    masks = torch.rand(6, 16, generator=torch.Generator().manual_seed(3)) < 0.4
    masks[0], masks[1] = False, True
    return masks


def planted(cell):
    """Two tokens: the first loses 3 nats without this cell, the second gains 1."""

    def score(hidden):
        gone = hidden[:, cell].float()
        return torch.stack([-1.0 - 3.0 * gone, -2.0 + gone], dim=1)

    return score


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (2, 1), (3, 2), (3, 3)])
def test_windows_cover_every_cell(window, stride):
    masks = windows((4, 5), window=window, stride=stride)
    assert (masks.sum(1) == window * window).all()
    assert masks.any(0).all()
    assert len(masks.unique(dim=0)) == len(masks)


@pytest.mark.parametrize(("window", "stride"), [(0, 1), (5, 1), (2, 0), (2, 3)])
def test_windows_that_do_not_fit_are_refused(window, stride):
    with pytest.raises(RecipeError, match="does not fit"):
        windows(GRID, window=window, stride=stride)


def test_the_map_marks_the_one_cell_that_the_answer_hangs_on():
    drops = average_drop(planted(5), windows(GRID, window=1, stride=1))
    expected = torch.zeros(2, 16)
    expected[0, 5], expected[1, 5] = 3.0, -1.0
    torch.testing.assert_close(drops, expected)


def test_a_cell_shares_what_its_windows_lose():
    """Of the nine 2 x 2 windows four hold cell 5; its neighbour at the right has two of its four in common with it."""
    drops = average_drop(planted(5), windows(GRID, window=2, stride=1))
    assert drops[0].argmax() == 0  # the corner has one window, and cell 5 is in it
    assert drops[0, [0, 5, 6, 10, 15]].tolist() == pytest.approx([3.0, 3.0, 1.5, 0.75, 0.0])


class Apart(Asked):
    """Image positions see each other only, so that nothing of the text can reach them."""

    def allowed(self):
        mask = visible(self.batch).clone()
        mask[:, self.image, self.text] = False
        return mask

    def inputs(self, **variants):
        inputs = super().inputs(**variants)
        inputs.pop("token_type_ids", None)
        return {**inputs, "attention_mask": additive_mask(self.allowed(), torch.float32)}


def test_hiding_from_the_text_is_a_mask_on_text_rows(asked, hidden):
    apart = Apart(**{one.name: getattr(asked, one.name) for one in fields(asked)})
    found = TextPass(apart).logprobs(hidden, batch_size=4)
    mask = apart.allowed().repeat(len(hidden), 1, 1)
    mask[:, asked.text, asked.image] &= ~hidden[:, None, :]
    inputs = asked.inputs(hidden=hidden)
    inputs.pop("token_type_ids", None)
    inputs["attention_mask"] = additive_mask(mask, torch.float32)
    with torch.no_grad():
        logits = asked.vlm.network(**inputs).logits[:, asked.rows]
    expected = logits.log_softmax(-1)[:, torch.arange(4), list(asked.answer_ids)]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found[2:] - found[:1]).abs().max() > 0.01


def test_with_nothing_or_everything_hidden_the_text_pass_is_the_whole_pass(asked, hidden):
    torch.testing.assert_close(
        TextPass(asked).logprobs(hidden[:2]), answer_logprobs(asked, hidden=hidden[:2]), atol=1e-5, rtol=0
    )


def test_hidden_positions_cannot_change_what_the_text_reads(asked, hidden):
    changed = asked.embeddings.clone()
    changed[:, hidden[2]] += 3.0
    score = scorer(asked, hidden_from="everything")
    other = answer_logprobs(asked, embeddings=changed, hidden=hidden[2:3])
    torch.testing.assert_close(score(hidden[2:3]), other, atol=1e-5, rtol=0)


def test_reliance_is_what_the_answer_loses_without_the_image(asked):
    hidden = torch.tensor([[False], [True]]).expand(2, 16)
    with_image, without = answer_logprobs(asked, hidden=hidden)
    torch.testing.assert_close(visual_reliance(asked), with_image - without, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "how",
    [{"hidden_from": "text"}, {"hidden_from": "everything"}, {"kind": "pixel"}, {"kind": "pixel", "fill": "mean"}],
)
def test_maps_of_tokens_add_up_to_the_answers_map(asked, how):
    maps = occlusion_map(asked, window=2, stride=2, targets=(None, 0, 1, 2, 3), **how)
    assert maps.shape == (5, 16)
    torch.testing.assert_close(maps[0], maps[1:].sum(0), atol=1e-5, rtol=0)
    assert maps[0].std() > 1e-3
    assert (maps[:, 0] == maps[:, 5]).all()  # one window holds both
    with pytest.raises(RecipeError, match="not a token of the answer"):
        occlusion_map(asked, window=4, stride=4, targets=(4,), **how)


def test_filled_pixels_are_those_of_the_cell(asked, pixels):
    other = pixels.flip(0)
    score = scorer(asked, kind="pixel", fill=other)
    hidden = torch.zeros(3, 16, dtype=torch.bool)
    hidden[1], hidden[2, 6] = True, True
    mixed = pixels.clone()
    mixed[14:28, 28:42] = other[14:28, 28:42]
    found = score(hidden)
    for row, picture in zip(found, (pixels, other, mixed), strict=True):
        expected = answer_logprobs(asked, embeddings=asked.vlm.image_tokens(picture[None]))
        torch.testing.assert_close(row, expected[0], atol=1e-5, rtol=0)
    assert (scorer(asked, kind="pixel", fill=pixels)(hidden) == found[0]).all()


def test_fills_keep_the_brightness_and_drop_the_detail(pixels):
    assert filling(pixels, "mean").unique().numel() <= 3
    blurred = filling(pixels, "blur").float()
    assert float(blurred.mean()) == pytest.approx(float(pixels.float().mean()), rel=0.1)
    assert blurred.diff(dim=0).abs().mean() < 0.5 * pixels.float().diff(dim=0).abs().mean()
    flat = torch.full((56, 56, 3), 77, dtype=torch.uint8)
    assert (filling(flat, "blur") == 77).all()
    with pytest.raises(ModelError, match="another size"):
        filling(pixels, flat[:28])


def test_dropout_takes_no_part_and_modes_stay_as_they_were(per_question, samples, pixels):
    asked = ask(per_question, samples[0], answer_ids(per_question, "left", where="here"), pixels)
    ways = ({}, {"hidden_from": "everything"}, {"kind": "pixel"})
    expected = [occlusion_map(asked, window=2, **how) for how in ways]
    for layer in per_question.base.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.5
    per_question.network.train()
    per_question.vision_encoder.eval()
    before = [module.training for module in per_question.network.modules()]
    for how, one in zip(ways, expected, strict=True):
        assert torch.equal(occlusion_map(asked, window=2, **how), one)
    visual_reliance(asked)
    assert [module.training for module in per_question.network.modules()] == before
