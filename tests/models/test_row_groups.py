"""Packed rows of one length on a CPU: attended to at once, each as if it were alone."""

import pytest
import torch

from pref_dist.models.packed_attention import attend_on_cpu, group_rows


@pytest.mark.parametrize(
    ("lengths", "groups"),
    [
        ([7], [(1, 7)]),
        ([50, 50, 50, 20, 50, 50], [(3, 50), (1, 20), (2, 50)]),
        ([512] * 3, [(1, 512)] * 3),  # 12 heads of 512 x 512: more than the caches hold even for one row
        ([128] * 12, [(5, 128), (5, 128), (2, 128)]),
    ],
    ids=["one", "neighbours", "long", "many"],
)
def test_neighbours_of_one_length_go_together_while_the_caches_hold_their_scores(lengths, groups):
    assert group_rows(lengths, num_heads=12) == groups


def attend(parts, lengths, dropout=0.0):
    """Return the output (N, A, D) and the gradients (3, A, N, D) of a weighted sum of it."""
    torch.manual_seed(1)
    found = attend_on_cpu(*parts, lengths, None, dropout, None)
    weights = torch.cos(torch.arange(found.numel() // sum(lengths))).view(1, 1, *found.shape[2:]).to(found.dtype)
    return found.squeeze(0).detach(), torch.autograd.grad((found * weights).sum(), parts)[0].squeeze(1)


def draw_rows(dtype):
    """Return query, key and value (3, 1, A, N, D) of three rows of 40 tokens."""
    torch.manual_seed(0)
    return torch.randn(3, 1, 2, 3 * 40, 8, dtype=dtype).requires_grad_()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_every_row_of_a_group_is_attended_to_as_alone(dtype, tolerance):
    parts = draw_rows(dtype)
    together = attend(parts, [40, 40, 40])
    alone = [attend(row, [40]) for row in parts.split(40, dim=3)]
    torch.testing.assert_close(together[0], torch.cat([output for output, _ in alone]), rtol=0, atol=tolerance)
    torch.testing.assert_close(together[1], torch.cat([grads for _, grads in alone], dim=2), rtol=0, atol=tolerance)


def test_the_rows_of_a_group_drop_differently():
    parts = draw_rows(torch.float32)
    with torch.no_grad():
        parts[:] = parts[:, :, :, :40].repeat(1, 1, 1, 3, 1)
    first, second, _ = attend(parts, [40, 40, 40], dropout=0.1)[0].split(40)
    torch.testing.assert_close(first, attend(parts[:, :, :, :40], [40], dropout=0.1)[0], rtol=0, atol=1e-6)
    assert not torch.equal(first, second)
