"""95 % intervals hold the truth 95 % of the time and tests at 5 % err 5 % of the time, whatever the design effect."""

import numpy as np
import pytest
from clustered_answers import answers

from radvqa.evaluate.paired import mcnemar, paired_bootstrap, paired_t, sign_flip_test
from radvqa.evaluate.statistics import cluster_bootstrap, cluster_interval, design_effect, score_interval, wilson

CASES = [
    (96, 0.6, 0.6),
    (96, 1.0, 0.6),
    (96, 1.5, 0.6),
    (96, 2.0, 0.6),
    (96, 2.0, 0.85),
    (146, 1.4, 0.6),
    (203, 0.6, 0.6),
    (203, 1.0, 0.85),
    (203, 2.0, 0.6),
]


def coverage(case, *, repeats, resamples=0, seed=0):
    """Coverage of the clustered t, the bootstrap (if any) and the unclustered interval, and the mean design effect."""
    images, effect, accuracy = case
    rng = np.random.default_rng(seed)
    rows = []
    for repeat in range(repeats):
        found = answers(rng, images=images, design_effect=effect, accuracy=accuracy)
        t = cluster_interval(found.a, found.images)
        low, high = wilson(int(found.a.sum()), found.a.size)
        drawn = cluster_bootstrap(found.a, found.images, resamples=resamples, seed=repeat) if resamples else t
        rows.append(
            (
                t.low <= accuracy <= t.high,
                drawn.low <= accuracy <= drawn.high,
                low <= accuracy <= high,
                design_effect(found.a, found.images),
            )
        )
    return dict(zip(("t", "bootstrap", "wilson", "design_effect"), np.mean(rows, axis=0), strict=True))


def false_alarms(case, *, repeats, draws=0, seed=1):
    """How often two equally good models differ at 5 %: clustered t, sign flips, bootstrap (if any) and McNemar."""
    images, effect, accuracy = case
    rng = np.random.default_rng(seed)
    rows = []
    for repeat in range(repeats):
        found = answers(rng, images=images, design_effect=effect, accuracy=accuracy)
        t = paired_t(found.a, found.b, found.images)
        flips = bootstrap = t.p < 0.05
        if draws:
            flips = sign_flip_test(found.a, found.b, found.images, draws=draws, seed=repeat) < 0.05
            drawn = paired_bootstrap(found.a, found.b, found.images, resamples=draws, seed=repeat)
            bootstrap = not drawn.low <= 0 <= drawn.high
        rows.append(
            (
                t.p < 0.05,
                flips,
                bootstrap,
                mcnemar(found.a, found.b).mid_p < 0.05,
                design_effect(found.a - found.b, found.images),
            )
        )
    return dict(zip(("t", "flips", "bootstrap", "mcnemar", "design_effect"), np.mean(rows, axis=0), strict=True))


@pytest.mark.parametrize("case", [(96, 0.6, 0.6), (203, 2.0, 0.6)])
def test_coverage_of_a_few_test_sets(case):
    # 800 repeats: the share has a standard error of 0.8 points.
    found = coverage(case, repeats=800)
    assert found["design_effect"] == pytest.approx(case[1], rel=0.05)
    assert found["t"] == pytest.approx(0.95, abs=0.025)
    # Taking questions as independent is wrong either way.
    assert (found["wilson"] > 0.975) if case[1] < 1 else (found["wilson"] < 0.9)


def test_false_alarms_of_a_few_test_sets():
    found = false_alarms((96, 2.0, 0.6), repeats=400, draws=199)
    assert found["t"] == pytest.approx(0.05, abs=0.033)
    assert found["flips"] == pytest.approx(0.05, abs=0.033)
    assert found["bootstrap"] == pytest.approx(0.055, abs=0.04)
    assert found["mcnemar"] > 0.1


def coverage_near_one(accuracy, correlation, *, repeats, seed=2):
    """Coverage of the clustered t interval (exact where nothing is wrong) and of ``score_interval``: 96 images x 11."""
    rng = np.random.default_rng(seed)
    images, rows = np.repeat(np.arange(96), 11), []
    for _ in range(repeats):
        chances = np.full(96, accuracy)
        if correlation:
            spread = (1 - correlation) / correlation
            chances = rng.beta(accuracy * spread, (1 - accuracy) * spread, 96)
        scores = (rng.random(images.size) < chances[images]).astype(float)
        found = score_interval(scores, images)
        t = found if scores.all() else cluster_interval(scores, images)
        rows.append([one.low <= accuracy <= one.high for one in (t, found)])
    return dict(zip(("t", "score"), np.mean(rows, axis=0), strict=True))


def test_coverage_near_one_of_a_few_test_sets():
    found = coverage_near_one(0.99, 0.3, repeats=300)
    assert found["score"] > 0.97
    assert found["t"] < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.3])
@pytest.mark.parametrize("accuracy", [0.98, 0.99, 0.995])
def test_coverage_near_one(accuracy, correlation):
    assert coverage_near_one(accuracy, correlation, repeats=4000)["score"] > 0.94


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_coverage(case):
    found = coverage(case, repeats=4000)
    assert found["design_effect"] == pytest.approx(case[1], rel=0.03)
    assert found["t"] == pytest.approx(0.95, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_false_alarms(case):
    assert false_alarms(case, repeats=4000)["t"] == pytest.approx(0.05, abs=0.01)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("case", [(96, 0.6, 0.6), (96, 2.0, 0.6), (203, 2.0, 0.6)], ids=str)
def test_coverage_and_false_alarms_of_resampling(case):
    assert coverage(case, repeats=4000, resamples=999)["bootstrap"] == pytest.approx(0.945, abs=0.013)
    found = false_alarms(case, repeats=4000, draws=999)
    assert found["flips"] == pytest.approx(0.05, abs=0.01)
    assert found["bootstrap"] == pytest.approx(0.055, abs=0.013)
