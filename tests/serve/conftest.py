"""Explained cases without a model, and the page that shows them."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ORIGIN = "http://127.0.0.1:8000"


def _planted() -> ModuleType:
    """``tests/explain/planted_bundle.py``, which is in no package."""
    if "planted_bundle" not in sys.modules:
        path = Path(__file__).parents[1] / "explain" / "planted_bundle.py"
        spec = importlib.util.spec_from_file_location("planted_bundle", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules["planted_bundle"] = module
        spec.loader.exec_module(module)
    return sys.modules["planted_bundle"]


@pytest.fixture(scope="session")
def planted() -> ModuleType:
    return _planted()


@pytest.fixture(scope="session")
def run(planted: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of twelve cases, of which four are explained as the base was."""
    folder = tmp_path_factory.mktemp("runs") / "slake_0123456789ab"
    planted.planted_cases(folder / "explain", 12, layers=3, heads=2)
    planted.planted_cases(folder / "explain" / "stage-align", 3, layers=3, heads=2, seed=2, stage="align")
    planted.planted_cases(folder / "explain" / "stage-base", 4, layers=3, heads=2, seed=1, stage="base")
    (folder / "recipe.yaml").write_text("name: slake\n")
    return folder


@pytest.fixture(scope="session")
def hostile(planted: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundles whose texts attack the page."""
    folder = tmp_path_factory.mktemp("batches") / "batch"
    planted.planted_cases(folder, 8, layers=1, heads=1, hostile=True)
    return folder


@pytest.fixture
def client():
    """Makes a client of sources: ``client(run, live=...)``; it speaks to the loopback address."""
    testclient = pytest.importorskip("starlette.testclient", reason="needs the optional packages of radvqa[serve]")
    from radvqa.serve.app import create_app

    def made(*sources: Path, base: str = ORIGIN, failing: bool = False, **settings):
        app = create_app(sources, **settings)
        return testclient.TestClient(app, base_url=base, raise_server_exceptions=not failing)

    return made


@pytest.fixture
def page(client, run):
    """The page of the run."""
    return client(run)


@pytest.fixture
def key(page) -> str:
    """The first case of the first series."""
    return page.app.state.cases.series[0].listing().lines[0].key
