"""A tiny random PaliGemma checkpoint: every code path in milliseconds, no download, nothing learned."""

import tempfile
from pathlib import Path

import torch
from platformdirs import user_cache_path
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GemmaConfig, PaliGemmaConfig, PaliGemmaForConditionalGeneration, SiglipVisionConfig
from transformers import PreTrainedTokenizerFast as FastTokenizer

from radvqa.records import settle

SPECIAL = ("<pad>", "<eos>", "<bos>", "<image>")
IMAGE_SIZE = 56


def write_tiny_base(folder: Path, *, seed: int = 0) -> None:
    """Write a byte-level tiny checkpoint (16 image tokens, 2 + 3 layers) in the layout of a real one."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIAL))
    tokenizer = FastTokenizer(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        additional_special_tokens=["<image>"],
    )
    text = GemmaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    vision = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=IMAGE_SIZE,
        patch_size=14,
        vision_use_head=False,
        projection_dim=32,
    )
    config = PaliGemmaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        projection_dim=32,
        hidden_size=32,
        image_token_index=3,
        vocab_size=len(vocabulary),
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    network = PaliGemmaForConditionalGeneration(config)
    for name, parameter in network.named_parameters():
        # The default deviation of 0.02 gives logits too flat to tell masks apart.
        if parameter.ndim > 1 and "position" not in name:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def tiny_base() -> Path:
    """Folder of the tiny checkpoint in the user's cache, written on first use."""
    folder = user_cache_path("radvqa") / "tiny-v1"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as workplace:
            write_tiny_base(Path(workplace) / "base")
            settle(Path(workplace) / "base", folder)
    return folder
