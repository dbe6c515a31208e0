import json
import multiprocessing
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from radvqa.data.image_store import ImageStore
from radvqa.errors import ModelError, RunError
from radvqa.models import features as features_module
from radvqa.models.features import FeaturesDoNotFit, FeatureStore
from radvqa.models.opening import open_vlm
from radvqa.models.vlm import Vlm
from radvqa.recipe import Model

ROW_BYTES = 16 * 16 * 4 + 256


@pytest.fixture
def paths(samples) -> list[Path]:
    return list(dict.fromkeys(sample.image for sample in samples))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "features"


@pytest.fixture
def two_a_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_module, "_PICTURES_PER_SEGMENT", 2)


def build(vlm: Vlm, store: ImageStore, paths, cache: Path, *, most_bytes: int = 10**9, seen=lambda _: None):
    found = FeatureStore.build(vlm, store, paths, cache=cache, most_bytes=most_bytes, seen=seen)
    assert isinstance(found, FeatureStore)
    return found


def looked(vlm: Vlm, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures go through the tower, call by call."""
    calls: list[int] = []
    see = vlm.see

    def counted(pixels):
        calls.append(len(pixels))
        return see(pixels)

    monkeypatch.setattr(vlm, "see", counted)
    return calls


def alone(vlm: Vlm, store: ImageStore, path: Path) -> torch.Tensor:
    with torch.no_grad():
        return vlm.see(torch.from_numpy(store.pixels(path))[None])[0].to(vlm.compute_dtype)


def segments(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/*.safetensors"))


def disk(cache: Path) -> int:
    return sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_features_are_those_of_the_tower_bit_by_bit(store, paths, cache, open_tiny, dtype: str) -> None:
    vlm = open_tiny(dtype=dtype)
    features = build(vlm, store, paths, cache)
    for path in paths:
        found = features.features(path)
        assert found.dtype == vlm.compute_dtype
        assert found.grad_fn is None
        assert not found.requires_grad
        assert torch.equal(found, alone(vlm, store, path))


def test_what_is_cached_is_not_computed_again(store, paths, cache, per_question, monkeypatch) -> None:
    calls, seen = looked(per_question, monkeypatch), []
    build(per_question, store, paths[:3], cache, seen=seen.append)
    assert calls == [1, 1, 1]
    assert seen == [1, 1, 1]
    first = {path: path.read_bytes() for path in segments(cache)}
    features = build(per_question, store, list(reversed(paths)), cache, seen=(seen := []).append)
    assert len(calls) == len(paths)
    assert seen == [3, 1, 1]
    assert first.items() <= {path: path.read_bytes() for path in segments(cache)}.items()
    for path in paths:
        features.features(path)
    assert len(calls) == len(paths)


def test_equal_files_share_a_row(store, paths, cache, per_question, tmp_path) -> None:
    twin = tmp_path / "twin.png"
    shutil.copyfile(paths[0], twin)
    both = ImageStore.build([*paths, twin], size=56, cache=tmp_path)
    seen: list[int] = []
    features = build(per_question, both, [*paths, twin], cache, seen=seen.append)
    assert sum(seen) == len(paths) + 1
    assert len(load_file(segments(cache)[0])) == len(paths)
    assert torch.equal(features.features(twin), features.features(paths[0]))


def test_other_weights_dtypes_and_conversions_have_folders_of_their_own(
    store, paths, cache, open_tiny, tmp_path
) -> None:
    vlm = open_tiny()
    build(vlm, store, paths, cache)
    padded = ImageStore.build(paths, size=56, cache=tmp_path, aspect="pad")
    build(vlm, padded, paths, cache)
    build(open_tiny(dtype="bfloat16"), store, paths, cache)
    before = build(vlm, store, paths, cache).features(paths[0]).clone()
    with torch.no_grad():
        vlm.vision_encoder.get_parameter("post_layernorm.weight")[3] *= 1.5
    after = build(vlm, store, paths, cache).features(paths[0])
    assert torch.equal(after, alone(vlm, store, paths[0]))
    assert not torch.equal(after, before)
    stated = [json.loads(path.read_bytes()) for path in sorted(cache.glob("*/variant.json"))]
    assert len(stated) == len(segments(cache)) == 4
    assert {variant["dtype"] for variant in stated} == {"float32", "bfloat16"}
    assert len({variant["tower"] for variant in stated}) == 3
    assert all(variant["torch"] == torch.__version__ for variant in stated)


def test_an_opened_checkpoint_meets_its_own_features_again(store, paths, cache, open_tiny, monkeypatch) -> None:
    build(open_tiny(), store, paths, cache)
    again = open_tiny("shared_image")
    calls = looked(again, monkeypatch)
    build(again, store, paths, cache)
    assert calls == []


@pytest.mark.usefixtures("two_a_segment")
def test_an_interrupted_build_is_gone_on_with(store, paths, cache, per_question, monkeypatch) -> None:
    see, calls = per_question.see, looked(per_question, monkeypatch)
    counted = per_question.see

    def interrupted(pixels):
        if len(calls) == 3:
            raise KeyboardInterrupt
        return counted(pixels)

    monkeypatch.setattr(per_question, "see", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(per_question, store, paths, cache)
    assert sorted(len(load_file(path)) for path in segments(cache)) == [1, 2]
    monkeypatch.setattr(per_question, "see", see)
    calls = looked(per_question, monkeypatch)
    features = build(per_question, store, paths, cache)
    assert len(calls) == len(paths) - 3
    assert all(torch.equal(features.features(path), alone(per_question, store, path)) for path in paths)


@pytest.mark.parametrize("place", ["row", "checksum", "header", "cut", "empty", "gone"])
@pytest.mark.parametrize("opened", ["before", "after"])
def test_damage_is_found_and_mended(  # noqa: PLR0917
    store, paths, cache, per_question, monkeypatch, caplog, place: str, opened: str
) -> None:
    expected = {path: alone(per_question, store, path) for path in paths}
    features = build(per_question, store, paths, cache)
    calls = looked(per_question, monkeypatch)
    (segment,) = segments(cache)
    content = bytearray(segment.read_bytes())
    if place == "row":
        content[-700] ^= 1
    elif place == "checksum":
        content[content.index(b"crc32") + 82] ^= 1
    elif place == "header":
        content[9] ^= 0xFF
    elif place == "cut":
        del content[-100:]
    elif place == "empty":
        content.clear()
    segment.unlink()
    if place != "gone":
        segment.write_bytes(content)
    if opened == "before":
        features = build(per_question, store, paths, cache)
    for path in [*paths, *paths]:
        assert torch.equal(features.features(path), expected[path])
    if not (place == "checksum" and opened == "after"):  # the store knows them from its own writing
        assert calls
        assert caplog.records or place == "gone"
    if place == "row":
        assert calls == [1]
    calls.clear()
    caplog.clear()
    again = build(per_question, store, paths, cache)
    assert all(torch.equal(again.features(path), expected[path]) for path in paths)
    if not (place == "checksum" and opened == "after"):
        assert calls == []
        assert not caplog.records


def test_a_row_is_checked_in_a_new_store_also_if_it_was_good_before(store, paths, cache, per_question, caplog) -> None:
    build(per_question, store, paths, cache).features(paths[-1])
    (segment,) = segments(cache)
    content = bytearray(segment.read_bytes())
    content[-1] ^= 0x40
    segment.write_bytes(content)
    features = build(per_question, store, paths, cache)
    assert all(torch.equal(features.features(path), alone(per_question, store, path)) for path in paths)
    assert "damaged" in caplog.text


def test_nothing_is_mended_with_another_tower(store, paths, cache, per_question) -> None:
    features = build(per_question, store, paths, cache)
    segments(cache)[0].unlink()
    with torch.no_grad():
        per_question.vision_encoder.get_parameter("post_layernorm.weight")[0] += 1
    with pytest.raises(ModelError, match="not what they were computed with") as raised:
        features.features(paths[0])
    assert raised.value.where == "tower"


def test_writing_to_features_changes_no_file(store, paths, cache, per_question) -> None:
    features = build(per_question, store, paths, cache)
    features.features(paths[0]).zero_()
    again = build(per_question, store, paths, cache)
    assert torch.equal(again.features(paths[0]), alone(per_question, store, paths[0]))


def test_a_tower_that_learns_is_refused(store, paths, cache, per_question) -> None:
    per_question.vision_encoder.get_parameter("post_layernorm.bias").requires_grad_(True)
    with pytest.raises(ModelError, match="that learns"):
        build(per_question, store, paths, cache)
    assert not cache.exists()


def test_a_tower_with_adapters_or_dropout_is_refused(store, paths, cache, open_tiny) -> None:
    from radvqa.models.lora import attach_lora

    shape = {"rank": 2, "alpha": 4.0, "dropout": 0.0, "targets": "attention", "base_name": "x", "revision": None}
    vlm = open_tiny()
    attach_lora(vlm, parts=("language_model",), seed=1, **shape)
    build(vlm, store, paths, cache)
    vlm = open_tiny()
    attach_lora(vlm, parts=("vision_encoder",), seed=1, **shape)
    vlm.network.requires_grad_(False)
    with pytest.raises(ModelError, match="adapters"):
        build(vlm, store, paths, cache)
    vlm = open_tiny()
    vlm.base.config.vision_config.attention_dropout = 0.1
    with pytest.raises(ModelError, match="dropout"):
        build(vlm, store, paths, cache)


def test_pictures_of_another_size_are_refused(paths, cache, per_question, tmp_path) -> None:
    store = ImageStore.build(paths, size=28, cache=tmp_path)
    with pytest.raises(ModelError, match="wrong size"):
        build(per_question, store, paths, cache)


def test_what_does_not_fit_is_said_and_nothing_is_written(store, paths, cache, per_question) -> None:
    found = FeatureStore.build(
        per_question, store, paths, cache=cache, most_bytes=5 * ROW_BYTES - 1, seen=lambda _: pytest.fail("computed")
    )
    assert found == FeaturesDoNotFit(5 * ROW_BYTES, 5 * ROW_BYTES - 1)
    assert not cache.exists()


@pytest.mark.usefixtures("two_a_segment")
@pytest.mark.parametrize("rows", [5, 6, 8, 10, 20])
def test_the_cache_stays_bounded(store, paths, cache, open_tiny, rows: int) -> None:
    most = rows * ROW_BYTES + 8192  # beside rows there are two variant.json of 1 kB and the constant part of headers
    vlm = open_tiny()
    build(vlm, store, paths, cache, most_bytes=most)
    with torch.no_grad():
        vlm.vision_encoder.get_parameter("post_layernorm.weight")[0] += 1
    features = build(vlm, store, paths, cache, most_bytes=most)
    assert disk(cache) <= most
    assert all(torch.equal(features.features(path), alone(vlm, store, path)) for path in paths)
    assert len(segments(cache)) >= (6 if rows == 20 else 3)


@pytest.mark.usefixtures("two_a_segment")
def test_the_longest_unused_segments_go_first(store, paths, cache, per_question) -> None:
    for pair in (paths[0:2], paths[2:4]):
        build(per_question, store, pair, cache)
    old, new = sorted(segments(cache), key=lambda path: path.stat().st_mtime)
    for age, segment in ((100, old), (200, new)):
        os.utime(segment, (time.time() - age, time.time() - age))
    assert store.sha256(paths[0]) in load_file(old)
    build(per_question, store, paths[2:4], cache)  # used again: now the other one is the longest unused
    assert new.stat().st_mtime > time.time() - 50
    build(per_question, store, paths[4:5], cache, most_bytes=disk(cache))
    assert new in segments(cache)
    assert old not in segments(cache)


def test_a_segment_of_mostly_other_pictures_is_given_up_for_what_is_wanted(
    store, paths, cache, per_question, monkeypatch
) -> None:
    build(per_question, store, paths[:4], cache)
    (crowded,) = segments(cache)
    calls = looked(per_question, monkeypatch)
    features = build(per_question, store, paths[3:5], cache, most_bytes=disk(cache))
    assert len(calls) == 2
    assert crowded not in segments(cache)
    assert all(torch.equal(features.features(path), alone(per_question, store, path)) for path in paths[3:5])


def test_a_full_disk_is_reported_and_what_is_there_stays(store, paths, cache, per_question, monkeypatch) -> None:
    monkeypatch.setattr(features_module, "_PICTURES_PER_SEGMENT", 2)
    replace, done = Path.replace, []

    def full(self, target):
        if str(target).endswith(".safetensors"):
            done.append(target)
            if len(done) > 1:
                raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RunError, match="No space left on device"):
        build(per_question, store, paths, cache)
    monkeypatch.setattr(Path, "replace", replace)
    assert len(segments(cache)) == 1
    assert not list(cache.glob("*/.*"))
    calls = looked(per_question, monkeypatch)
    build(per_question, store, paths, cache)
    assert len(calls) == len(paths) - 2


@pytest.mark.usefixtures("two_a_segment")
def test_few_segments_are_open_at_a_time(store, paths, cache, per_question, monkeypatch) -> None:
    monkeypatch.setattr(features_module, "_OPEN_SEGMENTS", 1)
    features = build(per_question, store, paths, cache)
    assert len(segments(cache)) == 3
    for path in [*paths, *paths]:
        assert torch.equal(features.features(path), alone(per_question, store, path))
        mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if str(cache) in line}
        assert len(mapped) == 1


def test_threads_read_and_mend_at_the_same_time(store, paths, cache, per_question, monkeypatch) -> None:
    expected = {path: alone(per_question, store, path) for path in paths}
    features = build(per_question, store, paths, cache)
    segments(cache)[0].unlink()
    calls, wrong = looked(per_question, monkeypatch), []

    def read() -> None:
        wrong.extend(path for path in paths if not torch.equal(features.features(path), expected[path]))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(calls) == len(paths)  # mended once


def build_often(store: ImageStore, paths: list[Path], cache: Path, numbers: list[int], vlm: Vlm | None = None) -> None:
    vlm = vlm or open_vlm(Model(checkpoint="tiny", dtype="float32"), say=lambda _: None)
    for number in numbers:
        some = [*paths[number:], *paths[:number]][:3]
        found = build(vlm, store, some, cache, most_bytes=6 * ROW_BYTES)
        for path in some:
            assert torch.equal(found.features(path), alone(vlm, store, path))


NUMBERS = [0, 3, 1, 4, 2] * 6


def test_builds_at_the_same_time_do_not_disturb_each_other(store, paths, cache, open_tiny) -> None:
    """With so little room that each removes what the other one uses."""
    with ThreadPoolExecutor(2) as threads:
        builds = [
            threads.submit(build_often, store, paths, cache, order, open_tiny()) for order in (NUMBERS, NUMBERS[::-1])
        ]
        for done in builds:
            done.result()


@pytest.mark.slow
def test_processes_do_not_disturb_each_other(store, paths, cache) -> None:
    context = multiprocessing.get_context("spawn")
    orders = (NUMBERS[:10], NUMBERS[9::-1])
    workers = [context.Process(target=build_often, args=(store, paths, cache, order), daemon=True) for order in orders]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(250)
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_what_a_killed_process_left_is_removed_after_a_day(store, paths, cache, per_question) -> None:
    build(per_question, store, paths, cache)
    (folder,) = cache.iterdir()
    old, new = folder / ".one.safetensors.partial", folder / ".other.safetensors.partial"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    build(per_question, store, paths, cache)
    assert new.exists()
    assert not old.exists()


def test_a_picture_the_store_was_not_built_with_is_a_key_error(store, paths, cache, per_question) -> None:
    features = build(per_question, store, paths[:2], cache)
    with pytest.raises(KeyError):
        features.features(paths[3])
