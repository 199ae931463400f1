"""The example by hand on a tiny model whose tokenizer puts a beginning before every text, as Llama's does."""

import runpy
from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing

from tests.fakes import byte_tokenizer, tiny_model

EXAMPLE = Path(__file__).parents[2] / "examples" / "01_distil_by_hand.py"


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_one_beginning_and_one_seed(kind, tmp_path, monkeypatch, capsys):
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    begin = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    network = tiny_model(kind).network
    network.resize_token_embeddings(begin + 1, mean_resizing=False)
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr("sys.argv", [str(EXAMPLE), str(tmp_path)])
    printed = []
    for _ in range(2):
        made = runpy.run_path(str(EXAMPLE))
        printed.append(capsys.readouterr().out)
    assert made["tokenizer"]("a").input_ids[0] == begin
    assert [prompt.count(begin) for prompt, _, _ in made["teacher"]] == [1] * len(made["PROMPTS"])
    assert begin not in made["start"]
    assert begin not in made["refusal"]
    assert printed[0] == printed[1]
    assert printed[0].count("teacher refuses") == len(made["PROMPTS"])


def test_without_a_model_it_says_how(monkeypatch):
    monkeypatch.setattr("sys.argv", [str(EXAMPLE)])
    with pytest.raises(SystemExit, match="Run: python"):
        runpy.run_path(str(EXAMPLE))
