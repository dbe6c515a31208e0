"""The processor files beside published weights: pictures and prompts become what the network was trained on."""

import copy
from pathlib import Path
from typing import Any

from transformers import PaliGemmaProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from radvqa.models.vlm import Vlm


def paligemma_processor(tokenizer: Any, *, image_size: int, image_tokens: int) -> PaliGemmaProcessor:
    """PaliGemma's processor as radvqa prepares pictures: RGB, squashed to a square (bicubic), (x/255 - 0.5)/0.5.

    The tokenizer is copied, because the processor adds location tokens to its own.
    """
    pictures = SiglipImageProcessorPil(
        size={"height": image_size, "width": image_size},
        resample=3,
        do_convert_rgb=True,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    pictures.image_seq_length = image_tokens
    return PaliGemmaProcessor(image_processor=pictures, tokenizer=copy.deepcopy(tokenizer))


def write_processor(vlm: Vlm, folder: Path) -> None:
    """Write tokenizer and processor, so that ``AutoProcessor.from_pretrained(folder)`` finds them.

    The picture part is written twice: ``processor_config.json`` is read by transformers 5,
    ``preprocessor_config.json`` by transformers 4.
    """
    processor = paligemma_processor(vlm.tokenizer, image_size=vlm.image_size, image_tokens=vlm.tokens.image_tokens)
    processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
