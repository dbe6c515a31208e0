"""How fast this machine multiplies matrices, printed in FLOP/s: ``python -m radvqa.models.speed bfloat16``."""

import sys
import time

import torch

SIDE = 2048


def measured_speed(dtype: torch.dtype, *, seconds: float = 1.0) -> float:
    """FLOP/s of square matrix products on the GPU at hand, else on all cores, over about so many seconds."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    left, right = (torch.randn(SIDE, SIDE, dtype=torch.float32).to(device, dtype) for _ in range(2))

    def multiply(times: int) -> float:
        began = time.perf_counter()
        for _ in range(times):
            product = left @ right
        # Reading a value waits until a GPU has done them all.
        float(product[0, 0])
        return time.perf_counter() - began

    multiply(2)
    times = max(1, round(seconds / multiply(1)))
    return 2 * SIDE**3 * times / multiply(times)


if __name__ == "__main__":
    sys.stdout.write(f"{measured_speed(getattr(torch, sys.argv[1]))}\n")
