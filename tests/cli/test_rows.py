"""Reading rows: every format, every shape, and what is no row."""

from __future__ import annotations

import builtins
import datetime as dt
import json
import math
from pathlib import Path
from typing import Any

import pytest

from service.cli.failures import CommandError
from service.cli.rows import DataFile, Row, Unreadable
from tests.cli.world import write_rows

MAX_BYTES = 1000


def data_file(
    path: Path, *, sample_field: str = "model_sample", limit: int | None = None
) -> DataFile:
    return DataFile(path, sample_field=sample_field, limit=limit, max_bytes=MAX_BYTES)


def rows_of(path: Path, **options: Any) -> list[Row | Unreadable]:
    return list(data_file(path, **options).rows(lambda _: False))


def shapes_of(path: Path, **options: Any) -> list[tuple[dict[str, Any], str]]:
    """Return item and text of every row, all of which must be readable."""
    read = rows_of(path, **options)
    assert [row.index for row in read] == list(range(len(read)))
    return [(row.item, row.sample.output_text) for row in read if isinstance(row, Row)]


class TestShapes:
    @pytest.mark.parametrize(
        ("given", "item", "text"),
        [
            pytest.param({"item": {"a": 1}, "model_sample": "t"}, {"a": 1}, "t", id="usual"),
            pytest.param(
                {"id": 7, "item": {"a": 1}, "model_sample": "t"}, {"a": 1}, "t", id="more keys"
            ),
            pytest.param({"a": 1, "model_sample": "t"}, {"a": 1}, "t", id="flat"),
            pytest.param({"model_sample": ""}, {}, "", id="empty text"),
            pytest.param({"item": {}, "sample": {"output_text": "t"}}, {}, "t", id="sample object"),
            pytest.param(
                {"a": 1, "sample": {"output_text": "t"}}, {"a": 1}, "t", id="flat with an object"
            ),
            pytest.param(
                {"item": {}, "sample": {"output_text": "t"}, "model_sample": None},
                {},
                "t",
                id="null",
            ),
            pytest.param(
                {"a": 1, "sample": "s", "model_sample": "t"},
                {"a": 1, "sample": "s"},
                "t",
                id="an item may have a key sample",
            ),
        ],
    )
    def test_of_rows(self, given: Any, item: Any, text: str, tmp_path: Path) -> None:
        assert shapes_of(write_rows(tmp_path / "r.jsonl", [given])) == [(item, text)]

    @pytest.mark.parametrize("given", [{"item": {"a": 1}, "answer": "t"}, {"a": 1, "answer": "t"}])
    def test_the_sample_field_may_have_any_name(self, given: Any, tmp_path: Path) -> None:
        path = write_rows(tmp_path / "r.jsonl", [given])
        assert shapes_of(path, sample_field="answer") == [({"a": 1}, "t")]

    def test_the_sample_field_may_be_called_sample(self, tmp_path: Path) -> None:
        path = write_rows(
            tmp_path / "r.jsonl", [{"a": 1, "sample": "t"}, {"sample": {"output_text": ""}}]
        )
        assert shapes_of(path, sample_field="sample") == [({"a": 1}, "t"), ({}, "")]

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ([], "expected an object, got an array"),
            ({}, "expected model_sample (a string) or sample (an object): neither is there"),
            ({"sample": "t"}, "expected model_sample (a string) or sample (an object): neither"),
            ({"sample": {}, "model_sample": "t"}, "or sample (an object): both are there"),
            ({"item": 1, "model_sample": "t"}, "item: expected an object, got an integer"),
            ({"item": None, "model_sample": "t"}, "item: expected an object, got null"),
            ({"model_sample": 1}, "model_sample: expected a string, got an integer"),
            ({"model_sample": {}}, "model_sample: expected a string, got an object"),
            ({"model_sample": None}, 'model_sample is null (an empty answer is "")'),
            ({"sample": {"output_text": 1}}, "sample.output_text: expected a string"),
        ],
    )
    def test_what_is_no_row(self, given: Any, message: str, tmp_path: Path) -> None:
        (read,) = rows_of(write_rows(tmp_path / "r.jsonl", [given]))
        assert isinstance(read, Unreadable)
        assert message in read.message

    def test_as_a_request_text_and_object_stay_what_they_are(self, tmp_path: Path) -> None:
        given = [
            {"item": {"a": 2**70}, "model_sample": "t"},
            {"item": {}, "sample": {"output_text": "t", "more": [1]}},
        ]
        read = rows_of(write_rows(tmp_path / "r.jsonl", given))
        assert [json.loads(row.as_request()) for row in read if isinstance(row, Row)] == given


class TestHintForDataWithoutAUsableRow:
    def test_names_the_columns_and_the_option(self, tmp_path: Path) -> None:
        path = tmp_path / "r.csv"
        path.write_text("name,reply\na,b\n")
        assert data_file(path).unusable() == (
            "no row is usable: there is no column model_sample; there are name, reply. "
            "--sample-field names the one with the model's output"
        )

    def test_is_bounded(self, tmp_path: Path) -> None:
        path = write_rows(tmp_path / "r.jsonl", [{f"{n:0300}": n for n in range(3)}])
        assert len(data_file(path).unusable()) < 600
        path = write_rows(tmp_path / "r.jsonl", [{f"c{n}": n for n in range(30)}])
        assert "c19, …. --sample-field" in data_file(path).unusable()

    @pytest.mark.parametrize("text", ["{a}\n", "[]\n", '{"item": 1, "model_sample": "t"}\n'])
    def test_shows_a_row_where_the_column_is_not_to_blame(self, text: str, tmp_path: Path) -> None:
        path = tmp_path / "r.jsonl"
        path.write_text(text)
        assert data_file(path).unusable().startswith('no row is usable; a row is {"item": {…}, ')


class TestJsonLines:
    def test_blank_lines_are_no_rows_and_a_mark_at_the_start_is_passed_over(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "r.jsonl"
        path.write_bytes(b'\xef\xbb\xbf{"model_sample":"a"}\r\n\n  \n{"model_sample":"b"}')
        assert shapes_of(path) == [({}, "a"), ({}, "b")]

    def test_what_is_no_json_is_one_bad_row_each(self, tmp_path: Path) -> None:
        path = tmp_path / "r.txt"
        deep = b"[" * 900
        path.write_bytes(
            b'{"a":\n{"model_sample":"\xff"}\n' + deep + b'\n{a}\n{"model_sample":"b"}\n'
        )
        *bad, good = rows_of(path)
        assert [row.index for row in bad] == [0, 1, 2, 3]
        assert isinstance(bad[3], Unreadable)
        assert bad[3].message == "not JSON: object keys must be strings (byte 1)"
        assert all(
            isinstance(row, Unreadable) and row.message.startswith("not JSON") for row in bad
        )
        assert isinstance(good, Row)

    def test_an_overlong_line_is_one_bad_row_however_long(self, tmp_path: Path) -> None:
        texts = ["a", "x" * MAX_BYTES * 5, "y" * (MAX_BYTES - 19), "z" * (MAX_BYTES - 20), "b"]
        path = tmp_path / "r.jsonl"
        path.write_text("".join(f'{{"model_sample":"{text}"}}\n' for text in texts))
        read = rows_of(path)
        assert [type(row) for row in read] == [Row, Unreadable, Unreadable, Row, Row]
        assert isinstance(read[1], Unreadable)
        assert read[1].message == "the line is longer than 1000 bytes"

    def test_rows_that_are_skipped_are_not_even_decoded(self, tmp_path: Path) -> None:
        path = tmp_path / "r.jsonl"
        path.write_text('{"a":\n{"model_sample":"b"}\n')
        (row,) = data_file(path).rows(lambda index: index == 0)
        assert isinstance(row, Row)
        assert row.index == 1

    def test_a_limit_ends_the_rows(self, tmp_path: Path) -> None:
        path = write_rows(tmp_path / "r.jsonl", [{"model_sample": "t"}] * 5)
        assert len(rows_of(path, limit=2)) == 2
        assert (data_file(path, limit=2).expected, data_file(path).expected) == (2, 5)

    def test_the_content_is_digested(self, tmp_path: Path) -> None:
        path = tmp_path / "r.jsonl"
        path.write_bytes(b"abc")
        data = data_file(path)
        assert data.sha256.startswith("ba7816bf")
        assert data.size == 3

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(CommandError, match="none: No such file or directory"):
            data_file(tmp_path / "none")


class TestCsv:
    def test_columns_become_the_item(self, tmp_path: Path) -> None:
        path = tmp_path / "r.CSV"
        path.write_bytes('\ufeffanswer,model_sample\n1,"a, ""b""\nc"\n\n2,d\n'.encode())
        assert shapes_of(path) == [
            ({"answer": "1"}, 'a, "b"\nc'),
            ({"answer": "2"}, "d"),
        ]

    def test_item_and_sample_may_be_json(self, tmp_path: Path) -> None:
        path = tmp_path / "r.csv"
        path.write_text('item,sample\n"{""a"": 1}","{""output_text"": ""t""}"\n')
        assert shapes_of(path) == [({"a": 1}, "t")]

    def test_a_sample_that_is_no_json_is_text(self, tmp_path: Path) -> None:
        path = tmp_path / "r.csv"
        path.write_text("a,sample\n1,{t\n")
        assert shapes_of(path, sample_field="sample") == [({"a": "1"}, "{t")]

    def test_rows_of_another_width_or_encoding_are_bad_rows(self, tmp_path: Path) -> None:
        path = tmp_path / "r.csv"
        path.write_bytes(b"a,model_sample\n1\n1,2,3\n1,\xff\n1,t\n")
        *bad, good = rows_of(path)
        assert [row.message for row in bad if isinstance(row, Unreadable)] == [
            "1 cells under 2 names",
            "3 cells under 2 names",
            "not UTF-8",
        ]
        assert isinstance(good, Row)

    @pytest.mark.parametrize("text", ["", "\n", "a,a\n1,2\n"])
    def test_columns_need_names(self, text: str, tmp_path: Path) -> None:
        path = tmp_path / "r.csv"
        path.write_text(text)
        with pytest.raises(CommandError, match="the first line must name every column once"):
            rows_of(path)

    def test_a_cell_over_the_limit_ends_the_reading(self, tmp_path: Path) -> None:
        path = tmp_path / "r.csv"
        path.write_text(f"model_sample\nt\n{'x' * 2000}\n")
        with pytest.raises(CommandError, match=r"r\.csv: line 3: field larger than field limit"):
            rows_of(path)


class TestParquet:
    @staticmethod
    def write(path: Path, rows: list[dict[str, Any]]) -> Path:
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)
        return path

    def test_structs_texts_and_json_are_items(self, tmp_path: Path) -> None:
        nested = self.write(tmp_path / "a.parquet", [{"item": {"a": 1}, "model_sample": "t"}])
        flat = self.write(tmp_path / "b.pq", [{"a": 1, "model_sample": "t"}])
        text = self.write(tmp_path / "c.parquet", [{"item": '{"a": 1}', "model_sample": "t"}])
        for path in (nested, flat, text):
            assert shapes_of(path) == [({"a": 1}, "t")]

    def test_what_json_lacks_becomes_text_or_null(self, tmp_path: Path) -> None:
        values = {"at": dt.datetime(2026, 1, 2, tzinfo=dt.UTC), "x": float("nan")}
        path = self.write(tmp_path / "r.parquet", [{**values, "model_sample": "t"}])
        assert shapes_of(path) == [({"at": "2026-01-02T00:00:00Z", "x": None}, "t")]

    def test_a_row_without_a_form_in_json_is_a_bad_row(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = self.write(tmp_path / "r.parquet", [{"model_sample": "t"}])
        data = data_file(path)
        monkeypatch.setattr(data._format, "records", lambda: iter([{"x": object()}]))
        (row,) = data.rows(lambda _: False)
        assert isinstance(row, Unreadable)
        assert row.message.startswith("has no form in JSON: ")

    @pytest.mark.parametrize("value", [math.inf, {"b": [1.0, -math.inf]}], ids=["flat", "nested"])
    def test_an_infinite_number_is_a_bad_row_and_never_null(
        self, tmp_path: Path, value: Any
    ) -> None:
        path = self.write(tmp_path / "r.parquet", [{"x": value, "model_sample": "null"}])
        (row,) = data_file(path).rows(lambda _: False)
        assert isinstance(row, Unreadable)
        assert row.message == "x holds an infinite number, which JSON lacks"

    def test_a_damaged_file_is_refused_where_the_damage_is(self, tmp_path: Path) -> None:
        rows = [{"n": str(number), "model_sample": "t"} for number in range(3000)]
        path = self.write(tmp_path / "r.parquet", rows)
        text = bytearray(path.read_bytes())
        text[4:2000] = bytes(1996)
        path.write_bytes(text)
        with pytest.raises(CommandError, match=r"r\.parquet: not readable to its end: "):
            rows_of(path)

    def test_many_rows_are_counted_and_streamed(self, tmp_path: Path) -> None:
        path = self.write(
            tmp_path / "r.parquet", [{"n": n, "model_sample": "t"} for n in range(3000)]
        )
        assert data_file(path).expected == 3000
        assert [item["n"] for item, _ in shapes_of(path)] == list(range(3000))

    def test_a_file_of_another_kind_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "r.parquet"
        path.write_text("PAR?")
        with pytest.raises(CommandError, match=r"r\.parquet: not readable as Parquet: "):
            data_file(path)

    def test_without_pyarrow_it_is_said_how_to_get_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = self.write(tmp_path / "r.parquet", [{"model_sample": "t"}])
        load = builtins.__import__

        def without(name: str, *arguments: Any, **options: Any) -> Any:
            if name.startswith("pyarrow"):
                raise ImportError(name)
            return load(name, *arguments, **options)

        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(
            CommandError, match=r"needs pyarrow: pip install 'gradekeeper\[parquet\]'"
        ):
            data_file(path)
