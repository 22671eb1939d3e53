"""Print the GFLOP/s of a matrix product in fp32 and in bfloat16, on one thread and on all.

Example:
    python -m benchmarks.precision
"""

import os

import torch

from benchmarks.train_speed import matmul_peak


def main() -> None:
    """Print a row per number of threads."""
    print(f"AMX: {torch.cpu._is_amx_tile_supported()}, AVX-512 bfloat16: {torch.cpu._is_avx512_bf16_supported()}")
    for threads in sorted({1, os.cpu_count() or 1}):
        torch.set_num_threads(threads)
        fp32, bf16 = (matmul_peak("cpu", precision) / 1e9 for precision in ("fp32", "bf16"))
        print(f"{threads} threads: fp32 {fp32:.0f} GFLOP/s, bfloat16 {bf16:.0f} GFLOP/s, ratio {bf16 / fp32:.2f}")


if __name__ == "__main__":
    main()
