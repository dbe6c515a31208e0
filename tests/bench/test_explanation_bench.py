"""``radvqa bench explain`` at the tiny size: same attention both ways, and the figures that it prints."""

import json

import pytest
import torch
from typer.testing import CliRunner

from radvqa.bench import explanation as bench
from radvqa.bench.explanation import PassCase, Passes, compare_passes, random_question
from radvqa.cli.bench import app, passes_table
from radvqa.errors import ModelError

CASE = PassCase(checkpoint="tiny", dtype="float32", rounds=2, threads=None)


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(bench, "in_own_process", lambda work: work())


def test_both_ways_give_the_same(in_this_process):
    found = compare_passes(CASE, say=lambda _: None)
    assert found.difference < 1e-6
    n, text, image = found.positions, found.prompt_tokens + found.answer_tokens, 16
    assert (found.layers, found.heads, n) == (3, 4, image + text)
    elements = 3 * 4 * text * n + 3 * 4 * image * found.prompt_tokens + 3 * n * n
    assert found.of("capture").kept_mib == pytest.approx(4 * elements / 2**20)
    assert found.of("usual").kept_mib == pytest.approx(found.full_float32_mib) == pytest.approx(4 * 12 * n * n / 2**20)
    assert found.of("plain").kept_mib == 0.0
    assert all(len(one.seconds) == len(one.cpu_seconds) == 2 for one in found.ways)


def test_rollouts_of_both_ways_are_equal():
    asked = random_question(CASE)
    one, other = (bench._pass(asked, way) for way in ("capture", "usual"))
    torch.testing.assert_close(one.rollout, other.rollout, atol=1e-6, rtol=0)
    assert asked.vlm.base.config.text_config._attn_implementation == "sdpa"


def test_ways_that_differ_are_refused(in_this_process, monkeypatch):
    monkeypatch.setattr(bench, "ALLOWED_DIFFERENCE", -1.0)
    with pytest.raises(ModelError, match="not that of the usual way"):
        compare_passes(CASE, say=lambda _: None)


def test_what_is_not_known_is_refused(monkeypatch):
    with pytest.raises(ModelError, match="sizes of this checkpoint"):
        random_question(PassCase(checkpoint="someone/else", dtype="float32", rounds=1, threads=None))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    with pytest.raises(ModelError, match="CPUs only"):
        compare_passes(CASE, say=lambda _: None)


def test_extra_time_is_the_median_of_rounds_in_turns():
    def passes(way, seconds, peak):
        return Passes(way=way, seconds=seconds, cpu_seconds=[2 * one for one in seconds], kept_mib=1.0, peak_mib=peak)

    ways = [passes("plain", [1, 2, 9], 100), passes("capture", [1.1, 2.4, 9.9], 150), passes("usual", [2, 2, 9], 700)]
    facts = {"layers": 1, "heads": 1, "positions": 1, "prompt_tokens": 1, "answer_tokens": 1, "threads": 1}
    found = bench.PassComparison(
        checkpoint="tiny", dtype="float32", ways=ways, full_float32_mib=1.0, difference=0.0, **facts
    )
    assert found.extra_time("capture") == found.extra_cpu_time("capture") == pytest.approx(0.1)
    assert found.extra_peak_mib("capture") == 50
    assert "+10.0%" in passes_table(found)


def test_layers_can_be_fewer_and_json_has_all(in_this_process):
    words = ["explain", "--checkpoint", "tiny", "--rounds", "1", "--layers", "2", "--json", "--quiet"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["layers"], found["dtype"]) == (2, "bfloat16")
    assert found["difference"] < bench.ALLOWED_DIFFERENCE
    assert set(found["extra"]) == {"capture", "usual"}
    assert set(found["extra"]["capture"]) == {"extra_peak_mib", "extra_time", "extra_cpu_time"}
