"""What all readers of foreign files share: limits, regular files, and errors of one line."""

import errno
import os
import resource
from pathlib import Path

import pytest
from damage import bounded, few, one_line
from hypothesis import given
from hypothesis import strategies as st

from ouroboros3d.datamodules.untrusted import (
    MAX_NAME_BYTES,
    MissingPackage,
    UntrustedError,
    can_name_a_file,
    listed_names,
    parse_json,
    read_regular,
    reraise_as,
)


class OtherError(UntrustedError):
    """Of another kind of file."""


@few(60)
@given(st.text(st.characters(), max_size=60), st.integers(0, 200))
def test_messages_are_one_line_of_limited_length(text: str, times: int) -> None:
    one_line(UntrustedError(f"name: expected one thing, {text * times} got another"))


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (KeyError("scale"), "KeyError: 'scale'"),
        (ValueError("two\nlines."), "ValueError: two lines"),
        (StopIteration(), "StopIteration"),
        (RecursionError("too deep"), "RecursionError: too deep"),
        (FileNotFoundError(2, "No such file or directory", "x"), "No such file or directory"),
        (SyntaxError("broken PNG file"), "SyntaxError: broken PNG file"),
    ],
)
def test_whatever_goes_wrong_becomes_an_error_of_one_line(error: Exception, found: str) -> None:
    with pytest.raises(OtherError) as caught, reraise_as(OtherError, "thing: expected a scale", "download it again"):
        raise error
    assert str(caught.value) == f"thing: expected a scale, got {found}; download it again."
    assert caught.value.__cause__ is error


def test_what_is_refused_already_and_what_ends_the_program_passes() -> None:
    for error in (
        OtherError("thing: expected one, got another"),
        MissingPackage("install it"),
        KeyboardInterrupt(),
        SystemExit(3),
    ):
        with pytest.raises(type(error)) as caught, reraise_as(UntrustedError, "thing: expected a scale"):
            raise error
        assert caught.value is error


def test_errors_of_the_machine_are_put_down_to_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with (
            pytest.raises(OSError, match=r"Too many open files: .*/file") as caught,
            reraise_as(OtherError, "a thing"),
        ):
            read_regular(tmp_path / "file", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE
    for error, number in ((OSError(errno.EIO, "Input/output error"), errno.EIO), (MemoryError(), errno.ENOMEM)):
        with pytest.raises(OSError, match="'thing: expected a scale'") as caught:
            with reraise_as(OtherError, "a scene"), reraise_as(OtherError, "thing: expected a scale"):
                raise error
        assert caught.value.errno == number


def test_memory_that_a_limited_process_lacks_is_put_down_to_the_file() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (2**40, hard))
    try:
        with pytest.raises(OtherError, match="thing: expected a scale, got MemoryError"):
            with reraise_as(OtherError, "thing: expected a scale"):
                bytearray(2**41)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("red chair\nred table\n", ["red chair", "red table"]),
        ("00/a\tA chair, red.\n00/b\t\n", ["00/a", "00/b"]),
        ("a\r\n\r\n \nb", ["a", "b"]),
        (" a \n", [" a "]),
        ("", []),
    ],
)
def test_a_list_has_a_name_a_line(text: str, names: list[str]) -> None:
    assert listed_names(text) == names


def test_only_regular_files_are_read_and_no_more_than_the_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link", 5) == b"12345"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 2**40)
    for path, message in (
        (tmp_path / "file", "5 bytes, of which at most 4 are read"),
        (tmp_path / "pipe", "no regular file"),
        (tmp_path / "sparse", "1099511627776 bytes"),
        (tmp_path, "a folder"),
        (Path("/dev/zero"), "no regular file"),
    ):
        with pytest.raises(OSError, match=message):
            read_regular(path, 4)


def test_files_that_the_kernel_makes_up_end_where_they_say() -> None:
    """`/proc/self/pagemap` says that it has no bytes, and gives a word for every page that could be."""
    with bounded(1):
        assert read_regular(Path("/proc/self/pagemap"), 10) == b""


@pytest.mark.parametrize("name", ["a", "a b", "ä-1.2", "x" * MAX_NAME_BYTES, "__", "é" * (MAX_NAME_BYTES // 2)])
def test_names_that_files_may_have(name: str, tmp_path: Path) -> None:
    assert can_name_a_file(name)
    (tmp_path / f".{name}-00.{'x' * 8}.part").touch()  # what is written beside it


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".a", "a/b", "/a", "a\0", "a\nb", "a\x1b[2J", "a\x85b", "a\u2028b", "\udcff", "x" * 201, "é" * 101],
)
def test_names_that_files_or_lines_cannot_have(name: str) -> None:
    assert not can_name_a_file(name)


@few(60)
@given(st.text(st.characters(), max_size=8))
def test_a_name_is_one_word_of_a_path_and_one_line_of_text(name: str) -> None:
    if can_name_a_file(name):
        assert Path("folder", name).name == name
        assert name.encode().decode().splitlines() == [name]


def test_json_that_is_nested_too_deeply() -> None:
    assert parse_json("[" * 100 + "]" * 100)
    for text in ("[" * 10**6, '{"a":' * 10**5):
        with pytest.raises(ValueError, match=r"nested too deeply|Expecting"):
            parse_json(text)
