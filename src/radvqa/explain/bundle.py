"""One explained case as a folder that can be looked at without the model: manifest, arrays, picture.

``manifest.json`` holds texts and facts, ``arrays.safetensors`` the numbers, ``image.png`` the picture without the
metadata of its file. Reading needs numpy only.

Arrays of each view (``model``: the model's own answer, ``reference``, ``typed``), with T text tokens (bos, prompt,
answer), L layers, H heads, an r x c image grid, p prompt tokens (bos included) and t answer tokens:

==============================  ===================  ==============================================================
``<view>/attention``            uint8 T L H r c      attention of each text position on the image, 255 = its scale
``<view>/attention_scale``      float32 T L H        the largest weight of each of these maps
``<view>/image_mass``           float32 T L H        the share of the row on the image
``<view>/image_to_prompt``      float16 L r c p      attention of each image position on the prompt, mean over heads
``<view>/maps/<method>``        float32 t+1 r c      one map per answer token and, last, one of the whole answer
``image/values``                float32 y x          of a CT: Hounsfield units; no such array where there are none
==============================  ===================  ==============================================================

``attention[k]`` belongs to ``tokens[k]`` of the manifest. Of a token of the answer it is the row under which the
token was predicted, that of the position before it. Nothing predicts the prompt: of its tokens it is the token's own
row, what this word attends to.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ViewName = Literal["model", "reference", "typed"]

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One text token. ``word`` numbers the words of prompt and answer, from 0 (bos), so that pieces can be grouped.

    ``text`` is what the token adds to the text before it, blanks included.
    ``image_mass`` is the share of raw attention on the image, mean over layers and heads, of the token's row in
    ``attention``. ``reliance`` (nats; answer tokens only): how much more probable the token is with the image than
    without.
    """

    text: str
    part: Literal["bos", "prompt", "answer"]
    word: int
    image_mass: float
    logprob: float | None = None
    reliance: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MapFacts:
    """The numbers beside one map; None where undefined. See ``SaliencyMap`` for their meaning.

    ``low`` and ``high`` are the map's own range. ``hit``, ``energy``, ``area`` and ``enrichment`` compare it with the
    regions that the question or the answer names, where there are any.
    """

    low: float
    high: float
    image_mass: float | None = None
    sink_mass: float | None = None
    self_mass: float | None = None
    entropy: float | None = None
    specificity: float | None = None
    grid_specificity: float | None = None
    hit: float | None = None
    energy: float | None = None
    area: float | None = None
    enrichment: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MapRecord:
    """The maps of one method: facts per answer token, and those of the whole answer's map."""

    method: str
    tokens: tuple[MapFacts, ...]
    answer: MapFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One answer to the question, and its maps.

    ``confidence`` is the mean probability of the answer's tokens (geometric mean), ``reliance`` the log-probability of
    the answer with the image minus that without (nats). ``correct`` is None where there is no reference to tell by.
    ``sinks``: image cells (row, column) that draw attention whatever is asked.
    """

    text: str
    correct: bool | None
    logprob: float
    confidence: float
    reliance: float
    tokens: tuple[Token, ...]
    maps: tuple[MapRecord, ...]
    sinks: tuple[tuple[int, int], ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """A labelled region of the picture, in pixels of the original: closed polygons of a mask, or a box.

    ``asked``: the question or the answer names it.
    """

    label: str
    asked: bool
    box: tuple[float, float, float, float] | None = None
    polygons: tuple[tuple[tuple[float, float], ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """The picture shown. ``frame`` is what the image grid spans, (x, y, width, height) in its pixels.

    ``bits`` and ``unit`` tell what the source held: of 8 bits only contrast can be stretched; of a CT in Hounsfield
    units (array ``image/values``, float32 y x) the window can be chosen anew.
    """

    width: int
    height: int
    frame: tuple[float, float, float, float]
    bits: int = 8
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything of a case but its arrays. ``key`` names it in addresses: no text of the data set gets there.

    ``model``: name, run, stage, weights, dtype, decoding, layout, layers, heads, ``settings`` (those that the
    case's methods heed) and ``made_from``, a digest of all else that it depends on. ``grid``: rows and columns.
    """

    schema: int
    key: str
    sample_id: str
    image_id: str
    question: str
    references: tuple[str, ...]
    answer_type: str
    language: str
    picture: Picture
    grid: tuple[int, int]
    model: Mapping[str, Any]
    views: Mapping[str, View]
    outlines: tuple[Outline, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseLine:
    """One case in ``cases.jsonl``: what lists, filters and the failure finder need, of the model's own answer.

    ``folder`` is relative to the list's own folder. ``facts``: those of the whole answer's map, by method.
    ``correct`` is None where there is no reference.
    """

    key: str
    folder: str
    sample_id: str
    image_id: str
    group_id: str
    question: str
    references: tuple[str, ...]
    answer: str
    answer_type: str
    correct: bool | None
    confidence: float
    reliance: float
    facts: Mapping[str, MapFacts]
    asked_regions: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
