"""What one rank does in test_sharing_engines.py: train a tiny BERT by an engine and compare with plain torch.

Writes its figures to OUT/rank_N.json; the test holds the bounds.
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.ranks.run_verb import launch_env
from tests.ranks.tiny_problem import (
    NUM_STEPS,
    build_groups,
    build_model,
    factor_of,
    loss_share,
    micro_batches_of,
    train_plainly,
)

REPO_ROOT = Path(__file__).resolve().parents[2]
POISONED_STEP = 7  # one more step before this one has a gradient that is not finite on the last rank
NUM_STEPS_MORE = 3


def take_step(engine: Any, parallel: Any, step: int, poison: bool = False) -> tuple[float, Any]:
    """Return the loss of one step, summed over ranks, and its outcome."""
    mine = micro_batches_of(step, parallel.rank, parallel.world_size)
    total = 0.0
    for index, batch in enumerate(mine):
        logits = engine.forward({"input_ids": batch.input_ids, "attention_mask": batch.attention_mask})
        loss = loss_share(logits, batch, step)
        if poison and index == 0 and parallel.rank == parallel.world_size - 1:
            loss = loss * float("nan")
        engine.backward(loss, is_last=index == len(mine) - 1)
        total += loss.item()
    outcome = engine.step(factor_of(step)).read()
    return parallel.sum(total)[0], outcome


def read_tensors(engine: Any) -> dict[str, Tensor]:
    """Everything that a checkpoint keeps, flat."""
    found = {}
    for name, state in engine.read_state():
        found |= {f"{name}/{key}": getattr(state, key) for key in ("value", "exp_avg", "exp_avg_sq")}
        found[f"{name}/step"] = torch.tensor(state.step)
    return found


def write_tensors(engine: Any, found: dict[str, Tensor]) -> None:
    from pref_dist.runtime.engine import ParameterState

    def read(name: str) -> ParameterState:
        value, exp_avg, exp_avg_sq = (found[f"{name}/{key}"] for key in ("value", "exp_avg", "exp_avg_sq"))
        return ParameterState(value, exp_avg, exp_avg_sq, int(found[f"{name}/step"]))

    engine.write_state(read)


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    return [name for name in one if not torch.equal(one[name], other[name])]


def largest_difference(found: dict[str, Tensor], model: nn.Module) -> float:
    values = ((name, value.detach()) for name, value in model.named_parameters() if value.requires_grad)
    return max(float((found[f"{name}/value"] - value).abs().max()) for name, value in values)


def write_zero_file(backend: str, path: Path) -> Path:
    """The repository's file, with buckets so small that a tiny model fills many and no weight stays whole."""
    content = json.loads((REPO_ROOT / "configs/deepspeed" / f"{backend}.json").read_text())
    section = content["zero_optimization"]
    section |= {"reduce_bucket_size": 2000}
    if section["stage"] < 3:
        section |= {"allgather_bucket_size": 2000}
    else:
        section |= {"stage3_prefetch_bucket_size": 2000, "stage3_param_persistence_threshold": 40}
        section |= {"stage3_max_live_parameters": 4000, "stage3_max_reuse_distance": 4000, "sub_group_size": 5000}
    path.write_text(json.dumps(content))
    return path


class Session:
    """The engines of one rank, all of one back-end and precision."""

    def __init__(self, backend: str, precision: str, out: Path, timeout_seconds: int = 60) -> None:
        from pref_dist.config.schema import ParallelSection
        from pref_dist.runtime.parallel import start_parallel

        os.environ |= launch_env(backend)
        if backend.startswith("zero"):
            zero_file = write_zero_file(backend, out / f"zero_{os.environ['RANK']}.json")
            os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = str(zero_file)
        self.parallel = start_parallel(ParallelSection(backend=backend, timeout_seconds=timeout_seconds))
        self.precision = precision

    def build(self, seed: int, clip_norm: float | None, **more: Any) -> tuple[Any, nn.Module]:
        from pref_dist.runtime.engine import EngineSettings

        settings = EngineSettings(self.precision, clip_norm, **more)
        model = build_model(seed)
        return self.parallel.build_engine(model, build_groups(model), settings, 60), model


def check_parity(session: Session, clip_norm: float | None) -> tuple[Any, dict[str, Any]]:
    """Train by the engine and plainly; a step that must be skipped is in between."""
    engine, _ = session.build(0, clip_norm)
    before = read_tensors(engine)
    plain = build_model(0)
    figures: dict[str, Any] = {
        "initial_difference": largest_difference(before, plain),
        "initial_moments": sum(float(value.abs().sum()) for name, value in before.items() if "exp_avg" in name),
    }
    initial = {name: value.clone() for name, value in before.items()}
    losses, norms, num_clipped, reference = [], [], 0, train_plainly(plain, session.precision, clip_norm)
    for step in range(NUM_STEPS):
        if step == POISONED_STEP:
            before = read_tensors(engine)
            _, outcome = take_step(engine, session.parallel, step, poison=True)
            figures |= {"skipped": outcome.skipped, "changed_by_skip": differing(before, read_tensors(engine))}
            continue_scale(engine)
        loss, outcome = take_step(engine, session.parallel, step)
        plain_loss, plain_norm = next(reference)
        losses.append(abs(loss - plain_loss))
        norms.append(abs(outcome.grad_norm - plain_norm) / plain_norm)
        num_clipped += clip_norm is not None and plain_norm > clip_norm
        assert not outcome.skipped, f"step {step} was skipped"
    list(reference)
    return engine, figures | {
        "loss_difference": max(losses),
        "norm_difference": max(norms),
        "parameter_difference": largest_difference(read_tensors(engine), plain),
        "parameter_move": largest_difference(initial, plain),
        "num_clipped": num_clipped,
        "steps": sorted({int(value) for name, value in read_tensors(engine).items() if name.endswith("/step")}),
    }


def continue_scale(engine: Any) -> None:
    """Undo what a poisoned step did to the loss scale, which the reference does not have."""
    scale = engine.read_loss_scale()
    if scale is not None:
        engine.write_loss_scale(replace(scale, scale=scale.scale * 2))


def evaluate(engine: Any, parallel: Any) -> None:
    """Forwards without gradient, as an evaluation makes them in the middle of training."""
    engine.eval()
    with torch.no_grad():
        for batch in micro_batches_of(1, parallel.rank, parallel.world_size):
            engine.forward({"input_ids": batch.input_ids, "attention_mask": batch.attention_mask})
    engine.train()


def check_resume(session: Session, engine: Any, clip_norm: float | None, out: Path) -> dict[str, Any]:
    """Go on, and go on in a new engine from what was read: the same bits?"""
    from safetensors.torch import save_file

    saved, scale = read_tensors(engine), engine.read_loss_scale()
    for step in range(NUM_STEPS, NUM_STEPS + NUM_STEPS_MORE):
        take_step(engine, session.parallel, step)
        evaluate(engine, session.parallel)
    final = read_tensors(engine)
    if session.parallel.is_main:
        save_file(saved, out / "saved.safetensors")
        save_file(final, out / "final.safetensors")
    other, _ = session.build(1, clip_norm)
    write_tensors(other, saved)
    if scale is not None:
        other.write_loss_scale(scale)
    figures = {"differing_after_write": differing(saved, read_tensors(other))}
    for step in range(NUM_STEPS, NUM_STEPS + NUM_STEPS_MORE):
        take_step(other, session.parallel, step)
    return figures | {"differing_after_resume": differing(final, read_tensors(other))}


def check_other_world(session: Session, clip_norm: float | None, source: Path) -> dict[str, Any]:
    """Go on here from what another number of ranks, or another back-end, has read."""
    from safetensors.torch import load_file

    engine, _ = session.build(1, clip_norm)
    saved, final = load_file(source / "saved.safetensors"), load_file(source / "final.safetensors")
    write_tensors(engine, saved)
    changed = differing(saved, read_tensors(engine))
    for step in range(NUM_STEPS, NUM_STEPS + NUM_STEPS_MORE):
        take_step(engine, session.parallel, step)
    found = read_tensors(engine)
    values = [name for name in final if name.endswith("/value")]
    return {
        "differing_after_write": changed,
        "parameter_difference": max(float((found[name] - final[name]).abs().max()) for name in values),
    }


def check_loss_scale(session: Session) -> dict[str, Any]:
    """Start with a scale that must overflow, and grow it often."""
    engine, _ = session.build(0, None, initial_loss_scale=2.0**24, loss_scale_growth_interval=2)
    found, history = engine.read_loss_scale(), []
    for step in range(NUM_STEPS):
        _, outcome = take_step(engine, session.parallel, step)
        before, found = found, engine.read_loss_scale()
        history.append((before.scale, before.clean_steps, outcome.skipped, found.scale, found.clean_steps))
    return {"history": history, "growth_interval": 2, "growing_difference": compare_growing(session)}


def compare_growing(session: Session) -> float:
    """Largest relative difference of the first moments between a scale that grows and one that does not."""
    moments = []
    for growth_interval in (2, 1000):
        engine, _ = session.build(0, 0.5, initial_loss_scale=64.0, loss_scale_growth_interval=growth_interval)
        for step in range(4):
            take_step(engine, session.parallel, step)
        found = read_tensors(engine)
        moments.append(torch.cat([found[name].flatten() for name in found if name.endswith("/exp_avg")]))
    return float((moments[0] - moments[1]).abs().max() / moments[1].abs().max())


def check_inference(session: Session) -> dict[str, Any]:
    """Evaluate without an optimiser: the same logits as the plain model gives?"""
    engine = session.parallel.build_inference_engine(build_model(0), session.precision, 60)
    plain, differences = build_model(0).eval(), []
    with torch.no_grad():
        for batch in micro_batches_of(3, session.parallel.rank, session.parallel.world_size):
            inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
            differences.append(float((engine.forward(inputs) - plain(**inputs).logits).abs().max()))
    return {"logit_difference": max(differences), "describe": engine.describe()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", required=True)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--clip", type=float, default=None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--source", type=Path, default=None, help="go on from what was read there, and no more")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    session = Session(arguments.backend, arguments.precision, arguments.out)
    figures: dict[str, Any] = {}
    if arguments.source is not None:
        figures["other_world"] = check_other_world(session, arguments.clip, arguments.source)
    else:
        engine, figures["parity"] = check_parity(session, arguments.clip)
        figures["describe"] = engine.describe()
        figures["resume"] = check_resume(session, engine, arguments.clip, arguments.out)
        if arguments.precision == "fp16":
            figures["loss_scale"] = check_loss_scale(session)
        if arguments.backend in ("zero3", "fsdp2"):
            figures["inference"] = check_inference(session)
    (arguments.out / f"rank_{session.parallel.rank}.json").write_text(json.dumps(figures))
    session.parallel.stop()


if __name__ == "__main__":
    main()
