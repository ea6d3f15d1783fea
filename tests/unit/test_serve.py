"""The server of rewards: the same numbers as in process, errors per image, and its command line."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
import uvicorn

from stages.models.record import ModelRecord, save
from stages.params import validate
from stages.pictures import encode, levels
from stages.prepare.import_settings import ImportSettings
from stages.prepare.source import import_model
from stages.rewards.base import load_reward
from stages.rewards.serve.app import Served, application
from tests.tiny import clip_folder

PROMPTS = ["a red circle", "a large blue square", "", "two green circles", "a red circle"]
CPU = torch.device("cpu")


class Broken:
    """A reward that gives no number for one prompt."""

    name, differentiable = "broken", False

    def __call__(self, images: torch.Tensor, prompts: Any) -> torch.Tensor:
        if "raise" in prompts:
            raise RuntimeError("out of memory")
        return torch.tensor([torch.nan if prompt == "nan" else 1.5 for prompt in prompts])


class Given:
    """A reward of given numbers, by the place that the prompt says."""

    name, differentiable = "given", False

    def __init__(self, numbers: torch.Tensor) -> None:
        self.numbers = numbers

    def __call__(self, images: torch.Tensor, prompts: Any) -> torch.Tensor:
        return self.numbers[[int(prompt) for prompt in prompts]]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelRecord]:
    clip = clip_folder(tmp_path_factory.mktemp("clip"), name="clip")
    return {"clip": clip, "jpeg": ModelRecord("jpeg", "jpeg"), "oracle": ModelRecord("oracle", "shapes_oracle")}


@pytest.fixture(scope="module")
def url(records: dict[str, ModelRecord]) -> Iterator[str]:
    served = {name: Served(load_reward(one), one.digest, one.kind) for name, one in records.items()}
    with serving(application(served | {"broken": Served(Broken(), "1", "own")}, 64, CPU)) as address:
        yield address


class serving:
    """A server in a thread of this process."""

    def __init__(self, app: Any) -> None:
        self.server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> str:
        self.thread.start()
        while not self.server.started:
            time.sleep(0.02)
        return f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join()


def images(count: int = len(PROMPTS)) -> torch.Tensor:
    return levels_of(torch.rand((count, 3, 32, 32), generator=torch.Generator().manual_seed(1)))


def levels_of(found: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(levels(found)).permute(0, 3, 1, 2).float() / 255


def remote(url: str, reward: str, **options: object) -> Any:
    values = {"kind": "http", "options": {"url": url, "reward": reward, "retries": 0, **options}}
    return load_reward(import_model("judge", validate(ImportSettings, values, "m"), "m"))


@pytest.mark.parametrize("name", ["clip", "jpeg", "oracle"])
def test_scores_through_the_server_are_those_of_this_process(
    url: str, records: dict[str, ModelRecord], name: str
) -> None:
    """Exactly where it is not arithmetic on floats, whose last bit may depend on where they lie in memory."""
    with torch.no_grad():
        wanted = load_reward(records[name])(images(), PROMPTS)
    found = remote(url, name, batch=64)(images(), PROMPTS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.0 if name == "jpeg" else 2e-6)
    assert len({*wanted.tolist()}) > 2


def test_float32_numbers_arrive_as_they_are() -> None:
    numbers = torch.rand(1000, generator=torch.Generator().manual_seed(3)) * torch.logspace(-30, 30, 1000)
    served = {"numbers": Served(Given(numbers), "1", "own")}
    with serving(application(served, 64, CPU)) as address:
        prompts = [str(place) for place in range(1000)]
        found = remote(address, "numbers", batch=100)(images(1).expand(1000, -1, -1, -1), prompts)
    assert torch.equal(found, numbers)


def test_the_version_is_the_digest_of_the_model(url: str, records: dict[str, ModelRecord]) -> None:
    values = {"kind": "http", "options": {"url": url, "reward": "clip"}}
    assert import_model("judge", validate(ImportSettings, values, "m"), "m").revision == records["clip"].digest


def one(text: str, file: bytes | str, *names: str) -> dict[str, Any]:
    content = file if isinstance(file, str) else base64.b64encode(file).decode()
    return {"history": [{"text": text, "image_b64": content}], "required_rewards": [*names]}


def picture(side: int = 16) -> bytes:
    return encode(levels(torch.rand((1, 3, side, side), generator=torch.Generator().manual_seed(side)))[0])


def test_an_image_that_cannot_be_scored_has_an_error_and_harms_no_other(url: str) -> None:
    asked = [one("a", picture(), "jpeg"), one("b", b"no image", "jpeg", "broken"), one("c", "no base64!", "jpeg"),
             one("nan", picture(), "broken", "jpeg"), one("d", picture(24), "jpeg", "broken")]  # fmt: skip
    answer = requests.post(f"{url}/score", json={"requests": asked}, timeout=60)
    assert answer.status_code == 200
    results, errors = answer.json()["results"], answer.json()["errors"]
    assert [sorted(row) for row in results] == [["jpeg"], [], [], ["jpeg"], ["broken", "jpeg"]]
    assert [sorted(row) for row in errors] == [[], ["broken", "jpeg"], ["jpeg"], ["broken"], []]
    assert "not a readable image" in errors[1]["jpeg"]
    assert errors[3]["broken"] == "the reward gave nan"
    failed = requests.post(f"{url}/score", json={"requests": [one("raise", picture(), "broken")]}, timeout=60).json()
    assert failed == {"results": [{}], "errors": [{"broken": "RuntimeError: out of memory"}]}


def test_what_is_no_request_is_refused(url: str) -> None:
    unknown = requests.post(f"{url}/score", json={"requests": [one("a", picture(), "hps")]}, timeout=60)
    assert (unknown.status_code, unknown.json()["detail"][:16]) == (400, "no reward 'hps';")
    for body in (
        {},
        {"requests": [{"required_rewards": ["jpeg"]}]},
        {"requests": [one("a", "", "jpeg") | {"history": []}]},
    ):
        assert requests.post(f"{url}/score", json=body, timeout=60).status_code == 422
    assert requests.get(f"{url}/rewards", timeout=60).json() == {"rewards": ["clip", "jpeg", "oracle", "broken"]}


def test_with_a_token_only_those_who_send_it_are_answered() -> None:
    served = {"jpeg": Served(load_reward(ModelRecord("jpeg", "jpeg")), "1", "jpeg")}
    with serving(application(served, 8, CPU, "secret")) as address:
        asked = {"requests": [one("a", picture(), "jpeg")]}
        for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "secret"}):
            assert requests.post(f"{address}/score", json=asked, headers=headers, timeout=60).status_code == 401
        sent = {"Authorization": "Bearer secret"}
        assert requests.post(f"{address}/score", json=asked, headers=sent, timeout=60).status_code == 200


def test_the_command_serves_rewards_of_a_study_and_of_records(tmp_path: Path, records: dict[str, ModelRecord]) -> None:
    save(records["clip"], tmp_path / "clip.json")
    argv = [sys.executable, "-m", "stages.rewards.serve", "--params", "params.yaml", "--rewards", "oracle"]
    argv += ["--records", f"{tmp_path}/clip.json", "--port", "0"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": "."}) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said.startswith("serving oracle, clip at http://127.0.0.1:")
            address = said.split()[-1]
            with torch.no_grad():
                wanted = load_reward(records["clip"])(images(), PROMPTS)
            found = remote(address, "clip", batch=64)(images(), PROMPTS)
            torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6)
        finally:
            process.kill()


@pytest.mark.parametrize("argv, message", [
    ([], "expected --params with --rewards, or --records"),
    (["--params", "params.yaml", "--rewards", "orcale"], "prepare.import.orcale: no such model; did you mean 'oracle'"),
    (["--records", "none.json"], "none.json: no such model record"),
    (["--records", "none.json", "--token", "NOT_SET_HERE"], "--token: the environment variable NOT_SET_HERE is not"),
])  # fmt: skip
def test_a_wrong_command_ends_with_one_line(
    argv: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from stages.rewards.serve.__main__ import main
    from stages.runtime import run_stage

    monkeypatch.setattr(sys, "argv", ["serve", *argv])
    with pytest.raises(SystemExit) as ended:
        run_stage(main)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
