"""Names of the map methods, each with one line that says what its map shows. Without torch: pages need only these."""

from collections.abc import Mapping

METHODS: Mapping[str, str] = {
    "raw": "Attention weight of the answer on the image, mean over all layers and heads.",
    "raw_value": "Attention weight times the size of what it carries, mean over all layers.",
    "rollout": "Attention followed through all layers; half of each step stays in place.",
    "rollout_90": "Attention followed through all layers; nine tenths of each step stay in place.",
    "rollout_norm": "Attention followed through all layers; what stays in place is measured at each position.",
    "rollout_value": "Attention times the size of what it carries, followed through all layers.",
    "contrast": "Where this word has more attention than the other words of the answer.",
    "relative": "Attention of this question divided by that of a question that asks for nothing in particular.",
    "attention_gradient": "Attention weight times how much the answer would change with it.",
    "chefer": "Attention times gradient, followed through all layers.",
    "grad_cam": "Which image tokens the answer's probability reacts to, by their gradient.",
    "token_occlusion": "How much less probable the answer becomes when image tokens are hidden.",
    "pixel_occlusion": "How much less probable the answer becomes when a part of the picture is covered.",
    "two_tower": "Rollout through the language model and on through the vision tower. Often only the tower's habits.",
}

DEFAULT_METHODS = tuple(name for name in METHODS if name != "two_tower")
