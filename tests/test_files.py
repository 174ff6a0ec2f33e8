"""Files: UTF-8 everywhere, lines, JSON that cannot be read, directories that are held."""

import os
import re
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import unmask.files
import unmask.provenance
import unmask.tensors
from tests.disk import full_disk
from tests.forks import run_function
from unmask import UnmaskError
from unmask.cli import main
from unmask.errors import count_of, refuse_errors, short_error, short_text
from unmask.files import (
    append_bytes,
    check_writable,
    decode_lines,
    filling,
    hold_directory,
    part_of,
    read_json,
    read_json_lines,
    replacing,
    write_json,
    write_text,
)
from unmask.memory import check_memory
from unmask.tensors import write_tensors


def write_numbers(path, text):
    """`write_text` for a file of tensors."""
    write_tensors(path, {"number": torch.tensor(int(text))})


def test_text_is_utf8_whatever_the_locale_says(tmp_path):
    code = (
        "from pathlib import Path\n"
        "from unmask.files import read_json, write_json, write_text\n"
        "write_text(Path('a.txt'), '\\u03b1 \\u2265 \\u03b2')\n"
        "write_json(Path('a.json'), {'\\u03b1': '\\u03c4'})\n"
        "assert read_json(Path('a.json')) == {'\\u03b1': '\\u03c4'}\n"
        "assert read_json(Path('b.json')) == '\\u03b3'\n"
    )
    (tmp_path / "b.json").write_bytes('"γ"'.encode())
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "a.txt").read_bytes() == "α ≥ β".encode()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.txt", "b.json"]


@pytest.mark.parametrize("write", [write_text, write_numbers])
def test_two_processes_may_write_one_file_at_once(tmp_path, monkeypatch, write):
    """The second writes all of it while the first is about to move its own into place."""
    move, path = os.replace, tmp_path / "file"

    def replace(part, target):
        monkeypatch.undo()
        monkeypatch.setenv("RANK", "3")
        write(path, "2")
        move(part, target)

    monkeypatch.setattr(os, "replace", replace)
    write(path, "1")
    first = path.read_bytes()
    write(path, "1")
    assert path.read_bytes() == first and os.listdir(tmp_path) == ["file"]
    leftover = part_of(path)
    leftover.write_bytes(b"half")
    write(path, "1")
    assert os.listdir(tmp_path) == ["file"], "what a kill has left is written over"


def test_a_file_that_cannot_be_put_into_its_place_is_named_and_leaves_nothing(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError) as error:
        write_text(tmp_path / "taken", "1")
    assert error.value.filename == str(tmp_path / "taken")
    assert os.listdir(tmp_path) == ["taken"]


def test_what_is_added_to_a_file_is_all_there_or_nothing_of_it(tmp_path):
    append_bytes(tmp_path / "a", b"one\n")
    with full_disk(10), pytest.raises(OSError, match=r"too large.*/a"):
        append_bytes(tmp_path / "a", b"another, longer\n")
    append_bytes(tmp_path / "a", b"two\n")
    assert (tmp_path / "a").read_bytes() == b"one\ntwo\n"


def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    with pytest.raises(UnmaskError, match="is a directory"):
        check_writable(tmp_path)
    check_writable(tmp_path / "new" / "a")  # whoever writes it may make directories
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o555)

        def act():
            if os.getuid() == 0:  # which may write everywhere
                os.setuid(65534)
            with pytest.raises(UnmaskError, match="takes no new files"):
                check_writable(Path(name, "a"))
            return 0

        assert run_function(act).returncode == 0


def test_the_files_of_a_directory_are_moved_when_all_are_written(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text("before")
    with pytest.raises(OSError, match=r"too large.*/b"), filling(tmp_path) as part, full_disk(4):
        (part / "a").write_text("new")
        write_text(part / "b", "longer")
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["before", "before"]
    with filling(tmp_path) as part:
        (part / "a").write_text("new")
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["new", "before"]


def test_an_error_names_the_files_that_were_to_be_written(tmp_path):
    """And not those that hold their place, which are gone."""
    with pytest.raises(UnmaskError) as caught, filling(tmp_path) as part:
        raise UnmaskError(f"figure {part / 'a.png'} cannot be written")
    assert str(caught.value) == f"figure {tmp_path / 'a.png'} cannot be written"
    for make in (filling, replacing):
        with pytest.raises(OSError, match=r"^a library's own words$"), make(tmp_path / "new"):
            raise OSError("a library's own words")


def test_a_pipe_or_a_device_is_written_to_and_stays(tmp_path):
    """As `--output /dev/stdout`, which root could replace by a file."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        check_writable(path)
        write_text(path, "text")
        assert os.read(reader, 100) == b"text"
        os.close(reader)
    assert pipe.is_fifo() and link.is_symlink() and len(list(tmp_path.iterdir())) == 2


def test_an_open_file_is_written_to_by_its_number(tmp_path):
    """As `/dev/stdout` where the shell has sent it into a file."""
    link, file = tmp_path / "stdout", tmp_path / "file"
    with file.open("w") as opened:
        link.symlink_to(f"/proc/self/fd/{opened.fileno()}")
        for text, path in (("a", link), ("b", Path(f"/dev/fd/{opened.fileno()}"))):
            check_writable(path)
            write_text(path, text)
        print("c", file=opened)
    assert link.is_symlink() and file.read_text() == "abc\n"
    with pytest.raises(OSError):  # none of this process
        write_text(Path(f"/dev/fd/{10**30}"), "text")


def test_a_link_stays_and_the_file_behind_it_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    link, file = tmp_path / "link", tmp_path / "there" / "file"
    link.symlink_to("there/file")
    for text in ("new", "newer"):
        check_writable(link)
        write_text(link, text)
        assert link.is_symlink() and file.read_text() == text
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["file"]


@pytest.mark.parametrize("module", [unmask.files, unmask.provenance, unmask.tensors])
def test_every_file_of_the_module_names_its_encoding(module):
    source = Path(module.__file__).read_text(encoding="utf-8")
    for call in (r"\.read_text\(", r"\.write_text\(", r"(?<!\bos\.)\bopen\("):
        for part in re.split(call, source)[1:]:
            assert "encoding=" in part.split("\n")[0] or part.startswith(('"rb")', '"ab")'))


def test_lines_end_at_newlines_only():
    text = "a\u2028b\x85c\nd\r\n\ne"
    assert decode_lines(text.encode()) == ["a\u2028b\x85c", "d\r", "", "e"]
    assert decode_lines(b"\xef\xbb\xbfa\nb\n") == ["a", "b"]
    assert decode_lines(b"") == [""]
    with pytest.raises(UnicodeDecodeError):
        decode_lines(b"\xff")


@pytest.mark.parametrize("data", [b"{", b"\xff\xfe", b"", b"[" * 100_000])
def test_json_that_cannot_be_read_is_named_in_one_line(tmp_path, data):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(UnmaskError, match=r"a\.json cannot be read as JSON") as caught:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


def test_json_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}
    write_json(tmp_path / "b.json", [1])
    assert read_json(tmp_path / "b.json") == [1]
    write_text(tmp_path / "b.json", "[2]")
    assert read_json(tmp_path / "b.json") == [2]


def test_errors_become_one_short_line():
    assert short_error(ValueError("a\n  b\n")) == "a b"
    assert short_error(ValueError("")) == "ValueError"
    assert short_error(KeyError()) == "KeyError"
    for text in ("x" * 1000, "word " * 300):
        assert 100 <= len(short_text(text)) <= 200 and short_text(text).endswith(" …")
    assert short_text("word " * 300).endswith("word …")


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "nothing", "a long name"])
def test_what_is_no_file_is_not_waited_for(tmp_path, kind):
    path = tmp_path / ("a" * 5000 if kind == "a long name" else "config.json")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    with pytest.raises(UnmaskError) as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_values_are_checked_by_a_schema(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 1}\n\n{"n": 2}\n{"n": ', encoding="utf-8")
    schema = dict[str, int]
    assert read_json_lines(path, schema, torn=True) == [{"n": 1}, {"n": 2}]
    with pytest.raises(UnmaskError, match=r"line 4 of .* is not JSON"):
        read_json_lines(path, schema)
    path.write_text('{"n": 1}\n{"n": "x"}\n', encoding="utf-8")
    with pytest.raises(UnmaskError, match=r"line 2 of .*a.jsonl cannot be used: n is 'x'"):
        read_json_lines(path, schema, torn=True)


WORDS = ("it broke", "mend it")


def test_a_library_that_panics_becomes_a_sentence():
    class PanicException(BaseException):
        """What the tokenizers' library raises is no `Exception` either."""

    for error in (ValueError("a\nb"), PanicException("a b"), MemoryError("a b"), RecursionError()):
        with pytest.raises(UnmaskError, match=r"it broke .*; mend it"), refuse_errors(*WORDS):
            raise error
    with pytest.raises(KeyboardInterrupt), refuse_errors(*WORDS):
        raise KeyboardInterrupt


def test_what_does_not_fit_into_memory_is_refused():
    check_memory(1, "a byte", "give less")
    with pytest.raises(UnmaskError, match=r"a network takes about .* GiB .*; give less"):
        check_memory(2**60, "a network", "give less")


@contextmanager
def held_by_another_process(directory):
    program = (
        "import sys; from pathlib import Path; from unmask.files import hold_directory\n"
        "with hold_directory(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(directory)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as other:
        assert other.stdout.readline() == "held\n"
        try:
            yield
        finally:
            other.kill()  # whatever the way in which it ends, it keeps nobody out any more


def test_a_directory_is_held_by_one_process_and_by_nobody_once_that_is_killed(tmp_path):
    with held_by_another_process(tmp_path / "runs" / "one"):
        with pytest.raises(UnmaskError, match=r"another process writes to .*one now"):
            hold_directory(tmp_path / "runs" / "one").__enter__()
        with hold_directory(tmp_path / "runs" / "two"):
            assert (tmp_path / "runs" / "two").is_dir()
    with hold_directory(tmp_path / "runs" / "one"):
        assert not (tmp_path / "runs" / "two").exists()  # nothing was written to it
    assert not (tmp_path / "no").exists()
    with hold_directory(tmp_path / "no", make=False):
        assert not (tmp_path / "no").exists()
    (tmp_path / "file").write_text("", encoding="utf-8")
    with hold_directory(tmp_path / "file" / "below"):
        pass  # who uses the name says what is wrong with it


def test_two_processes_cannot_go_on_with_one_run(tmp_path, tiny_dir, capsys):
    """Whatever the command, the second is refused before it changes anything."""
    common = ["--model", str(tiny_dir), "--task", "chain"]
    length, sampler = ["--max-new-tokens", "8"], ["--samplers", "confidence:4"]
    small_run = ["--rounds", "1", "--prompts", "1", "--rollouts", "2", "--eval-prompts", "2"]
    small_network = ["--layers", "1", "--width", "32", "--heads", "2", "--batch-size", "2"]
    commands = {
        "train": ["train", *common, *length, *small_run],
        "evaluate": ["evaluate", *common, *length, *sampler, "--prompts", "2"],
        "record": ["record", *common, *length, *sampler, "--prompts", "2"],
        "pretrain": ["pretrain", "--task", "chain", "--steps", "1", *small_network],
    }
    for name, command in commands.items():
        out = tmp_path / name
        assert main([*command, "--out", str(out)]) == 0
        files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        capsys.readouterr()
        again = ["train", "--resume", str(out)] if name == "train" else None
        again = again or [*command, "--out", str(out), "--resume"]
        with held_by_another_process(out):
            assert main(again) == 2
        assert f"another process writes to {out} now" in capsys.readouterr().err
        assert files == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        assert main(again) == 0


def test_a_count_of_one_is_in_the_singular():
    assert [count_of(n, "prompt") for n in (0, 1, 2)] == ["0 prompts", "1 prompt", "2 prompts"]
    assert count_of(1, "pass", "passes") == "1 pass" and count_of(3, "pass", "passes") == "3 passes"
