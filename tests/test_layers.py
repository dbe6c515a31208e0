"""Imports point to the left only, and the light parts do not load torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import radvqa

SOURCE = Path(radvqa.__file__).parent
LAYERS = (
    "errors", "sample", "records", "recipe", "run", "data", "html", "web", "models", "llm", "train", "evaluate",
    "audit", "synth", "explain", "report", "publish", "pipeline", "experiment", "serve", "bench", "cli", "__main__",
)  # fmt: skip
TORCH_ALLOWED = ("models", "train", "explain", "evaluate/predict.py", "publish", "pipeline", "bench")


def layer_of(path: Path, source: Path) -> str:
    return path.relative_to(source).parts[0].removesuffix(".py")


def imported_layers(tree: ast.Module) -> list[tuple[int, str]]:
    """Line and layer of every import of radvqa, inside functions as well."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            # `from radvqa import x` names a layer or a public name.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found += [(node.lineno, name.split(".")[1]) for name in names if name.startswith("radvqa.")]
    return found


def wrong_imports(source: Path) -> list[str]:
    wrong = []
    for path in sorted(source.rglob("*.py")):
        layer = layer_of(path, source)
        if layer == "__init__":
            continue
        assert layer in LAYERS, f"{path.name} is in no known layer: add {layer!r} to LAYERS at its place"
        for line, other in imported_layers(ast.parse(path.read_text(encoding="utf-8"))):
            if other in LAYERS and LAYERS.index(other) > LAYERS.index(layer):
                wrong.append(f"{path.relative_to(source)}:{line} imports {other} from {layer}")
    return wrong


def top_level_torch(source: Path) -> list[str]:
    heavy = []
    for path in sorted(source.rglob("*.py")):
        if path.relative_to(source).as_posix().startswith(TORCH_ALLOWED):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            heavy += [
                f"{path.relative_to(source)}:{node.lineno} {name}"
                for name in names
                if name.split(".")[0] in ("torch", "transformers", "peft", "accelerate")
            ]
    return heavy


def test_imports_point_to_the_left() -> None:
    assert wrong_imports(SOURCE) == []


def test_a_wrong_import_is_found(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "folder.py").write_text("def f():\n    from radvqa.train.loop import x\n")
    (tmp_path / "data.py").write_text("import torch\nfrom radvqa.run import folder\nfrom radvqa import cli\n")
    assert wrong_imports(tmp_path) == [
        "data.py:3 imports cli from data",
        "run/folder.py:2 imports train from run",
    ]
    assert top_level_torch(tmp_path) == ["data.py:1 torch"]


def test_torch_is_imported_in_few_places() -> None:
    assert top_level_torch(SOURCE) == []


def test_no_drawer_modules() -> None:
    drawers = {"utils", "common", "misc", "helpers", "base"}
    assert not [path for path in SOURCE.rglob("*.py") if path.stem in drawers]


@pytest.mark.parametrize("name", [*radvqa.__all__, "__version__"])
def test_public_names_resolve(name: str) -> None:
    assert getattr(radvqa, name) is not None


def test_public_names_are_the_lazy_ones() -> None:
    assert sorted(radvqa._MODULE_OF) == sorted(radvqa.__all__)
    assert set(radvqa.__all__) <= set(dir(radvqa))
    with pytest.raises(AttributeError, match="nonsense"):
        radvqa.nonsense  # noqa: B018


def test_importing_the_package_loads_nothing() -> None:
    code = "import sys, radvqa; print([name for name in sys.modules if name.startswith('radvqa.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
