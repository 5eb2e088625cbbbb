from pref_dist.data.render import render_joint, render_text
from pref_dist.data.rows import Turn

ONE_TURN = (Turn("p", "a", "b"),)
TWO_TURNS = (Turn("p1", "a1", "b1"), Turn("p2", "", "b2"))


def test_a_row_of_one_turn_has_no_round_markers():
    assert render_joint(ONE_TURN) == (("p",), ("a",), ("b",))
    assert render_text(render_joint(ONE_TURN)) == "Prompt:\np\n\nResponse A:\na\n\nResponse B:\nb"


def test_a_row_of_more_turns_keeps_their_order_one_piece_a_turn():
    segments = render_joint(TWO_TURNS)
    assert segments.prompt == ("Round 1:\np1", "\n\nRound 2:\np2")
    assert segments.response_a == ("Round 1:\na1", "\n\nRound 2:\n")
    assert "".join(segments.response_b) == "Round 1:\nb1\n\nRound 2:\nb2"


def test_swapped_shows_b_as_the_first_response():
    prompt, response_a, response_b = render_joint(TWO_TURNS)
    assert render_joint(TWO_TURNS, swapped=True) == (prompt, response_b, response_a)
