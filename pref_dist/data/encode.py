"""From trusted rows to token ids: `[CLS] Prompt: ... [SEP] Response A: ... [SEP] Response B: ... [SEP]`.

Everything here is a pure function of a row, the tokenizer and `data.max_tokens`, and works on a
chunk of rows at once: the tokenizer is the only thing that looks at single tokens.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from pref_dist.data.folds import group_of
from pref_dist.data.render import CUT_MARKER, HEADERS, render_joint
from pref_dist.data.truncate import Bools, Cuts, Extra, Int32s, Ints, cut_fair
from pref_dist.data.validate import Row
from pref_dist.errors import DataError, ModelError

# Below this a segment's share holds no text worth reading.
SMALLEST_SHARE_TOKENS = 4


@dataclass(frozen=True)
class TokenizerSpec:
    """A fast tokenizer as plain values: it can be hashed and sent to another process."""

    json: str = field(repr=False)  # of `tokenizers.Tokenizer`, without truncation and padding
    cls_id: int | None  # opens a row (or bos); None: the tokenizer has neither
    sep_id: int  # closes a segment (or eos)
    pad_id: int  # eos where there is none; attention masks tell them apart, never the id
    vocab_size: int  # one more than the largest id
    digest: str  # sha256 over all that changes token ids


def load_tokenizer(path: Path) -> TokenizerSpec:
    """Read the tokenizer of a local model folder; never looks on the hub.

    Raises ModelError if it cannot be read, is not a fast one, or has no token to end a text with.
    """
    from transformers import AutoTokenizer  # seconds of import, so only where a tokenizer is read

    try:
        loaded = AutoTokenizer.from_pretrained(str(path), use_fast=True, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers raises many kinds, from OSError to ImportError
        raise ModelError(
            f"The tokenizer in {path} cannot be loaded: {error}. Name a folder with tokenizer.json in model.name."
        ) from error
    if not getattr(loaded, "is_fast", False):
        raise ModelError(f"The tokenizer in {path} has no fast version (tokenizer.json). Convert it, or name another.")
    return build_spec(path, loaded)


def build_spec(path: Path, loaded: Any) -> TokenizerSpec:
    backend = Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    # A length that stands in the file must neither cut a row nor change the digest.
    backend.no_truncation()
    backend.no_padding()
    cls_id = first_known(loaded.cls_token_id, loaded.bos_token_id)
    sep_id = first_known(loaded.sep_token_id, loaded.eos_token_id)
    if sep_id is None:
        raise ModelError(f"The tokenizer in {path} has neither a sep_token nor an eos_token. Set one of them.")
    pad_id = first_known(loaded.pad_token_id, sep_id)
    assert pad_id is not None
    text = str(backend.to_str())
    digest = hashlib.sha256(json.dumps([text, cls_id, sep_id]).encode("utf-8")).hexdigest()
    vocab_size = 1 + max(backend.get_vocab(with_added_tokens=True).values())
    return TokenizerSpec(text, cls_id, sep_id, pad_id, vocab_size, digest)


def first_known(*ids: int | None) -> int | None:
    return next((known for known in ids if known is not None), None)


@dataclass(frozen=True)
class EncodedRows:
    """A chunk of R rows, ready to be written; S is prompt, A, B.

    `input_ids` are all rows' tokens one after another, `lengths` says where each ends.
    `segment_ends[r, s]` is the exclusive end of segment s inside row r. The three tile the row:
    a segment is its header, its text and the [SEP] that closes it; [CLS] belongs to the prompt.
    `full_lengths` and `kept_lengths` count tokens of the segment's text alone (round markers
    included; header, special tokens and cut marker not), before and after truncation.
    """

    rows: Ints  # (R,) row numbers in the file
    ids: list[str]
    groups: npt.NDArray[np.uint64]  # (R,)
    targets: npt.NDArray[np.float64]  # (R, 3), NaN where unlabelled
    input_ids: Int32s  # (tokens,)
    lengths: Ints  # (R,)
    segment_ends: Int32s  # (R, S)
    full_lengths: Int32s  # (R, S)
    kept_lengths: Int32s  # (R, S)


class RowEncoder:
    """Encodes rows for one tokenizer and one `data.max_tokens`; holds the tokens that every row shares.

    Raises DataError if `max_tokens` leaves no room for text.
    """

    def __init__(self, tokenizer: TokenizerSpec, max_tokens: int) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        self.backend = build_backend(tokenizer)
        self.opening = [] if tokenizer.cls_id is None else [tokenizer.cls_id]
        self.closing = [tokenizer.sep_id]
        self.headers = [self.tokens_of(header) for header in HEADERS]
        self.marker = self.tokens_of(CUT_MARKER)
        self.is_inside = find_inside_tokens(tokenizer, self.backend.get_vocab())
        num_shared = len(self.opening) + sum(map(len, self.headers))
        self.extra = Extra(before_b=num_shared + 2 * len(self.closing), total=num_shared + 3 * len(self.closing))
        self.budget = max_tokens - self.extra.total
        self.check_budget()

    def check_budget(self) -> None:
        smallest = self.extra.total + 3 * SMALLEST_SHARE_TOKENS
        if self.max_tokens < smallest:
            raise DataError(
                f"data.max_tokens={self.max_tokens} leaves no room for text: headers and special tokens take "
                f"{self.extra.total}. Raise data.max_tokens to at least {smallest}."
            )

    def tokens_of(self, text: str) -> list[int]:
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def encode(self, rows: Sequence[Row]) -> EncodedRows:
        """Render, tokenise, truncate and join a chunk of rows."""
        text_ids, lengths = self.encode_segments(rows)
        starts = np.cumsum(lengths).reshape(lengths.shape) - lengths
        cuts = cut_fair(text_ids, starts, lengths, self.budget, len(self.marker), self.is_inside)
        input_ids, segment_lengths = self.join(text_ids, starts, lengths, cuts)
        no_target = (np.nan,) * 3
        return EncodedRows(
            rows=np.array([row.row for row in rows], dtype=np.int64),
            ids=[row.id for row in rows],
            groups=np.array([group_of(turn.prompt for turn in row.turns) for row in rows], dtype=np.uint64),
            targets=np.array([row.target or no_target for row in rows], dtype=np.float64).reshape(-1, 3),
            input_ids=input_ids,
            lengths=segment_lengths.sum(axis=1),
            segment_ends=segment_lengths.cumsum(axis=1).astype(np.int32),
            full_lengths=lengths.astype(np.int32),
            kept_lengths=(cuts.head + cuts.tail).astype(np.int32),
        )

    def encode_segments(self, rows: Sequence[Row]) -> tuple[Int32s, Ints]:
        """Return the tokens of all segments' texts in one array, and their lengths (rows, S)."""
        segments = [pieces for row in rows for pieces in render_joint(row.turns)]
        texts = list(chain.from_iterable(segments))
        pieces = [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]
        ends = np.fromiter(accumulate(map(len, pieces), initial=0), dtype=np.int64, count=len(pieces) + 1)
        text_ids = np.fromiter(chain.from_iterable(pieces), dtype=np.int32, count=int(ends[-1]))
        piece_ends = np.cumsum([0, *map(len, segments)])
        return text_ids, np.diff(ends[piece_ends]).reshape(-1, 3)

    def join(self, text_ids: Int32s, starts: Ints, lengths: Ints, cuts: Cuts) -> tuple[Int32s, Ints]:
        """Put headers, kept text and special tokens together; lengths of the whole segments are (rows, S)."""
        shared = [self.opening, *self.headers, self.marker, self.closing]
        pool = np.concatenate([text_ids, np.array(list(chain.from_iterable(shared)), dtype=np.int32)])
        shared_starts = len(text_ids) + np.cumsum([0, *map(len, shared)])
        # One column for each range of `pool` that a segment is made of, in the order of reading.
        range_starts = np.empty((*lengths.shape, 6), dtype=np.int64)
        range_lengths = np.zeros_like(range_starts)
        for segment in range(3):
            range_starts[:, segment, 0] = shared_starts[0]
            range_lengths[:, segment, 0] = len(self.opening) * (segment == 0)
            range_starts[:, segment, 1] = shared_starts[1 + segment]
            range_lengths[:, segment, 1] = len(self.headers[segment])
        range_starts[..., 2], range_lengths[..., 2] = starts, cuts.head
        range_starts[..., 3], range_lengths[..., 3] = shared_starts[4], len(self.marker) * cuts.has_marker
        range_starts[..., 4], range_lengths[..., 4] = starts + lengths - cuts.tail, cuts.tail
        range_starts[..., 5], range_lengths[..., 5] = shared_starts[5], len(self.closing)
        return gather_ranges(pool, range_starts.ravel(), range_lengths.ravel()), range_lengths.sum(axis=2)


def gather_ranges(pool: Int32s, starts: Ints, lengths: Ints) -> Int32s:
    """Return `pool[start : start + length]` of all ranges, one after another."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    gathered: Int32s = pool[np.arange(total) + np.repeat(starts - (ends - lengths), lengths)]
    return gathered


def build_backend(tokenizer: TokenizerSpec) -> Tokenizer:
    backend = Tokenizer.from_str(tokenizer.json)
    # A response that contains "[SEP]" must not be able to end its segment.
    backend.encode_special_tokens = True
    return backend


def find_inside_tokens(tokenizer: TokenizerSpec, vocab: Mapping[str, int]) -> Bools:
    """Return (vocab_size,) whether a token begins with a continuation byte of UTF-8, so inside a character.

    Only byte-level tokenizers and those with byte fallback (`<0x9F>`) have such tokens.
    """
    parts = json.loads(tokenizer.json)
    continuation = range(0x80, 0xC0)
    openings = {f"<0x{byte:02X}>" for byte in continuation} if parts["model"].get("byte_fallback") else set()
    first_characters = set()
    if '"ByteLevel"' in json.dumps([parts.get("normalizer"), parts.get("pre_tokenizer")]):
        first_characters = {byte_level_alphabet()[byte] for byte in continuation}
    is_inside = np.zeros(tokenizer.vocab_size, dtype=np.bool_)
    for token, token_id in vocab.items():
        is_inside[token_id] = token[:1] in first_characters or token in openings
    # Added tokens are written as they are, not in the alphabet of bytes.
    is_inside[[entry["id"] for entry in parts.get("added_tokens", [])]] = False
    return is_inside


def byte_level_alphabet() -> list[str]:
    """The character by which a byte-level vocabulary writes each byte (as GPT-2's `bytes_to_unicode`)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(0x100)]
