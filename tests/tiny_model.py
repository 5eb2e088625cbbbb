"""A model folder small enough for a test: two layers of BERT, random weights from a seed, a real tokenizer."""

from pathlib import Path

TINY_VOCABULARY_SIZE = 400


def write_tiny_model(folder: Path, corpus: Path) -> Path:
    """Write a BERT of 2 layers x 32 with a WordPiece tokenizer trained on the text of `corpus`."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    trained = BertWordPieceTokenizer(lowercase=True)
    trained.train([str(corpus)], vocab_size=TINY_VOCABULARY_SIZE, show_progress=False)
    trained.save(str(folder / "tokenizer.json"))
    BertTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=TINY_VOCABULARY_SIZE, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=512,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder
