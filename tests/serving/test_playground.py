"""The page in headless Chromium, against a real server."""

import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.serving.server import serve_here
from unmask.decoding import DecodeOptions
from unmask.policies.heuristics import HEURISTICS
from unmask.serving import Limits, build_catalog

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install)")
CACHE = Path.home() / ".cache" / "unmask-tests"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, server):
    """Opens the page of the server, or of another one at a URL, which may ask for a key first;
    afterwards nothing may have been complained of, or asked for elsewhere."""
    contexts, complaints = [], []

    def open_it(query="", expected="nothing", url=server, keyed=False, **options):
        context = browser.new_context(reduced_motion="reduce", **options)
        context.set_default_timeout(120_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: complaints.append(m.text) if expected not in m.text else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda r: None if r.url.startswith((url, "blob:")) else complaints.append(r.url),
        )
        page.goto(f"{url}/{query}")
        if keyed:
            page.wait_for_selector("#login", state="visible")
            return page
        page.locator("#sampler-b option:checked").wait_for(state="attached")
        page.locator("#example option").nth(1).wait_for(state="attached")
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert not complaints


def run(page):
    page.click("#run")
    page.wait_for_selector("#said:not(:empty)")


def chips(page, side):
    return page.locator(f'.panel[data-side="{side}"] .chip')


def masked(page, side):
    return page.locator(f'.panel[data-side="{side}"] .chip[aria-label^="masked"]').count()


@pytest.fixture(scope="session")
def axe():
    """The source of axe-core, from the npm registry."""
    file = CACHE / "axe-core-4.14.1.js"
    if not file.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        words = ["npm", "pack", "--silent", "axe-core@4.14.1", "--pack-destination", str(CACHE)]
        try:
            subprocess.run(words, check=True, capture_output=True, timeout=60)
            with tarfile.open(CACHE / "axe-core-4.14.1.tgz") as archive:
                data = archive.extractfile("package/axe.min.js").read()
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"axe-core cannot be had from the npm registry ({error})")
        part = file.with_suffix(".part")
        part.write_bytes(data)
        part.replace(file)
    return file.read_text(encoding="utf-8")


def test_two_samplers_write_side_by_side_and_the_slider_goes_back(open_page):
    page = open_page()
    page.select_option("#sampler-a", "confidence")
    run(page)
    assert page.locator('.panel[data-side="a"] h3').text_content() == "A: confidence:1"
    assert page.locator('.panel[data-side="b"] h3').text_content() == "B: single"
    assert chips(page, "a").count() == chips(page, "b").count() == 48
    assert masked(page, "a") == masked(page, "b") == 0
    assert page.locator("#pass-out").text_content() == "48 of 48"
    facts = page.locator('.panel[data-side="a"] .facts').text_content()
    assert "passes 48" in facts and "tokens per pass" in facts and "correct" in facts
    assert page.locator("#said").text_content().count("correct") == 2
    page.locator("#pass").fill("10")
    assert masked(page, "a") == 38
    page.click("#back")
    assert masked(page, "a") == 39 and page.locator("#pass-out").text_content() == "9 of 48"
    page.click("#replay")
    page.locator("#pass-out", has_text="48 of 48").wait_for()


def test_every_heuristic_can_be_chosen(open_page):
    page = open_page("?a=low-entropy%3A3")
    offered = page.locator('#sampler-a optgroup[label="Heuristics"] option')
    values = [offered.nth(i).get_attribute("value") for i in range(offered.count())]
    assert sorted(values) == sorted(HEURISTICS)
    page.locator("#value-out-a", has_text="3").wait_for()
    assert page.input_value("#sampler-a") == "low-entropy"


def test_tokens_say_their_pass_and_confidence_by_keyboard(open_page):
    page = open_page()
    run(page)
    chips(page, "a").first.focus()
    about = page.locator('.panel[data-side="a"] .about')
    assert about.text_content().endswith("position 1")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    said = about.text_content()
    assert said.endswith("position 3") and "pass" in said and "confidence" in said
    page.keyboard.press("End")
    assert about.text_content().endswith("position 48")


def test_an_error_is_shown_and_the_next_run_works(open_page):
    # The browser itself notes refused requests on its console.
    page = open_page(expected="status of 400")
    page.fill("#prompt", "no such words")
    page.click("#run")
    page.wait_for_selector("#error:not(:empty)")
    assert "does not know" in page.locator("#error").text_content()
    page.fill("#prompt", "7 a + 5 b * 3 =")
    run(page)
    assert page.locator("#error").text_content() == ""
    verdicts = page.locator(".facts .right, .facts .wrong")
    assert verdicts.count() == 2


def test_a_link_runs_the_same_again(open_page):
    page = open_page(
        "?model=embedded%2Fchain&prompt=7+a+%2B5+b+*3+%3D&a=range%40alpha%3D3&b=range%40nfe%3D6"
        "&length=32&block=8&temperature=0.5&seed=7&run=1"
    )
    page.wait_for_selector("#said:not(:empty)")
    titles = page.locator(".panel h3").all_text_contents()
    assert titles == ["A: range@alpha=3", "B: range@nfe=6"]
    assert chips(page, "a").count() == 32
    assert page.input_value("#seed") == "7" and page.input_value("#block") == "8"
    assert "range%40nfe%3D6" in page.url


def test_a_wrong_key_and_a_server_that_has_stopped_are_told(open_page):
    options = DecodeOptions(max_new_tokens=8)
    catalog = build_catalog(["embedded/chain"], ["threshold:0.9"], options, Limits())
    with serve_here(catalog, key="right") as url:
        page = open_page(expected="status of 401", url=url, keyed=True)
        assert page.locator("#error").text_content() == ""
        page.fill("#key", "wrong")
        page.click("#login button")
        page.wait_for_selector("#error:not(:empty)", state="visible")
        assert "does not take this key" in page.locator("#error").text_content()
        page.fill("#key", "right")
        page.click("#login button")
        page.wait_for_selector("#prompt", state="visible")
        assert page.locator("#error").text_content() == ""
        page = open_page(expected="Failed to load resource", url=url, keyed=True)
    page.fill("#key", "right")
    page.click("#login button")
    page.wait_for_selector("#error:not(:empty)", state="visible")


def test_policies_of_a_model_that_is_served_under_another_name_are_its_own(open_page, policy_dirs):
    policies = ["threshold:0.9", f"single={policy_dirs['single']}"]
    options = DecodeOptions(max_new_tokens=8, block_length=4)
    catalog = build_catalog(["mine=embedded/chain"], policies, options, Limits())
    with serve_here(catalog) as url:
        page = open_page(url=url)
        groups = page.locator("#sampler-b optgroup")
        labels = [groups.nth(i).get_attribute("label") for i in range(groups.count())]
        assert labels == ["Learned for this model", "Heuristics"]
        assert page.input_value("#sampler-b") == "single"
        assert page.get_attribute("#block", "placeholder") == "4"


def test_each_side_says_its_block_length(open_page):
    page = open_page()
    page.select_option("#sampler-b", "blocks")
    for given, said in (("", ["one block", 16]), ("8", [8, 8])):
        if given:
            page.locator("details").evaluate("details => details.open = true")
            page.fill("#block", given)
        run(page)
        wanted = [s if isinstance(s, str) else f"block length {s}" for s in said]
        facts = [page.locator(f'.panel[data-side="{side}"] .facts') for side in "ab"]
        for fact, text in zip(facts, wanted, strict=True):
            assert text in fact.locator("li").all_text_contents()
        with page.expect_download() as download:
            page.click("#json")
        data = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
        found = [side["block_length"] for side in data["sides"]]
        assert found == [None if isinstance(s, str) else s for s in said]


def test_a_policy_whose_passes_hardly_vary_is_steered_by_alpha_alone(open_page):
    page = open_page()
    page.select_option("#sampler-b", "range")
    assert page.locator('#steer-b option[value="nfe"]').is_enabled()
    page.select_option("#sampler-b", "flat")
    assert page.locator('#steer-b option[value="nfe"]').is_disabled()
    run(page)
    assert page.locator('.panel[data-side="b"] h3').text_content() == "B: flat@alpha=1"


def test_results_are_saved_as_picture_and_json(open_page):
    page = open_page()
    run(page)
    with page.expect_download() as download:
        page.click("#json")
    data = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert data["model"] == "embedded/chain" and len(data["sides"]) == 2
    assert len(data["sides"][0]["tokens"]) == 48 and data["sides"][0]["passes"] > 0
    with page.expect_download() as download:
        page.click("#png")
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")


def test_a_phone_shows_one_column_and_nothing_is_cut(open_page):
    page = open_page(viewport={"width": 360, "height": 740})
    run(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    a, b = (page.locator(f'.panel[data-side="{side}"]').bounding_box() for side in "ab")
    assert a["x"] == b["x"] and b["y"] >= a["y"] + a["height"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(open_page, axe, scheme):
    page = open_page(color_scheme=scheme)
    page.select_option("#sampler-a", "confidence")
    page.select_option("#sampler-b", "range")
    page.click("summary")
    run(page)
    page.evaluate(axe)
    found = page.evaluate("axe.run({resultTypes: ['violations']})")
    violations = [
        (rule["id"], rule["help"], rule["nodes"][0]["html"]) for rule in found["violations"]
    ]
    assert not violations
