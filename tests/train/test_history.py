import json

import pytest

from radvqa.train.history import History, SourceRecord, UpdateRecord


def record(update):
    source = SourceRecord(weight=1.0, rows=2, questions=2, loss=0.5, seen=2 * update, epoch=update / 3)
    return UpdateRecord(
        update=update, loss=0.5, learning_rate=1e-3, grad_norm=1.0, questions=2, seconds=0.1, sources={"d": source}
    )


def look(update, real):
    return [
        {"update": update, "condition": "real", "overall": real},
        {"update": update, "condition": "blank", "overall": 0.9},
    ]


def test_lines_behind_the_checkpoint_are_forgotten(tmp_path):
    history = History(tmp_path, last=0)
    for update in range(1, 6):
        history.add(record(update))
        history.look(look(update, 0.1 * update))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"update": 6, "lo')
    again = History(tmp_path, last=3)
    assert again.updates == [record(update) for update in (1, 2, 3)]
    assert again.best() == 3
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    assert [json.loads(line)["update"] for line in (tmp_path / "watch.jsonl").read_text().splitlines()] == [
        1, 1, 2, 2, 3, 3,
    ]  # fmt: skip


def test_a_follower_writes_nothing(tmp_path):
    history = History(tmp_path, last=0, write=False)
    history.add(record(1))
    history.look(look(1, 0.5))
    assert history.best() == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("scores", "best", "since"),
    [((0.1, 0.3, 0.2), 2, 1), ((0.3, 0.3, 0.3), 1, 2), ((0.1, 0.2, 0.3), 3, 0), ((), None, 0)],
)
def test_the_best_look_is_the_earliest_of_equals_and_blank_images_do_not_count(tmp_path, scores, best, since):
    history = History(tmp_path, last=0)
    for update, score in enumerate(scores, start=1):
        assert history.would_be_best(look(update, score)) == (update == 1 or score > max(scores[: update - 1]))
        history.look(look(update, score))
    assert history.best() == best
    assert history.best(until=1) == (1 if scores else None)
    assert history.without_a_better_one() == since
