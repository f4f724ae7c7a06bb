"""`gpt-tui serve` in Chromium: focus, reload, title, clipboard, downloads, and no request to another host.

Needs playwright and an installed Chromium or Chrome; left out elsewhere.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.program import TIMEOUT_S

pytestmark = pytest.mark.slow
pytest.importorskip("textual_serve")

from tests.chromium import chromium  # noqa: E402
from tests.served import served_program, serving  # noqa: E402

STEP = re.compile(r"^training, step ([\d,]+) · gpt-tui$")


async def step_in_title(page: Any, more_than: int = -1) -> int:
    """Wait until the title of the page has a step beyond this one, and return it."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            found = STEP.match(await page.title())
            if found and (step := int(found[1].replace(",", ""))) > more_than:
                return step
            await asyncio.sleep(0.05)


async def shown(page: Any) -> None:
    """Wait until the app has drawn."""
    await page.wait_for_selector("body.-ready")


async def ending(page: Any) -> str:
    """Wait for the note about the end of the app, and return its text."""
    await page.wait_for_selector("#over:not([hidden])")
    text: str = await page.inner_text("#over")
    return text


async def recorded(server: Any, context: Any) -> tuple[Any, list[Any]]:
    """Open the app; return the page, and the list of the frames that it sends."""
    page = await context.new_page()
    frames: list[Any] = []
    page.on("websocket", lambda opened: opened.on("framesent", lambda frame: frames.append(frame)))
    await page.goto(server.address)
    await shown(page)
    return page, frames


async def sent(page: Any, frames: list[Any], text: str) -> None:
    """Wait until the page has sent a frame with this text."""
    async with asyncio.timeout(TIMEOUT_S):
        while not any(text in str(frame) for frame in frames):
            await page.wait_for_timeout(20)


async def test_keys_work_without_a_click_and_a_reload_joins_the_run(tmp_path: Path):
    requests: list[str] = []
    problems: list[str] = []
    with served_program(tmp_path, "max_epochs=100000", "patience=0", "save_epoch_number=0") as (server, url):
        async with chromium() as context:
            page = await context.new_page()
            context.on("request", lambda request: requests.append(request.url))
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
            await page.goto(url)
            assert await page.title() == "gpt-tui"
            await shown(page)
            await page.keyboard.press("s")
            before = await step_in_title(page)
            await page.reload()
            await step_in_title(page, more_than=before)
            await shown(page)
            await page.keyboard.press("p")
            async with asyncio.timeout(TIMEOUT_S):
                while not (await page.title()).startswith("paused, step "):
                    await asyncio.sleep(0.05)
            await page.keyboard.press("Control+c")  # save and quit
            text = await ending(page)
            assert "gpt-tui has ended." in text
            assert "saved models/ckpt_latest.safetensors at step" in text
            await page.keyboard.press("Enter")  # start again
            await shown(page)
            assert await page.title() == "gpt-tui"
            server.terminate()
            assert "gpt-tui serve has stopped." in await ending(page)
    assert {urlsplit(request).netloc for request in requests} == {urlsplit(url).netloc}
    assert problems == []


async def test_the_page_hands_over_and_takes_back(tmp_path):
    async with serving(tmp_path) as (server, _session), chromium() as context:
        first = await context.new_page()
        await first.goto(server.address)
        await shown(first)
        second = await context.new_page()
        await second.goto(server.address)
        assert "open in another tab" in await ending(first)
        await first.click("#over-button")
        assert "open in another tab" in await ending(second)


async def test_pasted_text_shift_enter_and_copying_work_as_in_a_browser(tmp_path):
    async with serving(tmp_path) as (server, _session), chromium() as context:
        await context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.public_url)
        page, frames = await recorded(server, context)
        await page.evaluate("navigator.clipboard.writeText('zwei\\nZeilen, 中文')")
        await page.keyboard.press("Control+v")
        await sent(page, frames, "zwei\\rZeilen, 中文")
        await page.keyboard.press("Shift+Enter")
        await sent(page, frames, "[13;2u")
        await page.mouse.click(100, 100)
        await sent(page, frames, "[<0;")
        await page.keyboard.down("Shift")  # Shift and drag select in the page, not in the app
        await page.mouse.move(1, 8)
        await page.mouse.down()
        await page.mouse.move(400, 60, steps=5)  # over the first lines
        await page.mouse.up()
        await page.keyboard.up("Shift")
        await page.keyboard.press("Control+c")
        await page.keyboard.press("x")
        await sent(page, frames, '["stdin","x"]')
        assert not any("\\u0003" in str(frame) for frame in frames)
        assert "drawn 142x38" in await page.evaluate("navigator.clipboard.readText()")


async def test_a_paste_that_is_too_large_is_refused_and_the_page_stays_connected(tmp_path):
    async with serving(tmp_path) as (server, _session), chromium() as context:
        page, frames = await recorded(server, context)
        await page.evaluate("""() => {
            const clipboardData = new DataTransfer();
            clipboardData.setData("text/plain", "x".repeat(5_000_001));
            const event = new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true });
            document.querySelector(".xterm-helper-textarea").dispatchEvent(event);
        }""")
        notice = await page.inner_text("#notice")
        assert notice == "nothing was pasted: got 5,000,001 characters, expected at most 5,000,000"
        await page.keyboard.press("y")
        await sent(page, frames, '["stdin","y"]')
        assert not any("xxx" in str(frame) for frame in frames)


async def test_a_paste_presses_no_keys(tmp_path):
    async with serving(tmp_path) as (server, _session), chromium() as context:
        await context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.public_url)
        page, frames = await recorded(server, context)
        await page.evaluate("navigator.clipboard.writeText('a\\x1b[201~q, 中文')")  # the end of a paste, and a key
        await page.keyboard.press("Control+v")
        await sent(page, frames, "a[201~q, 中文")
        assert not any("\\u001b[201~q" in str(frame) for frame in frames)


async def test_the_notice_that_replaces_the_app_keeps_the_focus(tmp_path):
    async with serving(tmp_path) as (server, _session), chromium() as context:
        page = await context.new_page()
        await page.goto(server.address)
        await shown(page)
        await page.keyboard.press("q")
        assert "gpt-tui has ended." in await ending(page)
        focused = []
        for _ in range(3):
            await page.keyboard.press("Tab")
            focused.append(await page.evaluate("document.activeElement.id"))
        assert "over-button" in focused
        await page.focus("#over-button")
        await page.keyboard.press("Shift+Tab")
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.id") == "over-button"


async def test_a_file_of_the_app_is_downloaded(tmp_path):
    async with serving(tmp_path) as (server, _session), chromium() as context:
        page = await context.new_page()
        await page.goto(server.address)
        await shown(page)
        async with page.expect_download() as started:
            await page.keyboard.press("d")
        download = await started.value
        assert download.suggested_filename == "Mein Läufe.svg"
        assert Path(await download.path()).read_text() == "<svg></svg>"
