"""The transformer's operations: one module per operation, each forward pass directly above its backward pass.

Legend of shapes, used everywhere in the project:

    B  batch size             H  number of heads          V  vocabulary size
    T  sequence length        D  head size, C = H * D     L  number of layers
    C  channels (d_model)     F  MLP hidden size          N  rows, N = B * T

Arrays are float32 and row-major (C-contiguous) unless a docstring says otherwise. `d_<name>` is the gradient of the
loss with respect to `<name>` and has its shape. Gradients of parameters are added to the array passed in; gradients of
activations overwrite it, unless a docstring says otherwise.

Every kernel takes NumPy arrays, checks their shapes (ValueError), and then computes without the GIL on
`threads.get_threads()` threads.

Each kernel is compiled once per instruction-set level, and importing this package loads the fastest level that the
processor supports. Set GPT_TUI_LEVEL to baseline, x86_64_v3, x86_64_v4, x86_64_v4_bf16 or x86_64_v4_amx (on Arm to
baseline or aarch64_bf16) to choose another.

The operands of matrix products are float32 or, with `bfloat16=True`, are rounded to bfloat16 as they are packed. Levels
without instructions for bfloat16 emulate them. Activations may be stored in bfloat16, in arrays of uint16 that hold its
bits, where a docstring says so: kernels compute with their values in float32 and round results once.

`docs/kernels.md` explains how the matrix product and attention are made fast; `gpt_core.reference` has every operation
in NumPy.
"""

from gpt_core.kernels._runtime import (
    available_cores,
    compute_threads,
    load_kernels,
    threads_warning,
)

LEVEL = load_kernels(__path__)
"""The instruction-set level of the kernels in use."""

__all__ = ["LEVEL", "available_cores", "compute_threads", "threads_warning"]
