"""Checks that a reader of damaged data files loses no row of them and shows no traceback.

python -m tests.data.fuzz --files 1000 --seed 1
"""

import argparse
import faulthandler
import json
import shutil
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from tokenizers import BertWordPieceTokenizer
from transformers import BertTokenizerFast

from pref_dist.config.schema import DataSection
from pref_dist.data.cache import open_tokens
from pref_dist.data.cache_entry import check_entry
from pref_dist.data.encode import TokenizerSpec, load_tokenizer
from pref_dist.data.ingest import SourceRequest
from pref_dist.data.validate import read_checked_rows
from pref_dist.errors import PrefDistError
from pref_dist.findings import Policy
from tests.data.fuzz_cases import Case, build_case
from tests.data.fuzz_changes import FORMATS

TIMEOUT_SECONDS = 20
MAX_MESSAGE_CHARACTERS = 2000
EVERY_NTH_TO_TOKENS = 4
TEMPLATES = ("joint", "seed_joint", "seed_siamese")
DATA = DataSection(max_tokens=96, num_workers=0)


@dataclass(frozen=True)
class Outcome:
    """What became of a file: `refusal` is "" where it loaded."""

    refusal: str
    num_rows: int = 0
    num_set_aside: int = 0


def check_case(case: Case, folder: Path, tokenizer: TokenizerSpec) -> Outcome:
    """Read a case by every policy, some to tokens too; return what `set_aside` made of it.

    Raises AssertionError for a row that is not accounted for and for an error that does not help,
    and whatever the reader lets through.
    """
    path = folder / case.name
    path.write_bytes(case.content)
    outcomes = {policy: read_case(case, path, policy) for policy in get_args(Policy)}
    kept, aside, failed = (outcomes[policy] for policy in ("keep", "set_aside", "fail"))
    if not failed.refusal:
        assert failed == aside == kept, "what no check stops is the same under every policy"
    if not aside.refusal:
        assert kept.num_rows >= aside.num_rows
        assert kept.num_rows + kept.num_set_aside == aside.num_rows + aside.num_set_aside
    if case.number % EVERY_NTH_TO_TOKENS == 0:
        template = TEMPLATES[case.number // EVERY_NTH_TO_TOKENS % len(TEMPLATES)]
        tokens = encode_case(path, DATA.model_copy(update={"template": template}), tokenizer, folder / "cache")
        assert tokens == aside, f"as tokens {tokens}, as rows {aside}"
    path.unlink()
    return aside


def read_case(case: Case, path: Path, policy: Policy) -> Outcome:
    try:
        checked = read_checked_rows(SourceRequest(path), policy)
    except PrefDistError as error:
        return describe_refusal(error, path)
    outcome = Outcome("", len(checked.rows), len(checked.set_aside))
    if case.num_rows is not None:
        assert outcome.num_rows + outcome.num_set_aside == case.num_rows
    numbers = [*(row.row for row in checked.rows), *(record["row"] for record in checked.set_aside)]
    assert sorted(numbers) == list(range(1, len(numbers) + 1)), "each row has one fate"
    json.dumps(checked.set_aside, ensure_ascii=False).encode("utf-8")
    return outcome


def encode_case(path: Path, data: DataSection, tokenizer: TokenizerSpec, cache_dir: Path) -> Outcome:
    try:
        table = open_tokens(path, data, tokenizer, cache_dir)
    except PrefDistError as error:
        return describe_refusal(error, path)
    check_entry(table.folder)
    return Outcome("", len(table), len(table.set_aside))


def describe_refusal(error: PrefDistError, path: Path) -> Outcome:
    message = str(error)
    assert str(path) in message, f"the error does not name the file: {message[:300]}"
    assert len(message) < MAX_MESSAGE_CHARACTERS, f"{len(message):,} characters: {message[:300]}"
    message.encode("utf-8")
    return Outcome(f"{type(error).__name__}: {next((kind for kind in REFUSALS if kind in message), 'other')}")


# Which refusal it was, for the count at the end.
REFUSALS = (
    "is not UTF-8", "not well-formed CSV", "lacks", "None of the", "is empty", "no data rows", "is damaged or no",
    "cannot be read", "stands", "several formats",
)  # fmt: skip


# The command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    arguments = parser.parse_args()
    started = time.perf_counter()
    outcomes: Counter[str] = Counter()
    slowest = (0.0, "")
    num_counted = num_rows = num_set_aside = 0
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))  # stays if a case hangs: the newest file there is the one
    tokenizer = train_tokenizer(folder)
    for number in range(arguments.first, arguments.first + arguments.files):
        case = build_case(arguments.seed, number)
        faulthandler.dump_traceback_later(TIMEOUT_SECONDS, exit=True)
        case_started = time.perf_counter()
        try:
            outcome = check_case(case, folder, tokenizer)
        except Exception:  # a traceback is what is looked for; the next case is tried all the same
            print(f"{folder / case.name} ({', '.join(case.changes)})\n{shorten_traceback()}")
            outcome = Outcome("FAILED")
        faulthandler.cancel_dump_traceback_later()
        slowest = max(slowest, (time.perf_counter() - case_started, case.name))
        outcomes[outcome.refusal or "loaded"] += 1
        num_counted += case.num_rows is not None and not outcome.refusal
        num_rows, num_set_aside = num_rows + outcome.num_rows, num_set_aside + outcome.num_set_aside
    num_failed = outcomes.pop("FAILED", 0)
    num_loaded, num_survived = outcomes.pop("loaded", 0), arguments.files - num_failed
    print(
        f"{arguments.files:,} tried, {num_survived:,} survived in {time.perf_counter() - started:.0f} s "
        f"(slowest {slowest[0]:.1f} s, {slowest[1]}): {num_loaded:,} loaded ({num_rows:,} rows read, "
        f"{num_set_aside:,} set aside; {num_counted:,} files checked by an independent count), refused by "
        + ", ".join(f"{kind} {count}" for kind, count in outcomes.most_common())
    )
    if num_failed:
        raise SystemExit(1)
    shutil.rmtree(folder)


def shorten_traceback() -> str:
    return "\n".join(line[:200] for line in traceback.format_exc().splitlines()[-14:])


def train_tokenizer(folder: Path) -> TokenizerSpec:
    """Return a small WordPiece tokenizer."""
    trained = BertWordPieceTokenizer()
    texts = [path.read_text(encoding="utf-8") for path in sorted(FORMATS.iterdir())]
    trained.train_from_iterator(texts, vocab_size=300, show_progress=False)
    trained.save(str(folder / "tokenizer.json"))
    BertTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")).save_pretrained(str(folder))
    return load_tokenizer(folder)


if __name__ == "__main__":
    main()
