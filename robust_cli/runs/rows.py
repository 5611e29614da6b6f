"""Append-only rows of a run: a CSV that survives a kill at any moment."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from robust_cli.messages import UserError


class RowLog:
    """Rows of one CSV file. Each append reaches the system before it returns, so a killed process loses none of it; a last
    line torn by a kill is dropped when the file is opened again."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        """Open ``path`` to append, writing the header if it is new.

        Raises UserError if the file holds other columns.
        """
        self.path, self.columns = Path(path), list(columns)
        header = ",".join(self.columns) + "\n"
        if self.path.exists() and self.path.stat().st_size:
            self._drop_torn_line(header)
        else:
            self._append(header)

    def _drop_torn_line(self, header: str) -> None:
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if not header.encode().startswith(content) and not whole.startswith(header.encode()):
            first = content.split(b"\n", 1)[0][:200]
            found = first.decode() if first.isascii() and first.decode().isprintable() else "no text"
            raise UserError(f"{self.path}: expected the columns {header.strip()}, found {found or 'an empty line'}; the file is "
                            "damaged: start a new run")
        if len(whole) != len(content):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        if not whole:
            self._append(header)

    def _append(self, text: str) -> None:
        try:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(text)
        except OSError as error:
            raise UserError(f"{self.path}: cannot write ({error.strerror}); what was written before is kept, "
                            "make room and go on with resume=<this folder>") from error

    def append(self, rows: Iterable[Sequence[object]]) -> None:
        """Append rows (values in the order of the columns) and flush them to the disk."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for row in rows:
            assert len(row) == len(self.columns), (row, self.columns)
            writer.writerow(row)
        self._append(text.getvalue())

    def cells(self) -> Iterator[list[str]]:
        """All whole rows as text, one after the other. Raises UserError for a row with more or fewer cells than columns."""
        with self.path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            next(rows, None)
            for number, row in enumerate(rows, start=2):
                if len(row) != len(self.columns):
                    raise UserError(f"{self.path}, line {number}: expected {len(self.columns)} cells, found {len(row)}; the file "
                                    "is damaged: start a new run")
                yield row

    def read(self) -> list[dict[str, str]]:
        """All whole rows, as text by column. Raises UserError as `cells` does."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.cells()]
