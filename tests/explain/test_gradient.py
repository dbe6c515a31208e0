import pytest
import torch

from radvqa.errors import RecipeError
from radvqa.explain import recording
from radvqa.explain.asked import answer_ids, answer_logprobs, ask
from radvqa.explain.gradient import chefer, gradient_maps, gradient_of_attention, shares
from radvqa.models.lora import attach_lora


def asked_of(vlm, sample, store, answer="left"):
    ids = answer_ids(vlm, answer, where=sample.sample_id)
    return ask(vlm, sample, ids, torch.from_numpy(store.pixels(sample.image)))


def eager(asked, weights):
    """Attention matrices of eager attention, and what autograd says of them and of the image embeddings."""
    base = asked.vlm.base
    embeddings = asked.embeddings.clone().requires_grad_()
    base.set_attn_implementation({"text_config": "eager"})
    output = asked.vlm.network(**asked.inputs(embeddings=embeddings), output_attentions=True, use_cache=False)
    base.set_attn_implementation({"text_config": "sdpa"})
    logprobs = output.logits[0, asked.rows].log_softmax(-1)
    y = (logprobs[torch.arange(len(asked.answer_ids)), list(asked.answer_ids)] * torch.tensor(weights)).sum()
    of_embeddings, *of_attention = torch.autograd.grad(y, [embeddings, *output.attentions])
    weighted = [
        (one[0] * of[0]).relu().mean(0).detach() for one, of in zip(output.attentions, of_attention, strict=True)
    ]
    return embeddings.detach()[0], of_embeddings[0], weighted


def product(weighted, rows):
    identity = torch.eye(len(weighted[0]), dtype=weighted[0].dtype)
    relevancy = identity
    for layer in weighted:
        relevancy = relevancy + layer @ relevancy
    return (relevancy - identity)[rows].mean(0)


@pytest.mark.parametrize("target", [1, None])
def test_maps_are_those_of_autograd_through_eager_attention(vlm, samples, store, target):
    asked = asked_of(vlm, samples[0], store)
    rows = list(range(asked.rows.start, asked.rows.stop))
    features, gradient, weighted = eager(asked, [float(target in (None, k)) for k in range(4)])
    chosen = rows if target is None else [rows[target]]
    expected = {
        "attention_gradient": shares(torch.stack([layer[chosen].mean(0) for layer in weighted]).mean(0)),
        "chefer": shares(product(weighted, chosen)),
        "grad_cam": (features * gradient.mean(0)).sum(1).relu(),
    }
    found = gradient_maps(asked, targets=(0, target, None))
    assert set(found) == set(expected)
    for name, one in expected.items():
        torch.testing.assert_close(found[name][1], one, atol=1e-6, rtol=0)
        assert one.std() > 1e-4  # the comparison is about something
        assert found[name].shape == (3, len(one))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_gradient_of_attention_is_that_of_autograd(dtype, tolerance):
    torch.manual_seed(0)
    query, key, value = (torch.randn(heads, 7, 8, dtype=dtype) for heads in (4, 2, 2))
    attention = (query @ key.repeat_interleave(2, 0).transpose(1, 2)).softmax(-1).requires_grad_()
    output = attention @ value.repeat_interleave(2, 0)
    y = (output.tanh() * torch.randn_like(output)).sum() / 8
    of_attention, of_output = torch.autograd.grad(y, [attention, output])
    found = gradient_of_attention(of_output.transpose(0, 1), value)
    torch.testing.assert_close(found, of_attention, atol=tolerance, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_relevancy_rows_are_rows_of_the_matrix_product(dtype, tolerance):
    torch.manual_seed(0)
    weighted = list(torch.rand(5, 9, 9, dtype=dtype) / 9)
    start = torch.eye(9, dtype=dtype)[[4, 7]]
    expected = torch.stack([product(weighted, [row]) for row in (4, 7)])
    torch.testing.assert_close(chefer(reversed(weighted), start) - start, expected, atol=tolerance, rtol=0)


def test_a_token_draws_on_nothing_after_its_own_row(vlm, samples, store):
    asked = asked_of(vlm, samples[0], store)
    found = gradient_maps(asked, targets=range(4))
    for name in ("attention_gradient", "chefer"):
        torch.testing.assert_close(found[name].sum(1), torch.ones(4), atol=1e-5, rtol=0)
        for target, row in enumerate(found[name]):
            assert (row[asked.rows.start + target + 1 :] == 0).all()
            assert row[asked.rows.start + target] > 0


def test_without_a_positive_gradient_maps_are_zero(per_question, samples, store):
    with torch.no_grad():
        for layer in per_question.base.model.language_model.layers:
            layer.self_attn.o_proj.weight.zero_()
    found = gradient_maps(asked_of(per_question, samples[0], store), targets=(0, None))
    assert all((one == 0).all() for one in found.values())


@pytest.mark.parametrize("foil", ["right", "no"])
def test_with_a_foil_the_target_is_the_difference_of_two_separate_passes(vlm, samples, store, foil):
    asked, other = (asked_of(vlm, samples[0], store, answer) for answer in ("left", foil))
    features, gradient, _ = eager(asked, [1.0] * 4)
    _, of_foil, _ = eager(other, [1.0] * len(foil))
    found = gradient_maps(asked, foil=(*other.answer_ids, vlm.tokens.eos_id))
    expected = (features * (gradient - of_foil).mean(0)).sum(1).relu()
    torch.testing.assert_close(found["grad_cam"][0], expected, atol=1e-6, rtol=0)
    alone = gradient_maps(asked)
    for name in ("attention_gradient", "chefer"):
        assert found[name].shape == alone[name].shape
        assert float(found[name].sum()) == pytest.approx(1.0, abs=1e-5)
        assert not torch.allclose(found[name], alone[name], atol=1e-3)


def test_a_foil_that_differs_at_the_end_explains_the_end(vlm, samples, store):
    """Before the token that differs both answers say the same, so its own row alone carries the difference."""
    asked = asked_of(vlm, samples[0], store, "ab")
    last = gradient_maps(asked, targets=(1,))["grad_cam"]
    ids = answer_ids(vlm, "ac", where="here")
    with torch.no_grad():
        assert answer_logprobs(asked)[0, 0] < 0
    found = gradient_maps(asked, foil=ids)["grad_cam"]
    features, gradient, _ = eager(asked, [0.0, 1.0])
    _, of_foil, _ = eager(asked_of(vlm, samples[0], store, "ac"), [0.0, 1.0])
    expected = (features * (gradient - of_foil).mean(0)).sum(1).relu()
    torch.testing.assert_close(found[0], expected, atol=1e-6, rtol=0)
    assert not torch.allclose(found, last, atol=1e-3)


def state(vlm):
    network = vlm.network
    return (
        [(name, one.requires_grad, one.grad is None) for name, one in network.named_parameters()],
        [(module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for module in network.modules()],
        [getattr(vlm.base.config, part)._attn_implementation for part in ("text_config", "vision_config")],
        recording._RECORDER.get(),
    )


def test_nothing_is_left_behind_also_after_an_error(per_question, samples, store, monkeypatch):
    asked = asked_of(per_question, samples[0], store)
    per_question.network.train()
    per_question.vision_encoder.eval()
    before, embeddings = state(per_question), asked.embeddings.clone()
    with torch.no_grad():  # as a caller may have it
        gradient_maps(asked)

    def broken(_):
        raise RuntimeError("out of order")

    monkeypatch.setattr(per_question.base.lm_head, "forward", broken)
    with pytest.raises(RuntimeError, match="out of order"):
        gradient_maps(asked)
    assert state(per_question) == before
    assert not asked.embeddings.requires_grad
    assert torch.equal(asked.embeddings, embeddings)


def test_adapters_in_training_neither_change_maps_nor_collect_gradients(shared_image, samples, store):
    asked = asked_of(shared_image, samples[0], store)
    expected = gradient_maps(asked)
    attach_lora(
        shared_image,
        rank=2,
        alpha=2.0,
        dropout=0.5,
        targets="attention",
        parts=["language_model"],
        base_name="tiny",
        revision=None,
        seed=0,
    )
    shared_image.network.train()
    before = state(shared_image)
    found = gradient_maps(asked)
    for name, one in expected.items():
        torch.testing.assert_close(found[name], one, atol=1e-6, rtol=0)
    assert state(shared_image) == before
    with torch.no_grad():
        for name, parameter in shared_image.network.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    assert not torch.allclose(gradient_maps(asked)["chefer"], expected["chefer"], atol=1e-3)


def test_bfloat16_tells_the_same_story(open_tiny, samples, store):
    narrow, wide = (
        gradient_maps(asked_of(open_tiny("shared_image", dtype=dtype), samples[0], store), targets=(None, 2))
        for dtype in ("bfloat16", "float32")
    )
    for name, one in narrow.items():
        assert one.dtype == torch.float32
        for row, other in zip(one, wide[name], strict=True):
            assert float(torch.corrcoef(torch.stack([row, other]))[0, 1]) > 0.97


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"targets": (4,)}, "not a token of the answer"),
        ({"foil": ()}, "another answer"),
        ({"foil": "left"}, "another answer"),
        ({"foil": "right", "targets": (0,)}, "another answer"),
    ],
)
def test_targets_that_are_none_are_refused(per_question, samples, store, wanted, message):
    if isinstance(wanted.get("foil"), str):
        wanted = {**wanted, "foil": answer_ids(per_question, wanted["foil"], where="here")}
    with pytest.raises(RecipeError, match=message):
        gradient_maps(asked_of(per_question, samples[0], store), **wanted)
