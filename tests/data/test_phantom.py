import hashlib
import os
import time
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.measure import label as connected_components

from radvqa.data import open_dataset
from radvqa.data.adapters import phantom
from radvqa.data.adapters.phantom import PhantomDataset
from radvqa.data.phantom.anatomy import FIRST_LESION, ORGANS, VIEWS
from radvqa.data.phantom.image import CONTRAST_TO_NOISE_FLOOR, render
from radvqa.data.phantom.questions import CONTENT_TYPES, QuestionQuota
from radvqa.errors import DataError, RecipeError, RunError
from radvqa.sample import SPLITS

COUNT = {"train": 240, "val": 72, "test": 12}
SIZE = 160
NAMES = {value: name for name, value in ORGANS.items()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return PhantomDataset(count=COUNT, size=SIZE, root=str(tmp_path_factory.mktemp("phantom")))


@pytest.fixture(scope="module")
def phantoms():
    return [render(224, seed=5, split="train", index=index) for index in range(4 * len(VIEWS))]


def files(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def mask_of(sample):
    return np.array(Image.open(sample.image.parent.parent / "masks" / sample.image.name))


def ring_organ(mask, lesion):
    """The organ around a lesion, read from the mask alone."""
    ring = ndimage.binary_dilation(lesion, iterations=2) & ~lesion
    return NAMES[int(np.bincount(mask[ring]).argmax())]


def lesions_in(mask):
    """Lesions as connected components of all lesion values together."""
    components = connected_components(mask >= FIRST_LESION, connectivity=2)
    return [components == number for number in range(1, components.max() + 1)]


def centre_x(inside):
    return float(np.nonzero(inside)[1].mean())


def test_same_options_give_the_same_bytes(tmp_path):
    folders = []
    for name in ("a", "b"):
        data = PhantomDataset(count={"train": 9, "val": 5}, size=128, seed=3, root=str(tmp_path / name))
        folders.append(data.sources()[0].parent)
    assert folders[0].name == folders[1].name
    assert files(folders[0]) == files(folders[1])


def test_an_image_and_its_questions_do_not_depend_on_how_many_are_made(tmp_path):
    few = PhantomDataset(count={"train": 30}, size=128, root=str(tmp_path))
    many = PhantomDataset(count={"train": 60}, size=128, root=str(tmp_path))
    for one, other in zip(few.read("train").samples, many.read("train").samples, strict=False):
        assert (one.sample_id, one.question, one.answers) == (other.sample_id, other.question, other.answers)
        assert one.image.read_bytes() == other.image.read_bytes()
    alone = render(128, seed=0, split="train", index=29)
    np.testing.assert_array_equal(alone.image, np.array(Image.open(few.read("train").samples[-1].image)))


def test_seeds_and_splits_give_different_images(dataset):
    images = {
        hashlib.sha256(path.read_bytes()).hexdigest() for path in (dataset.sources()[0].parent / "images").iterdir()
    }
    assert len(images) == sum(COUNT.values())
    other = render(SIZE, seed=1, split="train", index=0).image
    assert (
        hashlib.sha256(other.tobytes()).digest()
        != hashlib.sha256(render(SIZE, seed=0, split="train", index=0).image.tobytes()).digest()
    )
    groups = [{sample.group_id for sample in dataset.read(split).samples} for split in SPLITS]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]


def test_samples_are_complete(dataset):
    for split in SPLITS:
        reading = dataset.read(split)
        assert not reading.rejects
        assert len({sample.image_id for sample in reading.samples}) == COUNT[split]
        for sample in reading.samples:
            assert sample.image.is_file() and sample.split == split and sample.group_id == sample.image_id
            assert len(sample.answers) == 1 and sample.answers[0].strip() and sample.question.endswith("?")
            assert {"modality", "location", "content_type", "plane"} <= sample.tags.keys()
            assert sample.sample_id.startswith(f"phantom-{split}-")
        assert len({sample.sample_id for sample in reading.samples}) == len(reading.samples)
    with Image.open(dataset.read("val").samples[0].image) as image:
        assert image.mode == "L" and image.size == (SIZE, SIZE)


def test_blocks_hold_every_view_once(phantoms):
    for start in range(0, len(phantoms), len(VIEWS)):
        block = phantoms[start : start + len(VIEWS)]
        assert Counter(item.view.paint.__name__ + item.view.modality for item in block) == Counter(
            view.paint.__name__ + view.modality for view in VIEWS
        )


def test_answers_of_each_text_are_balanced(dataset):
    for split in ("train", "val"):
        answers = defaultdict(Counter)
        for sample in dataset.read(split).samples:
            answers[sample.question][sample.answers[0]] += 1
        for question, counts in answers.items():
            if set(counts) <= {"Yes", "No"} and counts.total() > 1:
                assert abs(counts["Yes"] - counts["No"]) <= 1, question
            assert max(counts.values()) - min(counts.values()) <= 1, question


def test_the_text_alone_answers_less_than_the_documented_floor(dataset):
    train = defaultdict(Counter)
    for sample in dataset.read("train").samples:
        train[sample.question][sample.answers[0]] += 1
    hits = defaultdict(list)
    for sample in dataset.read("val").samples:
        guess = train[sample.question].most_common(1)
        hit = bool(guess) and guess[0][0] == sample.answers[0]
        hits["all"].append(hit)
        hits[sample.answer_type].append(hit)
    assert np.mean(hits["all"]) <= 0.46
    assert np.mean(hits["closed"]) <= 0.58
    assert np.mean(hits["open"]) <= 0.40


def test_boxes_agree_with_masks(dataset):
    seen = set()
    for sample in dataset.read("val").samples:
        mask = mask_of(sample)
        regions = dataset.regions(sample.image_id)
        assert {region.mask_value for region in regions} == set(np.unique(mask)) - {0}
        for region in regions:
            rows, columns = np.nonzero(np.array(Image.open(region.mask)) == region.mask_value)
            x, y, width, height = region.box
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
            seen.add(region.label)
    assert {"left lung", "liver", "lesion in the left lung"} <= seen


def expected_answer(question, mask):  # noqa: PLR0911, PLR0912
    """The answer to a question from the mask alone; None for wordings this reader does not know."""
    lesions = lesions_in(mask)
    hosts = [ring_organ(mask, lesion) for lesion in lesions]
    size = len(mask)
    text = question.lower()
    if text in ("how many lesions are there?", "what is the number of lesions in this image?"):
        return str(len(lesions))
    if text in ("is there a lesion in this image?", "can a lesion be seen?", "does the image show any lesion?"):
        return "Yes" if lesions else "No"
    if text == "is there more than one lesion?":
        return "Yes" if len(lesions) > 1 else "No"
    for organ in ("lung", "kidney"):
        areas = {side: (mask == ORGANS[f"{side} {organ}"]).sum() for side in ("left", "right")}
        for lesion, host in zip(lesions, hosts, strict=True):
            if host.endswith(organ):
                areas[host.split()[0]] += lesion.sum()
        if text.startswith(("how many", "what is the number")) and f"{organ}s" in text:
            return str(sum(area > 0 for area in areas.values()))
        larger = max(areas, key=areas.get)
        if text in (f"which {organ} is bigger, the left or the right one?", f"on which side is the bigger {organ}?"):
            return larger.capitalize()
        if text == f"is the right {organ} larger than the left {organ}?":
            return "Yes" if larger == "right" else "No"
        if text == f"which {organ} contains the lesion?":
            return hosts[0].split()[0].capitalize()
    for name in ORGANS:
        if f"{name} visible here" in text or (text.startswith("does the image contain") and text.endswith(f"{name}?")):
            return "Yes" if (mask == ORGANS[name]).any() else "No"
        words = name.replace("right hemisphere", "right half of the brain").replace(
            "left hemisphere", "left half of the brain"
        )
        if text in (f"is there a lesion in the {words}?", f"does the {words} contain a lesion?"):
            return "Yes" if name in hosts else "No"
    if text in ("where is the lesion located?", "in which structure does the lesion lie?"):
        return hosts[0].title()
    if text.startswith("in which quadrant"):
        row, column = (np.mean(axis) for axis in np.nonzero(lesions[0]))
        return f"{'Upper' if row < size / 2 else 'Lower'} {'Left' if column < size / 2 else 'Right'}"
    if text in ("is the lesion large or small?", "what size does the lesion have?"):
        return "Large" if lesions[0].sum() > np.pi * (0.035 * size) ** 2 else "Small"
    if "side" in text and "lesion" in text and all(host.split()[0] in ("left", "right") for host in hosts):
        sides = {host.split()[0].capitalize() for host in hosts}
        if text.startswith("is there a lesion on the patient's"):
            return "Yes" if ("Left" if "left" in text else "Right") in sides else "No"
        return sides.pop()
    return None


def test_answers_agree_with_the_mask(dataset):
    known = Counter()
    for sample in [*dataset.read("train").samples, *dataset.read("val").samples]:
        expected = expected_answer(sample.question, mask_of(sample))
        if expected is not None:
            assert sample.answers == (expected,), (sample.sample_id, sample.question)
            known[sample.tags["content_type"]] += 1
    assert min(known[kind] for kind in ("Organ", "Quantity", "Abnormality", "Position", "Size")) >= 50


def test_the_left_of_the_patient_is_on_the_right_of_the_image(phantoms):
    pairs = 0
    for item in phantoms:
        for organ in ("lung", "kidney", "hemisphere"):
            left, right = (item.mask == ORGANS[f"{side} {organ}"] for side in ("left", "right"))
            if left.any() and right.any():
                pairs += 1
                assert centre_x(left) > centre_x(right)
        midline = item.mask == ORGANS["spine"]
        for lesion in item.lesions:
            if lesion.side is not None and midline.any():
                assert (centre_x(item.mask == lesion.value) > centre_x(midline)) == (lesion.side == "Left")
    assert pairs > 40


def test_lesions_are_as_visible_as_promised(phantoms):
    ratios = []
    for item in phantoms:
        for lesion in item.lesions:
            inside = item.mask == lesion.value
            ring = ndimage.binary_dilation(inside, iterations=7) & (item.mask == ORGANS[lesion.organ])
            around, within = item.image[ring].astype(float), item.image[inside].astype(float)
            ratios.append(abs(within.mean() - around.mean()) / around.std())
            assert (within.mean() > around.mean()) == lesion.bright
            assert lesion.diameter == pytest.approx(np.sqrt(inside.sum() * 4 / np.pi) / 224)
    assert len(ratios) > 80
    assert min(ratios) >= CONTRAST_TO_NOISE_FLOOR


def test_lesions_are_whole_and_apart():
    for index in range(8 * len(VIEWS)):
        item = render(128, seed=6, split="train", index=index)
        lesions = [item.mask == lesion.value for lesion in item.lesions]
        assert len(lesions_in(item.mask)) == len(lesions)
        for number, lesion in enumerate(lesions):
            near = ndimage.binary_dilation(lesion, iterations=1, structure=np.ones((3, 3)))
            assert not any((near & other).any() for other in lesions[:number])
            assert ring_organ(item.mask, lesion) == item.lesions[number].organ


def test_rendering_is_fast_enough(phantoms):
    assert phantoms
    start = time.process_time()
    for index in range(2 * len(VIEWS)):
        render(224, seed=8, split="train", index=index)
    assert 2 * len(VIEWS) / (time.process_time() - start) > 40


def test_a_second_read_uses_the_folder(dataset, monkeypatch):
    monkeypatch.setattr(phantom, "render", lambda *_, **__: pytest.fail("rendered again"))
    again = PhantomDataset(count=COUNT, size=SIZE, root=str(dataset.sources()[0].parent.parent))
    assert again.read("val") == dataset.read("val")


def test_an_interrupted_folder_is_not_used(tmp_path, monkeypatch):
    options = {"count": {"train": 6}, "size": 128, "root": str(tmp_path)}

    def interrupted(size, **key):
        if key["index"] == 3:
            raise KeyboardInterrupt
        return render(size, **key)

    monkeypatch.setattr(phantom, "render", interrupted)
    with pytest.raises(KeyboardInterrupt):
        PhantomDataset(**options).read("train")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    killed = tmp_path / f".{'0' * 16}.{os.getpid()}.partial"
    (killed / "images").mkdir(parents=True)
    data = PhantomDataset(**options)
    assert len({sample.image_id for sample in data.read("train").samples}) == 6
    assert data.sources()[0].parent != killed


def test_options_change_the_folder(tmp_path):
    folders = {
        PhantomDataset(count={"train": 1}, size=128, root=str(tmp_path), **options).sources()[0].parent.name
        for options in ({}, {"seed": 1}, {"questions_per_image": 2})
    }
    assert len(folders) == 3


@pytest.mark.parametrize(
    "options", [{"count": {"dev": 1}}, {"count": {"train": -1}}, {"size": 20}, {"seed": -1}, {"questions_per_image": 0}]
)
def test_wrong_options_are_recipe_errors(options):
    with pytest.raises(RecipeError):
        PhantomDataset(**options)


def test_unknown_image_and_unwritable_root(tmp_path, dataset):
    with pytest.raises(DataError, match="no image"):
        dataset.regions("phantom-train-999999")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError):
        PhantomDataset(count={"train": 1}, root=str(tmp_path / "file")).read("train")


def test_the_name_finds_the_adapter(tmp_path):
    data = open_dataset("phantom", {"count": {"test": 1}, "size": 128, "root": str(tmp_path)})
    assert data.read("test").samples and not data.read("train").samples
    assert data.licence and data.citation and data.homepage


def test_no_fact_is_asked_twice_of_an_image(phantoms):
    quota = QuestionQuota(CONTENT_TYPES)
    for index, item in enumerate(phantoms):
        asked = quota.choose(item, count=40, rng=np.random.default_rng(index))
        assert len({question.text for question in asked}) == len(asked) > 0


def test_only_the_wanted_content_types_are_asked(tmp_path):
    wanted = ("Plane", "Modality")
    data = PhantomDataset(count={"val": 12}, size=112, content_types=wanted, root=str(tmp_path))
    samples = data.read("val").samples
    assert {one.tags["content_type"] for one in samples} == set(wanted)
    assert len(samples) > 24
    for unusable in ((), ("Modality", "Colour")):
        with pytest.raises(RecipeError, match="content_types"):
            PhantomDataset(content_types=unusable)
