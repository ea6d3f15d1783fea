"""The page on HTTP scorers: its study entries are accepted, and its server works, with a stub for the scorer."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from test_serve import PROMPTS, images, remote, serving

from stages import model_options
from stages.params import validate
from stages.prepare.import_settings import ImportSettings
from stages.rewards.http import HttpOptions
from stages.rewards.remote import contract

PAGE = (Path(__file__).parents[2] / "docs" / "http-scorers.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_entries_are_accepted() -> None:
    models = [item for block in blocks("yaml") for item in yaml.safe_load(block)["prepare"]["import"].items()]
    assert [name for name, _ in models] == ["hpsv3", "unified", "geneval2"]
    for name, values in models:
        model_options.check(validate(ImportSettings, values, name), name)


def test_every_option_stands_in_the_table_with_its_default() -> None:
    listed: dict[str, str] = {}
    for row in PAGE.split("## Options")[1].split("\n## ")[0].splitlines():
        if row.startswith("| `"):
            names, defaults = (cell.strip() for cell in row.split("|")[1:3])
            each = [default.strip(" `") for default in defaults.split(",")]
            listed |= dict(zip(re.findall(r"`(\w+)`", names), each, strict=True))
    assert listed.keys() == HttpOptions.model_fields.keys()
    for name in ("batch", "timeout", "retries", "pause", "header"):
        assert listed[name] == f"{HttpOptions.model_fields[name].default}".removesuffix(".0"), name


def test_the_documents_of_the_contract_are_those_that_are_sent_and_read() -> None:
    asked, answered = map(json.loads, blocks("json"))
    made = contract.question([b""], ["a red cat"], "hpsv3")
    made["requests"][0]["history"][0]["image_b64"] = asked["requests"][0]["history"][0]["image_b64"]
    assert asked == made
    assert contract.scores(json.dumps(answered).encode(), 1, "hpsv3", "mu") == [9.81]


class Stub:
    """As `HPSv3RewardInferencer`: mean and spread of the network's belief, [B, 2]."""

    def __init__(self, device: str) -> None:
        assert device == "cuda"

    def reward(self, prompts: list[str], image_paths: list[Any]) -> torch.Tensor:
        pairs = zip(prompts, image_paths, strict=True)
        return torch.tensor([[float(np.asarray(image).mean()) / 3 + len(prompt), 1.0] for prompt, image in pairs])


def test_the_server_of_the_page_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stub: Any = ModuleType("hpsv3")
    stub.HPSv3RewardInferencer = Stub
    monkeypatch.setitem(sys.modules, "hpsv3", stub)
    module: Any = ModuleType("hpsv3_server")
    monkeypatch.setitem(sys.modules, "hpsv3_server", module)
    [code] = blocks("python")
    exec(compile(code, "hpsv3_server.py", "exec", dont_inherit=True), vars(module))
    with serving(module.app) as url:
        reward = remote(url, "hpsv3", sub="mu", batch=2)
        assert reward.describe() == {"sub": "mu"}
        found = reward(images(), PROMPTS).tolist()
    pixels = (images() * 255).round().byte().permute(0, 2, 3, 1).numpy()
    wanted = [np.float32(image.mean() / 3 + len(prompt)) for image, prompt in zip(pixels, PROMPTS, strict=True)]
    assert found == pytest.approx(wanted, rel=1e-6)
