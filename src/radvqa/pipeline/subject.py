"""What is evaluated: the trained model of a run, or any other model, with what is known of its training."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from radvqa.data import DatasetAdapter
from radvqa.errors import ModelError
from radvqa.evaluate.predict import Condition
from radvqa.evaluate.scorable import without_unscorable
from radvqa.models.checkpoint_loading import load_projector
from radvqa.models.opening import open_vlm
from radvqa.models.vision_encoder import HUB_NAME
from radvqa.models.vlm import Vlm
from radvqa.pipeline.evaluation import Setup, Trained
from radvqa.pipeline.samples import Samples
from radvqa.publish.ancestry import MANIFEST_FILE, projector_facts, training_of_base
from radvqa.publish.repository import PROJECTOR_FILE
from radvqa.recipe import BUILT_IN_CHECKPOINTS, Aspect, Layout, Model, Recipe
from radvqa.recipe.training import Evaluate
from radvqa.records import read_json
from radvqa.run.folder import RunFolder
from radvqa.run.provenance import digest_files
from radvqa.sample import Split, VqaSample

ADAPTER_FILE, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A model that is no run's, ready to answer. ``name`` is fit for a folder, ``weights`` its digest."""

    vlm: Vlm
    name: str
    weights: str
    aspect: Aspect
    ancestry: Mapping[str, Any]


def setup_of(
    recipe: Recipe,
    *,
    dataset: str,
    split: Split,
    limit: int | None,
    controls: Sequence[Condition] | None = None,
    probes: Sequence[str] = (),
) -> Setup:
    """What the recipe says of an evaluation, for this split. ``probes`` are added to those of the recipe."""
    settings = recipe.evaluate
    return Setup(
        dataset=dataset,
        split=split,
        limit=limit,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
        controls=settings.controls if controls is None else tuple(controls),
        probes=tuple(dict.fromkeys([*settings.probes, *probes])),
        slices=settings.slices,
        resamples=settings.resamples,
        seed=recipe.seed,
    )


def setup_of_model(
    *,
    dataset: str,
    split: Split,
    limit: int | None,
    controls: Sequence[Condition] | None,
    probes: Sequence[str],
    max_new_tokens: int,
    batch_size: int,
    seed: int,
) -> Setup:
    """What is asked of a model that is no run's; the rest is a recipe's default."""
    default = Evaluate(dataset=dataset)
    return Setup(
        dataset=dataset,
        split=split,
        limit=limit,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        controls=default.controls if controls is None else tuple(controls),
        probes=tuple(probes),
        slices=default.slices,
        resamples=default.resamples,
        seed=seed,
    )


def run_weights(folder: RunFolder, vlm: Vlm) -> str:
    """The base and everything that the stages of a run have left."""
    learnt = [
        path
        for stage in folder.recipe.stages
        for path in sorted(folder.file(f"train/{stage.name}").rglob("*.safetensors"))
        if "state" not in path.relative_to(folder.path).parts
    ]
    return ", ".join([vlm.digest, *(f"sha256 {one}" for one in digest_files(learnt).values())])


def trained_of(
    folder: RunFolder, vlm: Vlm, samples: Samples, *, floors: tuple[str, Sequence[VqaSample]] | None
) -> Trained:
    """What a run was trained on."""
    recipe = folder.recipe
    return Trained(
        samples={f"{name}, train": samples[name, "train"] for name in recipe.trained_on},
        ancestry={"base": training_of_base(recipe.model), "projector": projector_facts(recipe, vlm.digest)},
        floors=floors,
    )


def read_split(adapter: DatasetAdapter, name: str, split: Split, *, most_malformed: float) -> list[VqaSample]:
    """The questions of a split that can be scored. Raises ``DataError`` where the split is not sound."""
    reading = without_unscorable(adapter.read(split), where=f"{name}, {split}")
    reading.require_sound(name, split, most_malformed=most_malformed)
    return list(reading.samples)


def open_model(
    given: str,
    *,
    revision: str | None,
    base: str | None,
    layout: Layout | None,
    dtype: Literal["auto", "float32", "bfloat16"],
    image_size: Literal[112, 224],
    threads: int | None,
    say: Callable[[str], None],
) -> Opened:
    """A model by name or folder: ``embedded``, ``tiny``, a checkpoint, published adapters, or a hub name.

    Args:
        given: as typed.
        revision: commit of a hub name.
        base: of published adapters whose base is a local folder.
        layout: PaliGemma's own, or what the folder's manifest says, if None.
        dtype: of the frozen weights and of matrix products.
        image_size: variant of the embedded base in pixels.
        threads: CPU threads of torch.
        say: told what is loaded.

    Raises:
        ModelError: it cannot be loaded, or the weights are of another base.
        RecipeError: a hub name without its revision.
    """
    folder = Path(given)
    require_model(given, revision)
    manifest = (read_json(folder / MANIFEST_FILE, dict[str, Any]) or {}) if folder.is_dir() else {}
    published = [name for name in (ADAPTER_FILE, PROJECTOR_FILE) if (folder / name).is_file()]
    model = Model(
        checkpoint=given if given in BUILT_IN_CHECKPOINTS or not folder.is_dir() else str(folder.absolute()),
        revision=revision,
        layout=layout or manifest.get("layout", "per_question"),
        dtype=dtype,
        image_size=image_size,
        threads=threads,
        aspect=manifest.get("images", {}).get("aspect", "squash"),
    )
    if published:
        vlm, weights = _with_published(folder, published[0], manifest, model, base=base, say=say)
    else:
        vlm = open_vlm(model, say=say)
        weights = vlm.digest
    return Opened(
        vlm=vlm,
        name=re.sub(r"[^A-Za-z0-9_.-]+", "--", given if not folder.is_dir() else folder.resolve().name).strip("-"),
        weights=weights,
        aspect=model.aspect,
        ancestry={
            "run": manifest.get("run"),
            "datasets": manifest.get("data", {}).get("datasets", {}),
            "base": manifest.get("base", {}).get("trained"),
            "projector": manifest.get("base", {}).get("projector"),
        },
    )


def require_model(given: str, revision: str | None) -> None:
    """Refuse what is neither a built-in model, nor a folder with one, nor a name on the hub with its commit."""
    folder = Path(given)
    if given in BUILT_IN_CHECKPOINTS:
        return
    if folder.is_dir():
        if any((folder / name).is_file() for name in ("config.json", ADAPTER_FILE, PROJECTOR_FILE)):
            return
        raise ModelError(
            "the folder holds no model",
            where=given,
            expected=f"recipe.yaml of a run, config.json of a checkpoint, {ADAPTER_FILE} or {PROJECTOR_FILE}",
            got=", ".join(sorted(path.name for path in folder.iterdir())[:6]) or "an empty folder",
            fix="name the folder of one run (`radvqa list runs`) or of one model",
        )
    if folder.exists() or re.fullmatch(HUB_NAME, given) is None:
        raise ModelError(
            "there is no such run or model",
            where=given,
            expected=f"{', '.join(BUILT_IN_CHECKPOINTS)}, the folder of a run or model, or OWNER/NAME on the hub",
            got="a file" if folder.exists() else "no such folder",
            fix="see `radvqa list runs` and `radvqa list models`",
        )
    if revision is None:
        raise ModelError(
            "there is no such folder, and as a name on the hub it needs a commit",
            where=given,
            fix="correct the path (`radvqa list runs`), or name the commit: --revision COMMIT",
        )


def _with_published(
    folder: Path, file: str, manifest: Mapping[str, Any], model: Model, *, base: str | None, say: Callable[[str], None]
) -> tuple[Vlm, str]:
    """A base with the adapters or the projector of a folder that was published, and the digest of both."""
    about = manifest.get("base", {})
    encoder = about.get("vision_encoder")
    config = read_json(folder / ADAPTER_CONFIG, dict[str, Any]) or {}
    if encoder is not None and not _is_here(encoder):
        raise ModelError(
            "the vision encoder of this base is a folder that is not here",
            where=str(folder),
            expected=f"the folder of {encoder['checkpoint']!r}",
            fix="evaluate the run itself, or a merged export of it",
        )
    part = about if encoder is None else about["language_model"]
    # The manifest names no folders of the machine that made it; PEFT's configuration does, as long as it is there.
    noted = config.get("base_model_name_or_path")
    name = base or part.get("checkpoint")
    if encoder is None and not _is_here({**part, "checkpoint": name}):
        name = noted
    if not _is_here({**part, "checkpoint": name}):
        raise ModelError(
            "the base of these adapters is a folder that is not here",
            where=str(folder),
            expected=f"the folder of {part.get('checkpoint', 'the base')!r}",
            got=repr(name),
            fix="name it with --base FOLDER",
        )
    size = manifest.get("images", {}).get("size")
    vlm = open_vlm(
        model.model_copy(
            update={
                "checkpoint": name,
                "revision": part.get("revision") if base is None else None,
                "vision_encoder": None if encoder is None else encoder["checkpoint"],
                "vision_revision": None if encoder is None else encoder.get("revision"),
                "image_size": size if size in (112, 224) else model.image_size,
            }
        ),
        say=say,
    )
    expected = str(about.get("weights") or "").partition(", projector ")[0]
    if expected and expected != vlm.digest:
        raise ModelError(
            "these adapters belong to another base",
            where=str(folder),
            expected=expected,
            got=vlm.digest,
            fix="name the base that they were trained on with --base FOLDER",
        )
    if file == PROJECTOR_FILE:
        learnt = load_projector(vlm.projector, folder / file)
    else:
        _attach(vlm, folder)
        learnt = next(iter(digest_files([folder / file]).values()))
    return vlm, f"{vlm.digest}, sha256 {learnt}"


def _is_here(part: Mapping[str, Any]) -> bool:
    """Whether a checkpoint that a manifest names can be opened: built in, on the hub, or a folder of this machine."""
    name = part.get("checkpoint")
    return name is not None and (name in BUILT_IN_CHECKPOINTS or bool(part.get("revision")) or Path(name).is_dir())


def _attach(vlm: Vlm, folder: Path) -> None:
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from safetensors import safe_open

    with safe_open(folder / ADAPTER_FILE, framework="pt") as file:
        stored = sum(".lora_A." in name for name in file.keys())  # noqa: SIM118 - no mapping
    with warnings.catch_warnings():
        # PEFT 0.21 reads an attribute that transformers 5.23 announces as deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        vlm.network = PeftModel.from_pretrained(vlm.network, str(folder)).eval()
    layers = [module for module in vlm.network.modules() if isinstance(module, BaseTunerLayer)]
    if len(layers) != stored:
        raise ModelError(
            "the adapters do not reach the modules they have weights for",
            where=str(folder / ADAPTER_CONFIG),
            expected=f"{stored} modules",
            got=str(len(layers)),
            fix="install the pinned versions of transformers and peft, or export again",
        )
    for module in layers:
        module.cast_input_dtype_enabled = False
