"""Rows of like lengths are attended to together on a GPU, in as few groups as pay."""

from pref_dist.models.deberta.gpu import SCORES_OF_A_GROUP, divide_rows, round_up


def scores(groups):
    return sum(num_rows * num_tokens**2 for num_rows, num_tokens in groups)


def test_few_or_equal_rows_are_one_group():
    assert divide_rows([300, 20]) == [(2, 320)]
    assert divide_rows([512] * 64) == [(64, 512)]
    assert divide_rows([0]) == [(1, 32)], "a row without tokens"


def test_every_row_is_in_a_group_that_holds_it_and_each_group_pays():
    lengths = sorted((length % 481 + 31 for length in range(0, 40000, 97)), reverse=True)
    groups = divide_rows(lengths)
    assert sum(num_rows for num_rows, _ in groups) == len(lengths)
    padded = [num_tokens for num_rows, num_tokens in groups for _ in range(num_rows)]
    assert all(length <= num_tokens for length, num_tokens in zip(lengths, padded, strict=True))
    assert [num_tokens for _, num_tokens in groups] == sorted((t for _, t in groups), reverse=True)
    assert len(groups) > 1
    whole = len(lengths) * round_up(lengths[0]) ** 2
    assert scores(groups) + (len(groups) - 1) * SCORES_OF_A_GROUP < whole
