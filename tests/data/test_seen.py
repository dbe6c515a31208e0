from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from radvqa.data.seen import seen_pictures, shared_pictures
from radvqa.run.engine import LocalEngine
from radvqa.sample import VqaSample


def picture(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal((96, 96)), 9)
    smooth = 255 * (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return Image.fromarray(smooth.astype(np.uint8)).convert("RGB")


def saved(path: Path, image: Image.Image, *, image_id: str = "") -> VqaSample:
    image.save(path)
    return VqaSample(
        sample_id=path.stem,
        image_id=image_id or path.stem,
        image=path,
        question="q",
        answers=("a",),
        answer_type="open",
        group_id=path.stem,
        split="train",
    )


def found(trained: list[VqaSample], evaluated: list[VqaSample]) -> list[tuple[str, str, str]]:
    return [
        (one.trained.sample_id, one.evaluated.sample_id, one.how)
        for one in seen_pictures(trained, evaluated, LocalEngine(1))
    ]


def test_another_file_format_has_equal_pixels(tmp_path: Path) -> None:
    evaluated = [saved(tmp_path / "asked.png", picture(1))]
    trained = [saved(tmp_path / "other.png", picture(2)), saved(tmp_path / "same.bmp", picture(1))]
    assert found(trained, evaluated) == [("same", "asked", "their pixels are equal")]


def test_the_same_file_on_both_sides_is_seen(tmp_path: Path) -> None:
    one = saved(tmp_path / "one.png", picture(1))
    assert found([one], [one]) == [("one", "one", "their pixels are equal")]


def test_a_small_lossy_copy_is_nearly_equal(tmp_path: Path) -> None:
    evaluated = [saved(tmp_path / "asked.png", picture(1))]
    trained = [saved(tmp_path / "small.jpg", picture(1).resize((70, 80)))]
    ((name, other, how),) = found(trained, evaluated)
    assert (name, other) == ("small", "asked")
    assert how == "their thumbnails correlate at 1.000"


def test_a_copy_with_a_black_margin_is_nearly_equal(tmp_path: Path) -> None:
    body = Image.new("RGB", (160, 160))
    body.paste(picture(1).point(lambda value: 60 + value // 2), (30, 20))
    cropped = body.crop((25, 15, 131, 121))
    evaluated, trained = [saved(tmp_path / "asked.png", body)], [saved(tmp_path / "cropped.png", cropped)]
    assert [(one[0], one[1]) for one in found(trained, evaluated)] == [("cropped", "asked")]


@pytest.mark.parametrize("name", ["synpic123", "PMC12345", "ROCO_00001"])
def test_one_public_id_is_one_picture(tmp_path: Path, name: str) -> None:
    evaluated = [saved(tmp_path / "asked.png", picture(1), image_id=f"MPX1_{name}")]
    trained = [saved(tmp_path / "other.png", picture(2), image_id=name)]
    assert found(trained, evaluated) == [("other", "asked", f"both are {name}")]


def test_what_cannot_be_read_is_compared_by_its_id_alone(tmp_path: Path) -> None:
    evaluated = [saved(tmp_path / "asked.png", picture(1), image_id="synpic7")]
    trained = [saved(tmp_path / "broken.png", picture(1), image_id="synpic7")]
    trained[0].image.write_bytes(b"no picture")
    assert found(trained, evaluated) == [("broken", "asked", "both are synpic7")]


def test_every_training_copy_is_found_with_one_evaluated_one(tmp_path: Path) -> None:
    evaluated = [saved(tmp_path / f"asked{n}.png", picture(1)) for n in range(2)]
    trained = [saved(tmp_path / f"copy{n}.bmp", picture(1)) for n in range(3)]
    assert [one[0] for one in found(trained, evaluated)] == ["copy0", "copy1", "copy2"]


def test_all_pairs_are_found(tmp_path: Path) -> None:
    evaluated = [saved(tmp_path / f"asked{n}.png", picture(1)) for n in range(2)]
    evaluated.append(saved(tmp_path / "asked2.jpg", picture(1).resize((70, 80))))
    trained = [saved(tmp_path / f"copy{n}.bmp", picture(1)) for n in range(2)]
    pairs = [
        (one.trained.sample_id, one.evaluated.sample_id) for one in shared_pictures(trained, evaluated, LocalEngine(1))
    ]
    assert sorted(pairs) == [(f"copy{n}", f"asked{m}") for n in range(2) for m in range(3)]


def test_all_evaluated_pictures_of_one_public_id_are_found(tmp_path: Path) -> None:
    evaluated = [saved(tmp_path / f"asked{n}.png", picture(n), image_id=f"MPX{n}_synpic7") for n in range(2)]
    trained = [saved(tmp_path / "other.png", picture(2), image_id="synpic7")]
    pairs = shared_pictures(trained, evaluated, LocalEngine(1))
    assert [one.evaluated.sample_id for one in pairs] == ["asked0", "asked1"]
    assert len(found(trained, evaluated)) == 1
