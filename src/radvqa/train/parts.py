"""Which parts of the model learn in a stage: everything else is frozen, and that is checked."""

from typing import Any

from radvqa.errors import TrainError
from radvqa.models.learning import require_learning
from radvqa.models.lora import attach_lora, target_pattern
from radvqa.models.vlm import Vlm
from radvqa.recipe import Lora, Stage


def prepare(vlm: Vlm, stage: Stage, *, seed: int) -> None:
    """Freeze everything but what the stage trains; attach adapters that are not there yet.

    Raises:
        TrainError: adapters of another shape are attached already, a stage without adapters follows one with them, or
            other parts would learn than the stage says.
    """
    attached = vlm.network.peft_config["default"] if hasattr(vlm.network, "peft_config") else None
    if stage.lora is None:
        if attached is not None:
            raise TrainError(
                "a stage without lora follows one with it", fix="repeat the lora section, or put this stage first"
            )
        vlm.network.requires_grad_(False)
        vlm.projector.requires_grad_(stage.projector)
        vlm.unfreeze(stage.full)
    else:
        if attached is None:
            _attach(vlm, stage.lora, seed=seed)
        else:
            _require_same_adapters(attached, stage.lora)
        for name, parameter in vlm.network.named_parameters():
            if "multi_modal_projector" in name:
                parameter.requires_grad_(stage.projector and "modules_to_save" in name)
    lora = stage.lora
    require_learning(vlm, projector=stage.projector, adapters=lora.parts if lora else (), full=stage.full)


def _attach(vlm: Vlm, lora: Lora, *, seed: int) -> None:
    attach_lora(
        vlm,
        rank=lora.rank,
        alpha=lora.alpha,
        dropout=lora.dropout,
        targets=lora.targets,
        parts=lora.parts,
        base_name=vlm.name,
        revision=vlm.revision,
        seed=seed,
    )


def _require_same_adapters(attached: Any, lora: Lora) -> None:
    wanted = (lora.rank, lora.alpha, lora.dropout, target_pattern(lora.parts, lora.targets))
    there = (attached.r, attached.lora_alpha, attached.lora_dropout, attached.target_modules)
    if wanted != there:
        raise TrainError(
            "the adapters of the stage before have another shape",
            expected="rank {}, alpha {}, dropout {}, modules {}".format(*there),
            got="rank {}, alpha {}, dropout {}, modules {}".format(*wanted),
            fix="give all stages with lora the same section",
        )
