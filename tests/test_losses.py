import torch

from pref_dist.losses import cross_entropy, share_of_step


def test_row_losses_equal_torchs_cross_entropy():
    torch.manual_seed(0)
    logits, target = torch.randn(7, 3, dtype=torch.float64), torch.softmax(torch.randn(7, 3, dtype=torch.float64), 1)
    expected = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(cross_entropy(logits, target), expected, rtol=0, atol=1e-15)


def test_shares_of_any_cut_add_up_to_the_weighted_mean():
    losses, weight = torch.tensor([1.0, 2.0, 4.0, 8.0]).double(), torch.tensor([1.0, 1.0, 0.5, 2.0])
    whole = share_of_step(losses, weight, 4.5)
    parts = share_of_step(losses[:1], weight[:1], 4.5) + share_of_step(losses[1:], weight[1:], 4.5)
    torch.testing.assert_close(torch.stack([whole, parts]), ((losses * weight).sum() / 4.5).expand(2))


def test_a_row_of_weight_0_adds_nothing_even_if_its_loss_is_infinite():
    assert share_of_step(torch.tensor([float("inf"), 1.0]), torch.tensor([0.0, 1.0]), 1.0) == 1.0
