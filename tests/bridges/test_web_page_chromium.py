"""The page of a model in Chromium, opened from disk: text, probabilities, keys, phone, and no request.

Needs playwright and an installed Chromium or Chrome; left out elsewhere.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_core import tokenizers
from gpt_core.bridges import web_page
from gpt_core.bridges.export import export_model
from gpt_core.bridges.self_check import PROBE
from gpt_core.formats.bundle import load_bundle
from gpt_core.generation.generator import Generator, sampled_ids
from gpt_core.generation.prompt import spelling, split_prompt
from gpt_core.generation.sampler import Sampling, next_token_probabilities
from gpt_core.model.bundle import ModelBundle
from gpt_core.model.inference import Decoder
from gpt_core.model.stored_weights import StoredWeights
from gpt_core.tokenizers import EOS
from gpt_core.tokenizers.protocol import FIRST_BYTE
from tests.bridges.samples import LAYERS, model
from tests.chromium import chromium
from tests.core.text_samples import LINES, PROSE, WORLD
from tests.program import TEXT, TIMEOUT_S, run_program, tiny, write_texts

pytestmark = pytest.mark.slow

CONTEXT = 32
SHAPE = ("d_model=48", "hidden_size=96", f"seq_len={CONTEXT}", "layers=2", "vocab_size=600")
GREEDY = Sampling(temperature=0, top_k=0, top_p=1, repetition_penalty=1, max_tokens=80)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a small model, and return its folder with `page.html`, which the command has exported."""
    folder = tmp_path_factory.mktemp("page")
    write_texts(folder)
    trained = run_program("train", *tiny(*SHAPE, "learning_rate=0.003", "max_steps=150"), cwd=folder)
    assert trained.returncode == 0, trained.stderr
    exported = run_program("export", "html", "page.html", cwd=folder)
    assert exported.returncode == 0, exported.stderr
    return folder


@pytest.fixture(scope="module")
def bundle(trained: Path) -> ModelBundle:
    return load_bundle(trained / "models" / "best_model.safetensors")


@asynccontextmanager
async def opened(file: Path, **options: Any) -> AsyncIterator[Any]:
    """Open a page from disk and yield it once it is ready; no error may occur and no request be made meanwhile."""
    problems: list[str] = []
    requests: list[str] = []
    async with chromium(**options) as context:
        page = await context.new_page()
        context.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
        await page.goto(file.as_uri())
        await page.wait_for_selector("#loading", state="hidden")
        await page.wait_for_selector("#candidates button")
        yield page
    assert problems == []
    assert {url for url in requests if not url.startswith(("blob:", "data:"))} == {file.as_uri()}


async def set_sampling(page: Any, sampling: Sampling, seed: str = "") -> None:
    """Fill the fields of the form."""
    for name in Sampling.__struct_fields__:
        await page.fill(f"#{name}", str(getattr(sampling, name)))
    await page.fill("#seed", seed)


async def generated(page: Any, prompt: str) -> str:
    """Generate from a prompt and return all of the text."""
    await page.fill("#prompt", prompt)
    await page.click("#generate")
    return await finished(page)


async def finished(page: Any) -> str:
    """Wait for the end of a reply, and return the text."""
    await page.wait_for_selector("#stop[aria-disabled='true']")
    return await text_of(page)


async def until(page: Any, condition: str) -> None:
    """Wait until an expression is true in the page, whose policy does not let playwright wait for it."""
    async with asyncio.timeout(TIMEOUT_S):
        while not await page.evaluate(condition):
            await asyncio.sleep(0.02)


async def text_of(page: Any) -> str:
    """Return the text that the page shows."""
    text: str = await page.evaluate("['given', 'tokens', 'incomplete'].map((id) => byId(id).textContent).join('')")
    return text


async def listed(page: Any) -> tuple[dict[int, float], float]:
    """Return the probabilities of the tokens that are listed, and of all others."""
    found, others = await page.evaluate(
        "[[...document.querySelectorAll('#candidates button')].map(({dataset}) => "
        "[Number(dataset.token), Number(dataset.probability)]), Number(byId('others').dataset.probability)]"
    )
    return {int(token): probability for token, probability in found}, others


def probabilities(bundle: ModelBundle, weights: StoredWeights, prompt: str, sampling: Sampling) -> Any:
    """Return the distribution of the token after a prompt."""
    ids, rest = split_prompt(bundle.tokenizer, prompt.encode())
    ids = [bundle.tokenizer.BOS, *ids]
    allowed = sampled_ids(bundle.tokenizer)
    if rest:
        allowed = spelling(bundle.tokenizer.vocabulary, rest, allowed)
    logits = Decoder(weights.expanded()).prefill(ids)
    return next_token_probabilities(logits, sampling, allowed=allowed, seen=ids)


async def test_greedy_text_equals_that_of_generate(trained: Path, bundle: ModelBundle) -> None:
    prompts = ["The cat", "It was a dark n", "", "Die Katze saß äöü", "猫坐在垫子上", "def f(x):\n\treturn"]
    prompts += ["👩‍🔬 \u00a0", "the " * 60]
    async with opened(trained / "page.html") as page:
        await set_sampling(page, GREEDY)
        for prompt in prompts:
            expected = prompt + "".join(Generator(bundle.parameters, bundle.tokenizer).generate(prompt, GREEDY))
            assert await generated(page, prompt) == expected
    printed = run_program("generate", "The cat", "--temperature", "0", "--max-tokens", "80", cwd=trained)
    assert printed.stdout.removesuffix("\n") == ("The cat" + "".join(
        Generator(bundle.parameters, bundle.tokenizer).generate("The cat", GREEDY))).removesuffix("\n")  # fmt: skip


@pytest.mark.parametrize("layers", LAYERS)
async def test_greedy_text_of_any_layers_equals_that_of_generate(layers: str, tmp_path: Path) -> None:
    own = model(**LAYERS[layers])
    page_file = export_model(own, "html", tmp_path / "page.html").path
    async with opened(page_file) as page:
        await set_sampling(page, GREEDY)
        for prompt in ("It was the ", "", "Ich weiß n", "the " * 100):
            expected = prompt + "".join(Generator(own.parameters, own.tokenizer).generate(prompt, GREEDY))
            assert await generated(page, prompt) == expected


async def test_sampled_text_equals_that_of_generate_with_the_same_seed(trained: Path, bundle: ModelBundle) -> None:
    cases = [
        (Sampling(temperature=0.8, top_k=0, top_p=0.95, repetition_penalty=1, max_tokens=60), 1),
        (Sampling(temperature=1.3, top_k=5, top_p=1, repetition_penalty=1, max_tokens=60), 2**40 + 7),
        (Sampling(temperature=1, top_k=50, top_p=0.7, repetition_penalty=1.3, max_tokens=60), 2**53 - 1),
    ]
    async with opened(trained / "page.html") as page:
        for sampling, seed in cases:
            generator = Generator(bundle.parameters, bundle.tokenizer, seed=seed)
            await set_sampling(page, sampling, str(seed))
            assert await generated(page, "The b") == "The b" + "".join(generator.generate("The b", sampling))


async def test_continuing_equals_one_longer_text(trained: Path) -> None:
    short = Sampling(temperature=3, top_k=0, top_p=1, repetition_penalty=1, max_tokens=20)
    async with opened(trained / "page.html") as page:
        await set_sampling(page, short, "3")
        await generated(page, "It was")
        await page.click("#continue")
        continued = await finished(page)
        await page.fill("#max_tokens", "40")
        assert await generated(page, "It was") == continued


NUMBER_TYPES = pytest.mark.parametrize("number_type", ["f32", "bf16", "int8"])


@NUMBER_TYPES
async def test_probabilities_are_those_of_the_stored_weights_and_sum_to_one(
    bundle: ModelBundle, tmp_path: Path, number_type: str
) -> None:
    await check_probabilities(bundle, number_type, tmp_path / "page.html")


@NUMBER_TYPES
@pytest.mark.parametrize("layers", [name for name in LAYERS if name.startswith("qwen3")])
async def test_probabilities_of_qwen3_are_those_of_the_stored_weights(
    layers: str, tmp_path: Path, number_type: str
) -> None:
    await check_probabilities(model(**LAYERS[layers]), number_type, tmp_path / "page.html")


async def check_probabilities(bundle: ModelBundle, number_type: str, path: Path) -> None:
    """Check the tokens that a page lists for some prompts and sampling parameters."""
    page_file = export_model(bundle, "html", path, number_type=number_type).path
    weights = StoredWeights(bundle.parameters, web_page.FORMATS[number_type])
    samplings = [
        Sampling(temperature=1, top_k=0, top_p=1, repetition_penalty=1, max_tokens=1),
        Sampling(temperature=0.7, top_k=8, top_p=0.9, repetition_penalty=1.2, max_tokens=1),
    ]
    async with opened(page_file) as page:
        for sampling in samplings:
            for prompt in ("The cat sat on the", "The ", "Über"):
                await set_sampling(page, sampling)
                await generated(page, prompt)
                await page.evaluate("select(0)")
                found, others = await listed(page)
                expected = probabilities(bundle, weights, prompt, sampling)
                assert sum(found.values()) + others == pytest.approx(1, abs=1e-9)
                np.testing.assert_allclose([expected[token] for token in found], list(found.values()), atol=1e-5)
                assert list(found.values()) == sorted(expected, reverse=True)[: len(found)] or np.allclose(
                    list(found.values()), np.sort(expected)[::-1][: len(found)], atol=1e-5
                )


async def test_a_token_selected_after_a_reply_stays_selected(trained: Path) -> None:
    async with opened(trained / "page.html") as page:
        await set_sampling(page, GREEDY)  # typing shows the next token a moment later, unless a reply begins before
        await page.fill("#max_tokens", "1")
        await generated(page, "The cat")
        await page.evaluate("select(newTokens()[0])")
        await asyncio.sleep(await page.evaluate("2 * DEBOUNCE_MS / 1000"))
        assert await page.inner_text("#next-title") == "Token 1 of 1"


async def test_the_most_probable_tokens_after_a_prompt_spell_the_greedy_text(
    trained: Path, bundle: ModelBundle
) -> None:
    async with opened(trained / "page.html") as page:
        await set_sampling(page, GREEDY)
        for prompt in ("The cat sat on the m", "It was", "Zoë"):
            await page.fill("#prompt", prompt)
            await page.evaluate("showNext()")
            await until(page, "!isReading")
            length = len(prompt)
            for _ in range(5):
                await page.click("#candidates li:first-child button")
                await until(page, "!isReading")
                assert len(await text_of(page)) > length
                length = len(await text_of(page))
            greedy = prompt + "".join(Generator(bundle.parameters, bundle.tokenizer).generate(prompt, GREEDY))
            assert greedy.startswith(await text_of(page))


async def test_an_alternative_replaces_the_rest_of_the_text(trained: Path) -> None:
    async with opened(trained / "page.html") as page:
        await set_sampling(page, GREEDY)
        await page.fill("#max_tokens", "12")
        await generated(page, "The cat")
        at = await page.evaluate("newTokens()[3]")
        await page.click(f"#token-{at}")
        assert (await page.inner_text("#next-title")) == "Token 4 of 12"
        await page.wait_for_timeout(500)  # what typing has started must not end the selection
        assert (await page.inner_text("#next-title")) == "Token 4 of 12"
        before = await page.evaluate("tokens.map(({token}) => token)")
        chosen = next(token for token in (await listed(page))[0] if token not in (before[at], EOS))
        await page.click(f"#candidates button[data-token='{chosen}']")
        await until(page, "!isReading")
        assert await page.inner_text("#next-title") == "Next token"
        after = await page.evaluate("tokens.map(({token}) => token)")
        assert after == [*before[:at], chosen]
        await page.click("#continue")
        await finished(page)
        assert len(await text_of(page)) > len("The cat")
        assert (await page.evaluate("tokens.map(({token}) => token)"))[: at + 1] == after


async def test_tokens_that_spell_the_end_of_the_prompt_are_read_once(trained: Path) -> None:
    prompt = "It was a dark n"
    async with opened(trained / "page.html") as page:
        await set_sampling(page, GREEDY)
        await page.fill("#prompt", prompt)
        await new_list(page)
        spelled = await page.evaluate("next.before")
        assert spelled
        token = await page.evaluate(
            "next.candidates.find(({token, added}) => token !== model.eos && added.length).token"
        )
        await choose(page, token)
        assert await ids_of(page) == [*spelled, token]
        await page.click(f"#token-{len(spelled)}")
        await choose(page, token)
        assert await ids_of(page) == [*spelled, token]
        await page.click(f"#token-{len(spelled)}")
        await page.evaluate("choose({token: model.eos, added: new Uint8Array(0), probability: 0})")
        assert await page.is_visible("#end")
        await until(page, "!isReading")
        await choose(page, token)
        assert await ids_of(page) == [*spelled, token]


async def new_list(page: Any) -> None:
    """Wait for the list of the tokens after the text of the form."""
    await until(page, "selected < 0 && canChoose()")


async def choose(page: Any, token: int) -> None:
    """Click a token of the list, and wait for the list after it."""
    await page.click(f"#candidates button[data-token='{token}']")
    await new_list(page)


async def ids_of(page: Any) -> list[int]:
    """Return the ids of the tokens after the prompt."""
    ids: list[int] = await page.evaluate("tokens.map(({token}) => token)")
    return ids


async def test_a_token_of_an_old_list_is_not_appended_to_an_edited_prompt(trained: Path) -> None:
    first = "#candidates li:first-child button"
    async with opened(trained / "page.html") as page:
        await set_sampling(page, GREEDY)
        at_once = await page.evaluate(  # before the list follows
            """() => {
                byId("prompt").value = "The cat";
                byId("prompt").dispatchEvent(new Event("input", { bubbles: true }));
                choose(next.candidates[0]);
                const first = document.querySelector("#candidates li:first-child button");
                return [first.getAttribute("aria-disabled"), tokens.length];
            }"""
        )
        assert at_once == ["true", 0]
        await new_list(page)
        await page.fill("#top_p", "")
        await page.fill("#prompt", "The hat")
        await page.wait_for_timeout(await page.evaluate("2 * DEBOUNCE_MS"))
        await page.click(first, force=True)
        assert await page.evaluate("byId('top_p').matches(':focus:invalid')")
        assert await ids_of(page) == []
        await page.fill("#max_tokens", "")  # has no effect on the list
        await page.fill("#top_p", "1")
        await new_list(page)
        await page.click(first)
        await new_list(page)
        assert len(await ids_of(page)) > 0
        assert (await text_of(page)).startswith("The hat")


async def test_a_text_that_ends_inside_a_character_has_as_many_tokens_as_were_chosen(trained: Path) -> None:
    async with opened(trained / "page.html") as page:
        await page.fill("#prompt", "a b")
        for token, added in ((FIRST_BYTE + 0xE5, "0xe5"), (EOS, "")):
            await new_list(page)
            await page.evaluate(f"choose({{token: {token}, added: Uint8Array.of({added}), probability: 0}})")
        assert await text_of(page) == "a b\ufffd"
        assert await page.inner_text("#status") == "1 token"
        await new_list(page)
        await page.focus("#tokens")
        await page.keyboard.press("ArrowLeft")
        assert await page.inner_text("#next-title") == "Token 1 of 1"
        await page.keyboard.press("Escape")
        await page.evaluate(f"choose({{token: {FIRST_BYTE + 0x9C}, added: Uint8Array.of(0x9c), probability: 0}})")
        await new_list(page)
        await page.evaluate(f"choose({{token: {FIRST_BYTE + 0xB0}, added: Uint8Array.of(0xb0), probability: 0}})")
        assert await text_of(page) == "a b\u5730"


async def test_a_clock_that_did_not_advance_gives_no_speed(trained: Path, tmp_path: Path) -> None:
    content = (trained / "page.html").read_text()
    frozen = tmp_path / "page.html"  # browsers round the time to 1 ms, or to 100 ms against fingerprinting
    frozen.write_text(content.replace("const SLICE_MS", "performance.now = () => 1000;\nconst SLICE_MS"))
    async with opened(frozen) as page:
        await set_sampling(page, GREEDY, "7")
        await page.fill("#max_tokens", "3")
        await generated(page, "The cat")
        assert await page.inner_text("#status") == "3 tokens · seed 7 · max length reached"


async def test_text_from_right_to_left_and_its_arrow_keys_run_to_the_left(trained: Path) -> None:
    async with opened(trained / "page.html") as page:
        await set_sampling(page, GREEDY)
        await page.fill("#max_tokens", "3")
        for prompt, direction, back in (("שלום!", "rtl", "ArrowRight"), ("The", "ltr", "ArrowLeft")):
            await generated(page, prompt)
            for name in ("prompt", "text"):
                assert await page.evaluate(f"getComputedStyle(byId('{name}')).direction") == direction
            await page.focus("#tokens")
            await page.keyboard.press(back)
            assert await page.inner_text("#next-title") == "Token 3 of 3"


async def test_only_the_end_of_a_long_prompt_is_shown_before_the_text(trained: Path) -> None:
    prompt = "😀" * 10_000
    async with opened(trained / "page.html", permissions=["clipboard-read", "clipboard-write"]) as page:
        await set_sampling(page, GREEDY)
        await page.fill("#max_tokens", "1")
        await generated(page, "a" + prompt + "b")
        shown = await page.inner_text("#given")
        assert shown == "…" + prompt[-len(shown) + 2 :] + "b"
        assert 2000 < len(shown) < 5000
        await page.click("#copy")
        await until(page, "byId('status').textContent === 'copied'")
        assert (await page.evaluate("navigator.clipboard.readText()")).startswith(f"a{prompt}b")


async def test_a_browser_that_refuses_to_copy_is_reported(trained: Path) -> None:
    async with opened(trained / "page.html") as page:
        await generated(page, "The cat")
        refusal = "Promise.reject(new DOMException('denied', 'NotAllowedError'))"
        await page.evaluate(f"() => {{ navigator.clipboard.writeText = () => {refusal}; }}")
        await page.click("#copy")
        await until(page, "byId('status').textContent.startsWith('not copied: ')")


async def test_the_list_after_a_stop_follows_the_last_token(trained: Path) -> None:
    async with opened(trained / "page.html") as page:
        await set_sampling(page, GREEDY)
        await page.fill("#max_tokens", "100000")
        stop_at_token = "const token = HANDLERS.token; HANDLERS.token = (message) => { token(message); stop(); };"
        await page.evaluate(f"() => {{ {stop_at_token} generate(); }}")
        await until(page, "byId('status').textContent.includes('stopped')")
        await new_list(page)
        found = await listed(page)
        await page.evaluate("showNext()")
        await new_list(page)
        assert await listed(page) == found


async def test_the_list_follows_the_prompt_of_the_form_whatever_was_selected(trained: Path) -> None:
    async with opened(trained / "page.html") as page:
        await set_sampling(page, GREEDY)
        await page.fill("#max_tokens", "5")
        lists = {}
        for prompt in ("The hat ", "The cat "):
            await page.fill("#prompt", prompt)
            await new_list(page)
            lists[prompt] = await listed(page)
        assert lists["The hat "] != lists["The cat "]
        await generated(page, "The cat ")
        second = await page.evaluate("newTokens()[1]")
        await page.fill("#prompt", "The hat ")
        await page.click(f"#token-{second}")
        await page.keyboard.press("Escape")
        await new_list(page)
        assert await listed(page) == lists["The hat "]
        await page.click(f"#token-{second}")
        await choose(page, next(token for token in (await listed(page))[0] if token != EOS))
        assert len(await ids_of(page)) == second + 1
        assert await listed(page) == lists["The hat "]
        await page.fill("#prompt", "The cat ")
        await page.click(f"#token-{await page.evaluate('newTokens()[0]')}")
        await page.evaluate("choose({token: model.eos, added: new Uint8Array(0), probability: 0})")
        await new_list(page)
        for prompt in lists:
            await page.fill("#prompt", prompt)
            await new_list(page)
            assert await listed(page) == lists[prompt]
        assert await page.is_visible("#end")


async def test_the_page_is_operated_by_keys_alone(trained: Path) -> None:
    async with opened(trained / "page.html") as page:
        fields = {"prompt": "The hat", "temperature": "5", "top_p": "1", "max_tokens": "30", "seed": "4"}
        for name, value in fields.items():
            await focus(page, name)
            await page.keyboard.press("Control+a")
            await page.keyboard.type(value)
        await focus(page, "prompt")
        await page.keyboard.press("Control+Enter")
        await until(page, "tokens.length > 0")
        assert (await finished(page)).startswith("The hat")
        await focus(page, "tokens")
        second = await page.evaluate("newTokens()[1]")
        await page.keyboard.press("Home")
        await page.keyboard.press("ArrowRight")
        assert (await page.inner_text("#next-title")).startswith("Token 2 of ")
        assert await page.get_attribute("#tokens", "aria-activedescendant") == f"token-{second}"
        for length in (second + 1, second + 2):
            rank = next(rank for rank, token in enumerate((await listed(page))[0], 1) if rank > 1 and token != EOS)
            await page.keyboard.press(str(rank))
            await until(page, f"tokens.length === {length} && !isReading")
        await focus(page, "max_tokens")
        await page.keyboard.press("Control+a")
        await page.keyboard.type("1000000")
        await page.keyboard.press("Enter")
        await until(page, f"tokens.length > {second + 2}")
        await page.keyboard.press("Escape")
        await finished(page)
        assert (await page.inner_text("#status")).endswith(("stopped", "end of text"))


async def focus(page: Any, name: str) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(60):
        if await page.evaluate("document.activeElement.id") == name:
            return
        await page.keyboard.press("Tab")
    raise AssertionError(f"{name} does not get the focus")


@pytest.mark.parametrize("width", [320, 390])
async def test_a_phone_shows_the_page_without_scrolling_sideways(trained: Path, width: int) -> None:
    phone = {"viewport": {"width": width, "height": 844}, "has_touch": True, "is_mobile": True}
    async with opened(trained / "page.html", **phone) as page:
        await page.tap("#generate")
        await finished(page)
        await page.fill("#prompt", "W" * 300)
        assert not await page.is_visible("#seed")
        await page.tap("summary")
        assert await page.is_visible("#seed")
        assert await page.evaluate("document.documentElement.scrollWidth") == width
        small = await page.evaluate(
            "[...document.querySelectorAll('button, input')].filter((one) => one.offsetHeight < 40).map(({id}) => id)"
        )
        assert small == []


async def test_labels_and_live_regions_describe_the_page(trained: Path) -> None:
    async with opened(trained / "page.html") as page:
        for label in ("Prompt", "Temperature", "Top-k", "Top-p", "Repetition penalty", "Max tokens", "Seed"):
            assert await page.get_by_label(label).count() == 1, label
        await set_sampling(page, GREEDY)
        await page.get_by_label("Max tokens").fill("5")
        await page.get_by_role("button", name="Generate", exact=True).click()
        await finished(page)
        spoken = await page.inner_text("[aria-live=polite]")
        assert spoken.strip() == (await page.evaluate("byId('tokens').textContent")).strip()
        assert "5 tokens · " in await page.get_by_role("status").inner_text()
        assert await page.get_by_role("option").count() == 5


async def test_a_prompt_longer_than_the_context_is_reported(trained: Path, bundle: ModelBundle) -> None:
    prompt = "the mat " * 60
    settled, unread = split_prompt(bundle.tokenizer, prompt.encode())
    skipped = 1 + len(settled) + len(unread) - CONTEXT
    async with opened(trained / "page.html") as page:
        await set_sampling(page, GREEDY)
        await generated(page, prompt)
        status = await page.inner_text("#status")
        found = re.search(r" · the model reads only the last (\d+) of the prompt's (\d+) tokens$", status)
        assert found is not None
        assert int(found[1]) <= CONTEXT
        assert int(found[2]) - int(found[1]) == skipped


async def test_a_field_out_of_range_is_refused(trained: Path) -> None:
    async with opened(trained / "page.html") as page:
        await page.fill("#top_p", "2")
        await page.click("#generate")
        assert await page.evaluate("byId('top_p').matches(':focus:invalid')")
        assert await text_of(page) == ""


async def test_a_field_out_of_range_is_shown_where_the_settings_are_closed(trained: Path) -> None:
    async with opened(trained / "page.html") as page:
        await page.fill("#max_tokens", "0")
        await page.click("summary")
        assert not await page.is_visible("#max_tokens")
        await page.click("#generate")
        await page.wait_for_selector("#max_tokens:focus:invalid")


async def test_settings_of_a_run_out_of_the_range_of_the_fields_become_their_limits(tmp_path: Path) -> None:
    page_file = export_model(model(top_k=10**8, top_p=1e-7, max_tokens=10**8), "html", tmp_path / "page.html").path
    async with opened(page_file) as page:
        assert await page.evaluate("byId('form').checkValidity()")
        assert [await page.input_value(f"#{name}") for name in ("temperature", "top_k", "top_p", "max_tokens")] == [
            "0.8", "1048576", "0.0001", "1000000",
        ]  # fmt: skip
        await page.click("#generate")
        await until(page, "tokens.length > 0")
        await page.click("#stop")
        await finished(page)


async def test_an_incomplete_file_says_so(trained: Path, tmp_path: Path) -> None:
    content = (trained / "page.html").read_bytes()
    for end in (content.rindex(b"</script>") - 10_001, content.index(b'<script type="text/plain" class="weights"')):
        broken = tmp_path / "broken.html"
        broken.write_bytes(content[:end])
        async with chromium() as context:
            page = await context.new_page()
            await page.goto(broken.as_uri())
            await page.wait_for_selector("#failure:not([hidden])")
            assert await page.inner_text("#failure") == "The file is incomplete. Copy or download it again."
            assert await page.get_attribute("#generate", "aria-disabled") == "true"


async def test_a_page_from_a_slow_web_server_loads_while_it_arrives(tmp_path: Path) -> None:
    page_file = export_model(model(d_model=256, hidden_size=1024), "html", tmp_path / "page.html").path
    content = page_file.read_bytes()
    is_released = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(content[: len(content) * 2 // 3])
            is_released.wait(TIMEOUT_S)
            self.wfile.write(content[len(content) * 2 // 3 :])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            async with chromium() as context:
                page = await context.new_page()
                await page.goto(f"http://127.0.0.1:{server.server_port}/", wait_until="commit")
                await until(page, "0.3 < (document.querySelector('progress')?.value ?? 0)")
                assert await page.get_attribute("#generate", "aria-disabled") == "true"
                is_released.set()
                await page.wait_for_selector("#candidates button")
        finally:
            is_released.set()
            server.shutdown()


@pytest.mark.parametrize("name", ["pieces", "ascii"])
async def test_ids_equal_those_of_the_tokenizer_on_any_bytes(name: str) -> None:
    texts = [PROBE.encode(), PROSE, WORLD, LINES]
    tokenizer = tokenizers.train(name, [*texts, TEXT.encode()], 900)
    source = random.Random(1)
    cases = [*texts, b"", bytes(range(256)), source.randbytes(3000)]
    cases += [b"".join(source.choices(tokenizer.vocabulary, k=200)) for _ in range(20)]
    program = resources.files("gpt_core.bridges").joinpath("page", "tokenizer.js").read_text()
    arguments = [base64.b64encode(data).decode() for data in (tokenizer.to_bytes(), *cases)]
    async with chromium() as context:
        page = await context.new_page()
        found = await page.evaluate(
            f"""(stored) => {{
                {program}
                const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
                const tokenizer = new Tokenizer(bytes(stored[0]));
                return stored.slice(1).map((one) => {{
                    const {{ids, rest}} = tokenizer.splitPrompt(bytes(one));
                    return [tokenizer.encode(bytes(one)), ids, Array.from(rest)];
                }});
            }}""",
            arguments,
        )
    for data, (ids, prompt_ids, rest) in zip(cases, found, strict=True):
        assert ids == tokenizer.encode(data).tolist()
        assert (prompt_ids, bytes(rest)) == split_prompt(tokenizer, data)


async def test_random_numbers_are_those_of_numpy() -> None:
    seeds = [0, 1, 42, 2**32 - 1, 2**32, 2**53 - 1]
    program = resources.files("gpt_core.bridges").joinpath("page", "sampler.js").read_text()
    async with chromium() as context:
        page = await context.new_page()
        found = await page.evaluate(
            f"""(seeds) => {{
                {program}
                return seeds.map((seed) => {{
                    const random = new Random(seed);
                    return [random.next(), random.next(), random.next()];
                }});
            }}""",
            seeds,
        )
    assert found == [np.random.default_rng(seed).random(3).tolist() for seed in seeds]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_has_contrast_in_light_and_dark(trained: Path, scheme: str) -> None:
    pairs = [("text", "panel"), ("quiet", "panel"), ("quiet", "ground"), ("accent", "panel"), ("text", "bar"),
             ("text", "chosen"), ("on-accent", "accent"), ("alarm", "panel")]  # fmt: skip
    async with opened(trained / "page.html", color_scheme=scheme) as page:
        colors = json.loads(await page.evaluate(
            "JSON.stringify(Object.fromEntries(['ground', 'panel', 'text', 'quiet', 'accent', 'on-accent', 'bar', "
            "'chosen', 'alarm'].map((name) => [name, getComputedStyle(document.documentElement)"
            ".getPropertyValue('--' + name).trim()])))"
        ))  # fmt: skip
        ground = await page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    red, green, blue = map(int, re.findall(r"\d+", ground))
    assert (red + green + blue < 200) == (scheme == "dark")
    for front, back in pairs:
        high, low = sorted((luminance(colors[front]), luminance(colors[back])), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (front, back)


def luminance(color: str) -> float:
    """Return the relative luminance of `#rrggbb` as WCAG 2 defines it."""
    values = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
