"""Importing rewards: which files are taken, what they must be, and models made of other models."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from stages import study as whole
from stages.errors import InputError
from stages.models import record
from stages.params import validate
from stages.prepare.import_settings import ImportSettings
from stages.prepare.source import import_model
from stages.rewards.base import load_reward
from stages.runtime import sha256
from tests import tiny_judges
from tests.tiny import clip_folder
from workflow.layout import Layout


def settings(**values: Any) -> ImportSettings:
    return validate(ImportSettings, values, "prepare.import.x")


@pytest.fixture
def hps(tmp_path: Path) -> Path:
    tiny_judges.hps(tmp_path / "hps")
    (tmp_path / "hps" / "HPS_v2.pt").write_bytes(b"8 GB with the optimizer")
    return tmp_path / "hps"


def test_only_the_wanted_files_are_taken_and_they_must_be_right(hps: Path) -> None:
    digest = sha256(hps / "HPS_v2_compressed.pt")
    given = {"kind": "hps", "folder": str(hps), "only": ["*_compressed.pt", "*.json"]}
    made = import_model("hps", settings(**given, sha256=digest), "here")
    assert set(made.files) == {"HPS_v2_compressed.pt", "open_clip_config.json"}
    assert load_reward(made)(torch.zeros(1, 3, 8, 8), ["a"]).shape == (1,)
    with pytest.raises(InputError, match=rf"^here: HPS_v2_compressed\.pt is another file: its sha256 is {digest}, exp"):
        import_model("hps", settings(**given, sha256="0" * 64), "here")
    with pytest.raises(InputError, match=r"here\.sha256: is of one file, but 2 hold weights; name one in `only`"):
        import_model("hps", settings(kind="hps", folder=str(hps), sha256=digest), "here")
    with pytest.raises(InputError, match=r"no file matches \*\.bin"):
        import_model("hps", settings(kind="hps", folder=str(hps), only=["*.bin"]), "here")
    with pytest.raises(InputError, match="sha256: string should match pattern"):
        settings(kind="hps", folder="x", sha256="C57A")


@pytest.mark.parametrize("kind", ["open_clip", "dino", "nearest_captioned"])
def test_an_empty_folder_is_called_empty(tmp_path: Path, kind: str) -> None:
    """A model that another study is still training has a folder without files."""
    (tmp_path / ".hidden").write_text("")
    with pytest.raises(InputError, match="no files here yet, expected those of a model"):
        import_model("m", settings(kind=kind, folder=str(tmp_path)), "here")


def test_a_truncated_file_is_refused_before_anything_runs(tmp_path: Path) -> None:
    clip_folder(tmp_path / "clip")
    path = tmp_path / "clip" / "open_clip_model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"open_clip_model\.safetensors: ") as error:
        import_model("clip", settings(kind="open_clip", folder=str(tmp_path / "clip")), "here")
    assert "\n" not in str(error.value)


class Code:
    """What a pickle may carry."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def test_pickles_beside_safetensors_are_no_part_of_a_model(tmp_path: Path) -> None:
    """A folder of transformers as hubs have them: PyTorch's, TensorFlow's and Flax's weights beside safetensors."""
    folder = tmp_path / "clip"
    plain = tiny_judges.clip_folder(folder, "clipscore")
    for name in ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"):
        (folder / name).write_bytes(pickle.dumps(Code()))
    made = import_model("clip", settings(kind="clipscore", folder=str(folder)), "here")
    assert made.files == plain.files
    images, prompts = torch.rand(2, 3, 32, 32), ["a red circle", "a"]
    found = load_reward(made)(images, prompts)
    # the record of the whole folder names them: safetensors are taken still
    torch.testing.assert_close(load_reward(record.describe("clip", "clipscore", folder))(images, prompts), found)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"pickled|not a readable") as error:
        load_reward(import_model("clip", settings(kind="clipscore", folder=str(folder)), "here"))
    assert "\n" not in str(error.value)


def test_a_model_made_of_others_is_imported_with_them(tmp_path: Path, hps: Path) -> None:
    clip_folder(tmp_path / "clip")
    inner = {"kind": "hps", "folder": str(hps), "only": ["*_compressed.pt", "*.json"]}
    cut = {"kind": "hinge", "of": {"hps": inner}, "options": {"limit": 0.3}}
    parts = {"cut": cut, "clip": {"kind": "open_clip", "folder": str(tmp_path / "clip")}}
    given = settings(kind="weighted_sum", of=parts, options={"weights": {"cut": 1.0, "clip": -2.0}})
    assert [name for name, _ in given.everything("mixed")] == [
        "mixed",
        "mixed.of.cut",
        "mixed.of.cut.of.hps",
        "mixed.of.clip",
    ]
    made = import_model("mixed", given, "here")
    record.save(made, tmp_path / "mixed.json")
    images, prompts = torch.rand(2, 3, 16, 16), ["a red circle", "a"]
    one, two = load_reward(made.parts["cut"].parts["hps"]), load_reward(made.parts["clip"])
    wanted = one(images, prompts).clamp(max=0.3) - 2 * two(images, prompts)
    torch.testing.assert_close(load_reward(record.load(tmp_path / "mixed.json"))(images, prompts), wanted)
    with pytest.raises(InputError, match=r"here\.of\.cut\.kind: unknown kind 'hing'; did you mean 'hinge'"):
        import_model("mixed", settings(kind="weighted_sum", of={"cut": {**cut, "kind": "hing"}}), "here")
    (hps / "HPS_v2_compressed.pt").write_bytes(b"other")
    with pytest.raises(InputError, match="changed since model 'hps' was recorded"):
        load_reward(made)


def test_planners_see_what_a_model_is_made_of(tmp_path: Path, hps: Path) -> None:
    import yaml

    study = yaml.safe_load(Path("params.yaml").read_text())
    study["prepare"]["import"]["mixed"] = {
        "kind": "hinge", "of": {"hps": {"kind": "hps", "folder": str(hps)}}, "options": {"limit": 0.3}
    }  # fmt: skip
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    assert "mixed" in whole.load(path).prepare.rewards
    assert str(hps / "HPS_v2_compressed.pt") in Layout.read(path).sources("prepare_import@mixed")
    study["prepare"]["import"]["mixed"]["of"]["hps"]["folder"] = "not/there"
    path.write_text(yaml.safe_dump(study))
    with pytest.raises(InputError, match=r"prepare\.import\.mixed\.of\.hps\.folder: not/there: no such folder"):
        whole.load(path)
    study["prepare"]["import"]["mixed"]["of"]["hps"]["kind"] = "hsp"
    path.write_text(yaml.safe_dump(study))
    with pytest.raises(InputError, match=r"mixed\.of\.hps\.kind: unknown kind 'hsp'; did you mean 'hps'"):
        whole.load(path)
