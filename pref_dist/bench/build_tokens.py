"""From a file of rows to stored tokens, measured: our cache, and `datasets.map` as the second seed notebook has it.

Each imports what it needs before its clock starts. Tokens are those of the finished rows, padding not counted.
"""

import os
import time
from pathlib import Path
from typing import Any

from pref_dist.bench.parts import CacheQuestion


def build_own(question: CacheQuestion) -> dict[str, Any]:
    """Read, check, render, tokenise and write all rows, as `prepare` does."""
    from transformers import AutoTokenizer  # noqa: F401 - load_tokenizer would import it

    from pref_dist.config.schema import DataSection
    from pref_dist.data.cache import open_tokens
    from pref_dist.data.encode import load_tokenizer

    started = Started()
    data = DataSection(max_tokens=question.max_tokens)
    cache_dir = Path(question.folder) / "cache"
    table = open_tokens(Path(question.rows_csv), data, load_tokenizer(Path(question.model)), cache_dir)
    assert table.was_built, "the folder was empty"
    return started.measured(len(table), table.num_tokens)


def build_by_map(question: CacheQuestion) -> dict[str, Any]:
    """pandas, `Dataset.map` and padding to max_length, as the notebook has it."""
    import numpy as np
    import pandas as pd
    from datasets import Dataset
    from transformers import AutoTokenizer

    started = Started()
    dataset = Dataset.from_pandas(pd.read_csv(question.rows_csv))
    tokenizer = AutoTokenizer.from_pretrained(question.model, trust_remote_code=False)

    def tokenize(batch: dict[str, list[Any]]) -> Any:
        columns = (batch["prompt"], batch["response_a"], batch["response_b"])
        texts = [f"Prompt: {p} \n Response A: {a} \n Response B: {b}" for p, a, b in zip(*columns, strict=True)]
        return tokenizer(texts, truncation=True, padding="max_length", max_length=question.max_tokens)

    num_processes = question.num_processes if question.num_processes > 1 else None
    tokenized = dataset.map(tokenize, batched=True, num_proc=num_processes)
    found = started.measured(len(tokenized), 0)
    masks = tokenized.with_format("numpy")["attention_mask"]
    return found | {"tokens": sum(int(np.sum(mask)) for mask in masks)}


def open_warm(question: CacheQuestion) -> dict[str, Any]:
    """What a start pays when the tokens are there: build them, then `prepare` again with the clock running."""
    from transformers import AutoTokenizer  # noqa: F401 - load_tokenizer would import it

    from pref_dist.config.load import load_config
    from pref_dist.data.prepare import prepare

    overrides = [
        f"data.train={question.rows_csv}", f"data.max_tokens={question.max_tokens}",
        f"data.cache_dir={question.folder}/cache",
    ]  # fmt: skip
    config = load_config(None, overrides)
    prepare(config, Path(question.model))
    started = Started()
    prepared = prepare(config, Path(question.model))
    assert not prepared.train_table.was_built, "it was built a moment ago"
    return started.measured(len(prepared.train_table), prepared.train_table.num_tokens)


class Started:
    """The time now, and the processor's of this process and its ended children, which busy neighbours change little."""

    def __init__(self) -> None:
        self._wall, self._processor = time.perf_counter(), read_processor_seconds()

    def measured(self, num_rows: int, num_tokens: int) -> dict[str, Any]:
        seconds, processor = time.perf_counter() - self._wall, read_processor_seconds() - self._processor
        return {"seconds": seconds, "processor_seconds": processor, "rows": num_rows, "tokens": num_tokens}


def read_processor_seconds() -> float:
    return sum(os.times()[:4])
