import torch

from pref_dist.bench.matrix_work import LinearWork, count_linear_work, measure_matmul_rate
from pref_dist.bench.shapes import config_values


def count(values):
    from transformers import AutoConfig

    return count_linear_work(AutoConfig.for_model(**values, num_labels=3))


def test_the_linear_layers_of_a_tiny_bert_are_counted_by_hand():
    work = count(
        {"model_type": "bert", "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 64, "max_position_embeddings": 64}
    )  # fmt: skip
    # A layer: query, key, value and output of 32 x 32, then 32 x 64 and back. Pooler and head read one token a row.
    assert work.per_token == {(32, 32): 8, (32, 64): 2, (64, 32): 2}
    assert work.per_row == {(32, 32): 1, (32, 3): 1}
    a_token, a_row = 2 * (8 * 32 * 32 + 4 * 32 * 64), 2 * (32 * 32 + 32 * 3)
    assert work.flops(num_tokens=10, num_rows=3) == 10 * a_token + 3 * a_row


def test_what_deberta_does_with_its_position_table_is_no_work_on_tokens():
    values = config_values("deberta-v3-xsmall", 512) | {"vocab_size": 50}
    work = count(values)
    assert work.per_token == {(384, 384): 12 * 4, (384, 1536): 12, (1536, 384): 12}
    assert work.per_row == {(384, 384): 1, (384, 3): 1}


def test_shapes_are_those_of_the_public_checkpoints():
    values = config_values("deberta-v3-small", 2048)
    assert (values["hidden_size"], values["num_hidden_layers"], values["num_attention_heads"]) == (768, 6, 12)
    assert values["vocab_size"] == 128_100
    assert values["max_position_embeddings"] == 512  # relative: any length
    assert config_values("minilm-l6", 2048)["max_position_embeddings"] == 2048
    assert config_values("minilm-l6", 256)["max_position_embeddings"] == 512


def test_a_matmul_rate_is_flops_over_time_of_this_machine():
    work = LinearWork({(64, 256): 2, (256, 64): 2}, {})
    assert 1e6 < measure_matmul_rate(work, 128, torch.float32, torch.device("cpu")) < 1e15
