"""Run as a program of its own: loads published weights with transformers and peft alone and measures their logits.

``python -P plain_loader.py EXCHANGE``, where the safetensors file EXCHANGE holds for each question n ``pixels.n``
(y, x, 3), ``ids.n`` and ``logits.n`` (answer tokens, vocabulary), and says in its metadata what to load. Writes one
JSON object to stdout. Nothing of radvqa is imported, so that what loads here loads anywhere.
"""

import json
import sys
from typing import Any

import torch
from peft import PeftModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoProcessor, PaliGemmaForConditionalGeneration


def load(facts: dict[str, Any], device: str, dtype: torch.dtype) -> Any:
    """The network with what was learned; every stored tensor must have found its place."""
    folder, kind = facts["folder"], facts["kind"]
    source, revision = (folder, None) if kind == "checkpoint" else (facts["base"], facts["revision"])
    network, told = PaliGemmaForConditionalGeneration.from_pretrained(
        source, revision=revision, dtype=dtype, output_loading_info=True
    )
    for name in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if told[name]:
            raise SystemExit(f"{name} in {source}: {sorted(told[name])[:3]}")
    network = network.to(device)
    if kind == "projector":
        network.model.multi_modal_projector.load_state_dict(load_file(f"{folder}/projector.safetensors"))
    if kind != "adapter":
        return network.eval()
    stored = load_file(f"{folder}/adapter_model.safetensors")
    model = PeftModel.from_pretrained(network, folder).eval()
    modules = {name.rpartition(".lora_A.")[0] for name, _ in model.named_parameters() if ".lora_A." in name}
    expected = sum(".lora_A." in name for name in stored)
    if len(modules) != expected:
        raise SystemExit(
            f"adapter_config.json reaches {len(modules)} modules, adapter_model.safetensors has weights for {expected}"
        )
    return model


def with_shared_image_mask(inputs: Any, *, image_tokens: int, dtype: torch.dtype) -> Any:
    """The inputs with the 4-D mask under which image and ``<bos>`` do not see the question."""
    types = inputs.pop("token_type_ids")[0]
    length, shared = len(types), image_tokens + 1
    allowed = torch.ones(length, length).tril().bool()
    allowed[:, types == 0] = True
    allowed[types == 0] = types == 0
    allowed[:shared, shared:] = False
    mask = torch.zeros(length, length, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
    inputs["attention_mask"] = mask[None, None]
    return inputs


def measure(exchange: str) -> dict[str, float]:
    """The largest difference to the logits of the exchange, and the largest of those."""
    with safe_open(exchange, framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, facts["dtype"])
    model = load(facts, device, dtype)
    processor = AutoProcessor.from_pretrained(facts["folder"])
    difference = scale = 0.0
    for number, (question, answer) in enumerate(facts["questions"]):
        pixels, logits = tensors[f"pixels.{number}"], tensors[f"logits.{number}"]
        picture = Image.fromarray(pixels.numpy())
        inputs = processor(images=picture, text=f"<image>answer en {question}", suffix=answer, return_tensors="pt")
        labels = inputs.pop("labels")
        if facts["layout"] == "shared_image":
            inputs = with_shared_image_mask(inputs, image_tokens=processor.image_seq_length, dtype=dtype)
        if inputs["input_ids"][0].tolist() != tensors[f"ids.{number}"].tolist():
            raise SystemExit(f"the processor reads the question {question!r} into other tokens than those trained on")
        with torch.no_grad(), torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            found = model(**inputs.to(device)).logits[0, :-1].float().cpu()
        found = found[labels[0, 1:] != -100]
        difference = max(difference, float((found - logits).abs().max()))
        scale = max(scale, float(logits.abs().max()))
    return {"difference": difference, "scale": scale}


if __name__ == "__main__":
    result = measure(sys.argv[1])
    if strangers := [name for name in sys.modules if name.partition(".")[0] == "radvqa"]:
        raise SystemExit(f"radvqa was imported: {strangers}")
    sys.stdout.write(json.dumps(result) + "\n")
