"""Print the GFLOP/s of a linear layer of the text encoder in fp32 and in bfloat16, on one thread and on all.

Example:
    python -m benchmarks.precision
"""

import os
import time

import torch

ROWS, INPUTS, OUTPUTS = 600, 384, 1536
ROUNDS = 30


def gflops(dtype: torch.dtype) -> float:
    """Return the speed of the layer's product in `dtype`."""
    rows, weights = torch.randn(ROWS, INPUTS).to(dtype), torch.randn(OUTPUTS, INPUTS).to(dtype)
    torch.nn.functional.linear(rows, weights)
    start = time.perf_counter()
    for _ in range(ROUNDS):
        torch.nn.functional.linear(rows, weights)
    return 2 * ROWS * INPUTS * OUTPUTS * ROUNDS / (time.perf_counter() - start) / 1e9


def main() -> None:
    """Print a row per number of threads."""
    print(f"AMX: {torch.cpu._is_amx_tile_supported()}, AVX-512 bfloat16: {torch.cpu._is_avx512_bf16_supported()}")
    for threads in sorted({1, os.cpu_count() or 1}):
        torch.set_num_threads(threads)
        fp32, bf16 = gflops(torch.float32), gflops(torch.bfloat16)
        print(f"{threads} threads: fp32 {fp32:.0f} GFLOP/s, bfloat16 {bf16:.0f} GFLOP/s, ratio {bf16 / fp32:.2f}")


if __name__ == "__main__":
    main()
