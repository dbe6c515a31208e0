import numpy as np
import pytest
from PIL import Image
from skimage.draw import polygon2mask

from radvqa.errors import DataError
from radvqa.explain.outlines import mask_polygons, outlines_of
from radvqa.sample import Region


def area(ring):
    x, y = np.array(ring).T
    return abs(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2


def test_a_rectangle_keeps_its_place():
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:12, 8:20] = True
    (ring,) = mask_polygons(mask)
    x, y = np.array(ring).T
    assert (x.min(), x.max(), y.min(), y.max()) == (8.0, 20.0, 5.0, 12.0)
    assert ring[0] == ring[-1]
    assert abs(area(ring) - mask.sum()) <= 2  # corners are cut


def test_a_mask_at_the_edge_is_closed():
    mask = np.ones((4, 6), dtype=bool)
    (ring,) = mask_polygons(mask)
    assert np.array(ring).min() == 0.0
    assert np.array(ring).max(axis=0).tolist() == [6.0, 4.0]


def test_a_single_pixel_is_no_line():
    mask = np.zeros((5, 5), dtype=bool)
    mask[2, 3] = True
    (ring,) = mask_polygons(mask)
    assert area(ring) > 0.4
    assert np.allclose(np.mean(ring[:-1], axis=0), (3.5, 2.5))


def test_parts_and_holes_are_rings_of_their_own():
    mask = np.zeros((40, 40), dtype=bool)
    mask[2:20, 2:20] = True
    mask[8:12, 8:12] = False
    mask[30:35, 30:35] = True
    assert len(mask_polygons(mask)) == 3


def test_a_simplified_outline_stays_within_a_pixel_of_its_mask():
    y, x = np.mgrid[:64, :64]
    mask = (x - 30) ** 2 + (y - 33) ** 2 < 20**2
    (ring,) = mask_polygons(mask)
    assert len(ring) < 60
    again = polygon2mask(mask.shape, np.array([(b - 0.5, a - 0.5) for a, b in ring]))
    assert (again ^ mask).sum() < 0.03 * mask.sum()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_outlines_of_masks_and_boxes(tmp_path, mode):
    values = np.zeros((20, 30), dtype=np.uint8)
    values[5:12, 8:20] = 70
    image = Image.fromarray(values)
    if mode == "P":
        image = image.copy()
        image.putpalette([one for grey in range(256) for one in (grey, grey, grey)])
    else:
        image = image.convert(mode)
    image.save(tmp_path / "mask.png")
    mask = Region(label="Liver", mask=tmp_path / "mask.png", mask_value=70)
    box = Region(label="Heart", box=(1.0, 2.0, 3.0, 4.0))
    found = outlines_of({"Liver": (mask,), "Heart": (box,)}, {"Heart"}, image_size=(30, 20))
    assert [(one.label, one.asked, one.box, len(one.polygons)) for one in found] == [
        ("Liver", False, None, 1),
        ("Heart", True, (1.0, 2.0, 3.0, 4.0), 0),
    ]


def test_a_mask_of_another_size_is_refused(tmp_path):
    Image.new("L", (10, 10)).save(tmp_path / "mask.png")
    region = Region(label="Liver", mask=tmp_path / "mask.png", mask_value=70)
    with pytest.raises(DataError, match="differ in size"):
        outlines_of({"Liver": (region,)}, (), image_size=(30, 20))
