"""A reward behind a server: its numbers, what is asked again, and what ends the job with one line."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import urllib3
import yaml

from stages import gives, study
from stages.errors import InputError, RowError
from stages.models import record
from stages.models.record import ModelRecord
from stages.params import validate
from stages.pictures import png
from stages.prepare.import_settings import ImportSettings
from stages.prepare.source import import_model
from stages.rewards.base import load_reward
from stages.rewards.http import ACCESS, HttpOptions
from tests.scorers import Answer, Fault, Scorer, altered, expected, good, scorer, sent, slowly

PROMPTS = ["a cat", "a red cat", "two cats", "a dog", "no dog at all"]
FAST = {"pause": 0.01, "retries": 3, "timeout": 1.0}


def images(count: int = len(PROMPTS), seed: int = 0) -> torch.Tensor:
    return torch.rand((count, 3, 8, 6), generator=torch.Generator().manual_seed(seed))


def entry(url: str, **options: object) -> dict[str, Any]:
    return {"kind": "http", "options": {"url": url, "reward": "bright", "version": "1", "batch": 2} | FAST | options}


def imported(url: str, **options: object) -> ModelRecord:
    return import_model("judge", validate(ImportSettings, entry(url, **options), "m"), "m")


def ask(server: Scorer, **options: object) -> list[float]:
    return load_reward(imported(server.url, **options))(images(), PROMPTS).tolist()


def wanted() -> list[float]:
    return [expected(file, prompt) for file, prompt in zip(png(images()), PROMPTS, strict=True)]


def test_scores_are_the_servers_in_order_and_in_batches() -> None:
    with scorer() as server:
        assert ask(server) == wanted()
        assert [len(body["requests"]) for body in server.bodies] == [2, 2, 1]
        assert server.answered == PROMPTS
        [turn] = server.bodies[0]["requests"][1]["history"]
        assert (turn["text"], server.bodies[0]["requests"][1]["required_rewards"]) == ("a red cat", ["bright"])


def test_the_same_question_is_asked_once() -> None:
    with scorer() as server:
        twice = images(1).repeat(5, 1, 1, 1)
        found = load_reward(imported(server.url))(twice, ["x", "why", "x", "x", "why"]).tolist()
        assert server.answered == ["x", "why"]
        assert found[0] == found[2] == found[3] != found[1] == found[4]


PASSING: dict[str, Fault] = {
    "500": lambda body: sent({"detail": "oom"}, 500),
    "503 without a body": lambda body: sent(b"", 503),
    "429": lambda body: sent(b"later", 429),
    "slow": slowly(20),
    "dies before the answer": lambda body: (200, b"x" * 50, 0),
    "dies in the middle": lambda body: (200, b'{"results": [{"bright": {"bright": 1.0}}, {"bri' + b" " * 90, 30),
}


@pytest.mark.parametrize("fault", PASSING)
def test_what_may_pass_is_asked_again(fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    with scorer(PASSING[fault], PASSING[fault]) as server:
        assert ask(server) == wanted()
        assert len(server.bodies) == 5
        assert server.answered == PROMPTS
    said = capsys.readouterr().err
    assert "asked again in 0.0 s, 1 of 3 times" in said
    assert "2 of 3 times" in said


@pytest.mark.parametrize("fault", PASSING)
def test_what_does_not_pass_ends_with_one_line(fault: str) -> None:
    with scorer(*[PASSING[fault]] * 9) as server:
        with pytest.raises(InputError) as error:
            ask(server)
        assert len(server.bodies) == 4
    said = str(error.value)
    assert said.startswith(f"model 'judge': reward 'bright' of {server.url}: ")
    assert "4 times; start it, or raise options.retries" in said
    assert "\n" not in said


def test_a_server_that_is_not_there_ends_with_one_line() -> None:
    with scorer() as server:
        pass
    with pytest.raises(InputError, match=r"Connection refused\), 4 times; start it"):
        load_reward(imported(server.url))


def _set(place: int, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda found: found["results"][place].update(bright=value)


def _failed(found: dict[str, Any]) -> None:
    found["results"][1].clear()
    found["errors"][1].update(bright="x")


UNUSABLE: dict[str, tuple[Fault, str]] = {
    "an error": (altered(lambda found: found["errors"][1].update(bright="CUDA out\n of memory")),
                 "reported an error: CUDA out of memory; mend it"),
    "an error and no score": (altered(_failed), "reported an error: x"),
    "NaN": (altered(_set(1, {"bright": float("nan")})), "gave nan as the score, expected a finite number"),
    "infinite": (altered(_set(1, {"bright": float("-inf")})), "gave -inf as the score"),
    "too large for float32": (altered(_set(1, {"bright": 1e39})), "gave 1e+39 as the score"),
    "too large for floats": (altered(_set(1, {"bright": 10**400})), "as the score, expected a finite number"),
    "null": (altered(_set(1, {"bright": None})), "gave null as the score, expected a number"),
    "text": (altered(_set(1, {"bright": "0.5"})), "gave text '0.5' as the score"),
    "true": (altered(_set(1, {"bright": True})), "gave true as the score"),
    "a bare number": (altered(_set(1, 0.5)), "gave neither a score nor an error"),
    "a missing row": (altered(lambda found: found["results"][1].clear()), "gave neither a score nor an error"),
    "two scores": (altered(_set(1, {"mu": 1.0, "sigma": 2.0})), "gave the scores mu, sigma; name one of them in"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNUSABLE)
def test_no_answer_becomes_a_number(case: str) -> None:
    fault, message = UNUSABLE[case]
    with scorer(fault) as server:
        with pytest.raises(RowError) as error:
            ask(server)
        assert len(server.bodies) == 1
    said = str(error.value)
    assert f"reward 'bright' of {server.url}: request 2 of 2, prompt 'a red cat': " in said
    assert message in said
    assert "\n" not in said
    assert error.value.row == 1


WHOLE: dict[str, tuple[Fault, str]] = {
    "half a batch": (altered(lambda found: found["results"].pop()), "answered with 1 results, expected 2"),
    "too many": (altered(lambda found: found["results"].append({"bright": {"bright": 1.0}})), "with 3 results"),
    "errors of another count": (altered(lambda found: found["errors"].pop()), "answered with 1 errors, expected 2"),
    "no JSON": (lambda body: sent(b"<html>"), "answered with something that is not JSON"),
    "half a document": (lambda body: sent(b'{"results": [{"bright": {"bri'), "with something that is not JSON"),
    "a list": (lambda body: sent([1, 2]), "expected a JSON mapping"),
    "no results": (lambda body: sent({"scores": [1, 2]}), "answered without a list of mappings called 'results'"),
    "numbers as results": (lambda body: sent({"results": [1, 2]}), "answered without a list of mappings"),
    "400": (lambda body: sent({"detail": "no reward"}, 400), "answered 400 Bad Request ({\"detail\": \"no reward\"})"),
    "401": (lambda body: sent(b"", 401), "answered 401 Unauthorized; name the environment variable that holds"),
    "404": (lambda body: sent(b"", 404), "answered 404 Not Found; expected a server that answers POST /score"),
    "413": (lambda body: sent(b"", 413), "lower options.batch"),
    "302": (lambda body: sent(b"", 302), "name http://elsewhere/score in options.url"),
    "201": (lambda body: sent(b"", 201), "answered 201"),
    "much": (lambda body: sent(b" " * 2**21), "with more than 1179648 bytes, expected a few dozen for an image"),
    "an endless error": (lambda body: (404, iter(lambda: b"x" * 2**16, b""), -1), "more than 1179648 bytes"),
    "a bomb": (lambda body: sent_packed(b" " * 2**24), "answered with more than 1179648 bytes"),
    "not packed": (lambda body: (200, b"[]", -1, {"Content-Encoding": "gzip"}), "cannot be asked: "),
    "a key twice": (lambda body: sent(b'{"results": [], "results": [{}, {}]}'), "the key 'results' stands twice"),
    "a score twice": (lambda body: sent(b'{"results": [{"bright": {"a": 1, "a": 2}}, {}]}'), "key 'a' stands twice"),
    "brackets": (lambda body: sent(b'{"results":' + b"[" * 10**5), "answered with something that is not JSON"),
    "digits": (lambda body: sent(b'{"results": ' + b"9" * 10**5 + b"}"), "answered with something that is not JSON"),
    "no text": (lambda body: sent(b"\xff\xfe\x00"), "answered with something that is not JSON"),
}  # fmt: skip


def sent_packed(content: bytes) -> Answer:
    return 200, gzip.compress(content), -1, {"Content-Encoding": "gzip", "Content-Type": "text/html"}


@pytest.mark.parametrize("case", WHOLE)
def test_no_answer_as_a_whole_becomes_numbers(case: str) -> None:
    fault, message = WHOLE[case]
    with scorer(fault) as server:
        with pytest.raises(InputError) as error:
            ask(server)
        assert len(server.bodies) == 1
    assert message in str(error.value)
    assert str(error.value).startswith(f"model 'judge': reward 'bright' of {server.url}: ")
    assert "\n" not in str(error.value)


def test_a_packed_answer_and_one_without_a_length_are_answers() -> None:
    """Whatever they say that they are."""

    def packed(body: dict[str, Any]) -> Answer:
        return sent_packed(json.dumps(good(body)).encode())

    def parted(body: dict[str, Any]) -> Answer:
        text = json.dumps(good(body)).encode()
        return 200, iter([text[:7], text[7:]]), -1

    with scorer(packed, parted, packed) as server:
        assert ask(server) == wanted()
        assert len(server.bodies) == 3


@pytest.mark.parametrize(
    "broken", [urllib3.exceptions.SSLError("decryption failed"), urllib3.exceptions.ProtocolError("cut off")]
)
def test_an_answer_that_breaks_in_its_body_is_asked_for_again(
    broken: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one whose connection breaks before: encrypted ones end with an error of their own."""
    faults, read = [broken], urllib3.response.HTTPResponse.read1

    def failing(self: urllib3.response.HTTPResponse, *args: Any, **more: Any) -> bytes:
        if faults:
            raise faults.pop()
        return read(self, *args, **more)

    monkeypatch.setattr(urllib3.response.HTTPResponse, "read1", failing)
    with scorer() as server:
        assert ask(server) == wanted()
    assert f"no connection, or a broken one ({broken}" in capsys.readouterr().err


@pytest.mark.parametrize("status", [200, 404, 503])
def test_an_answer_without_an_end_is_given_up(status: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Data comes within each timeout, and the whole never does."""

    def dripping(body: dict[str, Any]) -> Answer:
        def drops() -> Iterator[bytes]:
            while True:
                time.sleep(0.02)
                yield b" "

        return status, drops(), -1

    with scorer(dripping) as server:
        before = time.monotonic()
        assert ask(server, timeout=0.1) == wanted()
        assert 1 <= time.monotonic() - before < 10
    assert "an answer without an end after 1 s; asked again in" in capsys.readouterr().err


def test_the_row_is_that_of_the_call_not_of_the_request() -> None:
    bad = altered(_set(0, {"bright": float("nan")}))
    with scorer(None, bad) as server:
        with pytest.raises(RowError) as error:
            ask(server)
        assert error.value.row == 2
        assert "prompt 'two cats'" in str(error.value)


def test_one_of_several_scores_is_named() -> None:
    two = altered(lambda found: [row.update(bright={"mu": 0.25, "sigma": 9.0}) for row in found["results"]])
    with scorer(two, two, two) as server:
        assert ask(server, sub="mu") == [0.25] * 5
    with scorer(two) as server, pytest.raises(InputError, match=r"gave no score 'mean', only mu, sigma"):
        ask(server, sub="mean")


def test_a_token_is_sent_and_recorded_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCORER_TOKEN", "s3cret-token")
    with scorer(PASSING["500"]) as server:
        found = imported(server.url, token="SCORER_TOKEN")
        record.save(found, tmp_path / "m.json")
        reward = load_reward(record.load(tmp_path / "m.json"))
        reward(images(), PROMPTS)
        assert {headers["Authorization"] for headers in server.headers} == {"Bearer s3cret-token"}
        assert "s3cret" not in (tmp_path / "m.json").read_text() + repr(vars(reward)) + repr(reward.server)  # type: ignore[attr-defined]
        load_reward(imported(server.url, token="SCORER_TOKEN", header="X-Api-Key"))(images(), PROMPTS)
        assert server.headers[-1]["X-Api-Key"] == "s3cret-token"
    monkeypatch.delenv("SCORER_TOKEN")
    with pytest.raises(InputError, match=r"options\.token: the environment variable SCORER_TOKEN is not set"):
        load_reward(imported(server.url, token="SCORER_TOKEN"))


def test_a_model_is_known_by_what_it_computes_not_by_where() -> None:
    one = imported("http://a:1", token="T", timeout=3.0)
    assert one.digest == imported("https://b.example/scorer", batch=9, retries=0, pause=0.5, header="X").digest
    assert imported("$SCORER").digest == one.digest
    others = [imported("http://a:1", **{key: value}) for key, value in
              (("version", "2"), ("reward", "hpsv3"), ("sub", "mu"))]  # fmt: skip
    assert len({one.digest, *(other.digest for other in others)}) == 4
    assert (one.source, one.revision) == ("bright", "1")
    assert set(one.access) == set(ACCESS) and not set(one.options) & set(ACCESS)
    assert set(ACCESS) | {"reward", "sub", "version"} == set(HttpOptions.model_fields)


def test_an_address_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with scorer() as server:
        monkeypatch.setenv("BRIGHT_URL", server.url + "/")
        assert load_reward(imported("$BRIGHT_URL"))(images(), PROMPTS).tolist() == wanted()
    monkeypatch.setenv("BRIGHT_URL", "gpu7:80")
    with pytest.raises(InputError, match=r"options\.url: the environment variable BRIGHT_URL is 'gpu7:80'; expected"):
        load_reward(imported("$BRIGHT_URL"))


def test_the_version_is_the_servers_or_the_studys(capsys: pytest.CaptureFixture[str]) -> None:
    with scorer(version="7B v3") as server:
        found = imported(server.url, version=None)
        assert (found.revision, found.options["version"]) == ("7B v3", "7B v3")
        load_reward(found)
        with pytest.raises(InputError, match=r"is of version '7B v3' now, recorded as '1'"):
            load_reward(imported(server.url))
        with pytest.raises(InputError, match=r"serves no reward 'dark'; it has bright"):
            imported(server.url, version=None, reward="dark")
    with scorer() as server, pytest.raises(InputError, match=r"m\.options\.version: missing, and http.* declares none"):
        imported(server.url, version=None)


WRONG = [
    ({"url": "gpu7:8000"}, "url: expected http://HOST:PORT or $NAME, found 'gpu7:8000'"),
    ({"url": "http://me:pass@gpu7"}, "url: an address without password and query; a token stands in"),
    ({"url": "http://gpu7/score?token=x"}, "url: an address without password and query"),
    ({"url": "ftp://gpu7"}, "url: expected http://HOST:PORT"),
    ({"batch": 0}, "batch: input should be greater than or equal to 1"),
    ({"timeout": 0}, "timeout: input should be greater than 0"),
    ({"reward": ""}, "reward: "),
    ({"version": ""}, "version: "),
    ({"token": "a b"}, "token: "),
    ({"adress": "x"}, "adress: unknown key"),
]


@pytest.mark.parametrize("options, message", WRONG)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as error:
        imported(**{"url": "http://a", **options})  # type: ignore[arg-type]
    assert str(error.value).startswith(f"m.options.{message}")


def test_methods_that_need_its_gradient_are_refused_before_any_job(tmp_path: Path) -> None:
    values = yaml.safe_load(Path("params.yaml").read_text())
    assert gives.of_model(validate(ImportSettings, entry("http://a"), "m"), "m") == gives.Gives("none", gradient=False)
    values["prepare"]["import"]["judge"] = entry("http://a")
    values["study"]["reward"] = "judge"
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=r"expected a gradient of the score .*, but model 'judge' gives none"):
        study.load(tmp_path / "p.yaml")
    values["prepare"]["import"]["judge"]["options"]["url"] = "a"
    (tmp_path / "p.yaml").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"prepare\.import\.judge\.options\.url: expected http"):
        study.load(tmp_path / "p.yaml")
