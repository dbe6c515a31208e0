"""What training changed, taken out of an adapted model and put into the weights of its base."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import AutoConfig

from radvqa.errors import ModelError
from radvqa.models.checkpoint_loading import load_network
from radvqa.models.lora import AdaptedPart, adapted_modules
from radvqa.models.vlm import Vlm, part_of


@dataclass(frozen=True, slots=True)
class LowRankUpdate:
    """What an adapter adds to a weight (o, i): ``scale`` × ``up`` @ ``down``."""

    down: Float[Tensor, "r i"]
    up: Float[Tensor, "o r"]
    scale: float

    def added_to(self, weight: Float[Tensor, "o i"]) -> Float[Tensor, "o i"]:
        """The sum, computed in float32 and rounded once."""
        return (weight.float() + self.scale * (self.up @ self.down)).to(weight.dtype)


@dataclass(frozen=True, slots=True)
class Learned:
    """Updates by module, and parameters that learned as they are, by their names in the base network."""

    updates: dict[str, LowRankUpdate]
    weights: dict[str, Tensor]


def what_was_learned(vlm: Vlm, *, full: Collection[AdaptedPart] = ()) -> Learned:
    """Adapters, projector and the parts under ``full``, in float32 on the CPU."""
    updates = {
        name.removeprefix("base_model.model."): LowRankUpdate(
            _copy(module.lora_A["default"].weight), _copy(module.lora_B["default"].weight), module.scaling["default"]
        )
        for name, module in vlm.network.named_modules()
        if isinstance(module, LoraLayer)
    }
    if len(updates) != sum(adapted_modules(vlm).values()):
        raise ModelError(
            "not every adapter can be merged",
            expected=f"{sum(adapted_modules(vlm).values())} modules",
            got=str(len(updates)),
            fix="install the pinned requirements",
        )
    wrapped = getattr(vlm.projector, "modules_to_save", None)
    projector = vlm.projector if wrapped is None else wrapped["default"]
    weights = {f"model.multi_modal_projector.{name}": _copy(value) for name, value in projector.state_dict().items()}
    weights |= {name: _copy(value) for name, value in vlm.base.named_parameters() if part_of(name) in full}
    return Learned(updates, weights)


def merged_network(name: str, revision: str | None, learned: Learned, *, dtype: torch.dtype) -> Any:
    """The base, loaded afresh in ``dtype``, with everything learned in its weights.

    Raises:
        ModelError: the base cannot be loaded, or has no place for something learned.
    """
    network, _ = load_network(name, revision=revision, dtype=dtype)
    parameters = dict(network.named_parameters())
    changed = [*(f"{module}.weight" for module in learned.updates), *learned.weights]
    if unknown := [one for one in changed if one not in parameters]:
        raise ModelError("the base has no place for a learned weight", where=name, got=unknown[0])
    with torch.no_grad():
        for module, update in learned.updates.items():
            weight = parameters[f"{module}.weight"]
            weight.copy_(update.added_to(weight))
        for one, value in learned.weights.items():
            parameters[one].copy_(value)
    return network


def stored_dtype(name: str, revision: str | None) -> torch.dtype:
    """The dtype of a checkpoint's weights as its configuration states it; float32 where it states none."""
    stated = AutoConfig.from_pretrained(name, revision=revision).dtype
    return stated if isinstance(stated, torch.dtype) else torch.float32


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True)
