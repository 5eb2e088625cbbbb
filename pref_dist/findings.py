"""What can be wrong with rows, and what is done about it."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

from pref_dist.errors import ConfigError

Policy = Literal["keep", "set_aside", "fail"]

# A row with one of these cannot be used as it stands; `data.bad_rows` says what becomes of it.
FaultKind = Literal[
    "wrong_cell_count",  # more or fewer cells than the header has
    "bad_line",  # a line of JSON lines that holds no object
    "empty_id",
    "duplicate_id",  # the first row with the id stays
    "winner_not_one_hot",  # not exactly one 1 and two 0
    "unknown_winner",  # a word that names neither A, B nor a tie
    "bad_soft_label",  # not three probabilities whose sum is 1
    "bad_json",  # a text cell that is no JSON list of strings and nulls
    "bad_conversation",  # messages without role or text, or by somebody unknown
    "prompts_differ",  # the two conversations do not answer the same prompts
    "turn_count_differs",  # between prompt and responses
    "no_text",  # neither prompt nor responses hold a character
]
# Worth knowing, and mostly honest data: kept unless `data.checks` says otherwise.
RemarkKind = Literal[
    "null_text",  # a null where a text should be, or nothing at all; read as an empty one
    "empty_text",  # a turn of prompt, A or B without a character
    "lone_surrogate",  # half of a character, which no UTF-8 file can hold; read as U+FFFD
    "control_characters",  # other than tab and line ends
    "non_text_content",  # an image or a file in a message; left out
    "identical_responses",  # A is B
]
# Of rows together, over all training sources; kept unless `data.checks` says otherwise.
CrossKind = Literal[
    "duplicate_pair",  # same prompt, same two responses in either order, same label: the first row stays
    "contradictory_labels",  # the same, but the labels differ: all of them
    "in_test",  # the pair stands in data.test too
]
Kind = Literal[FaultKind, RemarkKind, CrossKind]

FAULTS: tuple[str, ...] = get_args(FaultKind)
REMARKS: tuple[str, ...] = get_args(RemarkKind)
CROSS_FINDINGS: tuple[str, ...] = get_args(CrossKind)
# What `keep` can repair: a bad cell is read as one plain turn, missing turns become empty ones, A's
# prompts count. Without an id, cells that can be told apart or a label that counts there is no row to keep.
REPAIRABLE: tuple[str, ...] = ("bad_json", "prompts_differ", "turn_count_differs", "no_text")


class Fault(NamedTuple):
    """Something found in a row. `detail` says what, with the values."""

    kind: Kind
    detail: str


class Policies:
    """What to do with each kind of finding: `data.checks` where it names the kind, else the default.

    The default of a fault is `data.bad_rows`, that of anything else is keep. Raises ConfigError if
    `checks` would keep a row that cannot be kept.
    """

    def __init__(self, bad_rows: Policy = "set_aside", checks: Mapping[Any, Policy] | None = None) -> None:
        self.bad_rows: Policy = bad_rows
        self.checks: dict[str, Policy] = dict(checks or {})
        for kind, policy in self.checks.items():
            if policy == "keep" and kind in FAULTS and kind not in REPAIRABLE:
                raise ConfigError(
                    f"data.checks.{kind}=keep: such a row cannot be repaired. Use set_aside or fail "
                    f"(keep is for {', '.join((*REPAIRABLE, *REMARKS, *CROSS_FINDINGS))})."
                )

    def of(self, kind: str) -> Policy:
        """Return the policy of a kind of finding; one that cannot be repaired is never kept."""
        if kind in self.checks:
            return self.checks[kind]
        if kind not in FAULTS:
            return "keep"
        return "set_aside" if self.bad_rows == "keep" and kind not in REPAIRABLE else self.bad_rows

    def setting_of(self, kind: str) -> str:
        """Return the setting that decides over a kind, with its value."""
        return f"data.checks.{kind}={self.checks[kind]}" if kind in self.checks else f"data.bad_rows={self.bad_rows}"

    def of_rows(self) -> dict[str, str]:
        """Return {kind: policy} of all kinds that a row can have by itself: they decide what a cache entry holds."""
        return {kind: self.of(kind) for kind in (*FAULTS, *REMARKS)}
