"""Publishing through the real client, and the model card."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.cases import Host, Kind, tokens
from tests.hub.client import Client
from tests.hub.repositories import Hub
from tests.hub.samples import assert_same, cross_layer, transcoder, transcoder_set
from tl_transcoders._types import SAE_SITES, Site
from tl_transcoders.errors import HubError
from tl_transcoders.hub import load, push_to_hub
from tl_transcoders.hub.card import model_card
from tl_transcoders.splice import splice
from tl_transcoders.transcoders import Origin, TopK, TranscoderSet


@pytest.fixture
def writer(client: Client) -> Client:
    """A client that may write."""
    client.login("secret")
    return client


def test_push_then_load_is_the_identity(hub: Hub, writer: Client) -> None:
    original = transcoder_set(1, 4)
    commit = writer.run(push_to_hub, original, "org/pushed")
    loaded = writer.run(load, "org/pushed", revision=commit, verify=True)
    assert loaded.layers == (1, 4)
    for layer in loaded:
        assert_same(loaded[layer], original[layer])
    assert loaded.origin.revision == commit
    assert sorted(hub.repositories["org/pushed"].commits[commit]) == [
        ".gitattributes",
        "README.md",
        "layer_1.safetensors",
        "layer_4.safetensors",
        "transcoders.json",
    ]


def test_a_single_one_and_a_cross_layer_one(hub: Hub, writer: Client) -> None:
    writer.run(push_to_hub, transcoder(), "org/single")
    assert_same(writer.run(load, "org/single")[3], transcoder())
    writer.run(push_to_hub, cross_layer(), "org/clt-pushed")
    assert_same(writer.run(load, "org/clt-pushed"), cross_layer())


def test_the_next_push_replaces_the_set(hub: Hub, writer: Client) -> None:
    first = writer.run(push_to_hub, transcoder_set(1, 2), "org/again")
    second = writer.run(push_to_hub, transcoder(3), "org/again")
    commits = hub.repositories["org/again"].commits
    assert {name for name in commits[second] if name.startswith("layer_")} == {
        "layer_3.safetensors"
    }
    assert writer.run(load, "org/again").layers == (3,)
    assert writer.run(load, "org/again", revision=first).layers == (1, 2)


def test_another_branch_and_message(hub: Hub, writer: Client) -> None:
    writer.run(push_to_hub, transcoder(seed=1), "org/branches")
    for _ in range(2):  # the second time the branch exists
        writer.run(
            push_to_hub, transcoder(seed=2), "org/branches", revision="v2", commit_message="Two"
        )
    assert_same(writer.run(load, "org/branches@v2")[3], transcoder(seed=2))
    assert_same(writer.run(load, "org/branches")[3], transcoder(seed=1))


@pytest.mark.parametrize("private", [False, True])
def test_a_new_repository_is_as_private_as_asked(hub: Hub, writer: Client, private: bool) -> None:
    writer.run(push_to_hub, transcoder(), "org/visibility", private=private)
    assert hub.repositories["org/visibility"].private is private


def test_without_permission(hub: Hub, client: Client) -> None:
    client.login("wrong")
    with pytest.raises(HubError, match="access refused"):
        client.run(push_to_hub, transcoder(), "org/denied")
    assert "org/denied" not in hub.repositories


def test_offline(hub: Hub, offline: Client) -> None:
    with pytest.raises(HubError, match="offline"):
        offline.run(push_to_hub, transcoder(), "org/offline")


@pytest.mark.parametrize("name", ["gpt2", "a/b/c", "org/re po", ""])
def test_a_name_that_is_no_repository(name: str) -> None:
    with pytest.raises(HubError, match='expected "org/repo"'):
        push_to_hub(transcoder(), name)


def _front_matter(card: str) -> dict[str, object]:
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


def test_the_card_of_a_set(hub: Hub, writer: Client) -> None:
    both = TranscoderSet(
        {2: transcoder(2), 5: transcoder(5, activation=TopK(3), skip=False, n_features=13)},
        origin=Origin(model_name="EleutherAI/pythia-70m"),
    )
    commit = writer.run(push_to_hub, both, "org/my_card")
    card = hub.repositories["org/my_card"].commits[commit]["README.md"].decode()
    assert card == model_card(both, "org/my_card")
    front = _front_matter(card)
    assert front["library_name"] == "tl-transcoders"
    assert front["base_model"] == "EleutherAI/pythia-70m"
    assert "tl-transcoders" in front["tags"]
    assert card.splitlines()[card.splitlines().index("| --- " * 9 + "|") + 1 :][:2] == [
        "| 2 | 5 | 11 | 7 | ReLU() | yes | `mlp_in` | `mlp_out_raw` | yes |",
        "| 5 | 5 | 13 | 7 | TopK(k=3) | no | `mlp_in` | `mlp_out_raw` | yes |",
    ]
    assert "# org/my\\_card" in card
    assert 'tlt.load("org/my_card")' in card
    assert "blocks.2.mlp.hook_post" in card


def test_the_card_of_a_cross_layer_transcoder() -> None:
    card = model_card(cross_layer(), "org/clt")
    assert "cross-layer-transcoder" in _front_matter(card)["tags"]
    assert "base_model" not in _front_matter(card)
    assert [line[:5] for line in card.splitlines() if line.startswith("| ")][2:] == [
        "| 1 |",
        "| 2 |",
        "| 5 |",
    ]


@pytest.mark.parametrize("site", SAE_SITES)
def test_the_card_of_saes_names_a_hook_of_their_splice(site: Site) -> None:
    model = Host("llama-gqa", "bridge", processed=False).build()
    saes = Kind("sae", read=site, write=site).build(model)
    card = model_card(saes, "org/saes")
    assert "\nSAEs of an unnamed model, saved" in card
    (name,) = re.findall(r'cache\["(.*)"\]', card)
    with splice(model, saes):
        _, cache = model.run_with_cache(tokens())
    assert cache[name].shape[-1] == saes[1].cfg.n_features


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        "x\n---\nlicense: mit\n# Owned",
        "a | b [link](there) `code`",
        "```\nimport os",
        "{title}",
    ],
)
def test_values_in_the_card_are_escaped(name: str) -> None:
    named = TranscoderSet({3: transcoder()}, origin=Origin(model_name=name))
    plain = TranscoderSet({3: transcoder()}, origin=Origin(model_name="plain"))
    card, expected = model_card(named, "org/x"), model_card(plain, "org/x")
    assert _front_matter(card) == _front_matter(expected)
    assert len(card.splitlines()) == len(expected.splitlines())
    assert "<script>" not in card.split("## Use")[0]
    assert "[link]" not in card.split("## Use")[0]


def test_a_full_disk_while_preparing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dumps", full)
    with pytest.raises(HubError, match="No space left"):
        push_to_hub(transcoder(), "org/full")
