"""Entities by their tags: cases by hand as conlleval and seqeval count them, and nervaluate's strict scores."""

import random

import pytest

from finetune.results.entities import Entity, entities, entity_scores

# The spans that seqeval's default get_entities gives, by its rules for the start and the end of a chunk.
CASES = {
    "B-PER I-PER O B-LOC": [("PER", 0, 1), ("LOC", 3, 3)],
    "I-PER I-PER O I-LOC": [("PER", 0, 1), ("LOC", 3, 3)],  # IOB1: I begins an entity after O
    "I-PER B-PER I-PER": [("PER", 0, 0), ("PER", 1, 2)],  # IOB1: B parts two entities of one type
    "B-PER B-PER": [("PER", 0, 0), ("PER", 1, 1)],
    "B-PER I-LOC I-LOC": [("PER", 0, 0), ("LOC", 1, 2)],  # another type begins an entity
    "O I-LOC O I-LOC": [("LOC", 1, 1), ("LOC", 3, 3)],
    "S-PER S-PER B-LOC I-LOC E-LOC E-LOC": [("PER", 0, 0), ("PER", 1, 1), ("LOC", 2, 4), ("LOC", 5, 5)],
    "B-LOC E-LOC I-LOC": [("LOC", 0, 1), ("LOC", 2, 2)],
    "U-PER B-LOC L-LOC": [("PER", 0, 0), ("LOC", 1, 2)],
    "B-GPE-LOC I-GPE-LOC": [("GPE-LOC", 0, 1)],
    "O O": [],
    "": [],
}


@pytest.mark.parametrize("tags", CASES)
def test_entities_begin_and_end_as_in_conlleval(tags):
    assert entities(tags.split()) == [Entity(*each) for each in CASES[tags]]


def test_an_entity_is_right_if_its_words_and_type_are():
    right = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "O"], ["O"]]
    told = [["I-PER", "I-PER", "O", "B-ORG"], ["B-ORG", "I-ORG"], ["B-LOC"]]
    # told: PER 0-1 (right), ORG 3 (wrong type), ORG 0-1 (wrong end), LOC 0 (nothing there); right: 3 entities
    assert entity_scores(told, right) == pytest.approx({"precision": 1 / 4, "recall": 1 / 3, "f1": 2 / 7})


def test_scores_without_entities_are_zero():
    assert entity_scores([["O"]], [["O"]]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert entity_scores([["O"]], [["B-A"]])["precision"] == 0.0


def test_mixtures_of_iob1_and_iob2_have_the_strict_scores_of_nervaluate():
    import nervaluate

    draw = random.Random(0)
    kinds = ["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    right = [draw.choices(kinds, k=draw.randint(1, 9)) for _ in range(200)]
    told = [[tag if draw.random() < 0.6 else draw.choice(kinds) for tag in tags] for tags in right]
    theirs = nervaluate.Evaluator(right, told, tags=["PER", "LOC"], loader="list").evaluate()
    strict = theirs["overall"]["strict"]
    ours = entity_scores(told, right)
    assert ours["precision"] == pytest.approx(strict.correct / strict.actual)
    assert ours["recall"] == pytest.approx(strict.correct / strict.possible)
