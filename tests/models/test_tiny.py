import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, PaliGemmaForConditionalGeneration

from radvqa.models.tiny import IMAGE_SIZE, tiny_base, write_tiny_base


def test_the_folder_is_a_plain_checkpoint(tiny_folder):
    network = PaliGemmaForConditionalGeneration.from_pretrained(tiny_folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    config = network.config
    assert config.image_token_id == tokenizer.convert_tokens_to_ids("<image>") == 3
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, 1, 2)
    assert config.text_config.vocab_size == len(tokenizer) == 4 + 256
    assert config.vision_config.image_size == IMAGE_SIZE
    assert network.lm_head.weight is network.model.language_model.embed_tokens.weight


def test_texts_come_back_byte_by_byte(tiny_folder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    for text in ("answer en Is there a mass?\n", "肺 é"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert len(ids) == len(text.encode())
        assert tokenizer.decode(ids) == text


def test_the_same_seed_gives_the_same_weights(tmp_path):
    states = []
    for name, noise, seed in (("a", 1, 0), ("b", 2, 0), ("c", 1, 1)):
        torch.manual_seed(noise)
        write_tiny_base(tmp_path / name, seed=seed)
        states.append(load_file(tmp_path / name / "model.safetensors"))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_it_is_written_once(tiny_folder):
    before = (tiny_folder / "model.safetensors").stat().st_mtime_ns
    assert tiny_base() == tiny_folder
    assert (tiny_folder / "model.safetensors").stat().st_mtime_ns == before
