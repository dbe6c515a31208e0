from pathlib import Path
from typing import Any

import pytest

from radvqa.data import DATASETS, adapter_class, adapter_names, open_dataset
from radvqa.data.adapters.phantom import PhantomDataset
from radvqa.errors import RecipeError

OWN = """
from pathlib import Path
from radvqa.data.adapter import DatasetAdapter

class Own(DatasetAdapter):
    def __init__(self, root: Path, names: tuple[str, ...] = (), share: float = 0.5):
        self.given = root, names, share

    def splits(self): return ("train",)
    def rows(self, split): return iter(())
    def sources(self): return ()

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


@pytest.fixture
def installed(own: None, tmp_path: Path) -> None:
    """The package hospital_data as pip leaves it behind: with metadata that name its adapters."""
    metadata = tmp_path / "hospital_data-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: hospital-data\nVersion: 1.0\n", encoding="utf-8")
    lines = (
        "[radvqa.datasets]",
        "hospital = hospital_data.own:Own",
        "short = hospital_data.own",
        "slake = hospital_data.own:Own",
        "empty = hospital_data.empty",
        "gone = hospital_data.gone:Own",
        "odd = hospital_data.own:Path",
    )
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


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


@pytest.mark.usefixtures("installed")
def test_adapters_of_installed_packages_are_listed_after_the_built_in_ones() -> None:
    assert adapter_names() == (*DATASETS, "empty", "gone", "hospital", "odd", "short")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", ["hospital", "short"])
def test_an_adapter_of_an_installed_package_is_opened_by_its_name(name: str) -> None:
    data: Any = open_dataset(name, {"root": "a", "share": 0.25})
    assert type(data).__module__ == "hospital_data.own"
    assert data.given == (Path("a"), (), 0.25)
    assert data.read("train").samples == ()


@pytest.mark.usefixtures("installed")
def test_a_built_in_adapter_is_not_replaced_by_a_package() -> None:
    assert adapter_class("slake", where="here").__module__ == "radvqa.data.adapters.slake"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "message"),
    [("empty", "is no data set adapter"), ("gone", "cannot be imported"), ("odd", "is no data set adapter")],
)
def test_a_broken_entry_point_is_told(name: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        open_dataset(name, {}, name="mine")
    assert caught.value.where == "datasets.mine"


@pytest.mark.usefixtures("installed")
def test_an_unknown_name_lists_the_installed_adapters_too() -> None:
    with pytest.raises(RecipeError, match="hospital"):
        open_dataset("hospitel", {})


def test_every_built_in_data_set_states_its_licence_and_recognises_no_absent_folder() -> None:
    for name in DATASETS:
        adapter = adapter_class(name, where=name)
        assert adapter.licence, name
        # Empty where the data are the user's own.
        assert isinstance(adapter.citation, str) and isinstance(adapter.homepage, str), name
        assert adapter.recognises(Path("no such folder")) is False, name


def test_an_option_that_an_adapter_refuses_names_the_entry(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="out of range") as caught:
        open_dataset("phantom", {"size": 1}, name="drawn")
    assert caught.value.where == "datasets.drawn"
    assert caught.value.fix is not None
