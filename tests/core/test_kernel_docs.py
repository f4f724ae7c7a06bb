"""The examples in `docs/kernels.md` run, give the right results and use the sizes of the code."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from gpt_core import reference
from gpt_core.gradcheck import relative_error
from gpt_core.kernels import linear

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "kernels.md").read_text()
KERNELS = ROOT / "gpt_core" / "kernels"


@pytest.fixture(scope="module")
def examples():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL):
        exec(block, names)
    return names


@pytest.mark.parametrize("name", ["naive", "tiled", "packed", "threaded"])
@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (15, 3, 33), (30, 10, 40)])
def test_each_example_product_equals_numpy(examples, name, m, k, n):
    random = np.random.default_rng(0)
    A, B = random.normal(size=(m, k)), random.normal(size=(k, n))
    assert relative_error(examples[name](A, B), A @ B) < 1e-14


@pytest.mark.parametrize(("m", "k", "n"), [(113, 4, 1025), (20, 769, 33)])
def test_the_packed_examples_are_right_past_the_edge_of_a_block(examples, m, k, n):
    random = np.random.default_rng(0)
    A, B = random.normal(size=(m, k)), random.normal(size=(k, n))
    for name in ("packed", "threaded"):
        assert relative_error(examples[name](A, B), A @ B) < 1e-13


def test_the_example_in_tiles_equals_numpy(examples):
    random = np.random.default_rng(0)
    A, B = random.normal(size=(32, 96)), random.normal(size=(96, 32))
    assert relative_error(examples["micro_kernel_in_tiles"](A, B), A @ B) < 1e-14


def test_the_bfloat16_example_gives_the_product_of_the_kernels(examples):
    random = np.random.default_rng(0)
    A, B = (random.normal(size=shape).astype(np.float32) for shape in ((30, 41), (41, 40)))
    C = np.empty((30, 40), np.float32)
    linear.product(C, A, B, bfloat16=True)
    assert relative_error(C, examples["packed_bfloat16"](A, B)) < 1e-6


@pytest.mark.parametrize("name", ["naive_attention", "tiled_attention"])
@pytest.mark.parametrize("T", [1, 64, 65, 200])
def test_each_example_attention_equals_the_reference(examples, name, T):
    qkv = np.random.default_rng(0).normal(size=(1, T, 3 * 8))
    q, k, v = np.split(qkv[0], 3, axis=1)
    assert relative_error(examples[name](q, k, v), reference.attention_forward(qkv, 1)[0]) < 1e-13


def test_the_block_sizes_of_the_examples_are_those_of_the_kernels(examples):
    header, attention = (KERNELS / "matrix_product.h").read_text(), (KERNELS / "attention.pyx").read_text()
    sizes = {name: int(size) for name, size in re.findall(r"#define (MC|NC|KC) (\d+)", header)}
    sizes |= {name: int(size) for name, size in re.findall(r"^    (Br|Bc) = (\d+)", attention, flags=re.MULTILINE)}
    headers = header + (KERNELS / "vectors.h").read_text()
    mr, lanes = (int(re.search(rf"#define {name} +(\d+)", headers)[1]) for name in ("MR", "LANES"))  # those of AVX-512
    sizes |= {"MR": mr, "NR": 2 * lanes}
    assert len(sizes) == 7
    assert {name: examples[name] for name in sizes} == sizes


def test_every_link_to_a_file_leads_to_one():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if not link.startswith("http")]
    assert len(links) > 10
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
