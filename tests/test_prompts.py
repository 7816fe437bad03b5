"""Tests of prompts from labels and from prompt files."""

from pathlib import Path

import pytest

from diffclf.prompts import check_prompts, prompts_from_labels, read_prompts, split_labels


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "prompts.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_labels() -> None:
    assert split_labels("sneaker, bag") == ["sneaker", "bag"]
    assert split_labels('"cat, tabby", dog ,t-shirt') == ["cat, tabby", "dog", "t-shirt"]
    assert prompts_from_labels(["cat", "dog"]) == [("a photo of a cat", "cat"), ("a photo of a dog", "dog")]
    assert prompts_from_labels(["a{b}", "c"], "{} {0} {}") == [("a{b} {0} a{b}", "a{b}"), ("c {0} c", "c")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least two classes, got 0"),
        ("cat", r"at least two classes, got 1: \['cat'\]"),
        ("cat,,dog", "labels must not be empty"),
        ("cat,dog,", "labels must not be empty"),
        ("cat,dog, cat", "labels must differ, got 'cat' more than once"),
    ],
)
def test_bad_labels(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_labels(text)


def test_a_template_needs_a_place_for_the_label() -> None:
    with pytest.raises(ValueError, match=r"template must contain \{\} .* got 'a photo'"):
        prompts_from_labels(["cat", "dog"], "a photo")


def test_a_prompt_file_is_ordered_by_class(tmp_path: Path) -> None:
    text = (
        "\ufeffprompt,classname,classidx,note\n"  # as spreadsheets write it
        "a bag,bag,7,\n"
        '"a sneaker, worn",sneaker,2,x\n'
        "a photo of a bag,bag,7,\n"
        "a photo of a sneaker,sneaker,2,\n"
    )
    assert read_prompts(write(tmp_path, text)) == [
        ("a sneaker, worn", "sneaker"),
        ("a photo of a sneaker", "sneaker"),
        ("a bag", "bag"),
        ("a photo of a bag", "bag"),
    ]


HEADER = "prompt,classname,classidx\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"expected the columns prompt, classname, classidx, got an empty file"),
        ("prompt,class\n", r"got prompt, class; missing: classname, classidx"),
        (HEADER, "holds no prompts"),
        (HEADER + "a cat,cat,0\na dog,dog,one\n", "line 3: classidx must be an integer, got 'one'"),
        (HEADER + "a cat,cat,0\na dog,dog,1.0\n", "line 3: classidx must be an integer, got '1.0'"),
        (HEADER + "a cat,cat,0\na dog,dog,1\na kitten,cat,2\n", "'cat' must have one classidx, got 0 and 2"),
        (HEADER + "a cat,cat,0\na dog,dog,0\n", "classidx 0 must have one classname, got 'cat' and 'dog'"),
        (HEADER + "a cat,cat,0\na kitten,cat,0\n", "at least two classes, got 1"),
        (HEADER + "a cat,cat,0\n ,dog,1\n", "line 3: prompt must not be empty"),
        (HEADER + "a cat,cat,0\na dog,,1\n", "line 3: classname must not be empty"),
        (HEADER + "a cat,cat,0\na dog\n", "line 3: classname must not be empty"),
        (HEADER + "a cat,cat,0\na cat,dog,1\n", "prompts must differ, got 'a cat' more than once"),
        (HEADER + "a cat, black,cat,0\n", "line 2 has more fields than columns"),
        (HEADER + '"a cat,cat,0\n', "is not a CSV file in UTF-8"),
    ],
)
def test_bad_prompt_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_prompts(write(tmp_path, text))
    assert "prompts.csv" in str(error.value)


def test_other_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes(HEADER.encode() + "a café,café,0\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.csv is not a CSV file in UTF-8"):
        read_prompts(path)
    with pytest.raises(FileNotFoundError, match=r"missing\.csv"):
        read_prompts(tmp_path / "missing.csv")


def test_pairs_are_checked() -> None:
    check_prompts([("a cat", "cat"), ("a kitten", "cat"), ("a dog", "dog")])
    with pytest.raises(ValueError, match="got an empty prompt for 'cat'"):
        check_prompts([(" ", "cat"), ("a dog", "dog")])
