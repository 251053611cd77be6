"""Models by their names on the hub, from the hub's own cache: nothing here asks the network."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.checkpoints import saved

from compress import zoo
from compress.tasks import read_checkpoint
from compress.zoo.hub import fetched
from targets.errors import InputError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot of `owner/tiny` in a cache of the hub: links into its blobs."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fetched.cache_clear()
    saved(tmp_path / "made", "vit")
    model = tmp_path / "models--owner--tiny"
    snapshot = model / "snapshots" / COMMIT
    for folder in (model / "blobs", model / "refs", snapshot):
        folder.mkdir(parents=True)
    (model / "refs" / "main").write_text(COMMIT)
    for index, file in enumerate(sorted((tmp_path / "made").iterdir())):
        file.rename(model / "blobs" / str(index))
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", str(index)))
    return snapshot


def test_a_name_is_the_snapshot_and_its_links_are_read(hub: Path) -> None:
    assert zoo.locate("owner/tiny") == zoo.locate(f"owner/tiny@{COMMIT}") == hub
    assert read_checkpoint(zoo.locate("owner/tiny"), {}).structure.hidden_size == 12


def test_a_report_names_the_commit(hub: Path) -> None:
    assert zoo.named("owner/tiny") == f"owner/tiny@{COMMIT}"
    assert zoo.named("zoo:vit-mnist") == "zoo:vit-mnist"
    assert zoo.named(str(hub)) == str(hub)


def test_a_model_without_safetensors_is_refused(hub: Path) -> None:
    (hub / "model.safetensors").rename(hub / "pytorch_model.bin")
    with pytest.raises(InputError, match="owner/tiny on the hub has no weights in safetensors"):
        zoo.locate("owner/tiny")


def test_without_network_and_cache_the_name_is_a_folder_that_is_not_there(hub: Path) -> None:
    with pytest.raises(InputError, match=r"no such model folder: owner/other; .*hf download owner/other"):
        read_checkpoint(zoo.locate("owner/other"), {})


def test_a_folder_of_the_users_comes_before_the_hub(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert zoo.locate("owner/tiny") == Path("owner/tiny")
