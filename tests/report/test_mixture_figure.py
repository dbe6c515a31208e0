from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from radvqa.records import read_records
from radvqa.report.figures import BLUE, GREEN, INK, ORANGE
from radvqa.report.mixture_figure import MixtureUpdate, SourceRecord, _moving_sum, is_mixed, mixture_figure


def lines(updates, *, planned=0.25, seen=None, names=("roco", "medpix"), batch_size=8):
    """Updates that draw the second source with the share ``seen`` as evenly as whole rows allow."""
    so_far = [0] * len(names)
    found = []
    for update in range(1, updates + 1):
        second = round(update * batch_size * (planned if seen is None else seen)) - so_far[1]
        rows = [batch_size - second, second] + [0] * (len(names) - 2)
        so_far = [before + now for before, now in zip(so_far, rows, strict=True)]
        sources = {
            name: SourceRecord(
                weight=[1 - planned, planned, 0.0][place],
                rows=rows[place],
                questions=rows[place],
                loss=2.0 - place if rows[place] else None,
                seen=so_far[place],
                epoch=so_far[place] / 100,
            )
            for place, name in enumerate(names)
        }
        found.append(MixtureUpdate(update=update, sources=sources))
    return found


def pixels(png):
    image = Image.open(BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB")).astype(int)


SHARE, LOSS = (slice(105, 386), slice(95, 720)), (slice(105, 386), slice(825, 1450))


def heights(picture, colour, panel=SHARE):
    """Distances of the pixels of about this colour from the lower edge of a panel, as parts of its height."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    places, _ = np.nonzero(abs(picture[panel] - wanted).max(axis=-1) < 60)
    return 1 - places / (panel[0].stop - panel[0].start)


@pytest.mark.parametrize("seen", [0.25, 0.75])
def test_the_seen_share_is_drawn_where_it_belongs(seen):
    picture = pixels(mixture_figure(lines(200, seen=seen), title="Stage adapt"))
    assert np.median(heights(picture, ORANGE)) == pytest.approx(seen, abs=0.03)
    assert np.median(heights(picture, BLUE)) == pytest.approx(1 - seen, abs=0.03)


def test_the_planned_share_is_a_line_of_its_own():
    ink = heights(pixels(mixture_figure(lines(200, planned=0.2, seen=0.5), title="Stage adapt")), INK)
    for share, most in ((0.2, True), (0.8, True), (0.5, False)):
        assert bool(np.count_nonzero(abs(ink - share) < 0.03) > 500) is most


def test_the_loss_is_a_mean_over_the_questions_of_the_source():
    # The second source, whose loss is half that of the first, has a row in every fourth update only.
    picture = pixels(mixture_figure(lines(200, batch_size=1), title="Stage adapt"))
    low, high = (np.median(heights(picture, colour, LOSS)) for colour in (ORANGE, BLUE))
    assert low == pytest.approx(high / 2, abs=0.03)


@pytest.mark.parametrize("updates", [1, 2, 3, 45])
def test_few_updates_can_be_drawn(updates):
    assert (abs(pixels(mixture_figure(lines(updates), title="$x_")) - [213, 94, 0]).max(axis=-1) < 6).any()


def test_a_source_that_gave_nothing_has_no_loss():
    picture = pixels(mixture_figure(lines(50, names=("roco", "medpix", "slake")), title="Stage adapt"))
    assert not heights(picture, GREEN, LOSS).size
    assert heights(picture, GREEN).size


def test_the_same_numbers_give_the_same_bytes():
    assert mixture_figure(lines(30), title="a") == mixture_figure(lines(30), title="a")


def test_only_mixtures_are_drawn():
    assert is_mixed(lines(3))
    for unmixed in (
        [],
        [MixtureUpdate(update=1)],
        [MixtureUpdate(update=1, sources={"a": lines(1)[0].sources["roco"]})],
    ):
        assert not is_mixed(unmixed)
        with pytest.raises(ValueError, match="no mixture"):
            mixture_figure(unmixed, title="a")


def test_lines_of_the_training_log_are_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"update": 1, "loss": 2.0, "seconds": 0.1, "sources": {"roco": {"weight": 0.9, "rows": 3, "questions": 5, '
        '"loss": 2.0, "seen": 3, "epoch": 0.3}, "medpix": {"weight": 0.1, "rows": 0, "questions": 0, "loss": null, '
        '"seen": 0, "epoch": 0.0}}}\n{"update": 2, "loss": 2.0}\n'
    )
    first, second = read_records(path, MixtureUpdate)
    assert first.sources["medpix"].loss is None
    assert first.sources["roco"].questions == 5
    assert not second.sources


def test_moving_sums_cover_what_there_is():
    values = np.array([[1.0], [2.0], [3.0], [4.0]])
    assert _moving_sum(values, 3)[:, 0].tolist() == [3, 6, 9, 7]
    assert _moving_sum(values, 1)[:, 0].tolist() == [1, 2, 3, 4]
    assert _moving_sum(values, 9)[:, 0].tolist() == [10, 10, 10, 10]
