"""Colour tables are those of matplotlib, and none is a rainbow."""

import re
from importlib import resources

import matplotlib
import numpy as np
import pytest

NAMES = ("inferno", "viridis", "cividis", "hot", "coolwarm")


@pytest.fixture(scope="module")
def tables() -> dict[str, np.ndarray]:
    text = resources.files("radvqa.serve").joinpath("static/colour_maps.js").read_text(encoding="utf-8")
    found = {}
    for name, body in re.findall(r"^  (\w+): \[\n(.*?)^  \],$", text, re.MULTILINE | re.DOTALL):
        digits = "".join(re.findall(r'"([0-9a-f]+)"', body))
        found[name] = np.frombuffer(bytes.fromhex(digits), dtype=np.uint8).reshape(256, 3)
    return found


def test_tables_are_those_of_matplotlib(tables):
    assert set(tables) == set(NAMES)
    for name in NAMES:
        wanted = np.rint(matplotlib.colormaps[name].resampled(256)(np.arange(256))[:, :3] * 255)
        assert np.array_equal(tables[name], wanted), name


def test_lightness_grows_with_the_value(tables):
    """As a rainbow's does not: a brighter place is always a higher value."""
    for name in ("inferno", "viridis", "cividis", "hot"):
        lightness = tables[name] @ np.array([0.2126, 0.7152, 0.0722])
        assert (np.diff(lightness) > -1.0).all() and lightness[-1] - lightness[0] > 100, name
