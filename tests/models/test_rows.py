from dataclasses import replace

import numpy as np
import pytest

from radvqa.errors import ModelError
from radvqa.models.rows import SampleRows
from radvqa.records import RecordFile, write_records
from radvqa.sample import VqaSample


@pytest.fixture
def mixed(samples, tmp_path):
    """Two files whose questions of one image do not lie together."""
    parts = (samples[::2], samples[1::2])
    files = []
    for number, part in enumerate(parts):
        write_records(tmp_path / f"{number}.jsonl", part)
        files.append(RecordFile(tmp_path / f"{number}.jsonl", VqaSample))
    return [*parts[0], *parts[1]], files


def test_rows_are_those_of_the_samples_in_their_order(vlm, mixed):
    samples, files = mixed
    rows = SampleRows(vlm, files)
    assert list(rows) == vlm.rows(samples, answers=True)
    assert rows.images == list(dict.fromkeys(sample.image for sample in samples))
    assert rows.questions == len(samples)


def test_some_of_the_samples(vlm, mixed):
    samples, files = mixed
    kept = np.array([0, 3, 4, 9, 13])
    rows = SampleRows(vlm, files, kept=kept)
    assert list(rows) == vlm.rows([samples[place] for place in kept], answers=True)
    with pytest.raises(IndexError):
        rows[len(rows)]


def test_the_longest_rows_come_first(vlm, mixed):
    _, files = mixed
    rows = SampleRows(vlm, files)
    found = [rows[index] for index in rows.longest(len(rows))]

    def size(row):
        return sum(len(question.prompt) + len(question.answer) for question in row.questions)

    assert sorted(map(size, found), reverse=True)[0] == size(found[0])
    assert len(rows.longest(3)) == 3


def test_special_tokens_in_a_text_are_found_before_training(per_question, samples, tmp_path):
    bad = replace(samples[3], question="What does <image> show?")
    write_records(tmp_path / "bad.jsonl", [*samples[:3], bad, *samples[4:]])
    file = RecordFile(tmp_path / "bad.jsonl", VqaSample)
    with pytest.raises(ModelError, match="special token") as caught:
        SampleRows(per_question, [file])
    assert caught.value.where == bad.sample_id
    assert len(SampleRows(per_question, [file], kept=np.array([0, 1, 2, 4]))) == 4
