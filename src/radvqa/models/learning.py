"""Which parameters learn: asked for by part, and checked one by one."""

from collections.abc import Mapping, Sequence

import torch

from radvqa.errors import TrainError
from radvqa.models.lora import AdaptedPart
from radvqa.models.vlm import Vlm, part_of, trainable_counts


def require_learning(
    vlm: Vlm, *, projector: bool, adapters: Sequence[AdaptedPart] = (), full: Sequence[AdaptedPart] = ()
) -> Mapping[str, int]:
    """Assert that exactly these parts learn, in float32, and that everything else is frozen; trainable counts by part.

    Args:
        vlm: a model that was prepared for a stage.
        projector: whether it learns; under PEFT its copy does, and the original never.
        adapters: parts whose LoRA matrices learn.
        full: parts whose own weights all learn.

    Raises:
        TrainError: a parameter learns that should not, or the other way round, or a learning one is rounded.
    """
    copied = hasattr(vlm.network, "peft_config")

    def wanted(name: str) -> bool:
        part = part_of(name)
        if ".lora_" in name:
            return part in adapters
        if part == "projector":
            return projector and (".modules_to_save." in name or not copied)
        return part in full

    parameters = dict(vlm.network.named_parameters())
    expected = {name for name in parameters if wanted(name)}
    learning = {name for name, parameter in parameters.items() if parameter.requires_grad}
    reached = {part_of(name) for name in expected if ".lora_" in name}
    if without := [part for part in adapters if part not in reached]:
        raise TrainError("a part that should learn has no adapters", where=without[0], got="no LoRA matrix in it")
    if expected != learning:
        strange, idle = sorted(learning - expected), sorted(expected - learning)
        raise TrainError(
            "other parameters learn than the stage says",
            where=(strange or idle)[0],
            expected=f"{len(expected)} learning tensors",
            got=f"{len(learning)}: {len(strange)} that should be frozen, {len(idle)} wrongly frozen",
        )
    rounded = sorted(name for name in learning if parameters[name].dtype != torch.float32)
    if rounded:
        raise TrainError("a trainable weight is not float32", where=rounded[0], got=f"{len(rounded)} such tensors")
    return trainable_counts(vlm.network)
