import pytest
import torch
from torch import nn

from radvqa.errors import RunError, TrainError
from radvqa.train.checkpoint import (
    drop_best_but,
    load_best,
    load_newest_state,
    save_best,
    save_state,
    trainable_parameters,
)


def network(seed):
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    made[0].bias.requires_grad_(False)
    return made


def optimiser_of(made):
    return torch.optim.AdamW(trainable_parameters(made).values(), lr=0.1)


def steps(made, optimiser, count, *, seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        made(torch.randn(5, 3, generator=generator)).square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()


@pytest.fixture
def trained(tmp_path):
    made = network(0)
    optimiser = optimiser_of(made)
    steps(made, optimiser, 4, seed=1)
    save_state(tmp_path / "state", 4, trainable_parameters(made), optimiser)
    return made, optimiser, tmp_path / "state"


def restored(folder, seed=9):
    made = network(seed)
    optimiser = optimiser_of(made)
    return made, optimiser, load_newest_state(folder, trainable_parameters(made), optimiser)


def test_parameters_and_moments_come_back_exactly(trained):
    made, optimiser, folder = trained
    again, again_optimiser, update = restored(folder)
    assert update == 4
    for name, parameter in trainable_parameters(made).items():
        copy = trainable_parameters(again)[name]
        assert torch.equal(parameter, copy)
        moments, copied = optimiser.state[parameter], again_optimiser.state[copy]
        assert moments.keys() == copied.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(moments[key], copied[key]) for key in moments)


def test_training_goes_on_as_if_nothing_had_happened(trained):
    made, optimiser, folder = trained
    again, again_optimiser, _ = restored(folder)
    again[0].bias.data.copy_(made[0].bias)  # frozen weights come from the base, not from the checkpoint
    for some, its_optimiser in ((made, optimiser), (again, again_optimiser)):
        steps(some, its_optimiser, 3, seed=2)
    assert all(torch.equal(one, other) for one, other in zip(made.parameters(), again.parameters(), strict=True))


def test_nothing_there_starts_at_zero(tmp_path):
    made, _, update = restored(tmp_path / "state")
    assert update == 0
    assert torch.equal(made[1].weight, network(9)[1].weight)


def test_the_newest_two_are_kept(trained):
    made, optimiser, folder = trained
    for update in (8, 100, 1000):
        save_state(folder, update, trainable_parameters(made), optimiser)
    assert sorted(path.name for path in folder.iterdir()) == [
        "update-00000100.safetensors",
        "update-00001000.safetensors",
    ]
    assert restored(folder)[2] == 1000


@pytest.mark.parametrize("damage", ["cut", "empty", "other bytes", "one bit"])
def test_a_damaged_newest_file_gives_way_to_the_one_before(trained, damage):
    made, optimiser, folder = trained
    steps(made, optimiser, 2, seed=3)
    save_state(folder, 6, trainable_parameters(made), optimiser)
    file = folder / "update-00000006.safetensors"
    content = file.read_bytes()
    flipped = bytes([*content[:-3], content[-3] ^ 4, *content[-2:]])
    file.write_bytes(
        {"cut": content[:-7], "empty": b"", "other bytes": b"\xff" * len(content), "one bit": flipped}[damage]
    )
    again, said = network(9), []
    update = load_newest_state(folder, trainable_parameters(again), optimiser_of(again), say=said.append)
    assert update == 4
    (line,) = said
    assert str(file) in line
    assert "is damaged" in line
    assert "the one before is taken" in line
    assert sorted(path.name for path in folder.iterdir()) == [
        "update-00000004.safetensors",
        "update-00000006.damaged",
    ]


def test_a_stage_whose_only_checkpoint_is_damaged_begins_anew_and_says_so(trained):
    _, _, folder = trained
    (folder / "update-00000004.safetensors").write_bytes(b"")
    again, said = network(9), []
    assert load_newest_state(folder, trainable_parameters(again), optimiser_of(again), say=said.append) == 0
    assert len(said) == 1
    assert torch.equal(again[1].weight, network(9)[1].weight)


def test_the_weights_of_the_best_look_come_back(trained):
    made, optimiser, folder = trained
    best = {name: one.detach().clone() for name, one in trainable_parameters(made).items()}
    save_best(folder, 4, trainable_parameters(made))
    steps(made, optimiser, 2, seed=3)
    save_best(folder, 6, trainable_parameters(made))
    load_best(folder, 4, trainable_parameters(made))
    assert all(torch.equal(best[name], one) for name, one in trainable_parameters(made).items())
    drop_best_but(folder, {6, None})
    with pytest.raises(TrainError, match="best look are damaged or not there"):
        load_best(folder, 4, trainable_parameters(made))
    assert (folder / "best-00000006.safetensors").is_file()


def test_parameters_of_another_stage_are_refused(trained):
    _, _, folder = trained
    made = network(9)
    made[0].bias.requires_grad_(True)
    with pytest.raises(TrainError, match="other parameters than this stage trains") as caught:
        load_newest_state(folder, trainable_parameters(made), optimiser_of(made))
    assert caught.value.expected == "4 tensors"
    assert caught.value.got == "3 tensors, 3 of them known"


def test_a_folder_that_cannot_be_written_keeps_what_it_has(trained, monkeypatch):
    made, optimiser, folder = trained
    (folder / ".update-00000008.safetensors.partial").mkdir()  # stands in the way
    with pytest.raises(RunError, match="cannot write"):
        save_state(folder, 8, trainable_parameters(made), optimiser)
    assert restored(folder)[2] == 4
