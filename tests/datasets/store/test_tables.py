"""CSV files as people have them: every row is counted, every number is checked, and what cannot be
read is told with its place.
"""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphformer.datasets.store.tables import MISSING, number, numbers, read_rows, some

TEXT = "name,smiles,gap\na,*CC*,1.5\nb,*CO*,2.5\n"


def cells(path):
    return [list(row.cells.values()) for row in read_rows(path).rows]


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
        TEXT.replace(",", ";").encode(),
        TEXT.replace(",", "\t").encode(),
        TEXT.replace(",", " , ").encode(),
        TEXT.strip().encode(),
        ("\n\n" + TEXT.replace("\n", "\n\n,,\n")).encode(),
        re.sub(r"([^,\n]+)", r'"\1"', TEXT).encode(),
        TEXT.replace("\n", ",\n").encode(),
    ],
)
def test_a_table_is_the_same_however_it_is_written(data, tmp_path):
    (tmp_path / "a.csv").write_bytes(data)
    found = read_rows(tmp_path / "a.csv", ("smiles", "gap"))
    assert found.header == ["name", "smiles", "gap"] and [row.number for row in found.rows] == [
        1,
        2,
    ]
    assert cells(tmp_path / "a.csv") == [["a", "*CC*", "1.5"], ["b", "*CO*", "2.5"]]
    assert [numbers(row, ["gap"]) for row in found.rows] == [([1.5], []), ([2.5], [])]


def test_one_column_and_commas_in_quotes(tmp_path):
    (tmp_path / "a.csv").write_text('smiles\n*CC*\n"*CO*"\n')
    assert cells(tmp_path / "a.csv") == [["*CC*"], ["*CO*"]]
    (tmp_path / "b.csv").write_text('name,note\n"poly(a,b)","two\nlines, ""quoted"""\nc,d\n')
    found = read_rows(tmp_path / "b.csv")
    assert cells(tmp_path / "b.csv") == [["poly(a,b)", 'two\nlines, "quoted"'], ["c", "d"]]
    assert [row.place for row in found.rows] == ["row 1", "row 2 (line 4)"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has no column 'gap'; it has none"),
        (b"a,b\n1,2\n", "has no column 'gap'; it has a, b."),
        (
            b"*CC*,1.5\n*CO*,2\n",
            "it has *CC*, 1.5. Its first line looks like data: give it a header.",
        ),
        (b"# made by hand\ngap\n1\n", "CSV has no comments: remove lines that begin with #."),
        (b"gap,gap\n1,2\n", "has the column 'gap' 2 times; give each column a name of its own"),
        (
            "gap\n1\n2 \u00b5m\n".encode("latin-1"),
            "(line 3 is not UTF-8: invalid start byte, 0xb5); give a CSV file in UTF-8",
        ),
        (b"gap\n\0\0\n", "it is a binary file"),
        (b'gap,e\n1,2\n"3,4\n5,6\n', "a quote is never closed, in the row that begins in line 3"),
        (b'gap,e\n"a"b,2\n', "in the row that begins in line 2"),
    ],
)
def test_what_is_no_table_is_told_with_its_line(data, message, tmp_path):
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(message)) as told:
        read_rows(tmp_path / "a.csv", ("gap",))
    assert str(tmp_path / "a.csv") in str(told.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*nothing.csv"):
        read_rows(tmp_path / "nothing.csv")


def test_no_column_hides_another(tmp_path):
    (tmp_path / "a.csv").write_text("a,,a,b,a\n1,2,3,4,5\n")
    found = read_rows(tmp_path / "a.csv", ("b",))
    assert found.header == ["a", "column 2", "a.1", "b", "a.2"] and cells(tmp_path / "a.csv") == [
        ["1", "2", "3", "4", "5"]
    ]


def test_rows_of_another_length_are_told(tmp_path):
    (tmp_path / "a.csv").write_text("a,b,c\n1,2,3,4\n1,2\n1,2,3,\n")
    long, short, closed = read_rows(tmp_path / "a.csv").rows
    assert long.problem == "4 cells under 3 columns; put quotes around cells that hold commas"
    assert (
        short.problem is None
        and short.cells == {"a": "1", "b": "2", "c": None}
        and numbers(short, ["c", "a"])[0][1] == 1
    )
    assert closed.problem is None and closed.cells["c"] == "3"


@pytest.mark.parametrize("text", [*sorted(MISSING), "  N/A ", "NaN", "None", "NULL"])
def test_what_stands_for_no_value_is_missing(text):
    assert math.isnan(number(text))


def test_no_cell_is_missing():
    assert math.isnan(number(None))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "1,5",
            "'1,5' is no number; write a decimal point, as in 1.5, and no signs between thousands",
        ),
        ("1,234.5", "'1,234.5' is no number; write no signs between thousands, as in 1234.5"),
        ("1'234", "no signs between thousands, as in 1234"),
        ("12 K", "'12 K' is no number; write the number alone, with its unit in the header"),
        ("3.2eV", "write the number alone"),
        ("1.2.3", "write the number alone"),
        (">300", "write the value alone, or leave the cell empty"),
        ("3±1", "write the value alone"),
        ("much", "'much' is no number; leave the cell empty where there is no value"),
        ("1_000", "'1_000' is no number"),
        ("0x10", "is no number"),
        ("1+2j", "is no number"),
        ("True", "is no number"),
        ("inf", "inf is no value: it is infinite, or beyond float32"),
        ("-Infinity", "-Infinity is no value"),
        ("1e400", "1e400 is no value"),
        ("-3.5e38", "-3.5e38 is no value"),
    ],
)
def test_what_is_no_number_is_told_with_how_to_write_it(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        number(text)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_every_number_of_float32_is_read_as_it_is(value):
    for text in (
        repr(value),
        f" {value!r} ",
        f"{value:.17e}",
        repr(value).replace("-", "\N{MINUS SIGN}"),
    ):
        assert number(text) == value
    assert np.isfinite(np.float32(number(repr(value))))


@given(st.text())
def test_no_text_is_an_infinite_number_or_another_error(text):
    try:
        assert not math.isinf(number(text))
    except ValueError as error:
        assert str(error)


def test_long_lists_of_names_are_cut():
    assert some([1, 2, 3], 2) == "1, 2, ..." and some(["a"]) == "a" and some([]) == ""
