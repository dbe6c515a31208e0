from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from radvqa.report.figures import BLUE, ORANGE, Bar, Update, Watch, condition_bars, learning_curves, smoothed

BARS = {
    "Model": {"overall": Bar(0.7, 0.6, 0.8), "closed": Bar(0.8, 0.7, 0.9)},
    "Floor": {"overall": Bar(0.4, 0.3, 0.5), "closed": Bar(None, None, None)},
}
UPDATES = [
    Update(update=i, loss=3 / i, learning_rate=1e-3 / i, grad_norm=1.0, questions=8, seconds=1.0) for i in range(1, 50)
]
WATCH = [
    Watch(update=10, condition="real", overall=0.6, questions=20),
    Watch(update=10, condition="blank", overall=0.3, questions=20),
]


def pixels(png):
    image = Image.open(BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB")).astype(int)


def area(picture, colour):
    """How many pixels have about this colour."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((abs(picture - wanted).max(axis=-1) < 6).sum())


def test_bars_grow_with_the_score():
    low, high = ({"Model": {"overall": Bar(mean, None, None)}} for mean in (0.3, 0.6))
    ratio = area(pixels(condition_bars(high, level=0.95)), BLUE) / area(pixels(condition_bars(low, level=0.95)), BLUE)
    assert ratio == pytest.approx(2, rel=0.08)


def test_an_undefined_score_has_no_bar():
    drawn = pixels(condition_bars({"Model": {"overall": Bar(0.5, 0.4, 0.6)}}, level=0.95))
    empty = pixels(condition_bars({"Model": {"overall": Bar(None, None, None)}}, level=0.95))
    assert area(empty, BLUE) < 0.05 * area(drawn, BLUE)  # the legend's patch stays


def test_intervals_reach_the_picture():
    plain = {
        name: {part: bar._replace(low=None, high=None) for part, bar in parts.items()} for name, parts in BARS.items()
    }
    assert condition_bars(plain, level=0.95) != condition_bars(BARS, level=0.95)


def test_an_exact_limit_beyond_the_mean_is_drawn():
    pixels(condition_bars({"Model": {"overall": Bar(1.0, 0.9, 1.0), "open": Bar(0.0, 0.0, 0.1)}}, level=0.9))


def test_the_same_numbers_give_the_same_bytes():
    assert condition_bars(BARS, level=0.95) == condition_bars(BARS, level=0.95)
    assert learning_curves(UPDATES, WATCH, title="align") == learning_curves(UPDATES, WATCH, title="align")


def test_watched_accuracy_shows_both_conditions():
    without = area(pixels(learning_curves(UPDATES, [], title="align")), ORANGE)
    assert without == 0
    assert area(pixels(learning_curves(UPDATES, WATCH, title="align")), ORANGE) > 50


@pytest.mark.parametrize("count", [1, 2, 3, 45])
def test_few_updates_can_be_drawn(count):
    pixels(learning_curves(UPDATES[:count], WATCH[:1], title="align"))


def test_undefined_numbers_leave_gaps():
    broken = [Update(update=1, loss=None, learning_rate=None), Update(update=2, loss=float("nan"), learning_rate=1e-3)]
    watch = [Watch(update=2, condition="real", overall=None, questions=0)]
    pixels(learning_curves(broken, watch, title="align"))


def test_formula_signs_in_titles_are_text():
    pixels(learning_curves(UPDATES[:2], [], title="$x_"))


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="no updates"):
        learning_curves([], WATCH, title="align")
    with pytest.raises(ValueError, match="no conditions"):
        condition_bars({}, level=0.95)


def test_smoothing_is_the_centred_mean_of_what_there_is():
    values = np.array([1.0, 2.0, 6.0, np.nan, 4.0])
    assert smoothed(values, 3) == pytest.approx([1.5, 3.0, 4.0, 5.0, 4.0])
    assert smoothed(np.array([5.0]), 3) == pytest.approx([5.0])
    assert np.isnan(smoothed(np.array([np.nan, np.nan]), 1)).all()
