"""The prose of every Markdown page: short lines, sentences that can be read, plain words.

The rules are in docs/CONTRIBUTING.md.
"""

import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Every page that git tracks or would track, the cards of the shipped models and policies included.
PAGES = sorted(
    subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*.md"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")[:-1]
)
LONGEST_LINE = 120  # characters, tables and code included
LONGEST_SENTENCE = 45  # words
MOST_NUMBERS = 12  # of one sentence; more belong in a table
# A journal: figures stand close together in it.
DENSE = {"docs/lab-book.md"}
# Cards that `save_pretrained` and `pretrain` write: a table row or a command stays on one line.
CARDS = "src/unmask/"
BANNED = {
    # words that sell
    "amazing",
    "awesome",
    "best-in-class",
    "blazing",
    "blazingly",
    "cutting-edge",
    "effortless",
    "effortlessly",
    "groundbreaking",
    "powerful",
    "revolutionary",
    "seamless",
    "seamlessly",
    "state-of-the-art",
    # words that make a reader feel slow
    "obviously",
    "simply",
    "trivially",
    # long words for short ones
    "facilitate",
    "leverage",
    "leverages",
    "leveraging",
    "utilise",
    "utilize",
    "utilizes",
}
INSIDE = re.compile(r"\.\./shared|/work/shared|\bissue #?\d+\b|(?<![\w/&])#\d+\b", re.IGNORECASE)


def prose_lines(text):
    """The lines of a page outside its code, with their numbers."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not re.match(r" {4}(?!\s*([*-]|\d+\.) )", line):
            yield number, line


def paragraphs(text):
    """The paragraphs and list items of a page, without tables, headings and code in the text."""
    part: list[str] = []
    start = 0
    for number, line in [*prose_lines(text), (0, "")]:
        ends = not line.strip() or line.lstrip().startswith(("|", "#", "!["))
        if ends or re.match(r"\s*([*-]|\d+\.) ", line):
            if part:
                yield start, " ".join(part)
            part = []
        if not ends:
            start = start if part else number
            part.append(re.sub(r"^\s*([*-]|\d+\.) ", "", line).strip())


def sentences(paragraph):
    """The sentences of a paragraph; code and the targets of links are one word each."""
    text = re.sub(r"`[^`]*`", "code", paragraph)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return re.split(r"(?<=[.!?:;])\s+", text)


def words_of(text):
    return re.findall(r"[^\W\d_][\w'-]*", text)


def numbers_in(text):
    return len(re.findall(r"\d+(?:\.\d+)*", text))


@pytest.mark.parametrize("page", PAGES)
def test_page_is_plain(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    found = [
        f"line {number} has {len(line)} characters"
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > LONGEST_LINE and not page.startswith(CARDS)
    ]
    for number, line in prose_lines(text):
        found += [
            f"line {number}: {word!r}; use a plainer word or none"
            for word in words_of(re.sub(r"`[^`]*`", "", line))
            if word.lower() in BANNED
        ]
        found += [f"line {number}: {match!r} is ours alone" for match in INSIDE.findall(line)]
    for number, paragraph in paragraphs(text) if page not in DENSE else ():
        found += [
            f"paragraph at line {number}: a sentence of {len(words_of(sentence))} words; cut it"
            for sentence in sentences(paragraph)
            if len(words_of(sentence)) > LONGEST_SENTENCE
        ]
        found += [
            f"paragraph at line {number}: {count} numbers in a sentence; make it a table"
            for count in map(numbers_in, sentences(paragraph))
            if count > MOST_NUMBERS
        ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("page", [page for page in PAGES if not page.startswith(".github")])
def test_headings_go_down_one_level_at_a_time(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    levels = [
        len(match.group(1))
        for _, line in prose_lines(text)
        if (match := re.match(r"(#{1,6}) \S", line))
    ]
    if page == "docs/changelog.md":  # includes another page
        return
    assert levels[:1] == [1], "the first heading is the title, with one #"
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


def test_the_rules_find_what_they_forbid():
    bad = "# T\n\nThis simply works, see issue 12. " + "word " * 70 + ".\n\n```\nsimply\n```\n"
    lines = dict(prose_lines(bad))
    assert any("simply" in line for line in lines.values())
    assert "simply" not in lines.values()
    assert INSIDE.search("see #12") and INSIDE.search("../shared/x") and not INSIDE.search("C# 3")
    assert max(len(words_of(s)) for _, p in paragraphs(bad) for s in sentences(p)) == 70
    assert len(PAGES) >= 20
    assert {"README.md", "docs/lab-book.md", "src/unmask/policies/embedded/chain/README.md"} <= {
        *PAGES
    }


@pytest.mark.parametrize("page", [page for page in PAGES if not page.startswith(CARDS)])
def test_a_list_stands_behind_an_empty_line(page):
    """Otherwise the site shows its first item as a part of the paragraph before it."""
    item, found, before = re.compile(r"\s*([*-]|\d+\.) "), [], ""
    inside = False  # a list
    for number, line in prose_lines((ROOT / page).read_text(encoding="utf-8")):
        if item.match(line) and before.strip() and not inside:
            found.append(f"line {number}: an empty line is missing before {line[:40]!r}")
        inside = bool(line.strip()) and (inside or item.match(line) is not None)
        before = line
    assert not found, "\n".join(found)
