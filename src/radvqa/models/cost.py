"""What training a network of some geometry costs, by arithmetic: work, memory and disk, before anything is loaded.

Work counts the matrix products, two operations per multiplication and addition (tests compare with what torch counts).
Memory follows what autograd stores for the layers as transformers writes them. Sizes are bytes, work is FLOP.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from radvqa.models.geometry import COLOURS, AdaptedPart, Decoder, Geometry, Targets, Tower

FLOAT32 = 4
NF4 = 0.5 + 4 / 64
"""Bytes per weight: four bits, and one float32 scale for every 64 weights."""

LOGIT_BYTES = 16
"""Per supervised position and word of the vocabulary: the logits in both precisions, their log-softmax, gradients."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """What learns in a stage; the rest is frozen."""

    projector: bool
    rank: int = 0
    targets: Targets = "attention"
    adapted: tuple[AdaptedPart, ...] = ()
    full: tuple[AdaptedPart, ...] = ()

    def of(self, part: AdaptedPart) -> Literal["nothing", "adapters", "all"]:
        """What learns in a part."""
        return "all" if part in self.full else "adapters" if part in self.adapted else "nothing"

    @property
    def tower_learns(self) -> bool:
        """Whether the tower's output changes while training, so that it cannot be computed once."""
        return self.of("vision_encoder") != "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """How the network runs: bytes of a number in matrix products, quantised decoder, attention, checkpointing."""

    number: int = 2
    quantised: bool = False
    attention: Literal["sdpa", "eager", "products"] = "sdpa"
    checkpointing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of one forward pass: their number, positions behind the image tokens, and supervised ones, each per row."""

    rows: float
    pictures: float
    text: float
    answers: float


# --- work ---------------------------------------------------------------------------------------------------------


def tower_work(tower: Tower, *, pictures: float = 1) -> float:
    """FLOP of the tower's forward pass."""
    linear = sum(a * b for a, b in (*tower.attention, *tower.feed_forward))
    layer = 2 * tower.tokens * linear + _attention_work(tower.tokens, tower.width)
    return pictures * (_patch_work(tower) + tower.layers * layer)


def step_work(geometry: Geometry, learning: Learning, running: Running, some: Rows, *, cached: bool) -> float:
    """FLOP of a forward and a backward pass over some rows, the head on supervised positions only.

    Args:
        geometry: sizes of the network.
        learning: what learns.
        running: how it runs.
        some: the rows.
        cached: the tower's output is there already; else it is computed for every distinct picture.
    """
    vision, language = geometry.vision, geometry.language
    pictures, positions = some.pictures * vision.tokens, some.rows * (vision.tokens + some.text)
    head = 2 * some.rows * some.answers * language.vocabulary * language.width
    projector = 2 * pictures * vision.width * language.width
    projector_backward = projector * (learning.projector + learning.tower_learns)
    tower = 0.0
    if not cached:
        tower = tower_work(vision, pictures=some.pictures)
        if learning.tower_learns:
            tower += _layers_backward(vision, learning, running, tokens=pictures, length=vision.tokens, reached=False)
            tower += _adapter_work(geometry, learning, running, "vision_encoder", tokens=pictures)
            tower += some.pictures * _patch_work(vision) if learning.of("vision_encoder") == "all" else 0
    length = vision.tokens + some.text
    decoder = _layers_forward(language, tokens=positions, length=length)
    decoder += _adapter_work(geometry, learning, running, "language_model", tokens=positions)
    if learning.projector or learning.tower_learns or learning.of("language_model") != "nothing":
        reached = learning.projector or learning.tower_learns or learning.of("language_model") == "all"
        decoder += _layers_backward(language, learning, running, tokens=positions, length=length, reached=reached)
    head_backward = head * (2 if learning.of("language_model") == "all" else 1)
    return tower + projector + projector_backward + decoder + head + head_backward


def distinct_pictures(*, pictures: int, rows: int, drawn: int) -> float:
    """How many different pictures are expected among rows drawn without replacement, when all have as many rows."""
    if rows == 0 or pictures == 0:
        return 0.0
    missed: float = max(0.0, 1 - drawn / rows) ** (rows / pictures)
    return pictures * (1 - missed)


def _patch_work(tower: Tower) -> float:
    return 2 * tower.tokens * COLOURS * tower.patch**2 * tower.width


def _attention_work(length: float, width: int) -> float:
    """Scores and weighted values of one sequence: every position with every other, masked or not."""
    return 4 * length**2 * width


def _attention_width(block: Tower | Decoder) -> int:
    return block.width if isinstance(block, Tower) else block.heads * block.head_width


def _layers_forward(block: Tower | Decoder, *, tokens: float, length: float) -> float:
    linear = sum(a * b for a, b in (*block.attention, *block.feed_forward))
    attention = tokens / length * _attention_work(length, _attention_width(block))
    return block.layers * (2 * tokens * linear + attention)


def _layers_backward(
    block: Tower | Decoder, learning: Learning, running: Running, *, tokens: float, length: float, reached: bool
) -> float:
    """Gradients of activations, of the weights that learn, and the second forward pass of checkpointing.

    ``reached``: something below the first layer learns; else its queries, keys and values need no input gradient.
    """
    part: AdaptedPart = "vision_encoder" if isinstance(block, Tower) else "language_model"
    linear = 2 * tokens * sum(a * b for a, b in (*block.attention, *block.feed_forward))
    attention = tokens / length * _attention_work(length, _attention_width(block))
    # Without kept weights the scores are computed again: five products in place of the forward pass's two.
    work = block.layers * (linear + attention * (2 if running.attention == "eager" else 2.5))
    if learning.of(part) == "all":
        work += block.layers * linear
    elif not reached:
        work -= 2 * tokens * sum(a * b for a, b in block.attention[:3])
    if running.checkpointing:
        # Nothing needs the output of a layer's last product, so that is not computed again, but for adapters on it.
        needed = learning.of(part) == "adapters" and learning.targets == "all-linear"
        last = 0 if needed else 2 * tokens * block.width * block.mlp
        work += block.layers * (linear + attention - last)
    return work


def _adapter_work(
    geometry: Geometry, learning: Learning, running: Running, part: AdaptedPart, *, tokens: float
) -> float:
    """Forward and backward passes of a part's adapters: their weights and their inputs need gradients."""
    if learning.of(part) != "adapters":
        return 0.0
    sizes = geometry.lora_parameters(rank=learning.rank, targets=learning.targets, parts=(part,))
    return (8 if running.checkpointing else 6) * tokens * sizes[part]


# --- memory -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes at the peak of a step, by what takes them."""

    weights: float
    learning: float
    """Gradients and the two moments of AdamW."""
    activations: float
    """What the backward pass needs of the forward pass."""
    passing: float
    """The larger one of the logits with what the loss makes of them, and the gradients inside one layer."""

    @property
    def total(self) -> float:
        """All together."""
        return self.weights + self.learning + self.activations + self.passing


def trainable_parameters(geometry: Geometry, learning: Learning) -> int:
    """Weights that learn."""
    sizes = geometry.parameters()
    lora = geometry.lora_parameters(rank=learning.rank, targets=learning.targets, parts=learning.adapted)
    return (
        (sizes["projector"] if learning.projector else 0)
        + sum(lora.values())
        + sum(sizes[part] for part in learning.full)
    )


def step_memory(geometry: Geometry, learning: Learning, running: Running, some: Rows, *, cached: bool) -> Memory:
    """Memory of a training step on some rows (the longest ones of a stage), without the framework's own part.

    Args:
        geometry: sizes of the network.
        learning: what learns.
        running: how it runs.
        some: the rows of one micro-batch.
        cached: whether the tower is left out of the step.
    """
    trainable = trainable_parameters(geometry, learning)
    vision, language = geometry.vision, geometry.language
    length = vision.tokens + some.text
    decoder = _stored(geometry, learning, running, "language_model", length=length)
    layers = _kept(decoder, language, running) * some.rows * length
    inside = decoder * some.rows * length
    # The input of the last norm, and the row of embeddings before and after the image is put in.
    ends = some.rows * length * language.width * (FLOAT32 + 2 * running.number)
    if learning.tower_learns:
        tower = _stored(geometry, learning, running, "vision_encoder", length=vision.tokens)
        layers += _kept(tower, vision, running) * some.pictures * vision.tokens
        inside = max(inside, tower * some.pictures * vision.tokens)
    elif not cached:
        # One layer at a time, without autograd.
        ends = max(ends, some.pictures * vision.tokens * (vision.mlp + 4 * vision.width) * running.number)
    return Memory(
        weights=weight_bytes(geometry, learning, running),
        learning=3 * FLOAT32 * trainable,
        activations=layers + ends,
        # Checkpointing makes the activations of the layer at work anew, beside their gradients.
        passing=max(LOGIT_BYTES * some.rows * some.answers * language.vocabulary, inside * (1 + running.checkpointing)),
    )


def weight_bytes(geometry: Geometry, learning: Learning, running: Running) -> float:
    """Bytes of all weights: frozen ones as they are computed with, learning ones and the projector in float32."""
    sizes = geometry.parameters()
    language = geometry.language
    total = 0.0
    for part in ("vision_encoder", "language_model"):
        whole: AdaptedPart = "vision_encoder" if part == "vision_encoder" else "language_model"
        if learning.of(whole) == "all":
            total += sizes[part] * (FLOAT32 + _copy(running))
        elif running.quantised and part == "language_model":
            embeddings = language.vocabulary * language.width
            total += embeddings * running.number + (sizes[part] - embeddings) * NF4
        else:
            total += sizes[part] * running.number
    adapters = sum(
        geometry.lora_parameters(rank=learning.rank, targets=learning.targets, parts=learning.adapted).values()
    )
    # PEFT keeps the projector as it was beside the one that learns.
    projectors = (2 if learning.adapted else 1) * sizes["projector"]
    return total + (adapters + projectors) * FLOAT32 + (adapters + sizes["projector"]) * _copy(running)


def _copy(running: Running) -> int:
    """Autocast computes with rounded copies of float32 weights and keeps them until the step ends."""
    return running.number if running.number != FLOAT32 else 0


def _kept(stored: float, block: Tower | Decoder, running: Running) -> float:
    """Bytes per token that all layers of a part keep: what autograd stores, or their inputs with checkpointing."""
    return block.layers * (block.width * running.number if running.checkpointing else stored)


def _stored(geometry: Geometry, learning: Learning, running: Running, part: AdaptedPart, *, length: float) -> float:
    """Bytes per token that autograd stores in one layer of a part."""
    block: Tower | Decoder = geometry.vision if part == "vision_encoder" else geometry.language
    number, mode, width = running.number, learning.of(part), block.width
    norms = 2 * FLOAT32 * width
    attention: float = 4 * number * _attention_width(block)
    if running.attention == "eager":
        attention += block.heads * length * (number + (FLOAT32 if number != FLOAT32 else 0))
    elif isinstance(block, Decoder):
        # The mask: in the fused kernel's form, or true and false.
        attention += length * (number if running.attention == "sdpa" else 1)
    # Gate, up and their activation in the decoder; the activation's input in the tower.
    mlp = (3 if isinstance(block, Decoder) else 1) * number * block.mlp
    inputs = 0.0
    if mode == "adapters":
        adapted = geometry.adapted(part, learning.targets)
        inputs = number * (width + learning.rank * len(adapted))
        if learning.targets == "all-linear":
            inputs += number * (width + block.mlp)
    elif mode == "all":
        # The residual stream is float32 then: every product rounds its own copy, and the norms store their output.
        copies = 5 if number != FLOAT32 and isinstance(block, Decoder) else 4 if number != FLOAT32 else 2
        inputs = number * (copies * width + block.mlp) + (norms if isinstance(block, Decoder) else 0)
    return norms + attention + mlp + inputs


# --- disk ---------------------------------------------------------------------------------------------------------


def picture_bytes(tower: Tower) -> int:
    """A decoded picture in the image store, in colour; gray ones take a third."""
    return COLOURS * tower.image**2


def feature_bytes(tower: Tower, running: Running) -> int:
    """The tower's output for one picture."""
    return tower.tokens * tower.width * running.number


def checkpoint_bytes(geometry: Geometry, learning: Learning, *, kept: int) -> int:
    """A stage's checkpoints, weights and both moments in each, with the one that is being written."""
    return (kept + 1) * 3 * FLOAT32 * trainable_parameters(geometry, learning)


def learned_bytes(geometry: Geometry, learning: Learning) -> int:
    """What a stage leaves: adapters or whole parts, and the projector."""
    sizes = geometry.parameters()
    projector = 0 if learning.projector else sizes["projector"]
    return FLOAT32 * (trainable_parameters(geometry, learning) + projector)


def download_bytes(geometry: Geometry) -> int:
    """Weights of a checkpoint as the hub has them, in float32."""
    return FLOAT32 * sum(geometry.parameters().values())


def hours(work: Sequence[float], speed: float) -> float:
    """Hours that work in FLOP takes at a speed in FLOP/s."""
    return sum(work) / speed / 3600
