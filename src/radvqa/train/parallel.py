"""Several processes that train one model: those that torchrun or ``accelerate launch`` started, or this one alone."""

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, TypeVar, final

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from radvqa.errors import TrainError

T = TypeVar("T")

SHARDED_LAYERS = ("GemmaDecoderLayer", "Gemma2DecoderLayer", "SiglipEncoderLayer")
"""Classes whose instances FSDP2 shards, one unit each; transformers itself names the projector alone."""

_PATIENCE = timedelta(hours=24)
"""Others wait this long while the leader reads data or decodes pictures."""


@final
class Processes:
    """This process among all of a training. The leader (rank 0) alone writes files.

    Args:
        rank: from 0.
        size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    @classmethod
    def join(cls) -> "Processes":
        """The processes that a launcher has started, connected (gloo on CPU, NCCL on GPU); this one alone without."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        state = PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)
        return cls(state.process_index, state.num_processes)

    @property
    def leads(self) -> bool:
        """Whether this process writes files and says what goes on."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.size > 1:
            torch.distributed.barrier()

    def sum(self, values: Tensor) -> Tensor:
        """The sum of these values over all processes, on the CPU."""
        if self.size == 1:
            return values
        device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
        total = values.to(device)
        torch.distributed.all_reduce(total)
        return total.cpu()

    def of_leader(self, value: T) -> T:
        """What the leader has in this place, in every process."""
        if self.size == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, src=0)
        return values[0]

    def share(self, batch_size: int) -> slice:
        """Which places of a batch this process works on.

        Raises:
            TrainError: the batch cannot be shared evenly.
        """
        if batch_size % self.size:
            raise TrainError(
                "the rows of an update cannot be shared evenly",
                where="batch_size",
                expected=f"a multiple of {self.size} processes",
                got=str(batch_size),
                fix="change batch_size, or start another number of processes",
            )
        return slice(self.rank, None, self.size)

    def leave(self) -> None:
        """End the connection; the leader may go on alone."""
        if self.size > 1:
            torch.distributed.destroy_process_group()


ALONE = Processes()
"""A training in this process only."""


def shard(network: nn.Module) -> None:
    """Spread the weights of every decoder and tower layer over the processes (FSDP2); the rest stays whole in each.

    Raises:
        TrainError: the network has no layer of a known class.
    """
    from torch.distributed.fsdp import fully_shard

    layers = [module for module in network.modules() if type(module).__name__ in SHARDED_LAYERS]
    if not layers:
        raise TrainError("no layer to shard was found", expected=" or ".join(SHARDED_LAYERS))
    for layer in layers:
        fully_shard(layer)


def average_whole_gradients(parameters: Iterable[nn.Parameter], processes: Processes) -> None:
    """Average the gradients of parameters that FSDP2 leaves whole; those of sharded ones are averaged already."""
    for parameter in parameters:
        if parameter.grad is not None and not isinstance(parameter, DTensor):
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= processes.size


def whole(tensor: Any) -> Tensor:
    """The full tensor of a sharded one, on every process; others as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, target: Any) -> Tensor:
    """A full tensor in the device and sharding of ``target``."""
    if not isinstance(target, DTensor):
        return tensor.to(target.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(target.device), target.device_mesh, target.placements)
