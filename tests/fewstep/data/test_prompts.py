"""Prompts: files as people write them, and the table that rows of conditions follow."""

import numpy as np
import pytest

from fewstep.data.prompt import Prompt, split_of
from fewstep.data.prompt_files import read_prompt_file
from fewstep.data.prompts import EMBEDDINGS, PromptTable, PromptTableBuilder
from fewstep.util.errors import CorruptData, SettingsError

SHARES = {"train": 0.6, "fit": 0.15, "test": 0.25}


def test_a_text_has_one_prompt_a_line(tmp_path):
    (tmp_path / "p.txt").write_text("a red apple\r\na blue door \na red apple\n")
    found = read_prompt_file(tmp_path / "p.txt")
    assert found.prompts == (Prompt("a red apple"), Prompt("a blue door"))
    assert found.told == "not taken of p.txt: 1 lines that repeat another"


def test_a_table_says_what_goes_with_a_prompt(tmp_path):
    (tmp_path / "1.png").write_bytes(b"1")
    (tmp_path / "p.csv").write_text(
        "caption,negative,group,size,image,seed\n"
        '"an apple, red",blurred,fruit,64x32,,1\na door,,things,128,,2\na shown door,,,,1.png,3\n')
    found = read_prompt_file(tmp_path / "p.csv")
    assert [(e.prompt.text, e.prompt.negative, e.prompt.group, e.prompt.size, e.image, e.line)
            for e in found.entries] == [
        ("an apple, red", "blurred", "fruit", (32, 64), None, 2), ("a door", None, "things", (128, 128), None, 3),
        ("a shown door", None, None, None, "1.png", 4)]  # fmt: skip
    assert found.ignored == ("seed",) and len(found.prompts) == 2
    (tmp_path / "p.jsonl").write_text('{"prompt": "a door", "size": 128, "group": "things"}\n')
    assert read_prompt_file(tmp_path / "p.jsonl").prompts == (Prompt("a door", None, (128, 128), "things"),)


@pytest.mark.parametrize(("name", "text", "said"), [
    ("p.txt", "one\n\ntwo\n", r"p.txt: line 2 is empty"),
    ("p.txt", "", "no prompts there"),
    ("p.txt", b"caf\xe9\n", r"line 1, column 4: byte 0xe9 is not UTF-8"),
    ("p.csv", "prompt,size\na,12by8\n", r"line 2, column 'size': '12by8' is no size"),
    ("p.csv", "words,size\na,12\n", r"line 2: no column prompt or caption \(columns: words, size\)"),
    ("p.csv", "prompt,negatve\na,b\n", r"column 'negatve': unknown; did you mean 'negative'"),
    ("p.csv", "prompt,group\n,b\n", r"line 2, column 'prompt': empty"),
    ("p.csv", "prompt,image\na,1.png\n", r"line 2, column 'image': 1.png is not there"),
    ("p.csv", "prompt,image\na,../1.png\n", r"line 2, column 'image': '../1.png' leaves the table's folder"),
    ("p.csv", "prompt,group\na,x\nb,x\na,y\n", r"line 4, column 'group': the prompt of line 2 again, in group 'y'"),
    ("p.jsonl", '{"prompt": 3}\n', r"line 1, column 'prompt': expected a text, got 3"),
    ("p.jsonl", '{"prompt": "a"}\n{"prompt"\n', r"line 2, column"),
    ("p.docx", "a\n", r"no file of prompts \(.docx\)"),
])
def test_what_is_wrong_is_told_with_file_line_and_column(tmp_path, name, text, said):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingsError, match=said) as caught:
        read_prompt_file(tmp_path / name)
    assert name in str(caught.value)


def test_a_table_comes_back_as_it_was_written(tmp_path):
    builder = PromptTableBuilder()
    assert builder.add(Prompt("a", group="x"), "test") == 0
    assert builder.add(Prompt("a"), "train") == 0           # one prompt, shown in two splits
    assert builder.add(Prompt("a", negative="b"), "fit") == 1
    builder.add_all([Prompt("a"), Prompt("c", size=(8, 16), group="y")], SHARES)
    table = builder.table()
    assert len(table) == 3 and table.groups == ("x", "y") and table.group.tolist() == [0, -1, 1]
    assert table.rows("train").tolist()[0] == 0 and 0 in table.rows("test") and table.rows("fit").tolist()[0] == 1
    embedded = table.embedded(np.arange(6.0).reshape(3, 2))
    embedded.write(tmp_path)
    read = PromptTable.read(tmp_path)
    assert (read.prompts, dict(read.splits)) == (table.prompts, dict(table.splits))
    assert np.array_equal(read.embedding, embedded.embedding) and read.embedding.dtype == np.float32
    assert [prompt.group for prompt in read.prompts] == ["x", None, "y"]
    data = bytearray((tmp_path / EMBEDDINGS).read_bytes())
    data[-1] ^= 1
    (tmp_path / EMBEDDINGS).write_bytes(data)
    with pytest.raises(CorruptData, match=EMBEDDINGS):
        PromptTable.read(tmp_path)
    assert len(PromptTable.read(tmp_path / "nowhere")) == 0


def test_embeddings_belong_to_their_rows():
    table = PromptTable((Prompt("a"), Prompt("b")))
    with pytest.raises(CorruptData, match="do not belong to 2 prompts"):
        table.embedded(np.zeros((3, 4)))
    with pytest.raises(CorruptData, match=r"row 1 \('b'\) is NaN"):
        table.embedded(np.array([[0.0], [np.nan]]))


def test_the_split_of_a_prompt_is_that_of_its_text():
    texts = [f"prompt {number}" for number in range(4000)]
    found = [split_of(Prompt(text), SHARES) for text in texts]
    assert found == [split_of(Prompt(text, negative="n", group="g"), SHARES) for text in texts]
    for name, share in SHARES.items():
        assert abs(found.count(name) / len(texts) - share) < 0.03
