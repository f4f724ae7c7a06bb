"""`gpt-tui gradcheck`: check all gradients of the model."""

from __future__ import annotations

from argparse import Namespace

import msgspec

from gpt_core import gradcheck as checks
from gpt_core.errors import EXIT_FAILED, EXIT_OK


def gradcheck(options: Namespace) -> int:
    """Run `gpt-tui gradcheck`: compare kernels with the reference, and the reference with central differences."""
    rows = checks.run_gradcheck()
    passed = all(row.passed for row in rows)
    if options.json:
        print(msgspec.json.encode({"passed": passed, "tensors": rows}).decode())  # NaN as null
        return EXIT_OK if passed else EXIT_FAILED
    width = max(len(row.tensor) for row in rows)
    kind = max(len(row.architecture) for row in rows)
    print(f"{'architecture':<{kind}}  {'tensor':<{width}}  {'shape':>9}  {'reference':>11}  {'kernels':>8}")
    for row in rows:
        shape = " x ".join(map(str, row.shape))
        verdict = "" if row.passed else "  WRONG"
        errors = f"{row.reference_error:>11.1e}  {row.kernel_error:>8.1e}{verdict}"
        print(f"{row.architecture:<{kind}}  {row.tensor:<{width}}  {shape:>9}  {errors}")
    print(
        f"\nreference: relative error of the reference against central differences, limit {checks.REFERENCE_LIMIT:g}\n"
        f"kernels: relative error of the kernels against the reference, limit {checks.KERNEL_LIMIT:g}"
    )
    wrong = sum(not row.passed for row in rows)
    print(f"all {len(rows)} gradients are correct" if passed else f"{wrong} of {len(rows)} gradients are WRONG")
    return EXIT_OK if passed else EXIT_FAILED
