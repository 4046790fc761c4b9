import pytest
from textindex import Index


@pytest.fixture
def index():
    index = Index()
    index.add("moat", "A moat keeps the castle safe. The moat is deep.")
    index.add("castle", "The castle has a gate, a bridge and a moat.")
    index.add("garden", "Roses and apple trees.")
    return index


def test_the_document_that_says_it_most_comes_first(index):
    assert [match.name for match in index.search("Moat")] == ["moat", "castle"]


def test_all_words_of_a_query_must_be_there(index):
    assert [match.name for match in index.search("moat bridge")] == ["castle"]


def test_a_rare_word_counts_more_than_a_common_one(index):
    [rare] = index.search("roses")
    [common] = [match for match in index.search("and") if match.name == "garden"]
    assert rare.score > common.score


def test_adding_again_replaces(index):
    index.add("garden", "A moat around the roses.")
    assert len(index) == 3
    assert index.search("apple") == []


def test_an_empty_query_matches_nothing(index):
    assert index.search(" ... ") == []


def test_removing_what_is_not_there_is_an_error(index):
    index.remove("garden")
    with pytest.raises(KeyError):
        index.remove("garden")
