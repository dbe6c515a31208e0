import dataclasses
import math

import numpy as np
import pytest
import torch

from radvqa.errors import ModelError, RecipeError
from radvqa.explain import attention_maps
from radvqa.explain import maps as module
from radvqa.explain.asked import answer_ids, ask
from radvqa.explain.attention_maps import AttentionMaps
from radvqa.explain.capture import Keep, trace
from radvqa.explain.gradient import gradient_maps
from radvqa.explain.map_settings import used_settings
from radvqa.explain.maps import DEFAULT_METHODS, METHODS, MapSettings, generic_question, maps_of, needed
from radvqa.explain.rollout import raw_attention

ATTENTION = (
    "raw", "raw_value", "rollout", "rollout_90", "rollout_norm", "rollout_value", "contrast", "relative", "two_tower",
)  # fmt: skip
DISTRIBUTIONS = (*ATTENTION[:7], "two_tower", "attention_gradient", "chefer")
MASSES = ("image_mass", "sink_mass", "self_mass", "specificity")


@pytest.fixture
def asked_of(samples, store):
    def make(vlm, text="left lung", sample=samples[0]):
        ids = answer_ids(vlm, text, where=sample.sample_id)
        return ask(vlm, sample, ids, torch.from_numpy(store.pixels(sample.image)))

    return make


@pytest.fixture
def asked(shared_image, asked_of):
    return asked_of(shared_image)


def test_every_method_gives_finite_maps(vlm, asked_of):
    asked = asked_of(vlm, "yes")
    found = maps_of(asked, METHODS)
    assert tuple(found) == tuple(METHODS)
    for name, one in found.items():
        assert one.method == name
        assert len(one.tokens) == len(asked.answer_ids)
        for map_ in (*one.tokens, one.answer):
            assert map_.grid.shape == vlm.image_grid
            assert np.isfinite(map_.grid).all()
            assert map_.method == name
            assert all(math.isfinite(getattr(map_, fact)) == (name in DISTRIBUTIONS) for fact in MASSES)
        assert "".join(token.target for token in one.tokens) == one.answer.target == "yes"
        assert (one.rows is not None) == (name in DISTRIBUTIONS)
        if one.rows is not None:
            torch.testing.assert_close(one.rows.sum(-1), torch.ones(len(one.tokens)), atol=1e-5, rtol=0)


def test_the_whole_answer_alone_is_the_same_map(asked):
    names = ("raw", "contrast", "relative", "rollout_norm", "chefer", "grad_cam", "token_occlusion")
    whole, alone = maps_of(asked, names), maps_of(asked, names, tokens=False)
    for name in names:
        assert alone[name].tokens == ()
        assert alone[name].rows is None
        np.testing.assert_allclose(alone[name].answer.grid, whole[name].answer.grid, atol=1e-6)
    assert alone["raw"].answer.specificity == pytest.approx(whole["raw"].answer.specificity)


def test_all_attention_methods_share_one_forward(asked, monkeypatch):
    traced = []
    monkeypatch.setattr(module, "trace", lambda one, keep: (traced.append(one), trace(one, keep))[1])
    names = [name for name in ATTENTION if name != "relative"]
    maps_of(asked, names)
    assert traced == [asked]
    before = trace(asked, needed(names))
    maps_of(asked, names, traced=before)
    assert len(traced) == 1
    maps_of(asked, ATTENTION, traced=before)
    assert len(traced) == 2  # the generic question's
    assert traced[1].prompt_ids == generic_question(asked).prompt_ids
    with pytest.raises(ModelError, match="fused"):
        maps_of(asked, ["rollout"], traced=trace(asked, Keep(text_rows=True)))


def test_raw_attention_of_chosen_layers_and_heads(asked):
    rows = trace(asked, Keep()).rows
    settings = MapSettings(layers=(1, 2), heads=(0,))
    found = maps_of(asked, ["raw"], settings=settings)["raw"]
    torch.testing.assert_close(found.rows, raw_attention(rows, layers=[1], heads=[0]))
    assert (found.rows - maps_of(asked, ["raw"])["raw"].rows).abs().max() > 1e-5
    for bad in (MapSettings(layers=(9, 12)), MapSettings(layers=(2, 2))):
        for name in ("raw", "rollout", "raw_value", "rollout_norm", "rollout_value"):
            with pytest.raises(RecipeError, match="layer"):
                maps_of(asked, [name], settings=bad)


def test_rollout_of_every_setting_equals_the_product_of_the_traced_matrices(asked):
    kept = {fusion: trace(asked, Keep(fused=fusion, residual=True, value_norms=True)) for fusion in ("mean", "max")}
    identity = torch.eye(asked.length)

    def product(fused, alphas):
        result = identity
        for matrix, alpha in zip(fused.float(), alphas, strict=True):
            result = (torch.diag(1 - alpha) @ (matrix / matrix.sum(-1, keepdim=True)) + torch.diag(alpha)) @ result
        return result[asked.rows]

    def check(name, expected, **changes):
        found = maps_of(asked, [name], settings=MapSettings(**changes))[name].rows
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)

    mean = kept["mean"]
    some = torch.full((len(mean.fused), asked.length), 0.3)
    check("rollout", product(mean.fused, some), alpha=0.3)
    check("rollout", product(kept["max"].fused, some), alpha=0.3, fusion="max")
    check("rollout", product(mean.fused[1:], some[1:]), alpha=0.3, layers=(1, len(mean.fused)))
    check("rollout_90", product(mean.fused, torch.full_like(some, 0.9)))
    check("rollout_norm", product(mean.fused, mean.residual.float()))
    check("rollout_norm", product(mean.fused[:1], mean.residual[:1].float()), layers=(0, 1))
    check("rollout_value", product(mean.value_fused, some), alpha=0.3)
    for name in ("rollout", "rollout_norm", "rollout_value"):
        plain = maps_of(asked, [name])[name].rows
        changed = maps_of(asked, [name], settings=MapSettings(discard=0.5))[name].rows
        assert (plain - changed).abs().max() > 1e-6


def planted(asked, cell):
    """A trace whose text rows put half of their weight on one image cell, in all layers and heads."""
    found = trace(asked, needed(METHODS))

    def changed(weights):
        taken = weights * 0.5
        taken[..., cell] += 0.5 * weights.sum(-1)
        return taken

    text_rows = changed(found.text_rows.clone())
    rows = text_rows[:, :, -len(asked.answer_ids) :]
    return dataclasses.replace(
        found,
        text_rows=text_rows,
        rows=rows,
        fused=changed(found.fused),
        value_rows=changed(found.value_rows),
        value_fused=changed(found.value_fused),
    )


def test_marking_sinks_never_changes_a_map_and_removing_takes_their_weight(asked):
    cell = 5
    where = divmod(cell, asked.vlm.image_grid[1])
    names = ("raw", "raw_value", "rollout", "rollout_norm", "rollout_value", "contrast")
    traced = planted(asked, cell)
    marked = maps_of(asked, names, traced=traced)
    removed = maps_of(asked, names, traced=traced, settings=MapSettings(sinks="remove"))
    torch.testing.assert_close(marked["raw"].rows, raw_attention(traced.rows), atol=1e-6, rtol=0)
    for name in names:
        assert marked[name].sinks == removed[name].sinks == (where,)
        assert removed[name].answer.grid[where] == 0.0
        total = removed[name].rows.sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)
    for name in ("raw", "rollout"):
        assert marked[name].answer.grid[where] > 0.3
        assert any("draw attention whatever is asked" in warning for warning in marked[name].warnings)
    assert not any("whatever is asked" in warning for warning in removed["raw"].warnings)


def test_a_one_token_answer_is_contrasted_with_a_generic_question(asked_of, shared_image):
    asked = asked_of(shared_image, "a")
    assert len(asked.answer_ids) == 1
    found = maps_of(asked, ["contrast", "relative"])
    np.testing.assert_array_equal(found["contrast"].answer.grid, found["relative"].answer.grid)
    own = trace(asked, Keep()).rows.mean((0, 1))[:, asked.image]
    generic = generic_question(asked)
    other = trace(generic, Keep()).rows.mean((0, 1))[:, generic.image]
    np.testing.assert_allclose(found["relative"].answer.grid.ravel(), (own / other)[0], rtol=1e-5)
    assert np.ptp(found["relative"].answer.grid) > 0


def test_removed_sinks_of_a_generic_question_do_not_blow_up_the_ratio(asked):
    cell = 5
    where = divmod(cell, asked.vlm.image_grid[1])
    generic = generic_question(asked)
    plain = maps_of(asked, ["relative"])["relative"].answer.grid

    def relative(traced, other):
        def traced_maps(one, its):
            return AttentionMaps(asked=one, traced=its, remove_sinks=True)

        return traced_maps(asked, traced).relative(traced_maps(generic, other)).mean(0).numpy()

    keep = Keep(text_rows=True)
    found = relative(trace(asked, keep), planted(generic, cell)).reshape(plain.shape)
    assert 0 < found[where] < plain[where]  # the generic question's sink
    assert relative(planted(asked, cell), trace(generic, keep)).reshape(plain.shape)[where] == 0.0


def test_a_generic_question_of_another_answer_is_refused(asked, asked_of):
    with pytest.raises(ModelError, match="same picture and answer"):
        maps_of(asked, ["relative"], generic=asked_of(asked.vlm, "no"))


CHANGED = {
    "alpha": 0.8, "fusion": "max", "layers": (0, 1), "heads": (0,), "sinks": "remove", "discard": 0.5, "window": 4,
    "stride": 1, "tower_alpha": 0.3, "tower_layers": 1, "foil": "on the right",
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGED)
def test_a_method_heeds_just_the_settings_that_are_recorded_for_it(asked, name, monkeypatch):
    """A sink is planted and the window fits the tiny grid, so that every setting has something to change."""
    monkeypatch.setattr(attention_maps, "find_sinks", _first_cell_is_a_sink)
    usual = MapSettings(window=2, stride=2)
    plain = maps_of(asked, METHODS, settings=usual)
    changed = maps_of(asked, METHODS, settings=dataclasses.replace(usual, **{name: CHANGED[name]}))
    differ = {
        method: not np.allclose(plain[method].answer.grid, changed[method].answer.grid, rtol=1e-3, atol=1e-9)
        for method in METHODS
    }
    assert differ == {method: name in used_settings([method], usual) for method in METHODS}


def _first_cell_is_a_sink(rows, *, positions, image):
    found = torch.zeros(rows.shape[-1], dtype=torch.bool)
    found[image.start] = True
    return found


def test_every_setting_is_tried():
    assert list(CHANGED) == [one.name for one in dataclasses.fields(MapSettings)]


def test_a_foil_changes_the_whole_answer_s_gradient_maps(asked):
    names = ("attention_gradient", "chefer", "grad_cam", "raw")
    foil = asked.vlm.text_ids("on the right", "test")
    plain, against = maps_of(asked, names), maps_of(asked, names, settings=MapSettings(foil="on the right"))
    whole = gradient_maps(asked, targets=(None,), foil=foil)
    np.testing.assert_allclose(
        against["grad_cam"].answer.grid.reshape(-1), whole["grad_cam"][0].numpy(), rtol=1e-4, atol=1e-9
    )
    for name in names[:3]:
        assert any("not for 'on the right'" in one for one in against[name].warnings)
        for one, other in zip(plain[name].tokens, against[name].tokens, strict=True):
            np.testing.assert_allclose(one.grid, other.grid, rtol=1e-4, atol=1e-9)
        alone = maps_of(asked, [name], settings=MapSettings(foil="on the right"), tokens=False)[name]
        assert alone.tokens == ()
        np.testing.assert_allclose(alone.answer.grid, against[name].answer.grid, rtol=1e-4, atol=1e-9)
    assert against["raw"].warnings == plain["raw"].warnings
    own = maps_of(asked, ["chefer"], settings=MapSettings(foil="left lung"))["chefer"]
    np.testing.assert_allclose(own.answer.grid, plain["chefer"].answer.grid)
    assert any("is this answer itself" in one for one in own.warnings)


def test_unknown_methods_are_refused(asked):
    with pytest.raises(RecipeError, match="no such saliency method"):
        maps_of(asked, ["raw", "flow"])
    with pytest.raises(RecipeError, match="no saliency method"):
        maps_of(asked, [])


def test_two_tower_is_off_by_default_and_says_when_nothing_is_left(asked, monkeypatch):
    assert "two_tower" not in DEFAULT_METHODS
    cells = asked.vlm.tokens.image_tokens
    before = maps_of(asked, ["rollout_norm"])["rollout_norm"].answer.grid
    for settings in (MapSettings(), MapSettings(tower_alpha="norm"), MapSettings(tower_layers=1)):
        carried = maps_of(asked, ["two_tower"], settings=settings)["two_tower"].answer.grid
        assert carried.sum() == pytest.approx(before.sum(), rel=1e-5)
        assert np.abs(carried - before).max() > 1e-6
    monkeypatch.setattr(module, "trace_vision", lambda _: torch.eye(cells)[None])
    kept = maps_of(asked, ["two_tower"])["two_tower"]
    np.testing.assert_allclose(kept.answer.grid, before, atol=1e-6)
    assert not any("tower" in warning for warning in kept.warnings)
    monkeypatch.setattr(module, "trace_vision", lambda _: torch.full((9, cells, cells), 1 / cells))
    lost = maps_of(asked, ["two_tower"], settings=MapSettings(tower_alpha=0.5))["two_tower"]
    assert any("vision tower has destroyed this map" in warning for warning in lost.warnings)


def test_warnings_in_plain_words():
    grid = np.array([[0.3, 0.0], [0.0, 0.0]])
    map_ = module.SaliencyMap(
        grid=grid, method="raw", target="yes", image_mass=0.3, sink_mass=0.5, sink_position=4, self_mass=0.1,
        entropy=0.0, specificity=0.3, grid_specificity=0.3,
    )  # fmt: skip

    def told(**changes):
        answer = dataclasses.replace(map_, **changes)
        return module._warnings(module.MapSet(method="raw", tokens=(), answer=answer, rows=None))

    assert told() == ("most weight lies on text: the image has 30 %",)
    assert told(image_mass=0.6) == ()
    assert told(image_mass=0.6, specificity=0.019, grid_specificity=0.01) == ("this map is the same for every word",)
    assert told(image_mass=math.nan, specificity=math.nan, grid_specificity=0.019) == (
        "this map is the same for every word",
    )
    assert told(image_mass=0.6, grid_specificity=0.019)[0].startswith("the picture is the same for every word")
    assert told(image_mass=0.6, specificity=math.nan, grid_specificity=math.nan) == ()
    flat = np.array([[0.3, 0.4], [0.3, 0.3]])
    assert told(image_mass=0.6, grid=flat) == ("the map is nearly flat: no place stands out",)
    assert "empty" in told(image_mass=math.nan, grid=-grid)[0]
