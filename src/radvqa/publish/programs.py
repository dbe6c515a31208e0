"""The short program a model card shows: how to ask the published weights without radvqa."""

from collections.abc import Mapping
from typing import Any

_ADAPTER = """model = PeftModel.from_pretrained(network, folder).eval()
"""
_PROJECTOR = """network.model.multi_modal_projector.load_state_dict(load_file(f"{folder}/projector.safetensors"))
model = network.eval()
"""
_CHECKPOINT = """model = network.eval()
"""
_SQUASHED = """image = Image.open(picture).convert("RGB")
"""
_PADDED = """image = Image.open(picture).convert("RGB")
size = processor.image_processor.size["height"]
scale = size / max(image.size)
image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
square = Image.new("RGB", (size, size))  # the picture lies centred on black
square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
image = square
"""
_PROMPT = """text = f"<image>answer {language} {' '.join(question.split())}"
inputs = processor(images=image, text=text, return_tensors="pt").to(device)
never = [network.config.image_token_id, processor.tokenizer.bos_token_id]
"""
_PER_QUESTION = """inputs.pop("labels", None)
with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
    new = model.generate(**inputs, max_new_tokens=longest, do_sample=False, suppress_tokens=never)
print(processor.decode(new[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip())
"""
_SHARED_IMAGE = """ids, pixels = inputs["input_ids"], inputs["pixel_values"]
shared = processor.image_seq_length + 1  # image tokens and <bos>
prompt = ids.shape[1]
for _ in range(longest):
    n = ids.shape[1]
    allowed = torch.ones(n, n, device=device).tril().bool()  # the answer is causal
    allowed[:prompt, :prompt] = True  # the prompt sees itself fully ...
    allowed[:shared, shared:] = False  # ... but image and <bos> do not see the question
    mask = torch.zeros(n, n, dtype=dtype, device=device).masked_fill(~allowed, torch.finfo(dtype).min)
    with torch.no_grad(), torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
        logits = model(input_ids=ids, pixel_values=pixels, attention_mask=mask[None, None]).logits[0, -1].float()
    logits[never] = -torch.inf
    ids = torch.cat([ids, logits.argmax()[None, None]], dim=1)
    if ids[0, -1] == processor.tokenizer.eos_token_id:
        break
print(processor.decode(ids[0, prompt:], skip_special_tokens=True).strip())
"""


def plain_program(manifest: Mapping[str, Any]) -> str:
    """A program that takes the folder of published weights, a picture and a question, and prints the answer.

    It needs torch, transformers, Pillow and, for an adapter, peft. Where the base has no name on the hub, its folder
    is the second argument.
    """
    kind, base = manifest["kind"], manifest["base"]
    imports = ["import sys", "", "import torch"]
    if kind == "adapter":
        imports.append("from peft import PeftModel")
    imports.append("from PIL import Image")
    if kind == "projector":
        imports.append("from safetensors.torch import load_file")
    imports.append("from transformers import AutoProcessor, PaliGemmaForConditionalGeneration")
    arguments = ["folder", *(["base"] if needs_base_folder(manifest) else []), "picture", "question"]
    source = "folder" if kind == "checkpoint" else "base"
    options = ""
    languages = manifest.get("languages") or ["en"]
    others = f"  # the question's, one of {', '.join(languages)}" if len(languages) > 1 else ""
    lines = [
        *imports,
        "",
        f"{', '.join(arguments)} = sys.argv[1:]",
        f'language = "{languages[0]}"{others}',
        f"longest = {manifest.get('max_new_tokens', 24)}  # tokens of an answer",
        'device = "cuda" if torch.cuda.is_available() else "cpu"',
        f"dtype = torch.{manifest['compute_dtype']}",
    ]
    if kind != "checkpoint" and base["revision"] is not None:
        lines.append(f'base, options = "{base["checkpoint"]}", {{"revision": "{base["revision"]}"}}')
        options = ", **options"
    lines.append(
        f"network = PaliGemmaForConditionalGeneration.from_pretrained({source}{options}, dtype=dtype).to(device)"
    )
    text = "\n".join(lines) + "\n"
    text += {"adapter": _ADAPTER, "projector": _PROJECTOR, "checkpoint": _CHECKPOINT}[kind]
    text += "processor = AutoProcessor.from_pretrained(folder)\n\n"
    text += _PADDED if manifest["images"]["aspect"] == "pad" else _SQUASHED
    return text + _PROMPT + (_PER_QUESTION if manifest["layout"] == "per_question" else _SHARED_IMAGE)


def needs_base_folder(manifest: Mapping[str, Any]) -> bool:
    """Whether the weights belong to a base that is a folder, not a name on the hub."""
    return manifest["kind"] != "checkpoint" and manifest["base"]["revision"] is None
