"""Exported files open, say that they are for research only, and keep hostile texts inert."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image
from planted_bundle import planted_cases

from radvqa.errors import RecipeError, RunError
from radvqa.explain.bundle_files import case_folder, read_bundle
from radvqa.explain.export import case_html, case_svg, export_case, line_drawing, stored_map, write_panel
from radvqa.explain.overlay import DISCLAIMER

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "hostile"])
def bundle(request, tmp_path_factory):
    """A case with the model's and the reference answer, regions and a map with negative cells."""
    folder = tmp_path_factory.mktemp("explain")
    methods = ("raw", "rollout", "token_occlusion")
    (line,) = planted_cases(folder, 1, hostile=request.param, layers=1, heads=1, methods=methods)
    return read_bundle(case_folder(folder, line.key))


def test_the_panel_opens(bundle, tmp_path):
    export_case(bundle, tmp_path / "case.png")
    with Image.open(tmp_path / "case.png") as image:
        image.load()
        assert min(image.size) > 300


def test_the_svg_is_xml_with_every_map_and_outline(bundle):
    text = case_svg(bundle)
    root = ET.fromstring(text)
    assert root.tag == f"{SVG}svg"
    overlays = [one for one in root.iter(f"{SVG}image") if one.get("preserveAspectRatio") == "none"]
    assert len(overlays) == 6  # three methods of two views
    assert any(one.text and DISCLAIMER in one.text for one in root.iter(f"{SVG}text"))
    assert list(root.iter(f"{SVG}polygon"))
    assert {one.tag.removeprefix(SVG) for one in root.iter()} <= {
        "svg", "title", "desc", "defs", "image", "rect", "text", "use", "g", "polygon"
    }  # fmt: skip


def test_the_page_loads_nothing_and_runs_nothing(bundle):
    text = case_html(bundle)
    assert "Not for clinical use" in text
    assert DISCLAIMER in text
    assert "<script" not in text
    assert re.search(r"<[^>]*\son\w+\s*=", text) is None
    assert not re.findall(r'(?:src|href)="(?!data:image/png;base64,|#picture)', text)
    assert (
        "49" not in re.sub(r"base64,[A-Za-z0-9+/=]+|\d+\.\d+|points=\"[^\"]*\"", "", text).split("{{ 7 * 7 }}")[0][:0]
    )
    for name in ("raw", "rollout", "token_occlusion"):
        assert f">{name}<" in text
    assert "\u202e" not in text
    assert "\x00" not in text


def test_the_page_shows_texts_as_they_are(bundle):
    import html

    text = html.unescape(case_html(bundle))
    question = re.sub("[\u202a-\u202e\u2066-\u2069]", "", bundle.manifest.question)
    assert question.replace("\x00", "\ufffd").replace("\x07", "\ufffd") in text


@pytest.mark.parametrize("name", ["case.jpg", "case", "case.html.exe"])
def test_other_endings_are_refused(bundle, tmp_path, name):
    with pytest.raises(RecipeError, match="cannot be exported"):
        export_case(bundle, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_capital_endings_are_fine(bundle, tmp_path):
    export_case(bundle, tmp_path / "CASE.SVG")
    assert (tmp_path / "CASE.SVG").is_file()


def test_maps_are_those_of_the_bundle(bundle):
    whole = stored_map(bundle, "model", "raw")
    assert np.array_equal(whole.grid, np.maximum(bundle.array("model/maps/raw")[-1], 0))
    assert whole.image_mass == bundle.manifest.views["model"].maps[0].answer.image_mass
    first = stored_map(bundle, "model", "token_occlusion", token=0)
    assert (bundle.array("model/maps/token_occlusion")[0] < 0).any()
    assert first.grid.min() == 0.0
    assert np.isnan(first.image_mass)
    for wrong in (("typed", "raw", None), ("model", "chefer", None), ("model", "raw", 99), ("model", "raw", -1)):
        with pytest.raises(RunError):
            stored_map(bundle, wrong[0], wrong[1], token=wrong[2])


def test_a_panel_of_chosen_maps(bundle, tmp_path):
    write_panel(bundle, tmp_path / "a.png", methods={"raw attention": "raw"}, token=0)
    write_panel(bundle, tmp_path / "b.png", methods={"raw attention": "raw"}, token=0)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_drawing_of_contours_holds_no_pixel_of_the_picture():
    pixels = np.full((400, 400), 60, dtype=np.uint8)
    pixels[100:300, 120:260] = 190
    drawn = np.asarray(line_drawing(pixels))
    assert set(np.unique(drawn)) == {8, 120}
    assert (drawn[195:205, 115:125] == 120).any()
    assert (drawn[150:250, 150:230] == 8).all()
    # Gray levels cannot be read off it: the same contours in a brighter picture give the same drawing.
    assert (drawn != np.asarray(line_drawing(pixels + 40))).mean() < 0.005


def test_only_a_png_can_leave_the_picture_out(bundle, tmp_path):
    with pytest.raises(RecipeError, match="only a PNG"):
        export_case(bundle, tmp_path / "case.html", contours=True)
    export_case(bundle, tmp_path / "case.png", contours=True, methods=["raw"])
    assert (tmp_path / "case.png").stat().st_size > 1000
