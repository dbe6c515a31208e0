"""Explained cases without a model: random attention and maps, regions with polygons, and, on demand, hostile texts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from radvqa.explain.bundle import (
    SCHEMA,
    CaseLine,
    Manifest,
    MapFacts,
    MapRecord,
    Outline,
    Picture,
    Token,
    View,
)
from radvqa.explain.bundle_files import PIXELS, VALUES, case_folder, case_key, write_bundle, write_cases

GRID = (16, 16)
METHODS = ("raw", "raw_value", "rollout", "rollout_90", "contrast", "chefer", "grad_cam", "token_occlusion")
SIGNED = ("token_occlusion",)

MARKUP = '<script>window.hacked=1</script><img src=x onerror="window.hacked=1">'
TEMPLATE = "{{ 7 * 7 }}{% raw %}${7*7}`${window.hacked=1}`"
QUOTES = "\"'><svg/onload=window.hacked=1>&lt;b&gt;&amp;"
PATH = "../../../../etc/passwd"
DIRECTION = "\u202egnp.exe\u2066 \u0000\u0007 end"

QUESTIONS = (
    ("Is there a lesion in the left lung?", ("Yes",), "closed", "left lung"),
    ("What organ system is shown in this image?", ("Chest",), "open", "heart"),
    ("Which modality was used?", ("MRI",), "open", ""),
    ("Where is the abnormality located?", ("Right Lung, Lower Right",), "open", "right lung"),
    ("Is the heart enlarged?", ("No",), "closed", "heart"),
)
TAGS = (
    {"modality": "X-Ray", "organ": "Lung", "content_type": "Abnormality"},
    {"modality": "CT", "organ": "Abdomen", "content_type": "Organ"},
    {"modality": "MRI", "organ": "Head", "content_type": "Modality"},
    {"modality": "CT", "organ": "Lung", "content_type": "Position"},
)


def planted_cases(
    folder: Path,
    count: int,
    *,
    hostile: bool = False,
    layers: int = 30,
    heads: int = 9,
    methods: Sequence[str] = METHODS,
    seed: int = 0,
    run: str = "slake_0123456789ab",
    stage: str = "",
) -> list[CaseLine]:
    """Write ``cases.jsonl`` and ``count`` bundles as ``radvqa explain`` does; ``folder`` is a run's ``explain``.

    Every fifth case is a CT with Hounsfield units, every third has a reference view too, every seventh a padded frame
    of a picture that is not square. ``seed`` changes answers and maps, not the questions, as another stage would.
    Cases of 30 layers and 9 heads take about 2 MB each; take fewer of both for many cases.
    """
    lines = []
    for number in range(count):
        manifest, arrays, line = planted_case(
            number, hostile=hostile, layers=layers, heads=heads, methods=methods, seed=seed, run=run, stage=stage
        )
        write_bundle(case_folder(folder, manifest.key), manifest, arrays)
        lines.append(line)
    write_cases(folder, lines)
    return lines


def planted_case(
    number: int, *, hostile: bool, layers: int, heads: int, methods: Sequence[str], seed: int, run: str, stage: str
) -> tuple[Manifest, dict[str, np.ndarray], CaseLine]:
    """One case; the same arguments give the same case."""
    rng = np.random.default_rng((seed, number))
    question, references, answer_type, asked = QUESTIONS[number % len(QUESTIONS)]
    tags = dict(TAGS[number % len(TAGS)])
    sample_id, image_id = f"slake-{number:05d}", f"xmlab{number % 97}"
    right = bool(rng.random() < 0.6)
    answer = (
        references[0] if right else "No" if references == ("Yes",) else "Yes" if answer_type == "closed" else "Liver"
    )
    labels = {"left lung": "left lung", "right lung": "right lung", "heart": "heart"}
    if hostile:
        sample_id = f"{PATH}\\..\\{MARKUP}-{number}"
        image_id = f"../{QUOTES}{number}.png"
        question = f"{question} {MARKUP} {TEMPLATE} {DIRECTION}"
        references = (f"{references[0]} {QUOTES}", MARKUP)
        answer = f"{answer} {MARKUP}"
        tags |= {"organ": MARKUP, f"odd {QUOTES}": TEMPLATE, "__proto__": "polluted", "path": PATH}
        labels = {name: f"{label} {MARKUP}" for name, label in labels.items()}
    wide = number % 7 == 6
    pixels = _picture(rng, wide=wide)
    height, width = pixels.shape[:2]
    side = max(height, width)
    frame = ((width - side) / 2, (height - side) / 2, float(side), float(side))
    arrays: dict[str, np.ndarray] = {PIXELS: pixels}
    is_ct = number % 5 == 1
    if is_ct:
        arrays[VALUES] = (pixels.astype(np.float32) * 8.0 - 1000.0).astype(np.float32)
    views: dict[str, View] = {}
    texts = {"model": answer} | ({"reference": references[0]} if number % 3 == 0 else {})
    for name, text in texts.items():
        correct = right if name == "model" else True
        views[name], found = _view(
            rng, question, text, correct=correct, layers=layers, heads=heads, methods=methods, asked=bool(asked)
        )
        arrays |= {f"{name}/{key}": value for key, value in found.items()}
    manifest = Manifest(
        schema=SCHEMA,
        key=case_key(sample_id),
        sample_id=sample_id,
        image_id=image_id,
        question=question,
        references=references,
        answer_type=answer_type,
        language="en",
        picture=Picture(width=width, height=height, frame=frame, bits=16 if is_ct else 8, unit="HU" if is_ct else ""),
        grid=GRID,
        model={
            "name": f"embedded {MARKUP}" if hostile else "embedded",
            "run": f"{run}{QUOTES}" if hostile else run,
            "stage": stage,
            "weights": f"planted {seed}",
            "dtype": "float32",
            "decoding": "greedy",
            "layers": layers,
            "heads": heads,
        },
        views=views,
        outlines=_outlines(width, height, labels, asked),
        tags=tags,
    )
    view = views["model"]
    line = CaseLine(
        key=manifest.key,
        folder=f"cases/{manifest.key}",
        sample_id=sample_id,
        image_id=image_id,
        group_id=image_id,
        question=question,
        references=references,
        answer=answer,
        answer_type=answer_type,
        correct=right,
        confidence=view.confidence,
        reliance=view.reliance,
        facts={record.method: record.answer for record in view.maps},
        asked_regions=tuple(one.label for one in manifest.outlines if one.asked),
        tags=tags,
    )
    return manifest, arrays, line


def _view(
    rng: np.random.Generator,
    question: str,
    answer: str,
    *,
    correct: bool,
    layers: int,
    heads: int,
    methods: Sequence[str],
    asked: bool,
) -> tuple[View, dict[str, np.ndarray]]:
    tokens = _tokens(rng, question, answer)
    every = len(tokens)
    later = sum(token.part == "answer" for token in tokens)
    weights = rng.random((every, layers, heads, *GRID)) ** 6
    scale = weights.max(axis=(-2, -1))
    share = rng.random((every, layers, heads)).astype(np.float32)
    safe = np.where(scale > 0.0, scale, 1.0)[..., None, None]
    total = np.where(scale > 0.0, weights.sum(axis=(-2, -1)), 1.0)
    arrays: dict[str, np.ndarray] = {
        "attention": np.rint(weights / safe * 255.0).astype(np.uint8),
        "attention_scale": (scale / total * share).astype(np.float32),
        "image_mass": share,
        "image_to_prompt": (rng.random((layers, *GRID, every - later)) / every).astype(np.float16),
    }
    records = []
    for method in methods:
        maps = _maps(rng, later + 1)
        maps -= 0.2 * maps.max() if method in SIGNED else 0.0
        arrays[f"maps/{method}"] = maps.astype(np.float32)
        facts = [_facts(rng, one, method=method, several=later > 1, asked=asked) for one in arrays[f"maps/{method}"]]
        records.append(MapRecord(method=method, tokens=tuple(facts[:-1]), answer=facts[-1]))
    logprob = sum(token.logprob or 0.0 for token in tokens)
    view = View(
        text=answer,
        correct=correct,
        logprob=logprob,
        confidence=float(np.exp(logprob / later)),
        reliance=sum(token.reliance or 0.0 for token in tokens),
        tokens=tokens,
        maps=tuple(records),
        sinks=((0, 0), (15, 3)),
        warnings=(
            "In this model's layout the image positions do not see the question.",
            "raw: most weight lies on text: the image has 12 %",
            "rollout: this map is the same for every word",
        ),
    )
    return view, arrays


def _tokens(rng: np.random.Generator, question: str, answer: str) -> tuple[Token, ...]:
    found = [Token(text="<bos>", part="bos", word=0, image_mass=0.0)]
    word = 0
    for part, text in (("prompt", f"answer en {question}\n"), ("answer", answer)):
        for piece in text.replace(" ", " \n\n").split("\n\n"):
            word += 1
            halves = [piece[:5], piece[5:]] if len(piece) > 7 else [piece]
            for half in halves:
                own = part == "answer"
                found.append(
                    Token(
                        text=half,
                        part=part,
                        word=word,
                        image_mass=float(rng.random()),
                        logprob=float(-rng.random()) if own else None,
                        reliance=float(rng.normal(0.5, 0.8)) if own else None,
                    )
                )
    return tuple(found)


def _maps(rng: np.random.Generator, count: int) -> np.ndarray:
    """A blob that moves from token to token, on noise."""
    rows, columns = np.mgrid[: GRID[0], : GRID[1]]
    maps = []
    for _ in range(count):
        y, x, width = rng.uniform(2, 14), rng.uniform(2, 14), rng.uniform(1.5, 4)
        maps.append(np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * width**2)) + 0.1 * rng.random(GRID))
    found = np.array(maps)
    return found / found.sum(axis=(1, 2), keepdims=True)


def _facts(rng: np.random.Generator, grid: np.ndarray, *, method: str, several: bool, asked: bool) -> MapFacts:
    attention = method.startswith(("raw", "rollout"))
    area = float(rng.uniform(0.02, 0.3))
    energy = float(rng.uniform(0.0, 0.6))
    return MapFacts(
        low=float(grid.min()),
        high=float(grid.max()),
        image_mass=float(rng.random()) if attention else None,
        sink_mass=float(rng.random() / 2) if attention else None,
        self_mass=float(rng.random() / 5) if attention else None,
        entropy=float(rng.uniform(0.4, 1.0)),
        specificity=float(rng.random() / 3) if attention and several else None,
        grid_specificity=float(rng.random() / 3) if several else None,
        hit=float(rng.random() < 0.4) if asked else None,
        energy=energy if asked else None,
        area=area if asked else None,
        enrichment=energy / area if asked else None,
    )


def _picture(rng: np.random.Generator, *, wide: bool) -> np.ndarray:
    """A grey body with two dark fields and a bright spot, 256 pixels high."""
    height, width = 256, 384 if wide else 256
    y, x = np.mgrid[:height, :width]
    across, down = (x - width / 2) / (width * 0.42), (y - height / 2) / (height * 0.45)
    grey = np.where(across**2 + down**2 < 1, 150.0, 0.0)
    for side in (-0.45, 0.45):
        grey[((across - side) / 0.35) ** 2 + (down / 0.6) ** 2 < 1] = 45.0
    spot = ((across - rng.uniform(-0.6, 0.6)) / 0.12) ** 2 + ((down - rng.uniform(-0.4, 0.4)) / 0.12) ** 2 < 1
    grey[spot] = 230.0
    return np.clip(grey + rng.normal(0, 6, grey.shape), 0, 255).astype(np.uint8)


def _outlines(width: int, height: int, labels: dict[str, str], asked: str) -> tuple[Outline, ...]:
    places = {"right lung": 0.27, "left lung": 0.68, "heart": 0.5}
    found = []
    for name, place in places.items():
        angles = np.linspace(0.0, 2.0 * np.pi, 40)
        x, y = place * width + 0.13 * width * np.cos(angles), 0.5 * height + 0.25 * height * np.sin(angles)
        ring = tuple((float(a), float(b)) for a, b in zip(x, y, strict=True))
        box = (float(x.min()), float(y.min()), float(np.ptp(x)), float(np.ptp(y)))
        polygons = () if name == "heart" else (ring,)
        found.append(Outline(label=labels[name], asked=name == asked, box=box, polygons=polygons))
    return tuple(found)
