"""Rows survive a kill at any byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from robust_cli.messages import UserError
from robust_cli.runs.rows import RowLog

COLUMNS = ["index", "votes"]


def test_rows_come_back(tmp_path: Path) -> None:
    log = RowLog(tmp_path / "rows.csv", COLUMNS)
    log.append([[1, "a,b"], [2, ""]])
    assert RowLog(tmp_path / "rows.csv", COLUMNS).read() == [{"index": "1", "votes": "a,b"}, {"index": "2", "votes": ""}]


def test_a_file_cut_at_any_byte_goes_on_with_its_whole_rows(tmp_path: Path) -> None:
    whole = tmp_path / "whole.csv"
    RowLog(whole, COLUMNS).append([[k, 10 * k] for k in range(12)])
    content = whole.read_bytes()
    for size in range(len(content) + 1):
        cut = tmp_path / f"cut{size}.csv"
        cut.write_bytes(content[:size])
        log = RowLog(cut, COLUMNS)
        done = [int(row["index"]) for row in log.read()]
        assert done == list(range(len(done)))
        assert size == len(content) or len(done) <= 12
        log.append([[k, 10 * k] for k in range(len(done), 12)])
        assert cut.read_bytes() == content


@pytest.mark.parametrize("row", ["3", "3,4,5", ""])
def test_a_row_of_another_length_is_refused(tmp_path: Path, row: str) -> None:
    path = tmp_path / "rows.csv"
    RowLog(path, COLUMNS).append([[1, 2]])
    path.write_text(path.read_text() + row + "\n")
    with pytest.raises(UserError, match=r"line 3: expected 2 cells, found \d; the file is damaged"):
        RowLog(path, COLUMNS).read()


def test_other_columns_are_refused(tmp_path: Path) -> None:
    RowLog(tmp_path / "rows.csv", ["index", "other"]).append([[1, 2]])
    with pytest.raises(UserError, match="expected the columns index,votes"):
        RowLog(tmp_path / "rows.csv", COLUMNS)


@pytest.mark.parametrize(("content", "found"), [(b"a;b\n1;2\n", "found a;b; the file is damaged"),
                                                (b"\xff\x00\n", "found no text"), (b"\n", "found an empty line")])
def test_what_stands_there_instead_is_said_in_words(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(UserError, match=found):
        RowLog(tmp_path / "rows.csv", COLUMNS)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full (Linux)")
def test_a_full_disk_says_so_and_what_to_do() -> None:
    with pytest.raises(UserError, match=r"/dev/full: cannot write \(No space left on device\).*resume="):
        RowLog(Path("/dev/full"), COLUMNS)
