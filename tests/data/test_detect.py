import logging
from pathlib import Path

import pytest
from slake_folder import row, write_folder

from radvqa.data import adapter_class
from radvqa.data.adapters.phantom import PhantomDataset
from radvqa.data.adapters.slake import SlakeDataset
from radvqa.data.detect import open_path, parse_options, path_of, recognised
from radvqa.errors import DataError, RecipeError

MODULE = """
from pathlib import Path
from radvqa.data.adapter import DatasetAdapter

class Films(DatasetAdapter):
    def __init__(self, {argument}: str, language: str = "en"):
        self.given = {argument}, language

    @classmethod
    def recognises(cls, root: Path) -> bool:
        {recognises}

    def splits(self): return ("train",)
    def rows(self, split): return iter(())
    def sources(self): return ()

ADAPTER = Films
"""


@pytest.fixture
def slake(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "Slake1.0", {"train.json": [row(1), row(2, q_lang="zh")]})


def module(folder: Path, name: str, *, recognises: str = "return True", argument: str = "root") -> None:
    package = folder / "films_data"
    package.mkdir(exist_ok=True)
    (package / f"{name}.py").write_text(MODULE.format(recognises=recognises, argument=argument), encoding="utf-8")


def install(folder: Path, names: dict[str, str]) -> None:
    """Metadata as pip leaves it behind for a package that names adapters."""
    metadata = folder / "films_data-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: films-data\nVersion: 1.0\n", encoding="utf-8")
    lines = [f"{name} = {value}" for name, value in names.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[radvqa.datasets]", *lines]) + "\n", encoding="utf-8")


def test_a_folder_is_opened_by_the_adapter_that_recognises_it(slake: Path) -> None:
    label, name, adapter = open_path(str(slake), options={"language": "zh"})
    assert (label, name) == ("slake", "slake")
    assert path_of(str(slake)) == path_of(f"slake={slake}") == slake
    assert isinstance(adapter, SlakeDataset)
    assert [sample.sample_id for sample in adapter.read("train").samples] == ["slake-2"]


def test_for_an_audit_the_class_says_how_it_wants_to_be_opened(slake: Path) -> None:
    _, _, adapter = open_path(f"slake={slake}", for_audit=True)
    assert len(adapter.read("train").samples) == 2
    _, _, adapter = open_path(f"slake={slake}", for_audit=True, options={"language": "en"})
    assert len(adapter.read("train").samples) == 1


def test_data_that_are_made_need_no_path() -> None:
    label, name, adapter = open_path("phantom", options={"size": 112})
    assert (label, name, type(adapter)) == ("phantom", "phantom", PhantomDataset)
    assert path_of("phantom") is None


def test_a_dotted_module_is_named_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module(tmp_path, "dotted", argument="folder")
    monkeypatch.syspath_prepend(tmp_path)
    label, name, adapter = open_path(f"films_data.dotted={tmp_path}")
    assert (label, name) == ("dotted", "films_data.dotted")
    assert adapter.given == (str(tmp_path), "en")


def test_a_path_that_is_there_is_no_name(slake: Path) -> None:
    odd = slake.rename(slake.with_name("phantom=x"))
    assert open_path(str(odd))[1] == "slake"


def test_nothing_at_a_path_and_an_unknown_layout_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder or file"):
        open_path(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="there is no such folder or file"):
        open_path("x" * 5000)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.odt").touch()
    with pytest.raises(DataError, match="no data set is laid out like this") as caught:
        open_path(str(tmp_path / "notes"))
    assert "slake" in str(caught.value)
    assert "got: a.odt" in str(caught.value)
    with pytest.raises(RecipeError, match="no data set adapter is called 'slak'"):
        open_path(f"slak={tmp_path}")


def test_two_adapters_that_recognise_a_folder_are_both_named(
    slake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module(tmp_path, "greedy")
    install(tmp_path, {"greedy": "films_data.greedy:Films"})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match="several data sets have this layout") as caught:
        open_path(str(slake))
    assert "got: slake, greedy" in str(caught.value)
    assert open_path(f"greedy={slake}")[1] == "greedy"


def test_a_broken_package_hinders_no_other_data_set(
    slake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module(tmp_path, "forbidden", recognises='raise PermissionError("no right")')
    install(tmp_path, {"gone": "films_data.gone:Films", "forbidden": "films_data.forbidden:Films"})
    monkeypatch.syspath_prepend(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert recognised(slake) == "slake"
    assert "adapter gone cannot be loaded" in caplog.text


def test_options_are_yaml_as_in_a_recipe() -> None:
    assert parse_options(["language=en", "count={train: 2}", "size=112", "name="]) == {
        "language": "en",
        "count": {"train": 2},
        "size": 112,
        "name": None,
    }
    for wrong in ("language", "=en"):
        with pytest.raises(RecipeError, match="option=value"):
            parse_options([wrong])
    with pytest.raises(RecipeError):
        parse_options(["count={train"])


def test_every_built_in_adapter_answers_for_any_path(tmp_path: Path) -> None:
    from radvqa.data import DATASETS

    (tmp_path / "file.csv").write_bytes(b"\xff\0")
    (tmp_path / "folder" / "data").mkdir(parents=True)
    (tmp_path / "folder" / "train.parquet").write_bytes(b"PAR1")
    for name in DATASETS:
        if name == "own":
            continue
        for path in (tmp_path, tmp_path / "file.csv", tmp_path / "folder", tmp_path / "gone"):
            assert adapter_class(name, where="test").recognises(path) is False, (name, path)
