import shutil

import numpy as np
import pytest
import torch

from radvqa.data.image_store import ImageStore
from radvqa.models.features import FeatureStore
from radvqa.models.layout import Row
from radvqa.train.pictures import AugmentedPictures, FrozenFeatures, StoredPictures, augment, distinct_images


@pytest.fixture
def rows(per_question, samples):
    return per_question.rows(samples, answers=True)[:7]  # three images


def test_each_distinct_image_is_given_once(rows, store):
    paths, row_image = distinct_images(rows)
    assert len(paths) == 3
    assert [paths[number] for number in row_image] == [row.image for row in rows]
    vision = StoredPictures(store).vision(rows, update=1)
    assert vision.pixels.shape == (3, 56, 56, 3)
    assert vision.pixels.dtype == torch.uint8
    for number, path in enumerate(paths):
        assert np.array_equal(vision.pixels[number].numpy(), store.pixels(path))


def test_frozen_features_are_what_the_tower_sees(per_question, rows, store, tmp_path):
    paths, _ = distinct_images(rows)
    features = FeatureStore.build(
        per_question, store, list(reversed(paths)), cache=tmp_path, most_bytes=10**6, seen=lambda _: None
    )
    vision = FrozenFeatures(features).vision(rows, update=1)
    with torch.no_grad():
        expected = per_question.see(StoredPictures(store).vision(rows, update=1).pixels)
    torch.testing.assert_close(vision.features, expected, atol=1e-6, rtol=0)
    assert vision.pixels is None
    assert vision.features.grad_fn is None
    assert [paths[number] for number in vision.row_image] == [row.image for row in rows]


def test_a_batch_of_frozen_features_is_its_own(per_question, rows, store, tmp_path):
    features = FeatureStore.build(
        per_question, store, [row.image for row in rows], cache=tmp_path, most_bytes=10**6, seen=lambda _: None
    )
    frozen = FrozenFeatures(features)
    before = frozen.vision(rows, update=1).features.clone()
    frozen.vision(rows, update=1).features.zero_()
    assert torch.equal(frozen.vision(rows, update=2).features, before)


def test_augmented_pictures_follow_from_seed_update_and_image(rows, store):
    first = AugmentedPictures(store, seed=1).vision(rows, update=4).pixels
    assert torch.equal(first, AugmentedPictures(store, seed=1).vision(rows, update=4).pixels)
    assert not torch.equal(first, AugmentedPictures(store, seed=1).vision(rows, update=5).pixels)
    assert not torch.equal(first, AugmentedPictures(store, seed=2).vision(rows, update=4).pixels)
    # An image is changed alike in whatever company it comes.
    alone = AugmentedPictures(store, seed=1).vision(rows[-1:], update=4).pixels
    assert torch.equal(alone[0], first[-1])


def test_changes_are_small_and_never_mirrored():
    """A bright square in one corner stays in its quarter of the picture."""
    picture = np.full((56, 56, 3), 100, dtype=np.uint8)
    picture[8:18, 8:18] = 200
    for seed in range(25):
        changed = augment(picture, np.random.default_rng(seed))
        assert changed.shape == picture.shape
        assert changed.dtype == np.uint8
        assert not np.array_equal(changed, picture)
        y, x = np.nonzero(changed[..., 0] > 155)
        assert len(y) > 50
        assert y.mean() < 25
        assert x.mean() < 25


def test_the_stored_picture_is_not_changed(rows, store):
    before = store.pixels(rows[0].image)
    AugmentedPictures(store, seed=1).vision(rows, update=4)
    assert np.array_equal(before, store.pixels(rows[0].image))


def test_a_moved_picture_is_changed_alike(rows, store, tmp_path):
    moved = tmp_path / "elsewhere.png"
    shutil.copyfile(rows[0].image, moved)
    other = ImageStore.build([moved], size=56, cache=tmp_path)
    there = AugmentedPictures(other, seed=1).vision([Row(moved, rows[0].questions)], update=4).pixels
    assert torch.equal(there[0], AugmentedPictures(store, seed=1).vision(rows[:1], update=4).pixels[0])
    assert other.digest([moved]) == store.digest([rows[0].image])
