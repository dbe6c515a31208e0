"""The path a user would write from the documentation: ``Trainer``, the stock processor in the collator, PEFT.

It knows nothing of radvqa's layouts, image store or loss; only which modules get adapters is chosen alike.
"""

import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate.state import AcceleratorState
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch import Tensor
from transformers import (
    AutoTokenizer,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from radvqa.models.lora import AdaptedPart, target_pattern
from radvqa.models.processor import paligemma_processor
from radvqa.sample import VqaSample

RANK, ALPHA = 8, 16.0
"""Of the adapters of both paths; without dropout, whose random numbers the two would draw in another order."""

BETAS = (0.9, 0.99)
MAX_GRAD_NORM = 1.0
ADAPTED: tuple[AdaptedPart, ...] = ("vision_encoder", "language_model")


def plain_network(checkpoint: str, *, adapters: bool, dtype: torch.dtype) -> Any:
    """The checkpoint in ``dtype``, its projector learning in float32, with LoRA on both towers where wanted."""
    return adapted(PaliGemmaForConditionalGeneration.from_pretrained(checkpoint, dtype=dtype), adapters=adapters)


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
        target_modules=target_pattern(ADAPTED, "attention"),
        modules_to_save=["multi_modal_projector"],
    )
    torch.manual_seed(0)
    with warnings.catch_warnings():
        # PEFT 0.21 reads an attribute that transformers 5.23 announces as deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(network, config)


def plain_processor(checkpoint: str, *, image_size: int, image_tokens: int) -> PaliGemmaProcessor:
    """PaliGemma's stock processor for a checkpoint."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    return paligemma_processor(tokenizer, image_size=image_size, image_tokens=image_tokens)


def collator(processor: PaliGemmaProcessor) -> Callable[[Sequence[VqaSample]], dict[str, Tensor]]:
    """The documentation's collator: pictures opened from their files, prompt and answer given to the processor."""

    def collate(samples: Sequence[VqaSample]) -> dict[str, Tensor]:
        batch = processor(
            text=[f"<image>answer {sample.language} {' '.join(sample.question.split())}" for sample in samples],
            images=[Image.open(sample.image).convert("RGB") for sample in samples],
            suffix=[sample.answers[0] for sample in samples],
            return_tensors="pt",
            padding="longest",
        )
        return dict(batch)

    return collate


class _LossKeeping(Trainer):  # type: ignore[misc]
    """The stock trainer; the loss of every update is kept, unrounded."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.losses: list[float] = []

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super().training_step(*args, **kwargs)
        self.losses.append(float(loss))
        return loss


class _AfterUpdate(TrainerCallback):  # type: ignore[misc]
    def __init__(self, trainer_losses: Callable[[], Sequence[float]], call: Callable[[int, float], None]) -> None:
        self._losses = trainer_losses
        self._call = call

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._call(state.global_step, self._losses()[-1])


def train_plainly(
    network: Any,
    processor: PaliGemmaProcessor,
    samples: Sequence[VqaSample],
    *,
    batch_size: int,
    updates: int,
    rate: float,
    bf16: bool,
    after_update: Callable[[int, float], None],
) -> None:
    """Train on the samples in their order with ``Trainer``; ``after_update`` gets the update's number and loss."""
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch_size,
            max_steps=updates,
            learning_rate=rate,
            lr_scheduler_type="constant",
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            weight_decay=0.0,
            max_grad_norm=MAX_GRAD_NORM,
            bf16=bf16,
            use_cpu=not torch.cuda.is_available(),
            train_sampling_strategy="sequential",
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = _LossKeeping(
            model=network, args=settings, train_dataset=list(samples), data_collator=collator(processor)
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_AfterUpdate(lambda: trainer.losses, after_update))
        try:
            trainer.train()
        finally:
            # Trainer leaves its precision behind for every later Accelerator of the process.
            AcceleratorState._reset_state(reset_partial_state=True)
