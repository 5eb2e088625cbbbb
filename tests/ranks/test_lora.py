"""Decoders and adapters on every back-end: the run of one process, its checkpoints small, resumed to the bit.

The decoders are stand-ins: tiny random ones of the families' real classes (tests/tiny_llm.py).
"""

import pytest

from tests.ranks.many_runs import run_jobs
from tests.ranks.run_verb import largest_difference, largest_loss_difference, read_losses, read_weights
from tests.ranks.sharing_engine_ranks import write_zero_file
from tests.tiny_llm import write_tiny_llm
from tests.tiny_runs import TinyRuns

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(600)]

STEPS, RESUMED_STEP = 6, 3
LORA = {"rank": 4, "alpha": 8.0}
KINDS = {
    "llama": {"kind": "decoder", "lora": LORA},
    "llama_dropout": {"kind": "decoder", "lora": {**LORA, "dropout": 0.3}},
    "llama_dora": {"kind": "decoder", "lora": {**LORA, "dora": True}},
    "llama_whole": {"kind": "decoder"},
    "llama_bf16": {"kind": "decoder", "lora": {**LORA, "base": "bf16"}},
    "gemma2": {"kind": "decoder", "lora": LORA},
    "qwen2": {"kind": "decoder", "lora": LORA},
    "bert": {"kind": "joint", "lora": LORA},
    "bert_siamese": {"kind": "siamese", "lora": {**LORA, "modules": ["query", "value"]}},
}
BACKENDS = {
    "ddp": ("llama", "llama_dropout", "llama_dora", "llama_whole", "llama_bf16", "bert_siamese"),
    "zero2": ("llama", "llama_bf16"),
    "zero3": ("llama", "llama_dora", "llama_whole", "llama_bf16", "gemma2", "qwen2", "bert"),
    "fsdp2": ("llama", "llama_dora", "llama_bf16", "gemma2"),
}
CASES = [(backend, kind) for backend, kinds in BACKENDS.items() for kind in kinds]
# (loss, parameter), as for every run: with a forward in 16 bits the wider ones.
BOUNDS, NARROW_BOUNDS = (1e-5, 1e-6), (1e-4, 1e-4)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, sample_dir, tiny_model, cache_dir):
    """Return a function that gives the run folders (by kind, and of the first one resumed), from one launch."""
    folder = tmp_path_factory.mktemp("lora")
    families = ("llama", "gemma2", "qwen2")
    models = {name: write_tiny_llm(folder / name, sample_dir / "train.csv", name) for name in families}
    writer = TinyRuns(folder, sample_dir / "train.csv", tiny_model, cache_dir)

    def write(name, kind):
        model = {"name": str(models.get(kind.split("_")[0], tiny_model)), **KINDS[kind]}
        train = {"max_steps": STEPS, "save_every_steps": RESUMED_STEP, "token_budget": 700}
        train["swap"] = "paired" if kind == "qwen2" else "random" if kind == "gemma2" else "none"
        train["precision"] = "bf16" if kind == "llama_bf16" else "fp32"
        return writer.write(name, model=model, train=train, data={"max_tokens": 160})

    made = {}

    def run(backend, kinds, world_size=2):
        if backend not in made:
            written = {kind: write(f"{backend}_{kind}", kind) for kind in kinds}
            jobs = [{"config": str(config)} for config, _ in written.values()]
            written["resumed"] = write(f"{backend}_resumed", kinds[0])
            resumed = {"copy_of": str(written[kinds[0]][1]), "step": RESUMED_STEP}
            # Which may be changed when a run goes on, and changes no bit.
            overrides = ["parallel.activation_checkpointing=true"]
            jobs.append({"config": str(written["resumed"][0]), "overrides": overrides, **resumed})
            # With buckets so small that no weight of a tiny model stays whole on a rank.
            zero_file = write_zero_file(backend, folder / f"{backend}.json") if backend.startswith("zero") else None
            run_jobs(backend, world_size, jobs, folder, zero_file=zero_file)
            made[backend] = {kind: run_dir for kind, (_, run_dir) in written.items()}
        return made[backend]

    return run


@pytest.mark.parametrize(("backend", "kind"), CASES)
def test_losses_and_parameters_are_those_of_one_process(runs, backend, kind):
    reference, found = runs("single", tuple(KINDS), 1)[kind], runs(backend, BACKENDS[backend])[kind]
    loss_bound, parameter_bound = NARROW_BOUNDS if kind == "llama_bf16" else BOUNDS
    assert len(read_losses(reference)) == STEPS
    assert largest_loss_difference(read_losses(reference), read_losses(found)) <= loss_bound
    assert largest_difference(read_weights(reference), read_weights(found)) <= parameter_bound


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_resumed_with_activations_computed_again_is_the_run_without_the_stop_to_the_bit(runs, backend):
    found = runs(backend, BACKENDS[backend])
    whole, resumed = found["llama"], found["resumed"]
    assert read_losses(whole) == read_losses(resumed)
    assert largest_difference(read_weights(whole), read_weights(resumed)) == 0.0
    assert largest_difference(read_weights(whole, RESUMED_STEP), read_weights(whole)) > 0.0


@pytest.mark.parametrize("backend", BACKENDS)
def test_checkpoints_hold_adapters_and_head_alone(runs, backend):
    names = set(read_weights(runs(backend, BACKENDS[backend])["llama"]))
    assert "score.weight" in names
    assert all(".lora_A.default." in name or ".lora_B.default." in name for name in names - {"score.weight"})
    assert len(names) == 1 + 2 * 2 * 7
