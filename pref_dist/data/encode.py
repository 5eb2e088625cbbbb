"""From trusted rows to token ids.

Everything here is a pure function of a row, the tokenizer and the settings of `data`, and works on
a chunk of rows at once: the tokenizer is the only thing that looks at single tokens.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from pref_dist.data.chat import ChatTexts, read_chat_texts
from pref_dist.data.folds import group_of
from pref_dist.data.pairs import pair_of
from pref_dist.data.rows import Row, Target
from pref_dist.data.sequences import HEAD, TAIL, ChunkTokens, Ranges, cut_one_end, gather_ranges, lay_out
from pref_dist.data.surface import measure_surface
from pref_dist.data.templates import SEED_TEMPLATES, build_template, num_sequences, segment_names
from pref_dist.data.truncate import Bools, Int32s, Ints, cut_fair
from pref_dist.data.truncate_rounds import cut_last_rounds
from pref_dist.data.truncation_audit import Extra
from pref_dist.errors import DataError, ModelError

# Below this a segment's share holds no text worth reading. It also covers the seed templates'
# headers, which take a token more than usual beside some texts.
SMALLEST_SHARE_TOKENS = 4


@dataclass(frozen=True)
class TokenizerSpec:
    """A fast tokenizer as plain values: it can be hashed and sent to another process."""

    json: str = field(repr=False)  # of `tokenizers.Tokenizer`, without truncation and padding
    cls_id: int | None  # opens a row (or bos); None: the tokenizer has neither
    sep_id: int | None  # closes a segment (or eos); None: the tokenizer has neither, but a chat template
    pad_id: int  # eos where there is none; attention masks tell them apart, never the id
    vocab_size: int  # one more than the largest id
    digest: str  # sha256 over all that changes token ids
    chat: ChatTexts | None = None  # around a user's message; None: there is no (usable) chat template


def load_tokenizer(path: Path) -> TokenizerSpec:
    """Read the tokenizer of a local model folder; never looks on the hub.

    Raises ModelError if it cannot be read, is not a fast one, or has no token to end a text or to fill a row with.
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
    chat = read_chat_texts(loaded)
    if sep_id is None and chat is None:
        raise ModelError(
            f"The tokenizer in {path} has neither a sep_token nor an eos_token. Set one of them in its "
            "tokenizer_config.json (and cls_token or bos_token, if it has one)."
        )
    pad_id = first_known(loaded.pad_token_id, sep_id)
    if pad_id is None:
        raise ModelError(f"The tokenizer in {path} has no pad_token, sep_token or eos_token. Set its pad_token.")
    text = str(backend.to_str())
    deciding = [text, cls_id, sep_id] if chat is None else [text, cls_id, sep_id, *chat]
    digest = hashlib.sha256(json.dumps(deciding).encode("utf-8")).hexdigest()
    vocabulary = backend.get_vocab(with_added_tokens=True)
    if vocabulary.keys() <= set(loaded.all_special_tokens):
        # transformers makes one without a vocabulary where there are no files: every word would be unknown.
        raise ModelError(
            f"The tokenizer in {path} knows no word, only {len(vocabulary)} special tokens: its files are missing. "
            "Copy tokenizer.json and tokenizer_config.json into the folder, from the model that its weights come from."
        )
    vocab_size = 1 + max(vocabulary.values())
    return TokenizerSpec(text, cls_id, sep_id, pad_id, vocab_size, digest, chat)


def first_known(*ids: int | None) -> int | None:
    return next((known for known in ids if known is not None), None)


@dataclass(frozen=True)
class EncodedRows:
    """A chunk of R rows, ready to be written; S is all segments of a row, see `templates.segment_names`.

    `input_ids` are all rows' tokens one after another, `lengths` says where each ends.
    `segment_ends[r, s]` is the exclusive end of segment s inside row r. The segments tile the row:
    each is its header, its text and the special token that ends it; what opens a sequence belongs
    to its first segment. A row of two sequences is one after the other, with equally many segments.
    `full_lengths` and `kept_lengths` count tokens of the segment's text alone (round markers
    included; header, special tokens and cut marker not), before and after truncation.
    """

    rows: Ints  # (R,) row numbers in the source
    ids: list[str]
    groups: npt.NDArray[np.uint64]  # (R,) see folds.group_of
    pairs: npt.NDArray[np.uint64]  # (R,) see pairs.pair_of
    is_mirrored: Bools  # (R,)
    targets: npt.NDArray[np.float64]  # (R, 3), NaN where unlabelled
    soft_targets: npt.NDArray[np.float64]  # (R, 3), NaN where there is none
    input_ids: Int32s  # (tokens,)
    lengths: Ints  # (R,)
    segment_ends: Int32s  # (R, S)
    full_lengths: Int32s  # (R, S)
    kept_lengths: Int32s  # (R, S)
    surface: npt.NDArray[np.float32]  # (R, 3 * F), see surface.measure_surface


class RowEncoder:
    """Encodes rows for one tokenizer and one way of making tokens of text: the settings of `data`.

    `template` is one of `templates.SEGMENT_NAMES`, `truncation` fair, last_rounds, left or right,
    `clean` none or seed_ascii. `fair` and `last_rounds` treat A and B alike; `left` and `right`
    cannot. No policy cuts a character into halves, but for `right` with a seed template, which
    gives exactly what `tokenizer(text, truncation=True, max_length=max_tokens)` of transformers does.
    Raises DataError if `max_tokens` leaves no room for text, ModelError if the tokenizer lacks what the
    template needs.
    """

    def __init__(
        self,
        tokenizer: TokenizerSpec,
        max_tokens: int,
        template: str = "joint",
        truncation: str = "fair",
        clean: str = "none",
    ) -> None:
        self.tokenizer, self.max_tokens, self.truncation = tokenizer, max_tokens, truncation
        self.template_name, self.clean = template, clean
        self.backend = Tokenizer.from_str(tokenizer.json)
        self.template = build_template(
            template, clean, self.backend, tokenizer.cls_id, tokenizer.sep_id, tokenizer.chat
        )
        self.frame = self.template.frame
        self.is_inside = find_inside_tokens(tokenizer, self.backend.get_vocab())
        self.extra = self.count_extra()
        self.check_budget()

    def count_extra(self) -> Extra:
        """Return the tokens of a row that are not its text, for the audit."""
        headers = self.template.header_lengths
        num_before_text = np.cumsum(headers) + len(self.frame.opening)
        before = num_before_text + len(self.frame.separator) * np.arange(len(headers))
        copies = num_sequences(self.template_name)
        total = sum(headers) + self.frame.count_special(len(headers))
        names = segment_names(self.template_name)
        return Extra(names, tuple(before.tolist()) * copies, total, copies, len(self.frame.closing))

    def check_budget(self) -> None:
        smallest = self.extra.total + len(self.template.header_lengths) * SMALLEST_SHARE_TOKENS
        if self.max_tokens < smallest:
            raise DataError(
                f"data.max_tokens={self.max_tokens} leaves no room for text: headers and special tokens take "
                f"{self.extra.total}. Raise data.max_tokens to at least {smallest}."
            )

    def encode(self, rows: Sequence[Row]) -> EncodedRows:
        """Render, tokenise, truncate and join a chunk of rows."""
        tokens = self.template.tokenize(rows)
        ranges = self.truncate(tokens)
        num_segments = len(self.extra.names)
        kept_lengths = ranges.lengths[..., HEAD] + ranges.lengths[..., TAIL]
        segment_ends = ranges.lengths.sum(axis=2).reshape(-1, num_segments).cumsum(axis=1)
        pairs = [pair_of(row.turns) for row in rows]
        return EncodedRows(
            rows=np.array([row.row for row in rows], dtype=np.int64),
            ids=[row.id for row in rows],
            groups=np.array([group_of(turn.prompt for turn in row.turns) for row in rows], dtype=np.uint64),
            pairs=np.array([pair for pair, _ in pairs], dtype=np.uint64),
            is_mirrored=np.array([is_mirrored for _, is_mirrored in pairs], dtype=np.bool_),
            targets=as_targets([row.target for row in rows]),
            soft_targets=as_targets([row.soft_target for row in rows]),
            input_ids=gather_ranges(tokens.pool, ranges.starts.ravel(), ranges.lengths.ravel()),
            lengths=segment_ends[:, -1],
            segment_ends=segment_ends.astype(np.int32),
            full_lengths=tokens.texts.lengths.reshape(-1, num_segments).astype(np.int32),
            kept_lengths=kept_lengths.reshape(-1, num_segments).astype(np.int32),
            surface=measure_surface([row.turns for row in rows]),
        )

    def truncate(self, tokens: ChunkTokens) -> Ranges:
        """Return (sequences, segments, 6) the ranges of tokens that stay."""
        if self.truncation in ("left", "right"):
            is_exact = self.truncation == "right" and self.template_name in SEED_TEMPLATES
            is_inside = None if is_exact else self.is_inside
            return cut_one_end(tokens, self.frame, self.max_tokens, self.truncation == "left", is_inside)
        starts, lengths = tokens.texts
        budgets = self.max_tokens - self.frame.count_special(lengths.shape[1]) - tokens.headers.lengths.sum(axis=1)
        num_marker = len(self.frame.marker)
        if self.truncation == "last_rounds":
            cuts = cut_last_rounds(tokens, budgets, num_marker, self.is_inside)
        else:
            cuts = cut_fair(tokens.pool, starts, lengths, budgets, num_marker, self.is_inside)
        return lay_out(tokens, self.frame, cuts)


def as_targets(targets: Sequence[Target | None]) -> npt.NDArray[np.float64]:
    """Return (R, 3), NaN where there is none."""
    return np.array([target or (np.nan,) * 3 for target in targets], dtype=np.float64).reshape(-1, 3)


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
