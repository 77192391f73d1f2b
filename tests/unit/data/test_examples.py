"""Examples to fine-tune on: which tokens are an answer, which example validates, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptwo.base.errors import DataError, TokenizerError
from gptwo.data.examples import Example, Examples, read_examples
from gptwo.tokenizer import Tokenizer
from gptwo.tokenizer.build import build_byte, build_char

BYTE = build_byte()
END = BYTE.eot_id


def lines(folder: Path, *records: Any, name: str = "data.jsonl") -> str:
    path = folder / name
    text = "".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return str(path)


def read(*paths: str, tokenizer: Tokenizer = BYTE, val_fraction: float = 0.5) -> Examples:
    return read_examples(paths, tokenizer, val_fraction=val_fraction)


def both(examples: Examples) -> list[Example]:
    return [*examples.train, *examples.val]


def shown(example: Example) -> tuple[str, str]:
    """The whole as text, and the answers alone."""
    whole, answers = (BYTE.decode(ids.tolist()) for ids in (example.ids, example.ids[example.answer]))
    return whole, answers


def test_prompt_and_completion(tmp_path: Path) -> None:
    path = lines(
        tmp_path, {"prompt": "2+2=", "completion": "4", "source": "me"}, {"prompt": "", "completion": "Hi"}
    )
    examples = read(path)
    assert examples.kind == "prompt and completion"
    assert {shown(example) for example in both(examples)} == {
        ("2+2=4<|endoftext|>", "4<|endoftext|>"),
        ("<|endoftext|>Hi<|endoftext|>", "Hi<|endoftext|>"),
    }


def test_messages(tmp_path: Path) -> None:
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "Again"},
        {"role": "assistant", "content": "Hey"},
    ]
    examples = read(lines(tmp_path, {"messages": talk}, {"messages": talk[1:3]}))
    assert examples.kind == "messages"
    longest = max(both(examples), key=lambda example: len(example.ids))
    whole, answers = shown(longest)
    assert answers == "Ho<|endoftext|>Hey<|endoftext|>"
    assert longest.ids.tolist() == BYTE.render_chat(talk, add_generation_prompt=False)
    assert whole.startswith("System:\nBe brief.<|endoftext|>User:\nHi<|endoftext|>Assistant:\nHo")


def test_text_is_all_learned(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One.\r\n", encoding="utf-8")
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    examples = read(str(tmp_path), lines(tmp_path / "..", {"text": "Two."}, name="two.jsonl"))
    assert examples.kind == "text"
    assert {shown(example) for example in both(examples)} == {
        ("<|endoftext|>One.\r\n<|endoftext|>", "One.\r\n<|endoftext|>"),
        ("<|endoftext|>Two.<|endoftext|>", "Two.<|endoftext|>"),
    }


def test_one_text_is_split_by_position(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("0123456789" * 10, encoding="utf-8")
    examples = read(str(tmp_path / "a.txt"), val_fraction=0.2)
    ((train, _),) = map(shown, examples.train)
    ((val, _),) = map(shown, examples.val)
    assert (len(train.replace("<|endoftext|>", "")), len(val.replace("<|endoftext|>", ""))) == (80, 20)


def test_a_folder_stands_for_its_files(tmp_path: Path) -> None:
    for number in range(3):
        lines(tmp_path, {"prompt": str(number), "completion": "x"}, name=f"{number}.jsonl")
    assert len(both(read(str(tmp_path)))) == 3


def test_an_end_of_text_that_is_written_is_text(tmp_path: Path) -> None:
    path = lines(
        tmp_path, *({"prompt": f"{i}<|endoftext|>", "completion": "a<|endoftext|>"} for i in range(2))
    )
    for example in both(read(path)):
        assert example.ids.tolist().count(END) == 1
        assert example.ids[-1] == END


def test_the_split_follows_the_example(tmp_path: Path) -> None:
    records = [{"prompt": str(i), "completion": "x"} for i in range(200)]
    first = read(lines(tmp_path, *records), val_fraction=0.3)
    assert 40 <= len(first.val) <= 80
    # In another order, in two files, one of them compressed, with more beside and one twice: all keep their sides.
    other = read(
        lines(tmp_path, *records[100:], *records[5:6], name="b.jsonl.gz"),
        lines(tmp_path, *reversed(records[:100]), {"prompt": "more", "completion": "y"}, name="c.ndjson"),
        val_fraction=0.3,
    )
    sides = [{shown(e) for e in examples.val} for examples in (first, other)]
    assert sides[0] == {text for text in sides[1] if not text[0].startswith("more")}
    assert not {shown(e) for e in other.train} & {shown(e) for e in other.val}


def test_chance_does_not_empty_a_side(tmp_path: Path) -> None:
    for fraction in (0.001, 0.999):
        examples = read(lines(tmp_path, *({"text": str(i)} for i in range(3))), val_fraction=fraction)
        assert {len(examples.train), len(examples.val)} == {1, 2}


TALK = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
PAIR = {"prompt": "a", "completion": "b"}


@pytest.mark.parametrize(
    ("records", "line"),
    [
        ([PAIR, "{"], r"data.jsonl:2 is not JSON \(.*\); expected one object a line"),
        ([PAIR, "", "[1]"], "data.jsonl:3 holds list; expected an object"),
        (
            [PAIR, {"question": "a", "answer": "b"}],
            "data.jsonl:2 has the fields 'question', 'answer'; expected",
        ),
        ([PAIR, {}], 'data.jsonl:2 has the fields none; expected "prompt" and "completion", or "messages"'),
        ([PAIR, {"completion": "b"}], "data.jsonl:2 has the fields 'completion'; expected"),
        (
            [{**PAIR, **TALK}],
            "data.jsonl:1 has the fields 'prompt', 'completion', 'messages'; .*one of the three",
        ),
        ([PAIR, TALK], "data.jsonl:2 has messages; expected prompt and completion as .*data.jsonl:1 has"),
        ([PAIR, {"text": "a"}], "data.jsonl:2 has text; expected prompt and completion"),
        ([PAIR, {"prompt": ["a"], "completion": "b"}], "data.jsonl:2: field 'prompt' is list; expected text"),
        ([PAIR, {"prompt": "a", "completion": None}], "data.jsonl:2: field 'completion' is NoneType"),
        ([TALK, {"messages": TALK["messages"][:1]}], "data.jsonl:2 has no message of the assistant"),
        ([TALK, {"messages": "Hello"}], "data.jsonl:2: messages is str 'Hello'; expected a list"),
        ([TALK, {"messages": [{"role": "bot", "content": ""}]}], "data.jsonl:2: message 1 has role 'bot'"),
        ([PAIR], "data.jsonl:1 is the only example; expected two at least"),
        ([], "there is no example in .*data.jsonl; expected"),
        ([{"text": ""}], "there is no example in"),
    ],
)
def test_a_line_that_is_no_example_is_named(tmp_path: Path, records: list[Any], line: str) -> None:
    with pytest.raises(DataError, match=line) as raised:
        read(lines(tmp_path, *records))
    assert "\n" not in str(raised.value)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file or folder .*no.jsonl"):
        read(str(tmp_path / "no.jsonl"))


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    with pytest.raises(DataError, match=r"bad.jsonl: byte 0xff at offset 24 is not UTF-8"):
        read(str(path))


def test_text_that_the_tokenizer_lacks_is_named(tmp_path: Path) -> None:
    tokenizer = build_char(iter(["ab"]))
    path = lines(tmp_path, {"text": "ab"}, {"text": "abc"})
    with pytest.raises(TokenizerError, match=r"data.jsonl:2: character 'c' .* at position 2"):
        read(path, tokenizer=tokenizer)
    endless = build_byte()
    endless.eot_id = None
    with pytest.raises(TokenizerError, match=r"has no <\|endoftext\|> to end an answer with"):
        read(path, tokenizer=endless)


def test_many_examples_are_encoded_in_batches(tmp_path: Path) -> None:
    examples = read(lines(tmp_path, *({"prompt": f"{i}:", "completion": f"{-i}"} for i in range(3000))))
    assert {shown(e) for e in both(examples)} == {
        (f"{i}:{-i}<|endoftext|>", f"{-i}<|endoftext|>") for i in range(3000)
    }
    assert all(example.ids.dtype == np.int32 for example in both(examples))
