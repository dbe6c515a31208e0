from pathlib import Path
from typing import Any

import pytest

from radvqa.data import open_dataset
from radvqa.data.adapters.phantom import PhantomDataset
from radvqa.errors import RecipeError

OWN = """
from pathlib import Path
from radvqa.data.adapter import DatasetAdapter

class Own(DatasetAdapter):
    def __init__(self, root: Path, names: tuple[str, ...] = (), share: float = 0.5):
        self.given = root, names, share

    def read(self, split): ...
    def regions(self, image_id): ...
    def sources(self): ...

ADAPTER = Own
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules own_data, a data set adapter, and some that are none, in the package hospital_data."""
    package = tmp_path / "hospital_data"
    package.mkdir()
    texts = {"own": OWN, "empty": "", "instance": OWN + "ADAPTER = 3", "broken": "def", "missing": "import no_such_one"}
    for name, text in texts.items():
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("adapter", "options", "key", "expected", "got"),
    [
        ("phantom", {"count": 5}, "count", "an object", "5"),
        ("phantom", {"count": {"train": True}}, "count.train", "a valid integer", "True"),
        ("phantom", {"size": "x"}, "size", "a valid integer", "'x'"),
        ("phantom", {"size": 224.0}, "size", "a valid integer", "224.0"),
        ("phantom", {"size": "224"}, "size", "a valid integer", "'224'"),
        ("phantom", {"seed": None}, "seed", "a valid integer", "None"),
        ("phantom", {"root": 5}, "root", "a valid string", "5"),
        ("slake", {"root": 5}, "root", "a valid string", "5"),
        ("slake", {"root": ".", "language": ["en"]}, "language", "a valid string", "['en']"),
    ],
)
def test_options_of_a_wrong_type_are_named(
    adapter: str, options: dict[str, Any], key: str, expected: str, got: str
) -> None:
    with pytest.raises(RecipeError, match=f"an option of the data set '{adapter}' has a wrong value") as caught:
        open_dataset(adapter, options, name="mine")
    assert caught.value.where == f"datasets.mine.{key}"
    assert caught.value.expected == expected
    assert caught.value.got == got
    assert caught.value.fix is not None


def test_right_options_are_taken(tmp_path: Path) -> None:
    options = {"count": {"train": 1}, "size": 128, "seed": 1, "root": tmp_path, "questions_per_image": 2}
    assert isinstance(open_dataset("phantom", options), PhantomDataset)
    assert isinstance(open_dataset("phantom", {"count": None}), PhantomDataset)


@pytest.mark.usefixtures("own")
def test_an_own_adapter_gets_what_its_annotations_say() -> None:
    data: Any = open_dataset("hospital_data.own", {"root": "a/b", "names": ["x"], "share": 1})
    assert data.given == (Path("a/b"), ("x",), 1.0)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ("slak", "no data set adapter is called 'slak'"),
        ("..x", "no data set adapter is called '..x'"),
        ("x.", "no data set adapter is called 'x.'"),
        ("", "no data set adapter is called ''"),
        ("hospital_data.absent", "cannot be imported"),
        ("hospital_data.missing", "cannot be imported"),
        ("hospital_data.broken", "cannot be imported"),
        ("hospital_data.empty", "is no data set adapter"),
        ("hospital_data.instance", "is no data set adapter"),
        ("os.path", "is no data set adapter"),
    ],
)
def test_what_is_no_adapter_is_told(adapter: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        open_dataset(adapter, {}, name="mine")
    assert message in str(caught.value)
    assert caught.value.where == "datasets.mine"
