"""The verbs of ``radvqa bench``: the engine beside the plain way, measured on this machine."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from radvqa.cli.console import aligned, known_choices, print_json
from radvqa.errors import RecipeError

if TYPE_CHECKING:
    from radvqa.bench.comparison import Case, Comparison
    from radvqa.bench.evaluation import AnswerComparison
    from radvqa.bench.explanation import PassComparison
    from radvqa.bench.geometry import Update
    from radvqa.data.image_store import ImageStore
    from radvqa.run.progress import Progress
    from radvqa.sample import VqaSample

app = typer.Typer(
    name="bench",
    help="Measure training and evaluation beside plain transformers on this machine.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout; everything else goes to stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of torch; all cores unless given.")]

Setting = Literal["align", "adapt", "align-shared", "adapt-shared"]
Stage = Literal["align", "adapt"]
Route = Literal["plain", "engine"]
Choice = TypeVar("Choice", bound=str)

SETTINGS: tuple[Setting, ...] = ("align", "adapt", "align-shared", "adapt-shared")
STAGES: tuple[Stage, ...] = ("align", "adapt")
ROUTES: tuple[Route, ...] = ("plain", "engine")

LayoutName = Literal["per_question", "shared_image"]
LAYOUTS: tuple[LayoutName, ...] = ("per_question", "shared_image")

Dtype = Literal["auto", "float32", "bfloat16"]

ADAPT_RATE, ALIGN_RATE = 1e-4, 1e-4

PALIGEMMA = "google/paligemma-3b-mix-448"


@app.command()
def train(
    *,
    setting: Annotated[
        list[str] | None,
        typer.Option(help="What to measure, repeatable; align, adapt and adapt-shared unless given."),
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="embedded, tiny, or the folder of a checkpoint.")] = "embedded",
    image_size: Annotated[int, typer.Option(help="Variant of the embedded base in pixels: 112 or 224.")] = 224,
    dtype: Annotated[Dtype, typer.Option(help="Of the frozen weights and of matrix products, in both paths.")] = "auto",
    dataset: Annotated[str, typer.Option(metavar="ADAPTER", help="Whose train split; see list datasets.")] = "phantom",
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the data set.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="An option of the adapter; repeatable.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions per update; the plain path's in all settings.")] = 8,
    images: Annotated[int, typer.Option(min=1, help="Images per update of the shared settings.")] = 2,
    steps: Annotated[int, typer.Option(min=1, help="Updates of the engine in each setting.")] = 50,
    rounds: Annotated[int, typer.Option(min=2, help="Turns of both paths; the first one is not timed.")] = 6,
    check: Annotated[
        int, typer.Option(min=0, help="Updates of both paths in float32 before, to compare losses; 0 for none.")
    ] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of the questions.")] = 0,
    memory: Annotated[bool, typer.Option(help="Also train each path alone in a process and note its peak.")] = True,
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the same questions with transformers' Trainer and with the engine, in turns, and print the ratios.

    Losses are compared first. Features of the frozen tower are computed before; what they took is stated.
    See docs/bench.md.
    """
    from radvqa.bench.comparison import compare, peak_mib, require_same_losses
    from radvqa.run.progress import Progress

    progress = Progress(quiet)
    settings: Sequence[Setting] = known_choices("--setting", setting, SETTINGS) or ("align", "adapt", "adapt-shared")
    checkpoint = _checkpoint(checkpoint)
    samples, store = _data(
        dataset, root, changes or [], checkpoint=checkpoint, image_size=image_size, progress=progress
    )
    found = []
    for one in settings:
        case = _case(
            one,
            _model(one, checkpoint, image_size, dtype, threads),
            batch_size=batch_size,
            images=images,
            updates=steps,
            rounds=rounds,
            seed=seed,
        )
        peaks = [peak_mib(case, samples, store, route=route) if memory else None for route in ("plain", "engine")]
        progress.say(f"{one}:")
        difference = None
        if check and case.layout == "per_question":
            model = case.model.model_copy(update={"dtype": "float32"})
            exact = replace(case, model=model, updates=check, rounds=1)
            difference = require_same_losses(compare(exact, samples, store, say=progress.say))
        measured = compare(case, samples, store, say=progress.say)
        found.append(
            replace(measured, plain_peak_mib=peaks[0], engine_peak_mib=peaks[1], float32_loss_difference=difference)
        )
    if as_json:
        print_json([_facts(one) for one in found])
        return
    typer.echo(comparison_table(found))


@app.command()
def geometry(
    *,
    step: Annotated[list[str] | None, typer.Option(help="align or adapt, repeatable; both unless given.")] = None,
    route: Annotated[list[str] | None, typer.Option(help="plain or engine, repeatable; both unless given.")] = None,
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Do one update of PaliGemma-3B at 448 px with random weights: seconds, memory, share of the machine's peak.

    Takes about 16 GB of memory and no download. See docs/bench.md.
    """
    from radvqa.bench.geometry import measure
    from radvqa.run.progress import Progress

    progress = Progress(quiet)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for stage in known_choices("--step", step, STAGES) or STAGES:
            for one in known_choices("--route", route, ROUTES) or ROUTES:
                progress.say(f"{stage}, {one}: building 2.9 billion weights and doing two updates")
                found.append(measure(one, stage, threads=threads, folder=Path(folder)))
    if as_json:
        print_json([asdict(one) | {"speed": one.speed, "utilisation": one.utilisation} for one in found])
        return
    typer.echo(geometry_table(found))


@app.command()
def evaluate(
    *,
    layout: Annotated[
        list[str] | None,
        typer.Option(help="per_question or shared_image, repeatable; both unless given or told by the checkpoint."),
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="embedded, tiny, or the folder of a checkpoint.")] = "embedded",
    image_size: Annotated[int, typer.Option(help="Variant of the embedded base in pixels: 112 or 224.")] = 224,
    dtype: Annotated[Dtype, typer.Option(help="Of the weights and of matrix products, in all paths.")] = "auto",
    dataset: Annotated[str, typer.Option(metavar="ADAPTER", help="Whose questions; see list datasets.")] = "phantom",
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the data set.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="An option of the adapter; repeatable.")
    ] = None,
    split: Annotated[Literal["train", "val", "test"], typer.Option(help="Split that is asked about.")] = "val",
    images: Annotated[int, typer.Option(min=1, help="Images that are asked about, the first of the split.")] = 24,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions at a time, in both paths.")] = 8,
    batch_images: Annotated[int, typer.Option(min=1, help="Images at a time in the shared-image layout.")] = 8,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")] = 24,
    rounds: Annotated[int, typer.Option(min=2, help="Turns of all paths; the first one is not timed.")] = 4,
    check: Annotated[
        int, typer.Option(min=0, help="Questions whose answers are compared in float32 before; 0 for none.")
    ] = 16,
    singly: Annotated[bool, typer.Option(help="Also measure generate with one question at a time.")] = True,
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Answer the same questions with transformers' generate and with radvqa, in turns, and print the ratios.

    Answers are compared first. A checkpoint that was trained answers as briefly as real ones do; the embedded base
    does not. See docs/bench.md.
    """
    from radvqa.bench.evaluation import AnswerCase, compare_answers
    from radvqa.run.progress import Progress

    progress = Progress(quiet)
    checkpoint = _checkpoint(checkpoint)
    layouts = known_choices("--layout", layout, LAYOUTS) or _layouts_of(checkpoint)
    samples, store = _data(
        dataset,
        root,
        changes or [],
        checkpoint=checkpoint,
        image_size=image_size,
        progress=progress,
        split=split,
        images=images,
    )
    found = []
    for one in layouts:
        progress.say(f"{one}:")
        model = _model("align-shared" if one == "shared_image" else "align", checkpoint, image_size, dtype, threads)
        case = AnswerCase(
            model=model,
            batch_size=batch_images if one == "shared_image" else batch_size,
            plain_batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            rounds=rounds,
            singly=singly,
            checked=check,
        )
        found.append(compare_answers(case, samples, store, say=progress.say))
    if as_json:
        print_json([asdict(one) | {"ratios": one.ratios, "ratio": one.ratio} for one in found])
        return
    typer.echo(answers_table(found))


@app.command()
def explain(
    *,
    checkpoint: Annotated[
        str,
        typer.Option(help="Whose sizes: a PaliGemma by its name on the hub, embedded, or tiny; weights are random."),
    ] = PALIGEMMA,
    dtype: Annotated[Literal["bfloat16", "float32"], typer.Option(help="Of weights and products.")] = "bfloat16",
    layers: Annotated[
        int | None, typer.Option(min=1, help="Layers of the language model; all of them unless given.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed turns of all ways; one more before them warms up.")] = 3,
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pass over one question plainly, with attention captured, and with output_attentions: memory and time.

    PaliGemma-3B takes about 7 GB of memory and no download. See docs/bench.md.
    """
    from radvqa.bench.explanation import PassCase, compare_passes, passes_facts
    from radvqa.run.progress import Progress

    case = PassCase(checkpoint=checkpoint, dtype=dtype, rounds=rounds, threads=threads, layers=layers)
    found = compare_passes(case, say=Progress(quiet).say)
    if as_json:
        print_json(passes_facts(found))
        return
    typer.echo(passes_table(found))


def _layouts_of(checkpoint: str) -> Sequence[LayoutName]:
    """The layout that a checkpoint was trained in, by its manifest; both where it does not say."""
    manifest = Path(checkpoint) / "training_manifest.json"
    told = json.loads(manifest.read_bytes()).get("layout") if manifest.is_file() else None
    return [one for one in LAYOUTS if one == told] or LAYOUTS


def _checkpoint(given: str) -> str:
    """What was given, a folder by its whole path, so that it is not taken for a name on the hub."""
    folder = Path(given)
    if given in ("embedded", "tiny"):
        return given
    if not (folder / "config.json").is_file():
        got = "a folder without config.json" if folder.is_dir() else "no folder of this name"
        raise RecipeError(
            "there is no checkpoint here",
            where=f"--checkpoint {given}",
            expected="embedded, tiny, or a folder with config.json",
            got=got,
            fix="correct the folder; fetch a checkpoint of the hub first: hf download NAME --local-dir DIR",
        )
    return str(folder.absolute())


def _model(setting: Setting, checkpoint: str, image_size: int, dtype: Dtype, threads: int | None) -> Any:
    from radvqa.recipe import Model

    if image_size not in (112, 224):
        raise RecipeError("the embedded base has no variant of this size", where="--image-size", expected="112 or 224")
    return Model(
        checkpoint=checkpoint,
        image_size=112 if image_size == 112 else 224,
        dtype=dtype,
        layout="shared_image" if setting.endswith("-shared") else "per_question",
        threads=threads,
    )


def _case(
    setting: Setting, model: Any, *, batch_size: int, images: int, updates: int, rounds: int, seed: int
) -> "Case":
    from platformdirs import user_cache_path

    from radvqa.bench.comparison import Case

    return Case(
        stage="align" if setting.startswith("align") else "adapt",
        model=model,
        batch_size=images if setting.endswith("-shared") else batch_size,
        plain_batch_size=batch_size,
        updates=updates,
        rounds=rounds,
        rate=ALIGN_RATE if setting.startswith("align") else ADAPT_RATE,
        seed=seed,
        cache=user_cache_path("radvqa"),
    )


def _data(
    adapter: str,
    root: Path | None,
    changes: Sequence[str],
    *,
    checkpoint: str,
    image_size: int,
    progress: "Progress",
    split: Literal["train", "val", "test"] = "train",
    images: int | None = None,
) -> tuple[Sequence["VqaSample"], "ImageStore"]:
    from platformdirs import user_cache_path

    from radvqa.data import open_dataset
    from radvqa.data.image_store import ImageStore
    from radvqa.models.geometry import geometry_of
    from radvqa.recipe import parse_yaml

    options: dict[str, Any] = {} if root is None else {"root": str(root)}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise RecipeError("an option needs a value", where=f"--set {change}", expected="OPTION=VALUE")
        options[name] = parse_yaml(value, where=f"--set {change}")
    samples: Sequence["VqaSample"] = open_dataset(adapter, options).read(split).samples
    kept = set(list(dict.fromkeys(sample.image for sample in samples))[:images])
    samples = [sample for sample in samples if sample.image in kept]
    sizes = geometry_of(_model("align", checkpoint, image_size, "auto", None))
    if sizes is None:
        raise RecipeError("the size of this checkpoint is not known", where=f"--checkpoint {checkpoint}")
    paths = list(dict.fromkeys(sample.image for sample in samples))
    progress.say(f"{adapter}: {len(samples):,} questions on {len(paths):,} images")
    return samples, ImageStore.build(paths, size=sizes.vision.image, cache=user_cache_path("radvqa") / "pictures")


def _facts(found: "Comparison") -> dict[str, Any]:
    return asdict(found) | {
        "plain_speed": found.plain_speed,
        "engine_speed": found.engine_speed,
        "ratio": found.ratio,
        "loss_difference": found.loss_difference,
    }


def comparison_table(found: Sequence["Comparison"]) -> str:
    """One line for each setting."""
    lines = [
        (
            "setting",
            "plain",
            "engine",
            "ratio",
            "rounds from-to",
            "losses differ",
            "in float32",
            "plain MiB",
            "engine MiB",
        )
    ]
    for one in found:
        setting = one.stage + ("-shared" if one.layout == "shared_image" else "")
        lines.append(
            (
                setting,
                f"{one.plain_speed:.2f}/s",
                f"{one.engine_speed:.2f}/s",
                f"{one.ratio:.2f}x",
                f"{min(one.ratios):.2f}-{max(one.ratios):.2f}",
                "other mask" if one.loss_difference is None else f"{one.loss_difference:.1e}",
                "-" if one.float32_loss_difference is None else f"{one.float32_loss_difference:.1e}",
                _mib(one.plain_peak_mib),
                _mib(one.engine_peak_mib),
            )
        )
    notes = [
        f"Questions per second, medians of {len(found[0].ratios)} rounds; {found[0].threads} threads, {found[0].dtype}."
    ]
    notes += [_features(one) for one in found if one.features_computed or one.features_found]
    return aligned(lines) + "\n" + "\n".join(notes)


def answers_table(found: Sequence["AnswerComparison"]) -> str:
    """One line for each layout."""
    lines = [("layout", "one by one", "batched", "radvqa", "ratio", "rounds from-to", "equal", "in float32")]
    for one in found:
        lines.append(
            (
                one.layout,
                f"{median(one.single_speeds):.2f}/s" if one.single_speeds else "-",
                f"{median(one.batched_speeds):.2f}/s",
                f"{median(one.our_speeds):.2f}/s",
                f"{one.ratio:.2f}x",
                f"{min(one.ratios):.2f}-{max(one.ratios):.2f}",
                "other mask" if one.equal is None else f"{one.equal:.1%}",
                "-" if one.float32_equal is None else f"{one.float32_equal:.0%} of {one.checked}",
            )
        )
    first = found[0]
    notes = [
        f"Answers per second, medians of {len(first.ratios)} rounds; ratio of radvqa to batched generate; "
        f"{first.questions} questions on {first.images} images; {first.threads} threads, {first.dtype}."
    ]
    notes += [f"{one.layout}: {one.our_tokens:.1f} tokens an answer, {one.plain_tokens:.1f} plain." for one in found]
    return aligned(lines) + "\n" + "\n".join(notes)


def passes_table(found: "PassComparison") -> str:
    """One line for each way."""
    lines = [("way", "kept MiB", "extra peak MiB", "seconds", "extra", "CPU seconds", "extra")]
    for one in found.ways:
        plain = one.way == "plain"
        lines.append(
            (
                one.way,
                "-" if plain else f"{one.kept_mib:,.1f}",
                "-" if plain else f"{found.extra_peak_mib(one.way):,.1f}",
                f"{median(one.seconds):.2f}",
                "-" if plain else f"{found.extra_time(one.way):+.1%}",
                f"{median(one.cpu_seconds):.2f}",
                "-" if plain else f"{found.extra_cpu_time(one.way):+.1%}",
            )
        )
    first = found.ways[0]
    notes = [
        f"{found.checkpoint}, random weights: {found.positions:,} positions, {found.prompt_tokens} of the prompt and "
        f"{found.answer_tokens} of the answer; {found.layers} layers, {found.heads} heads; {found.threads} threads, "
        f"{found.dtype}.",
        f"Medians of {len(first.seconds)} rounds in turns. The plain pass peaks at {first.peak_mib:,.0f} MiB. "
        f"All weights in float32: {found.full_float32_mib:,.0f} MiB.",
        f"Largest difference of attention weights between both ways: {found.difference:.1e}.",
    ]
    return aligned(lines) + "\n" + "\n".join(notes)


def _features(one: "Comparison") -> str:
    """What the features of the frozen tower took."""
    setting = one.stage + ("-shared" if one.layout == "shared_image" else "")
    if not one.features_computed:
        return f"{setting}: features of all {one.features_found:,} pictures were in the cache; their time is not known."
    found = f", {one.features_found:,} more were in the cache" if one.features_found else ""
    return (
        f"{setting}: features of {one.features_computed:,} pictures, once before: {one.feature_seconds:.1f} s{found}."
    )


def geometry_table(found: Sequence["Update"]) -> str:
    """One line for each update."""
    lines = [("update", "path", "seconds", "peak MiB", "TFLOP", "GFLOP/s", "of peak", "loss")]
    lines += [
        (
            one.stage,
            one.route,
            f"{one.seconds:.1f}",
            f"{one.peak_mib:,.0f}",
            f"{one.work / 1e12:.2f}",
            f"{one.speed / 1e9:.0f}",
            f"{one.utilisation:.0%}",
            f"{one.loss:.4f}",
        )
        for one in found
    ]
    peaks = ", ".join(f"{one.peak_speed / 1e9:.0f}" for one in found)
    return aligned(lines) + f"\nPeak of bfloat16 matrix products in each process: {peaks} GFLOP/s."


def _mib(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
