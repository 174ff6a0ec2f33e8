"""The documentation site as a reader has it who opens it from disk, without a network."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built strictly."""
    pytest.importorskip("mkdocs")
    directory = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(directory)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


def test_pages_load_nothing_from_elsewhere(site):
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        for tag in ("<script", "<link", "<img", "<iframe"):
            for part in text.split(tag)[1:]:
                assert "//" not in part.partition(">")[0], f"{path.name}: {tag}{part[:100]}"


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_front_page_has_its_pictures_and_search_works_from_disk(site):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        failed = []
        page.on("requestfailed", lambda request: failed.append(request.url))
        page.goto((site / "index.html").as_uri())
        assert page.evaluate("[...document.images].map(image => image.naturalWidth > 0)") == [
            True,
            True,
        ]
        # The page listens to keys, and only when its search is ready: it says so once it is used.
        page.focus(".md-search__input")
        page.wait_for_function(
            "!document.querySelector('.md-search-result__meta').textContent.includes('Initializing')"
        )
        page.locator(".md-search__input").press_sequentially("threshold")
        page.wait_for_selector(".md-search-result__item")
        assert not failed
        browser.close()
