"""The path a user would write from the documentation: ``Trainer``, the stock processor in the collator, PEFT.

It knows nothing of radvqa's layouts, image store or loss; only the adapted modules are chosen alike.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch import Tensor
from transformers import (
    AutoTokenizer,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from radvqa.models.embedded import image_processor
from radvqa.models.lora import target_pattern
from radvqa.sample import VqaSample

RANK, ALPHA = 8, 16.0
"""Of the adapters of both paths; without dropout, whose random numbers the two paths would draw in another order."""


def plain_network(checkpoint: str, *, adapters: bool, dtype: torch.dtype) -> tuple[Any, PaliGemmaProcessor]:
    """Network and processor, with the projector learning, and LoRA on the attention of both towers where wanted.

    Weights are loaded in ``dtype``; what learns is float32, as PEFT makes its adapters.
    """
    network = PaliGemmaForConditionalGeneration.from_pretrained(checkpoint, dtype=dtype)
    processor = PaliGemmaProcessor(
        image_processor=image_processor(network.config.vision_config.image_size),
        tokenizer=AutoTokenizer.from_pretrained(checkpoint),
    )
    return adapted(network, adapters=adapters), processor


def adapted(network: Any, *, adapters: bool) -> Any:
    """The network with everything frozen but the projector and, where wanted, new adapters."""
    network.requires_grad_(False)
    network.model.multi_modal_projector.float()
    if not adapters:
        network.model.multi_modal_projector.requires_grad_(True)
        return network
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=target_pattern(("vision_encoder", "language_model"), "attention"),
        modules_to_save=["multi_modal_projector"],
    )
    torch.manual_seed(0)
    return get_peft_model(network, config)


def collator(processor: PaliGemmaProcessor) -> Callable[[Sequence[VqaSample]], dict[str, Tensor]]:
    """The documentation's collator: pictures opened from their files, prompt and answer given to the processor."""

    def collate(samples: Sequence[VqaSample]) -> dict[str, Tensor]:
        batch = processor(
            text=[f"<image>answer {sample.language} {sample.question}" for sample in samples],
            images=[Image.open(sample.image).convert("RGB") for sample in samples],
            suffix=[sample.answers[0] for sample in samples],
            return_tensors="pt",
            padding="longest",
        )
        return dict(batch)

    return collate


class _Recording(Trainer):
    """The stock trainer, with the loss of every step kept unrounded."""

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        self.losses.append(float(loss))
        return loss


class _AfterStep(TrainerCallback):
    def __init__(self, call: Callable[[int], None]) -> None:
        self._call = call

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        pass

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._call(state.global_step)


def train_plainly(
    network: Any,
    processor: PaliGemmaProcessor,
    samples: Sequence[VqaSample],
    *,
    batch_size: int,
    updates: int,
    rate: float,
    bf16: bool,
    after_step: Callable[[int], None],
) -> list[float]:
    """Train on the samples in their order; the loss of every update. ``after_step`` is told its number, from 1."""
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch_size,
            max_steps=updates,
            learning_rate=rate,
            lr_scheduler_type="constant",
            adam_beta2=0.99,
            weight_decay=0.0,
            max_grad_norm=1.0,
            bf16=bf16,
            use_cpu=not torch.cuda.is_available(),
            train_sampling_strategy="sequential",
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
        )
        trainer = _Recording(
            model=network,
            args=settings,
            train_dataset=list(samples),
            data_collator=collator(processor),
            callbacks=[_AfterStep(after_step)],
        )
        trainer.losses = []
        trainer.train()
    return trainer.losses
