"""Loading from a repository, through the real client against the hub on loopback."""

from pathlib import Path

import pytest
import torch

from tests.hub.client import Client
from tests.hub.repositories import Hub, Repository
from tests.hub.samples import assert_same, cross_layer, transcoder, transcoder_set
from tl_transcoders.errors import HubError, TranscoderFormatError
from tl_transcoders.hub import load, save
from tl_transcoders.transcoders import CrossLayerTranscoder, Transcoder, TranscoderSet


def publish(hub: Hub, repo_id: str, folder: Path, *transcoders: Transcoder) -> str:
    made = TranscoderSet({t.cfg.layer: t for t in transcoders})
    return hub.publish(repo_id, save(made, folder, overwrite=True))


def refusal(client: Client, source: str, **options: object) -> HubError:
    with pytest.raises(HubError) as caught:
        client.run(load, source, **options)
    return caught.value


def test_a_set(hub: Hub, client: Client, tmp_path: Path) -> None:
    original = transcoder_set(1, 4)
    commit = hub.publish("org/set", save(original, tmp_path / "set"))
    loaded = client.run(load, "org/set", verify=True)
    assert isinstance(loaded, TranscoderSet)
    for layer in (1, 4):
        assert_same(loaded[layer], original[layer])
    assert (loaded.origin.source, loaded.origin.revision) == ("org/set", commit)


def test_a_cross_layer_transcoder(hub: Hub, client: Client, tmp_path: Path) -> None:
    hub.publish("org/clt", save(cross_layer(), tmp_path / "clt"))
    loaded = client.run(load, "org/clt")
    assert isinstance(loaded, CrossLayerTranscoder)
    assert_same(loaded, cross_layer())


def test_only_the_layers_asked_for_are_downloaded(hub: Hub, client: Client, tmp_path: Path) -> None:
    hub.publish("org/three", save(transcoder_set(1, 2, 11), tmp_path / "set"))
    client.run(load, "org/three", layers=[1])
    assert hub.downloads() == {"transcoders.json", "layer_1.safetensors"}
    client.run(load, "org/three", layers=[1, 11])
    assert hub.downloads() == {"transcoders.json", "layer_1.safetensors", "layer_11.safetensors"}


def test_a_revision_pins_the_weights(hub: Hub, client: Client, tmp_path: Path) -> None:
    old, new = transcoder(seed=1), transcoder(seed=2)
    first = publish(hub, "org/two", tmp_path / "set", old)
    before = client.run(load, "org/two")
    second = publish(hub, "org/two", tmp_path / "set", new)
    assert first != second
    assert_same(before[3], old)
    assert_same(client.run(load, "org/two")[3], new)
    for pinned in (
        client.run(load, "org/two", revision=first),
        client.run(load, f"org/two@{first}"),
    ):
        assert_same(pinned[3], old)
        assert pinned.origin.revision == first
    assert client.run(load, "org/two@main", revision="main").origin.revision == second


def test_a_cut_connection_is_resumed(hub: Hub, client: Client, tmp_path: Path) -> None:
    name, ten_megabytes = "layer_3.safetensors", 10 * 2**20  # the client writes chunks of 10 MB
    original = transcoder(d_in=512, d_out=512, n_features=3001, skip=False)
    publish(hub, "org/cut", tmp_path / "set", original)
    hub.faults.cut[name] = ten_megabytes + 1000
    assert_same(client.run(load, "org/cut", verify=True)[3], original)
    sent = [request for request in hub.requests if request.endswith((name, "-"))]
    assert sent[-1].endswith(f"{name} bytes={ten_megabytes}-")


def test_a_truncated_download(hub: Hub, client: Client, tmp_path: Path) -> None:
    publish(hub, "org/short", tmp_path / "set", transcoder())
    hub.faults.short.add("layer_3.safetensors")
    error = refusal(client, "org/short")
    assert "incomplete transfer: Consistency check failed" in error.got
    hub.faults.short.clear()
    assert_same(client.run(load, "org/short")[3], transcoder())


def test_a_repository_whose_file_is_truncated(hub: Hub, client: Client, tmp_path: Path) -> None:
    folder = save(transcoder(), tmp_path / "set")
    data = (folder / "layer_3.safetensors").read_bytes()
    (folder / "layer_3.safetensors").write_bytes(data[:100])
    commit = hub.publish("org/broken", folder)
    with pytest.raises(TranscoderFormatError, match="got 100 bytes") as caught:
        client.run(load, "org/broken")
    assert "The file is truncated" in caught.value.do
    with pytest.raises(TranscoderFormatError):
        client.run(load, "org/broken", revision=commit)


def test_the_cache_serves_offline(
    hub: Hub, client: Client, offline: Client, tmp_path: Path
) -> None:
    original = transcoder_set(1, 2)
    commit = hub.publish("org/cached", save(original, tmp_path / "set"))
    client.run(load, "org/cached", layers=[2])
    hub.requests.clear()
    loaded = offline.run(load, "org/cached", layers=[2])
    assert_same(loaded[2], original[2])
    assert loaded.origin.revision == commit
    assert hub.requests == []


@pytest.mark.parametrize("layers", [[1], None])
def test_a_layer_that_is_not_cached_offline(
    hub: Hub, client: Client, offline: Client, tmp_path: Path, layers: list[int] | None
) -> None:
    hub.publish("org/partly", save(transcoder_set(1, 2), tmp_path / "set"))
    client.run(load, "org/partly", layers=[2])
    error = refusal(offline, "org/partly", layers=layers)
    assert error.got == "files that are not all in the cache, in offline mode"


def test_a_repository_that_is_not_cached_offline(hub: Hub, offline: Client) -> None:
    error = refusal(offline, "org/never-seen")
    assert str(error) == (
        "org/never-seen: got files that are not all in the cache, in offline mode; expected a repository "
        "that was loaded before, or a connection. Unset HF_HUB_OFFLINE and load it once; it then stays in "
        "the cache (HF_HOME)."
    )
    assert hub.requests == []


def test_the_cache_serves_while_the_hub_is_down(hub: Hub, client: Client, tmp_path: Path) -> None:
    publish(hub, "org/up", tmp_path / "set", transcoder())
    client.run(load, "org/up")
    hub.faults.down = True
    assert_same(client.run(load, "org/up")[3], transcoder())
    error = refusal(client, "org/not-seen-before")
    assert "no answer from the hub" in error.got
    assert "HF_ENDPOINT" in error.do


def test_a_snapshot_in_the_cache_is_a_folder(hub: Hub, client: Client, tmp_path: Path) -> None:
    commit = publish(hub, "org/snapshot", tmp_path / "set", transcoder())
    client.run(load, "org/snapshot")
    home = Path(client.run(_cache))
    snapshot = home / "models--org--snapshot" / "snapshots" / commit
    assert (snapshot / "layer_3.safetensors").is_symlink()
    loaded = load(snapshot)
    assert isinstance(loaded, TranscoderSet)
    assert_same(loaded[3], transcoder())


def _cache() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    return HF_HUB_CACHE


def test_no_such_repository(hub: Hub, client: Client) -> None:
    assert str(refusal(client, "org/none")) == (
        "org/none: got no repository of this name, or a private one (HTTP 404); expected a repository that "
        "your token may read, or an existing folder. Check the spelling. If it is private: Log in "
        "(`hf auth login`, or the environment variable HF_TOKEN)."
    )


def test_no_such_revision(hub: Hub, client: Client, tmp_path: Path) -> None:
    publish(hub, "org/one", tmp_path / "set", transcoder())
    for error in (
        refusal(client, "org/one", revision="v9"),
        refusal(client, "org/one@v9"),
        refusal(client, "org/one", revision="0" * 40),
    ):
        assert error.got == "no such revision"
        assert error.where.startswith("org/one@")


def test_a_private_repository(hub: Hub, client: Client, tmp_path: Path) -> None:
    publish(hub, "org/private", tmp_path / "set", transcoder())
    hub.repositories["org/private"].token = "secret"
    assert "a private one (HTTP 401)" in refusal(client, "org/private").got
    client.login("wrong")
    error = refusal(client, "org/private")
    assert error.got == "access refused (HTTP 401: Invalid credentials in Authorization header)"
    assert "HF_TOKEN" in error.do
    client.login("secret")
    assert_same(client.run(load, "org/private")[3], transcoder())


def test_a_gated_repository(hub: Hub, client: Client) -> None:
    hub.repositories["org/gated"] = Repository(gated=True)
    error = refusal(client, "org/gated")
    assert "gated" in error.got
    assert "Ask for access" in error.do


def test_a_repository_of_something_else(hub: Hub, client: Client) -> None:
    hub.repositories["org/model"] = Repository()
    hub.repositories["org/model"].commit({"config.json": b"{}", "README.md": b""})
    with pytest.raises(TranscoderFormatError, match="2 files") as caught:
        client.run(load, "org/model")
    assert "README.md, config.json" in caught.value.got


def test_names_with_glob_characters_are_fetched_as_they_are(
    hub: Hub, client: Client, tmp_path: Path
) -> None:
    folder = save(transcoder(), tmp_path / "set")
    index = folder / "transcoders.json"
    index.write_text(index.read_text().replace("layer_3.safetensors", "[l]*?.safetensors"))
    (folder / "layer_3.safetensors").rename(folder / "[l]*?.safetensors")
    (folder / "l-other.safetensors").write_bytes(b"not asked for")
    hub.publish("org/odd", folder)
    assert_same(client.run(load, "org/odd")[3], transcoder())
    assert "l-other.safetensors" not in hub.downloads()


def test_conversion(hub: Hub, client: Client, tmp_path: Path) -> None:
    publish(hub, "org/dtype", tmp_path / "set", transcoder())
    loaded = client.run(load, "org/dtype", dtype=torch.bfloat16)
    assert torch.equal(loaded[3].W_dec, transcoder().W_dec.bfloat16())
