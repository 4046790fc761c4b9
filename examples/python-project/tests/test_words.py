import pytest
from textindex import words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("Hello, World!", ["hello", "world"]),
        ("don\u2019t stop", ["don't", "stop"]),
        ("STRASSE Straße", ["strasse", "strasse"]),
        ("snake_case 42", ["snake", "case", "42"]),
        ("cafe\u0301", ["café"]),
    ],
)
def test_text_is_cut_into_folded_words(text, expected):
    assert words(text) == expected
