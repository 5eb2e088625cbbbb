"""The three outcomes and their order, which is the same everywhere: A, B, tie."""

CLASSES = ("A", "B", "tie")
NUM_CLASSES = len(CLASSES)

# Column names of the Kaggle schema.
ID_COLUMN = "id"
TEXT_COLUMNS = ("prompt", "response_a", "response_b")
WINNER_COLUMNS = ("winner_model_a", "winner_model_b", "winner_tie")
SUBMISSION_COLUMNS = (ID_COLUMN, *WINNER_COLUMNS)
