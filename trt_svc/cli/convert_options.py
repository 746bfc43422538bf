"""The options of `trt-svc convert`, by the names of its parameters: so-vits-svc's letters and words, and ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MODEL, SONG, DIFFUSION, RUN = "Model", "How it sounds", "Diffusion and enhancer", "What runs it"

Model = Annotated[
    str | None,
    typer.Argument(
        help="so-vits-svc's folder, the folder of a voice, or a G_*.pth. \\[default: this folder]",
        show_default=False,
    ),
]

CleanNames = Annotated[
    list[str] | None,
    typer.Option(
        "--clean-names", "-n", help="Recordings: names in raw/ or paths; several after one -n.", show_default=False
    ),
]

BatchDir = Annotated[Path | None, typer.Option(help="Every recording in this folder and below.", show_default=False)]

OutputDir = Annotated[Path, typer.Option("--output-dir", "-o", help="Where results go.")]

WavFormat = Annotated[str, typer.Option("--wav-format", "-wf", help="wav, flac, mp3 or ogg.")]

Resume = Annotated[bool, typer.Option("--resume", help="Keep what is there and would come out the same.")]

ModelPath = Annotated[
    str | None,
    typer.Option("--model-path", "-m", help="The same as MODEL.", show_default=False, rich_help_panel=MODEL),
]

ConfigPath = Annotated[
    str | None,
    typer.Option(
        "--config-path", "-c", help="\\[default: beside the voice]", show_default=False, rich_help_panel=MODEL
    ),
]

ClusterModelPath = Annotated[
    str | None,
    typer.Option(
        "--cluster-model-path",
        "-cm",
        help="k-means file or feature index. \\[default: beside the voice]",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]

DiffusionModelPath = Annotated[
    str | None,
    typer.Option(
        "--diffusion-model-path",
        "-dm",
        help="\\[default: diffusion/model_*.pt]",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]

DiffusionConfigPath = Annotated[
    str | None,
    typer.Option(
        "--diffusion-config-path", "-dc", help="\\[default: beside it]", show_default=False, rich_help_panel=MODEL
    ),
]

SpkList = Annotated[
    list[str] | None,
    typer.Option(
        "--spk-list",
        "-s",
        help="Speakers; each sings every recording. \\[default: the only one]",
        show_default=False,
        rich_help_panel=SONG,
    ),
]

UseSpkMix = Annotated[
    bool, typer.Option("--use-spk-mix", "-usm", help="Mix speakers over time (--mix).", rich_help_panel=SONG)
]

MixFile = Annotated[
    Path | None,
    typer.Option(
        help='JSON: {"speaker": \\[\\[start, stop, from, to], ...]}, start and stop from 0 to 1.',
        show_default=False,
        rich_help_panel=SONG,
    ),
]

Trans = Annotated[
    list[float] | None,
    typer.Option(
        "--trans",
        "-t",
        help="Semitones, one per recording; the first for those left. \\[default: 0]",
        show_default=False,
        rich_help_panel=SONG,
    ),
]

F0Predictor = Annotated[
    str,
    typer.Option(
        "--f0-predictor",
        "-f0p",
        help="auto, pm, dio, harvest, crepe, rmvpe, fcpe, swift-f0. auto: rmvpe where its weights are.",
        rich_help_panel=SONG,
    ),
]

F0FilterThreshold = Annotated[
    float, typer.Option("--f0-filter-threshold", "-ft", help="Of crepe, rmvpe and fcpe.", rich_help_panel=SONG)
]

AutoPredictF0 = Annotated[
    bool,
    typer.Option("--auto-predict-f0", "-a", help="The voice's own pitch; for speech only.", rich_help_panel=SONG),
]

ClusterInferRatio = Annotated[
    float,
    typer.Option(
        "--cluster-infer-ratio", "-cr", help="0 to 1: towards the speaker's own sounds.", rich_help_panel=SONG
    ),
]

FeatureRetrieval = Annotated[
    bool,
    typer.Option(
        "--feature-retrieval", "-fr", help="-cr by a feature index in place of k-means.", rich_help_panel=SONG
    ),
]

NoiseScale = Annotated[
    float, typer.Option("--noise-scale", "--noice-scale", "-ns", help="Of the latent.", rich_help_panel=SONG)
]

SliceDb = Annotated[float, typer.Option("--slice-db", "-sd", help="What is quieter is a pause.", rich_help_panel=SONG)]

Clip = Annotated[
    float, typer.Option("--clip", "-cl", help="Longest piece in seconds; 0: pause to pause.", rich_help_panel=SONG)
]

LinearGradient = Annotated[
    float, typer.Option("--linear-gradient", "-lg", help="Overlap of clips in seconds.", rich_help_panel=SONG)
]

LinearGradientRetain = Annotated[
    float,
    typer.Option("--linear-gradient-retain", "-lgr", help="Cross-faded share of it.", rich_help_panel=SONG),
]

PadSeconds = Annotated[
    float, typer.Option("--pad-seconds", "-p", help="Silence around every piece.", rich_help_panel=SONG)
]

LoudnessEnvelopeAdjustment = Annotated[
    float,
    typer.Option(
        "--loudness-envelope-adjustment",
        "-lea",
        help="1: loudness as it comes, 0: as the recording's.",
        rich_help_panel=SONG,
    ),
]

Seed = Annotated[int, typer.Option(help="The same seed gives the same sound.", rich_help_panel=SONG)]

ShallowDiffusion = Annotated[
    bool,
    typer.Option("--shallow-diffusion", "-shd", help="Diffusion after the voice.", rich_help_panel=DIFFUSION),
]

OnlyDiffusion = Annotated[
    bool,
    typer.Option("--only-diffusion", "-od", help="Diffusion in place of the voice.", rich_help_panel=DIFFUSION),
]

KStep = Annotated[int, typer.Option("--k-step", "-ks", help="Steps of shallow diffusion.", rich_help_panel=DIFFUSION)]

SecondEncoding = Annotated[
    bool,
    typer.Option("--second-encoding", "-se", help="Encode the voice's audio again.", rich_help_panel=DIFFUSION),
]

Sampler = Annotated[
    str | None,
    typer.Option(help="\\[default: as its config says]", show_default=False, rich_help_panel=DIFFUSION),
]

Speedup = Annotated[
    int | None,
    typer.Option(
        help="Steps taken at once. \\[default: as its config says]", show_default=False, rich_help_panel=DIFFUSION
    ),
]

Enhance = Annotated[
    bool,
    typer.Option("--enhance", "-eh", help="NSF-HiFiGAN after the voice.", rich_help_panel=DIFFUSION),
]

EnhancerAdaptiveKey = Annotated[
    float, typer.Option("--enhancer-adaptive-key", "-eak", help="Semitones.", rich_help_panel=DIFFUSION)
]

Backend = Annotated[str, typer.Option(help="torch, auto, or a backend of `trt-svc doctor`.", rich_help_panel=RUN)]

Device = Annotated[
    str | None,
    typer.Option(
        "--device", "-d", help="cpu, cuda or cuda:N. \\[default: auto]", show_default=False, rich_help_panel=RUN
    ),
]

Precision = Annotated[
    str,
    typer.Option(help="fp32; on an engine also fp16, mixed (CPUs: quicker, above 53 dB).", rich_help_panel=RUN),
]

Compat = Annotated[
    str | None,
    typer.Option(help="so-vits-svc-4.1: every sample as upstream makes it.", show_default=False, rich_help_panel=RUN),
]
