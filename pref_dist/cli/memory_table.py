"""How `train --dry-run` shows what a run takes of each rank's memory."""

from typing import TYPE_CHECKING

from pref_dist.files import render_bytes

if TYPE_CHECKING:
    from pref_dist.train.dry_run import DryRun
    from pref_dist.train.measuring import RankMemory

WIDTH = 26
# A line through two small batches is not followed further than to so many times the largest one.
FAR = 8


def render_memory(found: "DryRun") -> str:
    """Return the estimate of a rank, line by line, then all ranks beside what was measured, then what would fit."""
    first = found.ranks[0]
    state = first.state
    lines = [
        ("parameters", state.parameters),
        ("gradients", state.gradients),
        ("optimiser", state.optimizer),
        ("gathered weights", state.gathered),
        ("on the host (offload)", state.on_host),
        (f"{first.num_rows:,} rows, {first.num_tokens:,} tokens", first.activations),
    ]
    title = f"memory of a rank ({found.backend}, {found.world_size} x {found.device})"
    return "\n".join(
        (
            f"\n{title}",
            *(f"  {name:<{WIDTH}} {render_bytes(count):>10}" for name, count in lines if count),
            "",
            f"{'rank':<5} {'model and optimiser':>28}  {'largest micro-batch':>28}  {'free for it':>11}",
            f"{'':<5} {'estimated':>14} {'measured':>13}  {'estimated':>14} {'measured':>13}",
            *(render_rank(number, rank, found.device) for number, rank in enumerate(found.ranks)),
            "",
            render_budget(found),
        )
    )


def render_rank(number: int, rank: "RankMemory", device_type: str) -> str:
    measured = "not tried" if rank.activations_measured is None else render_bytes(rank.activations_measured)
    return (
        f"{number:<5} {render_bytes(rank.state.counted_on(device_type)):>14} {render_bytes(rank.state_measured):>13}  "
        f"{render_bytes(rank.activations):>14} {measured:>13}  {render_bytes(rank.free):>11}"
        + (f"  {rank.failure}" if rank.failure else "")
    )


def render_budget(found: "DryRun") -> str:
    asked = f"train.token_budget={found.token_budget:,}"
    num_tokens = max(rank.num_tokens for rank in found.ranks)
    if found.fits and 2 * num_tokens <= found.token_budget:
        largest = f"no micro-batch has more than {num_tokens:,} tokens (train.rows_per_step)"
    elif found.largest_budget is None:
        largest = "the batches are too small to tell which would not" if found.fits else "set a smaller one"
    elif found.fits and found.largest_budget > FAR * num_tokens:
        largest = f"so would {FAR} times as much; how much more cannot be told from batches as small as these"
    else:
        told = max(found.largest_budget, found.token_budget) if found.fits else found.largest_budget
        largest = f"the largest that fits is about {told:,}"
    return f"{asked} {'fits' if found.fits else 'does not fit'}; {largest}"
