"""What is done to rows and bytes of the files that are tried, each a function of a random generator."""

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORMATS = Path(__file__).parent / "formats"
HUGE = 200_000

Records = list[dict[str, Any]]
Draw = random.Random


# Values that no honest cell has. What json.dumps cannot write stands for itself between marks.
def raw(text: str) -> str:
    return f"\ue000{text}\ue001"


DEPTHS = (20, 300, 700, *range(900, 1000, 3), 1100, 100_000)
ODD_VALUES: tuple[Callable[[Draw], Any], ...] = (
    lambda draw: draw.choice((None, True, False, 0, -1.5, 10**30, "", " ", "\t", "\0", "NULL", "nan")),
    lambda draw: draw.choice(([], {}, [[]], [None], [0], ["a", None, {}], {"a": [1]}, [{}], {"role": {}}, "[", "[]")),
    lambda draw: draw.choice(("\ud800", "a\udfff", "\ud83d\ude00", ["\ud800"], "\ufeff", "\u2028", "\x85", "\x1b[1m")),
    lambda draw: raw(draw.choice(("NaN", "Infinity", "-Infinity", "1e400", "-0", "9" * 4299, "9" * 5000, "-" * 9))),
    lambda draw: raw("[" * (depth := draw.choice(DEPTHS)) + "]" * depth),
    lambda draw: raw('{"a":' * (depth := draw.choice(DEPTHS)) + "1" + "}" * depth),
    lambda draw: raw("[" * draw.choice(DEPTHS)),
    lambda draw: (
        draw.choice(("x", "the fox ", '"', "\\", "[", "\n", "\0", "日本", "\ud800", "[{", "\n\nHuman: ")) * HUGE
    ),
    lambda draw: raw('{"id": 1, "id": [2], "prompt": "p", "prompt": "q"}'),
    lambda draw: [{"role": "user", "content": draw.choice((None, 3, {}, [3], [{"type": "image"}], "\udc00"))}],
    lambda draw: raw('[{"role": ' + "[" * (depth := draw.choice(DEPTHS)) + "]" * depth + ', "content": "x"}]'),
)


def list_formats() -> list[str]:
    return sorted(path.name for path in FORMATS.iterdir())


def load_records(name: str) -> Records:
    text = (FORMATS / name).read_text(encoding="utf-8")
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in text.splitlines()]
    return list(csv.DictReader(io.StringIO(text, newline="")))


# Rows are changed


def change_cell(draw: Draw, records: Records) -> Records:
    """Put an odd value for a cell, or for a part of one."""
    cells = draw.choice(records)
    name = draw.choice(list(cells))
    node, key = cells, name
    while isinstance(node[key], (dict, list)) and node[key] and draw.random() < 0.7:
        node = node[key]
        key = draw.choice(list(node)) if isinstance(node, dict) else draw.randrange(len(node))
    node[key] = draw.choice(ODD_VALUES)(draw)
    return records


def change_column(draw: Draw, records: Records) -> Records:
    name, odd = draw.choice(list(records[0])), draw.choice(ODD_VALUES)(draw)
    return [{**cells, name: odd} for cells in records]


def remove_column(draw: Draw, records: Records) -> Records:
    name = draw.choice(list(records[0]))
    return [{other: cell for other, cell in cells.items() if other != name} for cells in records]


def rename_column(draw: Draw, records: Records) -> Records:
    name = draw.choice(list(records[0]))
    new = draw.choice(("", "promptt", "id", "winner", "\ud800", "chosen", "x" * HUGE, "日本", "a\nb", name.upper()))
    return [{new if other == name else other: cell for other, cell in cells.items()} for cells in records]


def add_columns(draw: Draw, records: Records) -> Records:
    num_columns = draw.choice((1, 3, 50_000))
    added = {draw.choice(("extra", "respons_a", "\ud800")) + str(number): "x" for number in range(num_columns)}
    return [*records[:-1], {**records[-1], **added}]


def swap_cells(draw: Draw, records: Records) -> Records:
    cells = draw.choice(records)
    first, second = draw.choice(list(cells)), draw.choice(list(cells))
    cells[first], cells[second] = cells[second], cells[first]
    return records


def mix_rows(draw: Draw, records: Records) -> Records:
    mixed = [*records, *draw.sample(records, 1), *load_records(draw.choice(list_formats()))]
    draw.shuffle(mixed)
    return mixed


ROW_CHANGES = (change_cell,) * 5 + (change_column, remove_column, rename_column, add_columns, swap_cells, mix_rows)


# Bytes are damaged


def cut(draw: Draw, content: bytes) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def flip_bits(draw: Draw, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 8, 100))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def delete_bytes(draw: Draw, content: bytes) -> bytes:
    start = draw.randrange(len(content))
    return content[:start] + content[start + draw.choice((1, 1, 2, 40, 400)) :]


def duplicate_bytes(draw: Draw, content: bytes) -> bytes:
    start = draw.randrange(len(content))
    return content[: start + draw.choice((1, 30, 500))] + content[start:]


def insert_bytes(draw: Draw, content: bytes) -> bytes:
    new = draw.choice((
        b'"', b'""', b'"\n"', b"\\", b",", b"\n", b"\n\n", b"\r", b"\r\n", b"\0", b"\0" * 500, b"\xff", b"\xed\xa0\x80",
        b"\xc3", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\x1a", b"{", b"}", b"]", b"," * HUGE, b"x" * HUGE, b'"' * HUGE,
        b"\n" * HUGE, b"NaN", b"\x1f\x8b", b"PAR1", draw.randbytes(20),
    ))  # fmt: skip
    start = draw.choice((0, len(content), draw.randrange(len(content) + 1), draw.randrange(len(content) + 1)))
    return content[:start] + new + content[start:]


def remove_quotes(draw: Draw, content: bytes) -> bytes:
    share = draw.choice((0.02, 0.2, 1.0))
    return bytes(byte for byte in content if byte != ord('"') or draw.random() > share)


def change_line_ends(draw: Draw, content: bytes) -> bytes:
    return content.replace(
        b"\n", draw.choice((b"\r\n", b"\r", "\u2028".encode(), b"\n\n", b"\n \n", b"\x0b", b"\r\r\n"))
    )


def swap_lines(draw: Draw, content: bytes) -> bytes:
    lines = content.split(b"\n")
    draw.shuffle(lines)
    return b"\n".join(lines)


def change_encoding(draw: Draw, content: bytes) -> bytes:
    encoding = draw.choice(("utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "utf-8-sig", "utf-7"))
    return content.decode("utf-8", "replace").encode(encoding, "replace")


def keep_header(draw: Draw, content: bytes) -> bytes:
    return draw.choice((b"", b"\n", b"\xef\xbb\xbf", b"\0", content.split(b"\n")[0], content.split(b"\n")[0] + b"\n"))


BYTE_CHANGES = (
    cut, flip_bits, delete_bytes, duplicate_bytes, insert_bytes, insert_bytes, insert_bytes, remove_quotes,
    change_line_ends, swap_lines, change_encoding, keep_header,
)  # fmt: skip
PACKED_CHANGES = (cut, cut, flip_bits, delete_bytes, duplicate_bytes, insert_bytes)
