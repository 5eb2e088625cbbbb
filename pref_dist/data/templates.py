"""Templates (`data.template`): which text a row becomes, and where its segments lie among the tokens.

`joint` and `siamese` tokenise each turn of each segment on its own, between special tokens that no
text can contain; `chat` does so inside a user's message, framed by the tokenizer's own chat template.
The seed templates tokenise one string, as the notebooks did, and find the segments in it by character
offsets. A chunk of rows is tokenised at once.

In this file Q is the axis of sequences (one or two a row) and K that of the segments of one.
"""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, chain, pairwise
from operator import itemgetter
from typing import Literal, Protocol

import numpy as np
from tokenizers import Tokenizer

from pref_dist.data.chat import ChatTexts
from pref_dist.data.render import CUT_MARKER, HEADERS, SIAMESE_HEADERS, render_joint
from pref_dist.data.rows import Row, Turn
from pref_dist.data.seed_text import (
    SeedSequence,
    clean_seed_ascii,
    read_cell,
    render_seed_joint,
    render_seed_siamese,
    render_string,
)
from pref_dist.data.sequences import ChunkTokens, Frame, Ranges
from pref_dist.data.text_tokens import TextTokenizer
from pref_dist.data.truncate import Ints
from pref_dist.errors import ModelError

TemplateName = Literal["joint", "chat", "siamese", "seed_joint", "seed_siamese"]

SEGMENT_NAMES = {
    "joint": ("prompt", "response_a", "response_b"),
    "chat": ("prompt", "response_a", "response_b"),
    "siamese": ("prompt_a", "response_a", "prompt_b", "response_b"),
    "seed_joint": ("prompt", "response_a", "response_b"),
    "seed_siamese": ("prompt_a", "response_a", "prompt_b", "response_b"),
}
NUM_SEQUENCES = {"joint": 1, "chat": 1, "siamese": 2, "seed_joint": 1, "seed_siamese": 2}
SEED_TEMPLATES = ("seed_joint", "seed_siamese")
# Between the segments of a chat message, as `render.render_text` has it.
CHAT_SEPARATOR = "\n\n"
CLEANERS: dict[str, Callable[[str], str] | None] = {"none": None, "seed_ascii": clean_seed_ascii}


def segment_names(template: str) -> tuple[str, ...]:
    """Return the names of a row's segments in the order of reading; the prompt beside A is `prompt_a`."""
    return SEGMENT_NAMES[template]


def num_sequences(template: str) -> int:
    """Return how many sequences a row becomes; they have equally many segments."""
    return NUM_SEQUENCES[template]


class Template(Protocol):
    """Tokenises rows for one template and tokenizer."""

    frame: Frame
    header_lengths: list[int]  # (K,) tokens of the headers, as they stand before plain words

    def tokenize(self, rows: Sequence[Row]) -> ChunkTokens: ...


def build_template(
    name: str, clean: str, backend: Tokenizer, cls_id: int | None, sep_id: int | None, chat: ChatTexts | None = None
) -> Template:
    """Return the template `name`. Of `backend` it sets how special tokens in texts are read.

    Raises ModelError if the tokenizer lacks what the template needs.
    """
    cleaner = CLEANERS[clean]
    if name == "chat":
        if chat is None:
            raise ModelError(
                "data.template=chat, but the tokenizer has no chat template that shows one message of a user as it is. "
                "Use data.template=joint, or a model whose tokenizer has one (an instruction-tuned one)."
            )
        return JointTemplate(*frame_chat(backend, chat), cleaner, name)
    if sep_id is None:
        raise ModelError(
            f"data.template={name}, but the tokenizer has neither a sep_token nor an eos_token. Use data.template=chat."
        )
    if name in PARTS:
        opening = [] if cls_id is None else [cls_id]
        return JointTemplate(backend, opening, [sep_id], [sep_id], cleaner, name)
    return SeedTemplate(backend, name, str(backend.id_to_token(sep_id)), cleaner)


def frame_chat(backend: Tokenizer, chat: ChatTexts) -> tuple[Tokenizer, list[int], list[int], list[int]]:
    """Return a tokenizer for the texts, and the ids of what opens a row, stands between segments, and closes it.

    What the chat template writes may be special tokens, one that opens a text included.
    """
    backend.encode_special_tokens = False
    opening, closing = tokens_of(backend, chat.before), tokens_of(backend, chat.after)
    return forbid_in_texts(backend, {*opening, *closing}), opening, tokens_of(backend, CHAT_SEPARATOR), closing


def forbid_in_texts(backend: Tokenizer, framing: set[int]) -> Tokenizer:
    """Return a tokenizer that `encode_special_tokens` keeps from making the words of the frame out of texts.

    It does so for tokens that are marked as special. Some tokenizers do not mark the ones that open and close turns.
    """
    parts = json.loads(backend.to_str())
    added = [token for token in parts.get("added_tokens", []) if token["id"] in framing and not token["special"]]
    unmarked = [token for token in added if token["content"].strip()]  # line breaks are nobody's to forbid
    if not unmarked:
        return backend
    for token in unmarked:
        token["special"] = True
    return Tokenizer.from_str(json.dumps(parts))


# The sequences of the templates that are ours: of each the segments of a row, and their headers.
PARTS = {
    "joint": (((0, 1, 2), HEADERS),),
    "chat": (((0, 1, 2), HEADERS),),
    "siamese": (((0, 1), SIAMESE_HEADERS), ((0, 2), SIAMESE_HEADERS)),
}


class JointTemplate:
    """`[CLS] Prompt: ... [SEP] Response A: ... [SEP] Response B: ... [SEP]`, see `render`; or inside a chat message.

    `siamese` is the same twice, with one response each: `[CLS] Prompt: ... [SEP] Response: ... [SEP]`.
    """

    def __init__(
        self,
        backend: Tokenizer,
        opening: list[int],
        separator: list[int],
        closing: list[int],
        cleaner: Callable[[str], str] | None,
        name: str = "joint",
    ) -> None:
        # A response that contains "[SEP]" must not be able to end its segment.
        backend.encode_special_tokens = True
        self.tokenizer, self.cleaner = TextTokenizer(backend), cleaner
        self.parts = np.array([segments for segments, _ in PARTS[name]])  # (sequences, segments of each)
        headers = tuple(tokens_of(backend, header) for header in PARTS[name][0][1])
        self.frame = Frame(opening, separator, closing, tokens_of(backend, CUT_MARKER), headers)
        self.header_lengths = [len(header) for header in headers]

    def tokenize(self, rows: Sequence[Row]) -> ChunkTokens:
        segments = [pieces for row in rows for pieces in render_joint(self.clean_turns(row))]
        texts = list(chain.from_iterable(segments))
        pieces = self.tokenizer.encode(texts)
        num_shared = len(self.frame.ids)
        ends = np.fromiter(accumulate(map(len, pieces), initial=num_shared), dtype=np.int64, count=len(pieces) + 1)
        pool = np.fromiter(chain(self.frame.ids, chain.from_iterable(pieces)), dtype=np.int32, count=int(ends[-1]))
        borders = ends[np.cumsum([0, *map(len, segments)])]
        num_sequences, num_segments = self.parts.shape
        shape = (len(rows) * num_sequences, num_segments)
        starts, text_lengths = (
            values.reshape(-1, len(HEADERS))[:, self.parts].reshape(shape)
            for values in (borders[:-1], np.diff(borders))
        )
        num_rounds = np.array([len(row.turns) for row in rows], dtype=np.int64)
        return ChunkTokens(
            pool,
            headers=Ranges(
                np.broadcast_to(np.array(self.frame.starts[4:-1]), shape),
                np.broadcast_to(np.array(self.header_lengths), shape),
            ),
            texts=Ranges(starts, text_lengths),
            num_rounds=np.repeat(num_rounds, num_sequences),
            round_lengths=self.arrange_rounds(np.diff(ends), num_rounds),
        )

    def arrange_rounds(self, lengths: Ints, num_rounds: Ints) -> Ints:
        """Return the tokens of all rounds in the order of sequences; `lengths` has each row's segments once."""
        if self.parts.size == len(HEADERS):
            return lengths
        rows = np.split(lengths, np.cumsum(len(HEADERS) * num_rounds)[:-1])
        return np.concatenate([row.reshape(len(HEADERS), -1)[self.parts.ravel()].ravel() for row in rows])

    def clean_turns(self, row: Row) -> Sequence[Turn]:
        if self.cleaner is None:
            return row.turns
        return [Turn(*map(self.cleaner, turn)) for turn in row.turns]


class SeedTemplate:
    """One or two strings a row, each tokenised whole, special tokens and all, as transformers does."""

    def __init__(self, backend: Tokenizer, name: str, sep_token: str, cleaner: Callable[[str], str] | None) -> None:
        backend.encode_special_tokens = False  # the default of transformers, which the notebooks took
        self.backend, self.name, self.sep_token, self.cleaner = backend, name, sep_token, cleaner
        opening, closing = find_special_tokens(backend)
        self.frame = Frame(opening, [], closing, tokens_of(backend, CUT_MARKER))
        words = Row(1, "", (), None, cells=("word", "word", "word"))
        self.header_lengths = self.tokenize([words]).headers.lengths[0].tolist()

    def render(self, row: Row) -> list[SeedSequence]:
        cells = [read_cell(cell) for cell in row.cells]
        if self.cleaner is not None:
            cells = [self.cleaner(cell) for cell in cells]
        return render_seed_joint(cells) if self.name == "seed_joint" else render_seed_siamese(cells, self.sep_token)

    def tokenize(self, rows: Sequence[Row]) -> ChunkTokens:
        sequences = [sequence for row in rows for sequence in self.render(row)]
        encodings = self.backend.encode_batch(list(map(render_string, sequences)), add_special_tokens=False)
        ids = [self.frame.ids, *(encoding.ids for encoding in encodings)]
        pool = np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=sum(map(len, ids)))
        counts = [
            count_part_tokens(encoding.offsets, sequence)
            for encoding, sequence in zip(encodings, sequences, strict=True)
        ]
        num_segments = len(segment_names(self.name)) // num_sequences(self.name)
        lengths: Ints = np.array(counts, dtype=np.int64).reshape(-1, num_segments, 2)
        # All tokens of a sequence are in one of its parts, so the parts tile the pool.
        starts = len(self.frame.ids) + (np.cumsum(lengths) - lengths.ravel()).reshape(lengths.shape)
        texts = Ranges(starts[..., 1], lengths[..., 1])
        num_rounds = np.ones(len(sequences), dtype=np.int64)
        return ChunkTokens(pool, Ranges(starts[..., 0], lengths[..., 0]), texts, num_rounds, texts.lengths.ravel())


def count_part_tokens(offsets: Sequence[tuple[int, int]], sequence: SeedSequence) -> list[int]:
    """Return how many tokens each header and each text of a sequence has, in the order of reading.

    `offsets` are the [start, end) of all tokens in characters of the sequence's string. A token
    that straddles the border of two segments belongs to the one in which it starts; one that
    straddles header and text of a segment is the text's, if there is any text.
    """
    borders, character = [0], 0
    for header, text in sequence:
        text_start = character + len(header)
        character = text_start + len(text)
        stop = bisect_left(offsets, (character,))  # the first token that starts here or later
        start = bisect_right(offsets, text_start, key=itemgetter(1)) if text else stop  # the first that ends later
        borders += [min(max(start, borders[-1]), stop), stop]
    borders[-1] = len(offsets)
    return [stop - start for start, stop in pairwise(borders)]


def find_special_tokens(backend: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the special tokens that the tokenizer's own post-processor puts before and after a text."""
    encoding = backend.encode("word")
    is_text = [not special for special in encoding.special_tokens_mask]
    start, stop = is_text.index(True), len(is_text) - is_text[::-1].index(True)
    return list(encoding.ids[:start]), list(encoding.ids[stop:])


def tokens_of(backend: Tokenizer, text: str) -> list[int]:
    return list(backend.encode(text, add_special_tokens=False).ids)
