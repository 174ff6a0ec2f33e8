"""The YAML file of `--config`: flat names reach nested dataclasses, and the command line wins."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import tyro

from unmask import UnmaskError
from unmask.cli import COMMANDS, serve
from unmask.cli.arguments import parse
from unmask.cli.config_file import option_types, read_config


@dataclass(frozen=True)
class Inner:
    """Options that check each other."""

    length: int | None = None
    """Length."""
    block: int | None = None
    """Block."""
    kind: Literal["a", "b"] = "a"
    """Kind."""

    def __post_init__(self):
        if self.block is not None and self.length is None:
            raise UnmaskError("block was given without length; give both")


@dataclass(frozen=True)
class Deep:
    """Options two levels down."""

    inner: tyro.conf.OmitArgPrefixes[Inner] = field(default_factory=Inner)
    """Inner."""
    depth: float = 1.0
    """Depth."""


@dataclass(frozen=True)
class Config:
    """A command."""

    words: tyro.conf.Positional[tuple[str, ...]] = ()
    """Words."""
    deep: tyro.conf.OmitArgPrefixes[Deep] = field(default_factory=lambda: Deep(depth=2.0))
    """Deep."""
    plain: Inner = field(default_factory=lambda: Inner(kind="b"))
    """Not flat on the command line."""
    out: Path = Path("out")
    """Output."""
    sizes: tuple[int, ...] = (1,)
    """Sizes."""


@dataclass(frozen=True)
class Flat:
    """A command whose nested options are flat on the command line, too."""

    deep: tyro.conf.OmitArgPrefixes[Deep] = field(default_factory=lambda: Deep(depth=2.0))
    """Deep."""
    out: Path = Path("out")
    """Output."""
    name: tyro.conf.Positional[str] = "x"
    """Name."""


@dataclass(frozen=True)
class Needing:
    """A command with an option that must be given."""

    to: Path
    """Where to."""
    deep: tyro.conf.OmitArgPrefixes[Deep] = field(default_factory=Deep)
    """Deep."""


def parsed(config_class, tmp_path, text, *arguments):
    file = tmp_path / "file.yaml"
    file.write_text(text, encoding="utf-8")
    return parse(config_class, "test", [*arguments, "--config", str(file)])


def test_flat_names_reach_nested_options(tmp_path):
    config, given = parsed(Flat, tmp_path, "length: 6\nblock: 2\ndepth: 3\nout: there\nname: y\n")
    assert config == Flat(Deep(Inner(6, 2), 3.0), Path("there"), "y")
    assert given == {"length", "block", "depth", "out", "name"}


def test_defaults_of_nested_options_are_those_of_the_field(tmp_path):
    config, given = parsed(Flat, tmp_path, "length: 6\n", "--out", "here")
    assert config == Flat(Deep(Inner(6), 2.0), Path("here"))
    assert given == {"length", "out"}


def test_the_command_line_wins_over_the_file_also_in_nested_options(tmp_path):
    config, _ = parsed(Flat, tmp_path, "length: 6\nkind: a\ndepth: 5\n", "--kind", "b", "z")
    assert config == Flat(Deep(Inner(6, kind="b"), 5.0), name="z")


def test_options_that_may_be_given_again_replace_those_of_the_file(tmp_path):
    text = "model: [a, b]\npolicy: ['threshold:0.5']\ncors: ['*']\n"
    words = ["--model", "c", "--model=d", "--cors", "https://example.org"]
    config, given = parsed(serve.Config, tmp_path, text, *words)
    assert config.model == ("c", "d") and config.cors == ("https://example.org",)
    assert config.policy == ("threshold:0.5",)
    assert given == {"model", "policy", "cors"}


def test_options_are_checked_together_and_not_in_the_file_alone(tmp_path):
    config, _ = parsed(Flat, tmp_path, "block: 2\n", "--length", "8")
    assert config.deep.inner == Inner(8, 2)
    with pytest.raises(UnmaskError, match="block was given without length"):
        parsed(Flat, tmp_path, "block: 2\n")


def test_options_that_must_be_given_may_be_given_in_either_place(tmp_path):
    assert parsed(Needing, tmp_path, "depth: 4\n", "--to", "a")[0] == Needing(
        Path("a"), Deep(depth=4.0)
    )
    assert parsed(Needing, tmp_path, "to: b\n")[0] == Needing(Path("b"))
    with pytest.raises(UnmaskError, match="--to"):
        parsed(Needing, tmp_path, "depth: 4\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speed: 3\n", r"unknown options \(speed\); known are block, depth, kind, length"),
        ("deep: {depth: 3}\n", r"unknown options \(deep\)"),
        ("length: long\n", "length: Input should be a valid integer"),
        ("kind: c\n", "kind: Input should be 'a' or 'b'"),
        ("depth: [1]\n", "depth: Input should be a valid number"),
        ("3\n", "holds no `option: value` lines"),
        ("a: [\n", "cannot be read as YAML"),
        ("a: 2000-13-45\n", "cannot be read as YAML"),
        ("[" * 5000, "cannot be read as YAML"),
    ],
)
def test_what_cannot_be_used_is_refused_by_a_sentence(tmp_path, text, message):
    with pytest.raises(UnmaskError, match=f"file.yaml.*{message}") as caught:
        parsed(Flat, tmp_path, text)
    assert "\n" not in str(caught.value)


def test_files_are_utf8_with_or_without_a_byte_order_mark(tmp_path):
    file = tmp_path / "file.yaml"
    file.write_bytes("\ufeffname: 'α'\n".encode())
    assert read_config(Flat, str(file))[0].name == "α"
    file.write_bytes("name: 'α'\n".encode("latin-1", "replace") + b"\xe9")
    with pytest.raises(UnmaskError, match="cannot be read as YAML"):
        read_config(Flat, str(file))


def test_fields_that_are_not_flat_on_the_command_line_are_reached_too(tmp_path):
    file = tmp_path / "file.yaml"
    file.write_text("words: [a, b]\nsizes: [2, 3]\n", encoding="utf-8")
    config, given = read_config(Config, str(file))
    assert (config.words, config.sizes, config.plain) == (("a", "b"), (2, 3), Inner(kind="b"))
    assert given == {"words", "sizes"}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_two_options_of_a_command_have_the_same_flat_name(command):
    config_class = importlib.import_module(f"unmask.cli.{command.replace('-', '_')}").Config

    def names(kind):
        from unmask.cli.config_file import nested_class, typed_fields

        for one, hint in typed_fields(kind):
            nested = nested_class(hint)
            yield from [one.name] if nested is None else names(nested)

    found = list(names(config_class))
    assert len(set(found)) == len(found) and set(found) == set(option_types(config_class))
