"""Finding the files of a model: upstream's layout, shared folders, files given by name, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.golden_svc import FOLDER
from trt_svc.checkpoints.locate import MODEL_PATH_VARIABLE
from trt_svc.errors import CheckpointNotFound
from trt_svc.svc.model_folder import ModelFiles, find_model


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pretrain folders but those of the test."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.delenv(MODEL_PATH_VARIABLE, raising=False)


def lay(folder: Path, names: Iterable[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


UPSTREAM = (
    "logs/44k/G_0.pth", "logs/44k/G_800.pth", "logs/44k/G_10400.pth", "logs/44k/D_20000.pth", "logs/44k/config.json",
    "logs/44k/kmeans_10000.pt", "logs/44k/feature_and_index.pkl", "logs/44k/diffusion/model_0.pt",
    "logs/44k/diffusion/model_9000.pt", "logs/44k/diffusion/model_20000.pt", "logs/44k/diffusion/config.yaml",
    "pretrain/rmvpe.pt", "pretrain/nsf_hifigan/model", "pretrain/nsf_hifigan/config.json", "configs/config.json",
)  # fmt: skip


def names(files: ModelFiles) -> dict[str, str | None]:
    parts = ("voice", "voice_config", "diffusion", "diffusion_config", "clusters", "retrieval")
    return {part: None if (path := getattr(files, part)) is None else path.name for part in parts}


@pytest.mark.parametrize("where", ["", "logs/44k", "logs"])
def test_the_folder_of_so_vits_svc(where: str, tmp_path: Path) -> None:
    root = lay(tmp_path / "so-vits-svc", UPSTREAM)
    files = find_model(root / where)
    assert names(files) == {
        "voice": "G_10400.pth",
        "voice_config": "config.json",
        "diffusion": "model_20000.pt",
        "diffusion_config": "config.yaml",
        "clusters": "kmeans_10000.pt",
        "retrieval": "feature_and_index.pkl",
    }
    assert (files.root, files.folder) == (root, root / "logs/44k")
    assert files.voice_config == root / "logs/44k/config.json"
    assert files.pretrained("checkpoint_best_legacy_500.pt", "rmvpe.pt") == root / "pretrain/rmvpe.pt"
    assert files.vocoder("pretrain/nsf_hifigan/model") == root / "pretrain/nsf_hifigan/model"


def test_the_current_folder_is_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = lay(tmp_path / "so-vits-svc", UPSTREAM)
    monkeypatch.chdir(root / "logs/44k")
    assert find_model().root == root


def test_the_golden_folder() -> None:
    files = find_model(FOLDER / "e2e")
    assert names(files) | {"clusters": None} == {
        "voice": "G_0.pth",
        "voice_config": "config.json",
        "diffusion": "model_0.pt",
        "diffusion_config": "config.yaml",
        "clusters": None,
        "retrieval": None,
    }
    assert files.vocoder("pretrain/nsf_hifigan/model") == files.root / "pretrain/nsf_hifigan/model"


def test_a_voice_given_by_name_keeps_its_folder(tmp_path: Path) -> None:
    root = lay(tmp_path / "so-vits-svc", UPSTREAM)
    for given in (find_model(root / "logs/44k/G_800.pth"), find_model(model_path=root / "logs/44k/G_800.pth")):
        assert given.voice == root / "logs/44k/G_800.pth"
        assert given.clusters == root / "logs/44k/kmeans_10000.pt"
        assert given.root == root


SHARED = {
    "side by side": (
        ("我的声音.pth", "config.json", "kmeans_10000.pt", "model_30000.pt", "diffusion.yaml"),
        ("我的声音.pth", "config.json", "model_30000.pt", "diffusion.yaml", "kmeans_10000.pt", None),
    ),
    "configs named like their weights": (
        ("alice 🎤.pth", "alice 🎤.json", "other.json", "diff.pt", "diff.yaml", "other.yaml"),
        ("alice 🎤.pth", "alice 🎤.json", "diff.pt", "diff.yaml", None, None),
    ),
    "released and halved": (
        ("G_100_release.pth", "G_30400_half.pth", "config.json"),
        ("G_30400_half.pth", "config.json", None, None, None, None),
    ),
    "pretrained networks beside the voice": (
        ("voice.pth", "D_0.pth", "rmvpe.pth", "DPHuBERT-sp0.75.pth", "checkpoint_best_legacy_500.pt", "config.json"),
        ("voice.pth", "config.json", None, None, None, None),
    ),
    "an index of RVC": (
        ("voice.pth", "voice.json", "added_IVF10_Flat_nprobe_1.index", "trained_IVF10.index"),
        ("voice.pth", "voice.json", None, None, None, "added_IVF10_Flat_nprobe_1.index"),
    ),
    "diffusion alone": (
        ("diffusion/model_5.pt", "diffusion/whatever.yml"),
        (None, None, "model_5.pt", "whatever.yml", None, None),
    ),
    "unpacked one folder too deep": (
        ("我的声音/G_5.pth", "我的声音/config.json", "pretrain/hubert.pth"),
        ("G_5.pth", "config.json", None, None, None, None),
    ),
    "nothing": (("readme.txt",), (None,) * 6),
}


@pytest.mark.parametrize("case", SHARED)
def test_folders_that_people_share(case: str, tmp_path: Path) -> None:
    there, expected = SHARED[case]
    found = names(find_model(lay(tmp_path / "模型 🎵", there)))
    assert tuple(found.values()) == expected


def test_files_given_by_name_win(tmp_path: Path) -> None:
    root = lay(tmp_path / "so-vits-svc", UPSTREAM)
    other = lay(tmp_path / "other", ["v.pth", "v.json", "c.pt", "d.pt", "d.yaml"])
    files = find_model(
        root,
        model_path=other / "v.pth",
        config_path=other / "v.json",
        cluster_model_path=other / "c.pt",
        diffusion_model_path=other / "d.pt",
        diffusion_config_path=other / "d.yaml",
    )
    assert list(names(files).values()) == ["v.pth", "v.json", "d.pt", "d.yaml", "c.pt", None]
    assert find_model(root, diffusion_model_path=other / "d.pt").diffusion_config == other / "d.yaml"
    assert find_model(root, cluster_model_path="").clusters == root / "logs/44k/kmeans_10000.pt"


@pytest.mark.parametrize(
    "option",
    ["model_path", "config_path", "cluster_model_path", "diffusion_model_path", "diffusion_config_path"],
)
def test_a_file_given_by_name_must_exist(option: str, tmp_path: Path) -> None:
    root = lay(tmp_path / "so-vits-svc", UPSTREAM)
    with pytest.raises(CheckpointNotFound, match=rf"{option}.*nope\.bin.*no such file"):
        find_model(root, **{option: tmp_path / "nope.bin"})


def test_one_option_names_clusters_or_an_index(tmp_path: Path) -> None:
    folder = lay(tmp_path / "m", ["v.pth", "x.index", "y.pt", "z"])
    index = find_model(folder, cluster_model_path=folder / "x.index")
    assert index.need_retrieval() == folder / "x.index"
    with pytest.raises(CheckpointNotFound, match="feature index"):
        index.need_clusters()
    clusters = find_model(folder, cluster_model_path=folder / "y.pt")
    assert clusters.need_clusters() == folder / "y.pt"
    with pytest.raises(CheckpointNotFound, match="k-means file"):
        clusters.need_retrieval()
    either = find_model(folder, cluster_model_path=folder / "z")
    assert either.need_clusters() == either.need_retrieval() == folder / "z"


def test_what_is_missing_is_missed_when_it_is_needed(tmp_path: Path) -> None:
    files = find_model(lay(tmp_path / "empty one", ["readme.txt"]))
    wanted = {
        files.need_voice: "--model_path",
        files.need_voice_config: "--config_path",
        files.need_diffusion: "--diffusion_model_path",
        files.need_diffusion_config: "--diffusion_config_path",
        files.need_clusters: "logs/44k/kmeans_10000.pt",
        files.need_retrieval: "logs/44k/feature_and_index.pkl",
        files.need_vocoder: "pretrain/nsf_hifigan",
        lambda: files.need_pretrained("f0 method rmvpe", "rmvpe.pt"): "rmvpe.pt into the folder pretrain/",
    }
    for need, advice in wanted.items():
        with pytest.raises(CheckpointNotFound) as caught:
            need()
        assert advice in caught.value.advice
        assert "empty one" in caught.value.found


def test_several_files_that_could_be_meant_are_named(tmp_path: Path) -> None:
    files = find_model(lay(tmp_path / "m", ["a.pth", "b.pth", "a.yaml", "x.pt", "y.pt", "1.index", "2.index"]))
    assert files.voice is files.diffusion is files.retrieval is None
    for need, both in ((files.need_voice, "a.pth, b.pth"), (files.need_diffusion, "x.pt, y.pt")):
        with pytest.raises(CheckpointNotFound, match=f"several could be meant: {both}"):
            need()
    with pytest.raises(CheckpointNotFound, match=r"several could be meant: 1\.index, 2\.index"):
        files.need_retrieval()


VOCODERS = {
    "of another machine": ("D:\\svc\\pretrain\\nsf_hifigan\\model", "pretrain/nsf_hifigan/model"),
    "of another folder": ("/home/somebody/pretrain/my_vocoder/model.ckpt", "pretrain/my_vocoder/model.ckpt"),
    "a folder": ("pretrain/nsf_hifigan", "pretrain/nsf_hifigan/model"),
    "named otherwise": ("pretrain/gone/model", "pretrain/pc_nsf_hifigan_44.1k/model.ckpt"),
    "not named": (None, "pretrain/pc_nsf_hifigan_44.1k/model.ckpt"),
    "absurd": ("\0" * 5000, "pretrain/pc_nsf_hifigan_44.1k/model.ckpt"),
}


@pytest.mark.parametrize("case", VOCODERS)
def test_the_vocoder_of_the_diffusion(case: str, tmp_path: Path) -> None:
    ckpt, expected = VOCODERS[case]
    files = find_model(lay(tmp_path / "m", ["logs/44k/G_0.pth", expected]))
    assert files.vocoder(ckpt) == tmp_path / "m" / expected


def test_pretrained_networks_of_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = find_model(lay(tmp_path / "m", ["voice.pth"]))
    assert files.pretrained("rmvpe.pt") is None
    lay(Path("pretrain"), ["rmvpe.pt"])
    assert files.pretrained("rmvpe.pt") == Path("pretrain/rmvpe.pt")
    lay(tmp_path / "named", ["rmvpe.pt"])
    monkeypatch.setenv(MODEL_PATH_VARIABLE, str(tmp_path / "named"))
    assert files.pretrained("rmvpe.pt") == tmp_path / "named/rmvpe.pt"
    lay(tmp_path / "m", ["rmvpe.pt"])
    assert files.pretrained("rmvpe.pt") == tmp_path / "m/rmvpe.pt"


def test_a_bare_name_is_looked_up_in_the_usual_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path / "all" / "alice", ["G_5.pth"])
    monkeypatch.setenv(MODEL_PATH_VARIABLE, str(tmp_path / "all"))
    assert find_model("alice").voice == tmp_path / "all/alice/G_5.pth"


@pytest.mark.parametrize("where", ["nope", "x" * 5000, "a\0b", "~nobody_of_that_name/x"])
def test_a_folder_that_is_not_there(where: str) -> None:
    with pytest.raises(CheckpointNotFound) as caught:
        find_model(where)
    assert caught.value.advice


def test_the_default_voice_of_upstream_that_is_not_there_names_the_one_that_is(tmp_path: Path) -> None:
    root = lay(tmp_path / "so-vits-svc", UPSTREAM)
    with pytest.raises(CheckpointNotFound, match=r"newest voice there is G_10400\.pth"):
        find_model(root / "logs/44k/G_37600.pth")
