import math

import pytest
import torch
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from radvqa.errors import RecipeError
from radvqa.explain.asked import answer_ids, ask
from radvqa.explain.rollout import row_shares
from radvqa.explain.two_tower import compose, tower_residual, tower_rollout

IMAGE, CELLS = slice(0, 4), 4


@pytest.fixture
def rows():
    return row_shares(torch.rand(3, 6, generator=torch.Generator().manual_seed(0)))


def test_a_tower_that_stays_in_place_changes_nothing(rows):
    found = compose(rows, torch.eye(CELLS), image=IMAGE)
    torch.testing.assert_close(found.rows, rows)
    assert found.moved == pytest.approx(0.0, abs=1e-7)
    assert found.rank == pytest.approx(CELLS)
    assert found.left == pytest.approx(1.0)
    assert not found.destroyed


def test_a_permutation_moves_the_map_and_keeps_all_of_it(rows):
    found = compose(rows, torch.eye(CELLS)[[1, 2, 3, 0]], image=IMAGE)
    torch.testing.assert_close(found.rows[:, IMAGE], rows[:, [3, 0, 1, 2]])
    torch.testing.assert_close(found.rows[:, 4:], rows[:, 4:])
    assert found.moved > 0.05
    assert found.left == pytest.approx(1.0)
    assert not found.destroyed


def test_a_tower_with_one_row_destroys_the_map_and_says_so(rows):
    prior = torch.tensor([0.7, 0.1, 0.1, 0.1])
    found = compose(rows, prior.expand(CELLS, -1), image=IMAGE)
    share = rows[:, IMAGE].sum(-1, keepdim=True)
    torch.testing.assert_close(found.rows[:, IMAGE], share * prior)
    assert found.rank == pytest.approx(1.0)
    assert found.left == pytest.approx(0.0, abs=1e-6)
    assert found.destroyed


def test_the_mass_stays_and_a_mixing_tower_leaves_less(rows):
    mixed = 0.95 * torch.full((CELLS, CELLS), 1 / CELLS) + 0.05 * torch.eye(CELLS)
    found = compose(rows, mixed, image=IMAGE)
    torch.testing.assert_close(found.rows.sum(-1), torch.ones(3))
    assert found.left == pytest.approx(0.05, rel=1e-4)
    assert found.destroyed
    assert 1.0 < found.rank < 1.1


def test_a_flat_map_has_nothing_to_lose():
    found = compose(torch.full((1, 6), 1 / 6), torch.eye(CELLS), image=IMAGE)
    assert math.isnan(found.left)
    assert found.destroyed


def test_rollout_of_the_last_layers():
    layers = torch.rand(3, CELLS, CELLS, generator=torch.Generator().manual_seed(1)).softmax(-1)
    torch.testing.assert_close(
        tower_rollout(layers, alpha=0.5, last=1), 0.5 * layers[2] + 0.5 * torch.eye(CELLS), atol=1e-6, rtol=0
    )
    kept = torch.rand(3, CELLS, generator=torch.Generator().manual_seed(2))
    mixed = [torch.diag(one) + torch.diag(1 - one) @ layer for one, layer in zip(kept, layers, strict=True)]
    torch.testing.assert_close(tower_rollout(layers, alpha=kept, last=2), mixed[2] @ mixed[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(tower_rollout(layers, alpha=kept), mixed[2] @ mixed[1] @ mixed[0], atol=1e-6, rtol=0)
    for bad in (0, 4):
        with pytest.raises(RecipeError, match="vision layers"):
            tower_rollout(layers, last=bad)


def test_the_residual_share_is_that_of_the_layers_own_sum(shared_image, samples, store):
    ids = answer_ids(shared_image, "yes", where="here")
    asked = ask(shared_image, samples[0], ids, torch.from_numpy(store.pixels(samples[0].image)))
    found = tower_residual(asked)
    tower = shared_image.vision_encoder
    layers = [layer for layer in tower.modules() if isinstance(layer, SiglipEncoderLayer)]
    assert found.shape == (len(layers), shared_image.tokens.image_tokens)
    seen = {}
    layers[1].register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    with torch.no_grad():
        shared_image.see(asked.pixels)
        added = layers[1].self_attn(hidden_states=layers[1].layer_norm1(seen["x"]))[0]
    kept, new = seen["x"][0].norm(dim=-1), added[0].norm(dim=-1)
    torch.testing.assert_close(found[1], kept / (kept + new), atol=1e-5, rtol=0)
    assert all(not layer._forward_pre_hooks for layer in layers[:1])
