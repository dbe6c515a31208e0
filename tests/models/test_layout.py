from dataclasses import replace
from pathlib import Path

import pytest
import torch

from radvqa.errors import ModelError
from radvqa.models.layout import (
    IGNORE_INDEX,
    PADDING,
    Question,
    Row,
    Tokens,
    additive_mask,
    attention_inputs,
    lay_out,
    prompt_text,
    require_prefix_lm,
    shared_image_mask,
)

TOKENS = Tokens(image_tokens=2, image_id=90, bos_id=91, eos_id=92, pad_id=92)  # pad = eos, as in the embedded base
IMAGE, BOS, EOS, PAD = 90, 91, 92, 92
NO = IGNORE_INDEX
FIRST = Question("q1", (10, 11, 13), (20, 21, EOS))  # 13 stands for the newline
SECOND = Question("q2", (12, 13), (22, EOS))


def row(*questions):
    return Row(Path("a.png"), questions)


def laid_out(*rows, layout="per_question"):
    return lay_out(rows, layout=layout, tokens=TOKENS)


def table(mask):
    """A mask as text, one line per query: # may attend, . may not."""
    return ["".join("#" if cell else "." for cell in line) for line in mask.tolist()]


def test_tokens_labels_and_positions_of_one_question():
    batch = laid_out(row(FIRST))
    assert batch.input_ids.tolist() == [[IMAGE, IMAGE, BOS, 10, 11, 13, 20, 21, EOS]]
    assert batch.labels.tolist() == [[NO] * 6 + [20, 21, EOS]]
    assert batch.suffix.tolist() == [[False] * 6 + [True] * 3]
    assert batch.position_ids.tolist() == [list(range(1, 10))]
    assert batch.block.tolist() == [[0, 0, 0] + [1] * 6]


def test_the_position_before_each_answer_token_predicts_it():
    batch = laid_out(row(FIRST), row(SECOND))
    places = batch.predicting.nonzero().tolist()
    # The newline predicts the first answer token, the last answer word the end token; the end token predicts nothing.
    assert places == [[0, 5], [0, 6], [0, 7], [1, 4], [1, 5]]
    following = [int(batch.input_ids[line, place + 1]) for line, place in places]
    assert following == batch.targets.tolist() == [20, 21, EOS, 22, EOS]
    assert batch.target_lengths == [3, 2]


def test_every_question_block_starts_behind_bos():
    batch = laid_out(row(FIRST, SECOND), layout="shared_image")
    assert batch.input_ids.tolist() == [[IMAGE, IMAGE, BOS, 10, 11, 13, 20, 21, EOS, 12, 13, 22, EOS]]
    assert batch.position_ids.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9, 4, 5, 6, 7]]
    assert batch.block.tolist() == [[0, 0, 0] + [1] * 6 + [2] * 4]
    assert batch.labels.tolist() == [[NO] * 6 + [20, 21, EOS, NO, NO, 22, EOS]]
    assert batch.targets.tolist() == [20, 21, EOS, 22, EOS]
    assert batch.predicting.nonzero()[:, 1].tolist() == [5, 6, 7, 10, 11]
    assert batch.target_lengths == [3, 2]


def test_padding_is_no_label_although_it_is_the_end_token():
    batch = laid_out(row(FIRST), row(SECOND))
    assert batch.input_ids.tolist()[1] == [IMAGE, IMAGE, BOS, 12, 13, 22, EOS, PAD, PAD]
    assert batch.labels.tolist()[1] == [NO] * 5 + [22, EOS, NO, NO]
    assert batch.valid.tolist()[1] == [True] * 7 + [False] * 2
    assert batch.block.tolist()[1][-2:] == [PADDING] * 2
    assert not batch.suffix[1, -2:].any()
    assert not batch.predicting[1, -3:].any()  # neither the end token nor padding predicts
    assert attention_inputs(batch, torch.float32)["attention_mask"].tolist() == [[1] * 9, [1] * 7 + [0] * 2]


def test_prompts_without_answers_have_nothing_supervised():
    batch = laid_out(row(replace(FIRST, answer=())))
    assert batch.input_ids.tolist() == [[IMAGE, IMAGE, BOS, 10, 11, 13]]
    assert not batch.suffix.any()
    assert not batch.predicting.any()
    assert batch.targets.tolist() == []


def test_per_question_mask_is_stated_by_token_types():
    """0 for everything that sees everything before the answer, 1 for the causal answer."""
    batch = laid_out(row(FIRST), row(SECOND))
    types = attention_inputs(batch, torch.float32)["token_type_ids"].tolist()
    assert types == [[0] * 6 + [1] * 3, [0] * 5 + [1] * 2 + [0] * 2]


def test_shared_image_mask():
    batch = laid_out(row(FIRST, SECOND), row(SECOND), layout="shared_image")
    first, second = shared_image_mask(batch)
    assert table(first) == [
        "###..........",  # image
        "###..........",
        "###..........",  # bos
        "######.......",  # question 1: image, bos and the whole question
        "######.......",
        "######.......",
        "#######......",  # answer 1: its question, and itself so far
        "########.....",
        "#########....",
        "###......##..",  # question 2: nothing of question 1
        "###......##..",
        "###......###.",
        "###......####",
    ]
    assert table(second) == [
        "###..........",
        "###..........",
        "###..........",
        "#####........",
        "#####........",
        "######.......",
        "#######......",
        *("." * place + "#" + "." * (12 - place) for place in range(7, 13)),  # padding sees itself alone
    ]


def test_additive_mask_is_zero_where_attention_is_allowed():
    mask = additive_mask(torch.tensor([[[True, False]]]), torch.bfloat16)
    assert mask.shape == (1, 1, 1, 2)
    assert mask.dtype == torch.bfloat16
    assert mask.flatten().tolist() == [0.0, torch.finfo(torch.bfloat16).min]
    given = attention_inputs(laid_out(row(FIRST, SECOND), layout="shared_image"), torch.float32)
    assert set(given) == {"attention_mask"}
    assert given["attention_mask"].shape == (1, 1, 13, 13)


def test_missing_token_types_are_refused():
    batch = laid_out(row(FIRST))
    with pytest.raises(ModelError, match="token_type_ids are missing: the answer would leak"):
        require_prefix_lm({"attention_mask": batch.valid.long()}, batch.labels)


@pytest.mark.parametrize("change", ["all zero", "one too early", "one too late"])
def test_wrong_token_types_are_refused(change):
    batch = laid_out(row(FIRST))
    types = batch.suffix.long()
    types = torch.zeros_like(types) if change == "all zero" else types.roll(-1 if change == "one too early" else 1)
    with pytest.raises(ModelError, match="do not mark the supervised positions"):
        require_prefix_lm({"token_type_ids": types}, batch.labels)


def test_prompt_is_one_line_with_one_newline_at_its_end():
    assert prompt_text(" Is there\n a mass? \n", "en") == "answer en Is there a mass?\n"
    assert prompt_text("肺在哪里?", "zh") == "answer zh 肺在哪里?\n"


@pytest.mark.parametrize(
    ("rows", "layout", "message"),
    [
        ([], "per_question", "at least one row"),
        ([row()], "shared_image", "wrong number of questions"),
        ([row(FIRST, SECOND)], "per_question", "wrong number of questions"),
        ([row(Question("q9", (), (EOS,)))], "per_question", "no prompt tokens"),
    ],
)
def test_rows_that_cannot_be_laid_out(rows, layout, message):
    with pytest.raises(ModelError, match=message):
        lay_out(rows, layout=layout, tokens=TOKENS)


def test_moving_a_batch_keeps_it():
    batch = laid_out(row(FIRST))
    moved = batch.to(torch.device("cpu"))
    assert moved.rows == batch.rows
    assert moved.layout == batch.layout
    assert torch.equal(moved.labels, batch.labels)
    assert torch.equal(moved.suffix, batch.suffix)
