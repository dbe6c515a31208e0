"""Run as a program: bytes that training steps of a random network of 100 million weights take, and what is told."""

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.nn.functional import cross_entropy
from transformers import GemmaConfig, PaliGemmaConfig, PaliGemmaForConditionalGeneration, SiglipVisionConfig

from radvqa.models.cost import Learning, Rows, Running, step_memory
from radvqa.models.geometry import parse_geometry
from radvqa.models.layout import Question, Row
from radvqa.models.lora import attach_lora
from radvqa.models.vlm import Vision, Vlm

ROWS, PROMPT, ANSWER, VOCABULARY = 2, 30, 40, 16_384
IDS = SimpleNamespace(pad_token_id=0, eos_token_id=1, bos_token_id=2)


def network() -> Vlm:
    text = GemmaConfig(
        vocab_size=VOCABULARY,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=1,
        head_dim=96,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    vision = SiglipVisionConfig(
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=6,
        num_attention_heads=8,
        image_size=224,
        patch_size=14,
        vision_use_head=False,
    )
    config = PaliGemmaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        projection_dim=768,
        hidden_size=768,
        image_token_index=3,
        vocab_size=VOCABULARY,
    )
    made = PaliGemmaForConditionalGeneration(config).requires_grad_(False).eval()
    return Vlm(made, IDS, name="random")


def resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def main(mode: str, checkpointing: bool) -> None:
    torch.set_num_threads(1)
    vlm = network()
    learning = Learning(projector=True)
    vlm.projector.requires_grad_(True)
    if mode == "adapters":
        parts = ("vision_encoder", "language_model")
        learning = Learning(projector=True, rank=8, adapted=parts)
        attach_lora(
            vlm, rank=8, alpha=1, dropout=0, targets="attention", parts=parts, base_name="b", revision=None, seed=0
        )
    if checkpointing:
        vlm.checkpoint_gradients(on=True)
        vlm.network.train()
    question = Question("q", (5,) * PROMPT, (6,) * ANSWER)
    batch = vlm.batch([Row(Path("x.png"), (question,))] * ROWS)
    pixels, seen = torch.zeros(ROWS, 224, 224, 3, dtype=torch.uint8), torch.arange(ROWS)
    vision = Vision(seen, pixels=pixels)
    if mode == "align":
        with torch.no_grad():
            vision = Vision(seen, features=vlm.see(pixels))
    weights = sum(one.numel() * 4 for one in {one.data_ptr(): one for one in vlm.network.parameters()}.values())
    optimiser = torch.optim.AdamW([one for one in vlm.network.parameters() if one.requires_grad])
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    for _ in range(2):
        cross_entropy(vlm.supervised_logits(batch, vision), batch.targets).backward()
    optimiser.step()
    taken = weights + resident("VmHWM") - before
    rows = Rows(rows=ROWS, pictures=ROWS, text=1 + PROMPT + ANSWER, answers=ANSWER)
    running = Running(number=4, checkpointing=checkpointing)
    geometry = parse_geometry(vlm.base.config.to_dict())
    told = step_memory(geometry, learning, running, rows, cached=mode == "align")
    sys.stdout.write(f"{taken} {told.total}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "True")
