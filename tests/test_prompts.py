"""Prompts from labels, mappings and prompt files, and every check on them."""

import numpy as np
import pytest

from diffclf.prompts import label_indices, prompts_from_labels, read_prompts, resolve_prompts, split_labels

LABELS = ("t-shirt", "trouser", "pullover")
HEADER = "prompt,classname,classidx\n"
NOT_PAIRS = "must be a mapping or a list of"
NOT_LABELS = "must be None, label names or label indices"


def test_labels():
    assert split_labels("sneaker, bag") == ["sneaker", "bag"]
    assert split_labels('"cat, tabby", dog ,t-shirt') == ["cat, tabby", "dog", "t-shirt"]
    assert split_labels('sneaker\nbag\r\n"cat, tabby"\n') == ["sneaker", "bag", "cat, tabby"]
    assert prompts_from_labels(["cat", "dog"]) == [("a photo of a cat", "cat"), ("a photo of a dog", "dog")]
    assert prompts_from_labels(["a{b}", "c"], "{} {0} {}") == [("a{b} {0} a{b}", "a{b}"), ("c {0} c", "c")]
    with pytest.raises(ValueError, match=r"template must contain \{\} .* got 'a photo'"):
        prompts_from_labels(["cat", "dog"], "a photo")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least two classes, got 0"),
        ("cat", r"at least two classes, got 1: \['cat'\]"),
        ("cat,,dog", r"labels must differ and must not be empty, got \['cat', '', 'dog'\]"),
        ("cat,dog,", "labels must differ and must not be empty"),
        ("cat,dog, cat", "labels must differ and must not be empty"),
    ],
)
def test_bad_labels(text, message):
    with pytest.raises(ValueError, match=message):
        prompts_from_labels(split_labels(text))


def test_letters_composed_in_another_way_are_the_same_name():
    whole, parts = "caf\u00e9", "cafe\u0301"
    assert split_labels(f"{parts},bag") == [whole, "bag"]
    assert resolve_prompts([("a", parts), ("b", whole), (parts, "bag")], None)[1] == [whole, whole, "bag"]
    assert resolve_prompts([(parts, parts), ("b", "bag")], None)[0] == [parts, "b"], "prompts stay as they are"
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        resolve_prompts([("a", parts), ("b", whole)], None)
    for own, given in ((whole, parts), (parts, whole)):
        assert label_indices([given], ["bag", own]) == [1]


@pytest.mark.parametrize(
    ("label", "hint"),
    [
        ("T-Shirt", "; did you mean 't-shirt'?"),
        ("trousers", "; did you mean 'trouser'?"),
        ("pull", "; did you mean 'pullover'?"),
        ("zebra", ""),
    ],
)
def test_an_unknown_label_suggests_near_names(label, hint):
    with pytest.raises(ValueError) as error:
        label_indices([label], LABELS)
    assert str(error.value) == f"label must be one of the model's 3 labels, got {label!r}{hint}"


def test_prompts_of_classes_are_resolved():
    mapping = {"bag": ["a bag", "a red bag"], "coat": "a coat"}
    expected = ["a bag", "a red bag", "a coat"], ["bag", "bag", "coat"]
    assert resolve_prompts(mapping, None) == expected
    assert resolve_prompts(list(zip(*expected, strict=True)), None) == expected
    assert resolve_prompts(None, LABELS) == ([0, 1, 2], list(LABELS))
    for chosen in (["pullover", "t-shirt"], [2, 0], np.array([2, 0]), (2, "t-shirt")):
        assert resolve_prompts(chosen, LABELS) == ([2, 0], ["pullover", "t-shirt"])
    assert label_indices([], LABELS) == []


@pytest.mark.parametrize(
    ("prompts", "labels", "message"),
    [
        (None, None, NOT_PAIRS),
        ({}, None, "at least 2 classes, got 0"),
        ({"bag": ["a bag", "a red bag"]}, None, "at least 2 classes, got 1"),
        ({"bag": "a bag", "coat": []}, None, "at least one prompt, got none for 'coat'"),
        ({"bag": "a bag", "coat": " \t"}, None, "class 'coat' must be a text that is not empty"),
        ({"bag": "a bag", "coat": ["a coat", 3]}, None, "class 'coat' must be a text that is not empty, got 3"),
        ({"bag": "a bag", "coat": None}, None, "class 'coat' must be a text that is not empty, got None"),
        ({"bag": "a bag", "coat": "a bag"}, None, "prompts must differ, got 'a bag' for both 'bag' and 'coat'"),
        ({"bag": ["a bag", "a bag"], "coat": "a coat"}, None, "prompts must differ, got 'a bag'"),
        ("a bag", None, NOT_PAIRS),
        (["a bag", "a coat"], None, NOT_PAIRS),
        (5, None, NOT_PAIRS),
        ([("a bag", "bag"), ("a coat",)], None, NOT_PAIRS),
        ({"t-shirt": "a t-shirt"}, LABELS, NOT_LABELS),
        ("trouser", LABELS, NOT_LABELS),
        (5, LABELS, NOT_LABELS),
        (["trouser"], LABELS, "at least 2 classes, got 1"),
        (["trouser", "hat"], LABELS, "one of the model's 3 labels, got 'hat'"),
        ([0, 3], LABELS, "one of the model's 3 labels, got 3"),
        ([0, -1], LABELS, "one of the model's 3 labels, got -1"),
        ([True, 0], LABELS, "one of the model's 3 labels, got True"),
        ([0, "t-shirt"], LABELS, "labels must differ"),
    ],
)
def test_bad_prompts(prompts, labels, message):
    with pytest.raises(ValueError, match=message):
        resolve_prompts(prompts, labels)


def test_a_prompt_file_is_ordered_by_class(tmp_path):
    text = (
        "\ufeffprompt,classname,classidx,note\n"  # as spreadsheets write it
        "a bag,bag,7,\n"
        '"a sneaker, worn",sneaker,2,x\n'
        "a photo of a bag,bag,7,\n"
        "a photo of a sneaker,sneaker,2,\n"
    )
    (tmp_path / "prompts.csv").write_text(text, encoding="utf-8")
    assert read_prompts(tmp_path / "prompts.csv") == [
        ("a sneaker, worn", "sneaker"),
        ("a photo of a sneaker", "sneaker"),
        ("a bag", "bag"),
        ("a photo of a bag", "bag"),
    ]
    with pytest.raises(FileNotFoundError, match=r"missing\.csv"):
        read_prompts(tmp_path / "missing.csv")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_prompt_file_may_have_other_separators_and_headers(tmp_path, delimiter):
    lines = ["Prompt, ClassName ,CLASSIDX", "a cat,cat,0", "a dog,dog,1"]
    (tmp_path / "p.csv").write_text("\n".join(lines).replace(",", delimiter))
    assert read_prompts(tmp_path / "p.csv") == [("a cat", "cat"), ("a dog", "dog")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "columns must include prompt, classname, classidx, got no line"),
        ("prompt,class\n", "columns must include prompt, classname, classidx, got prompt, class"),
        (HEADER, "at least 2 classes, got 0"),
        (HEADER + "a cat,cat,0\na dog,dog,1.0\n", "line 3: classidx must be an integer, got '1.0'"),
        (HEADER + "a cat,cat,0\na dog,dog,1\na kitten,cat,2\n", "'cat' must have one classidx, got 0 and 2"),
        (HEADER + "a cat,cat,0\na dog,dog,0\n", "classidx 0 must have one classname, got 'cat' and 'dog'"),
        (HEADER + "a cat,cat,0\na kitten,cat,0\n", "at least 2 classes, got 1"),
        (HEADER + "a cat,cat,0\n ,dog,1\n", "line 3: prompt must not be empty"),
        (HEADER + "a cat,cat,0\na dog\n", "line 3: classname must not be empty"),
        (HEADER + "a cat,cat,0\na cat,dog,1\n", "prompts must differ, got 'a cat' for both 'cat' and 'dog'"),
        (HEADER + "a cat, black,cat,0\n", "line 2 has more fields than columns"),
        (HEADER + '"a cat,cat,0\n', "is not a CSV file in UTF-8"),
        (HEADER + "a caf\udce9,caf\udce9,0\n", "is not a CSV file in UTF-8"),
    ],
)
def test_bad_prompt_files(tmp_path, text, message):
    path = tmp_path / "prompts.csv"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match=message) as error:
        read_prompts(path)
    assert "prompts.csv" in str(error.value)
