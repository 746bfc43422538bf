"""The files of a so-vits-svc model: voice, diffusion, clusters and pretrained networks, wherever they lie.

A folder is upstream's own (with logs/44k and pretrain in it), its logs/44k, or one that people share, with the files
side by side under names of their own. Nothing is opened here: what is missing is missed when it is needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

from trt_svc.checkpoints.locate import MODEL_PATH_VARIABLE, USUAL_FOLDERS, locate
from trt_svc.errors import CheckpointNotFound, shown
from trt_svc.svc.model_names import (
    CLUSTERS,
    DIFFUSION_CONFIGS,
    RETRIEVAL,
    VOICE_CONFIG,
    Choice,
    clusters_among,
    config_beside,
    diffusion_among,
    files_in,
    retrieval_among,
    voice_among,
)

LOGS = Path("logs/44k")
PRETRAIN = "pretrain"
LONGEST_TOLD = 80
_RETRIEVAL_KINDS, _CLUSTER_KINDS = (".pkl", ".index"), (".pt", ".pth")


@dataclass(frozen=True)
class ModelFiles:
    """What was found; None where there is nothing, which is an error only for who needs it (`need_…`)."""

    root: Path
    """What upstream's relative paths (pretrain/…) are relative to."""
    folder: Path
    """Where the voice lies."""
    voice: Path | None = None
    voice_config: Path | None = None
    diffusion: Path | None = None
    diffusion_config: Path | None = None
    clusters: Path | None = None
    retrieval: Path | None = None
    searched: tuple[Path, ...] = ()
    unclear: Mapping[str, str] = field(default_factory=dict)
    """Part -> why it is None although there is something."""

    @property
    def pretrain_folders(self) -> tuple[Path, ...]:
        """Where pretrained networks are looked for: the model's own folders, then everybody's."""
        named = [Path(part).expanduser() for part in os.environ.get(MODEL_PATH_VARIABLE, "").split(os.pathsep) if part]
        own = [self.root / PRETRAIN, self.folder / PRETRAIN, self.folder, self.root]
        return tuple(dict.fromkeys([*own, *named, *(Path(usual) for usual in USUAL_FOLDERS)]))

    def pretrained(self, *names: str) -> Path | None:
        """The first file or folder of these names."""
        places = (folder / name for folder in self.pretrain_folders for name in names)
        return next((path for path in places if _exists(path)), None)

    def vocoder(self, ckpt: str | None = None) -> Path | None:
        """The weights of the NSF-HiFiGAN that a diffusion config names, or that lies where it usually does."""
        places = self._named_vocoders(ckpt) if ckpt else []
        return next((weights for path in [*places, *self._usual_vocoders()] if (weights := _weights_at(path))), None)

    def _named_vocoders(self, ckpt: str) -> list[Path]:
        # The config may come from another machine, of another system even: its last folders tell as well.
        parts = PureWindowsPath(ckpt.replace("\\", "/")).parts
        tail = parts[parts.index(PRETRAIN) + 1 :] if PRETRAIN in parts else parts[-2:]
        moved = [folder.joinpath(*tail) for folder in self.pretrain_folders] if tail else []
        return [self.root / ckpt, Path(ckpt), self.folder / ckpt, *moved]

    def _usual_vocoders(self) -> Iterator[Path]:
        yield from (folder / "nsf_hifigan" for folder in self.pretrain_folders)
        for folder in self.pretrain_folders:
            yield from sorted(folder.glob("*nsf*hifigan*")) if _exists(folder) else ()

    def need_voice(self) -> Path:
        """The voice, or an error that says where it was looked for."""
        return self._needed(self.voice, "voice", "voice (G_*.pth)", "Give the file or its folder (--model_path).")

    def need_voice_config(self) -> Path:
        """The config.json of the voice."""
        voice = self.voice.name if self.voice else "the voice"
        advice = f"Put the {VOICE_CONFIG} that it was trained with beside it, or give it (--config_path)."
        return self._needed(self.voice_config, "voice_config", f"config of {shown(voice)}", advice)

    def need_diffusion(self) -> Path:
        """The diffusion model."""
        advice = (
            f"Put model_*.pt and {DIFFUSION_CONFIGS[0]} into {LOGS}/diffusion, give the file (--diffusion_model_path),"
            " or leave out what needs it (--shallow_diffusion, --only_diffusion)."
        )
        return self._needed(self.diffusion, "diffusion", "diffusion model (model_*.pt)", advice)

    def need_diffusion_config(self) -> Path:
        """The config.yaml of the diffusion model."""
        advice = f"Put its {DIFFUSION_CONFIGS[0]} beside it, or give it (--diffusion_config_path)."
        return self._needed(self.diffusion_config, "diffusion_config", "config of the diffusion model", advice)

    def need_clusters(self) -> Path:
        """The k-means file."""
        advice = (
            f"Its usual place is {LOGS / CLUSTERS}; give it (--cluster_model_path), or leave out --cluster_infer_ratio."
        )
        return self._needed(self.clusters, "clusters", f"cluster file ({CLUSTERS})", advice)

    def need_retrieval(self) -> Path:
        """The feature index."""
        advice = (
            f"Its usual place is {LOGS / RETRIEVAL}; give it or an added_*.index (--cluster_model_path), or leave out"
            " --feature_retrieval."
        )
        return self._needed(self.retrieval, "retrieval", f"feature index ({RETRIEVAL})", advice)

    def need_vocoder(self, ckpt: str | None = None) -> Path:
        """The NSF-HiFiGAN after the diffusion."""
        asked = f"vocoder of the diffusion model ({shown(ckpt)})" if ckpt else "vocoder (NSF-HiFiGAN)"
        advice = f"Put it into {PRETRAIN}/nsf_hifigan (the files model and config.json)."
        return self._pretrained_or_error(self.vocoder(ckpt), asked, advice)

    def need_pretrained(self, what: str, *names: str) -> Path:
        """A pretrained network, known in messages as `what`."""
        advice = f"Put {names[0]} into the folder {PRETRAIN}/ (or one named in {MODEL_PATH_VARIABLE})."
        return self._pretrained_or_error(self.pretrained(*names), what, advice)

    def _pretrained_or_error(self, found: Path | None, what: str, advice: str) -> Path:
        if found is None:
            raise CheckpointNotFound(what, f"it is in none of {_listed(self.pretrain_folders)}.", advice)
        return found

    def _needed(self, found: Path | None, part: str, what: str, advice: str) -> Path:
        if found is None:
            reason = self.unclear.get(part) or f"there is none in {_listed(self.searched)}."
            raise CheckpointNotFound(what, reason, advice)
        return found


def find_model(
    where: str | Path | None = None,
    *,
    model_path: str | Path | None = None,
    config_path: str | Path | None = None,
    cluster_model_path: str | Path | None = None,
    diffusion_model_path: str | Path | None = None,
    diffusion_config_path: str | Path | None = None,
) -> ModelFiles:
    """The files of the model at a voice file or in a folder (this one, if none is given).

    Each file that is given by name is taken instead of what lies there.
    """
    where = where or model_path or "."
    with _looked_up(where):
        folder, voice = _place(where)
        files = files_in(folder)
        given = _given("model_path", model_path, voice_among)
        choices = {"voice": Choice(given or voice) if given or voice else voice_among(files)}
        root = _root(folder)
        choices["diffusion"] = _diffusion(_given("diffusion_model_path", diffusion_model_path, diffusion_among), folder)
        choices |= _helpers(_given("cluster_model_path", cluster_model_path), files)
        config = _given("config_path", config_path) or _voice_config(choices["voice"].path, root)
        diffusion_config = _given("diffusion_config_path", diffusion_config_path) or _diffusion_config(
            choices["diffusion"].path, root
        )
    return ModelFiles(
        root=root,
        folder=folder,
        voice_config=config,
        diffusion_config=diffusion_config,
        searched=(folder, folder / "diffusion"),
        unclear={part: _why(choice) for part, choice in choices.items() if choice.unclear},
        **{part: choice.path for part, choice in choices.items()},
    )


def _place(where: str | Path) -> tuple[Path, Path | None]:
    """The folder of the voice, and the voice where it was given by name."""
    path = Path(where).expanduser()
    if not path.exists():
        path = _under_a_usual_folder(str(where))
    path = path.absolute()
    return (path.parent, path) if path.is_file() else (_voice_folder(path), None)


def _under_a_usual_folder(name: str) -> Path:
    folders = [Path(part).expanduser() for part in os.environ.get(MODEL_PATH_VARIABLE, "").split(os.pathsep) if part]
    folders += [Path(usual) for usual in USUAL_FOLDERS]
    found = next((folder / name for folder in folders if (folder / name).exists()), None)
    if found is not None:
        return found
    newest = voice_among(files_in(Path(name).parent)).path
    advice = "Give a G_*.pth, its folder, or the folder of so-vits-svc itself (with logs/44k in it)."
    beside = f" The newest voice there is {newest.name}." if newest else ""
    raise CheckpointNotFound(f"model {shown(name)!r}", "there is no such file or folder.", advice + beside)


def _voice_folder(path: Path) -> Path:
    """The folder with the voice in it: upstream's logs/44k, the folder itself, or the only one in it."""
    nested = [path / LOGS, path, path / LOGS.name, path / LOGS.parent]
    inside = [sub for sub in sorted(path.iterdir()) if sub.is_dir() and sub.name != PRETRAIN and _has_voice(sub)]
    found = [folder for folder in nested if _has_voice(folder)] or (inside if len(inside) == 1 else [])
    return found[0] if found else path / LOGS if (path / LOGS).is_dir() else path


def _has_voice(folder: Path) -> bool:
    return bool(voice_among(files_in(folder)))


def _root(folder: Path) -> Path:
    return folder.parents[1] if folder.parent.name == LOGS.parent.name else folder


def _diffusion(given: Path | None, folder: Path) -> Choice:
    if given is not None:
        return Choice(given)
    found = (diffusion_among(files_in(place)) for place in (folder / "diffusion", folder))
    return next((choice for choice in found if choice), Choice(None))


def _helpers(given: Path | None, files: list[Path]) -> dict[str, Choice]:
    """Clusters and feature index: upstream gives either by the same option."""
    if given is None:
        return {"clusters": clusters_among(files), "retrieval": retrieval_among(files)}
    kind = given.suffix.lower()
    no_clusters = f"{shown(given.name)} is a feature index (used with --feature_retrieval)."
    no_index = f"{shown(given.name)} is a k-means file, no feature index."
    return {
        "clusters": Choice(None, no_clusters) if kind in _RETRIEVAL_KINDS else Choice(given),
        "retrieval": Choice(None, no_index) if kind in _CLUSTER_KINDS else Choice(given),
    }


def _voice_config(voice: Path | None, root: Path) -> Path | None:
    beside = config_beside(voice, (VOICE_CONFIG,), (".json",)) if voice else None
    return beside or _file(root / "configs" / VOICE_CONFIG)


def _diffusion_config(diffusion: Path | None, root: Path) -> Path | None:
    beside = config_beside(diffusion, DIFFUSION_CONFIGS, (".yaml", ".yml")) if diffusion else None
    return beside or _file(root / "configs" / "diffusion.yaml")


def _given(option: str, path: str | Path | None, among: Callable[[list[Path]], Choice] | None = None) -> Path | None:
    """A file named by the user, which must exist; of a folder the file that is meant."""
    if path is None or not str(path):
        return None
    asked = Path(path).expanduser()
    found = among(files_in(asked)).path if among and asked.is_dir() else asked
    if found is None or not found.is_file():
        reason = "this folder holds none." if asked.is_dir() else "there is no such file."
        raise CheckpointNotFound(f"{option} {_told(asked)!r}", reason, "Check the name, or leave the option out.")
    return found.absolute()


def _why(choice: Choice) -> str:
    return choice.unclear if choice.unclear.endswith(".") else f"several could be meant: {choice.unclear}."


def _weights_at(path: Path) -> Path | None:
    try:
        return locate(path).weights if path.exists() else None
    except (CheckpointNotFound, OSError, ValueError):
        return None


def _file(path: Path) -> Path | None:
    return path if path.is_file() else None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _listed(folders: tuple[Path, ...]) -> str:
    return ", ".join(_told(folder) for folder in folders)


def _told(path: Path) -> str:
    """A path for a message: of a long one the end, which is what a person looks for."""
    whole = str(path)
    return shown(whole if len(whole) <= LONGEST_TOLD else str(Path("…", *path.parts[-2:])))


@contextmanager
def _looked_up(where: str | Path) -> Iterator[None]:
    try:
        yield
    except CheckpointNotFound:
        raise
    except (OSError, RuntimeError, ValueError) as err:  # rights, names too long, unknown ~users, NUL bytes
        found = f"it cannot be looked up ({shown(str(err))})."
        raise CheckpointNotFound(
            f"model {shown(str(where))!r}", found, "Check the name and the folder's rights."
        ) from err
