"""Chromium for tests of pages. Importing this skips the tests of a module where playwright or Chromium is missing."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.program import TIMEOUT_S

playwright = pytest.importorskip("playwright.async_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
if CHROMIUM is None:
    pytest.skip("Chromium is not installed", allow_module_level=True)


@asynccontextmanager
async def chromium(**options: Any) -> AsyncIterator[Any]:
    """Start Chromium without a window and yield a browser context; the options are those of `Browser.new_context`."""
    async with playwright.async_playwright() as tools:
        browser = await tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = await browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        context.set_default_timeout(TIMEOUT_S * 1000)
        yield context
        await browser.close()
