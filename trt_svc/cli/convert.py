from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Literal

import typer

from trt_svc import __version__
from trt_svc.cli.console import USER_ERROR, JsonFlag, print_json, reported
from trt_svc.cli.stages import shown_stages

MODEL, SONG, DIFFUSION, RUN = "Model", "How it sounds", "Diffusion and enhancer", "What runs it"


def command(
    ctx: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            help="so-vits-svc's folder, the folder of a voice, or a G_*.pth. \\[default: this folder]",
            show_default=False,
        ),
    ] = None,
    clean_names: Annotated[
        list[str] | None,
        typer.Option(
            "--clean-names", "-n", help="Recordings: names in raw/ or paths; several after one -n.", show_default=False
        ),
    ] = None,
    batch_dir: Annotated[
        Path | None, typer.Option(help="Every recording in this folder and below.", show_default=False)
    ] = None,
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Where results go.")] = Path("results"),
    wav_format: Annotated[str, typer.Option("--wav-format", "-wf", help="wav, flac, mp3 or ogg.")] = "flac",
    resume: Annotated[bool, typer.Option("--resume", help="Keep what is there and would come out the same.")] = False,
    as_json: JsonFlag = False,
    # The model.
    model_path: Annotated[
        str | None,
        typer.Option("--model-path", "-m", help="The same as MODEL.", show_default=False, rich_help_panel=MODEL),
    ] = None,
    config_path: Annotated[
        str | None,
        typer.Option(
            "--config-path", "-c", help="\\[default: beside the voice]", show_default=False, rich_help_panel=MODEL
        ),
    ] = None,
    cluster_model_path: Annotated[
        str | None,
        typer.Option(
            "--cluster-model-path",
            "-cm",
            help="k-means file or feature index. \\[default: beside the voice]",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = None,
    diffusion_model_path: Annotated[
        str | None,
        typer.Option(
            "--diffusion-model-path",
            "-dm",
            help="\\[default: diffusion/model_*.pt]",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = None,
    diffusion_config_path: Annotated[
        str | None,
        typer.Option(
            "--diffusion-config-path", "-dc", help="\\[default: beside it]", show_default=False, rich_help_panel=MODEL
        ),
    ] = None,
    # How it sounds.
    spk_list: Annotated[
        list[str] | None,
        typer.Option(
            "--spk-list",
            "-s",
            help="Speakers; each sings every recording. \\[default: the only one]",
            show_default=False,
            rich_help_panel=SONG,
        ),
    ] = None,
    use_spk_mix: Annotated[
        bool, typer.Option("--use-spk-mix", "-usm", help="Mix speakers over time (--mix).", rich_help_panel=SONG)
    ] = False,
    mix: Annotated[
        Path | None,
        typer.Option(
            help='JSON: {"speaker": \\[\\[start, stop, from, to], ...]}, start and stop from 0 to 1.',
            show_default=False,
            rich_help_panel=SONG,
        ),
    ] = None,
    trans: Annotated[
        list[float] | None,
        typer.Option(
            "--trans",
            "-t",
            help="Semitones, one per recording; the first for those left. \\[default: 0]",
            show_default=False,
            rich_help_panel=SONG,
        ),
    ] = None,
    f0_predictor: Annotated[
        str,
        typer.Option(
            "--f0-predictor",
            "-f0p",
            help="auto, pm, dio, harvest, crepe, rmvpe, fcpe, swift-f0. auto: rmvpe where its weights are.",
            rich_help_panel=SONG,
        ),
    ] = "auto",
    f0_filter_threshold: Annotated[
        float, typer.Option("--f0-filter-threshold", "-ft", help="Of crepe, rmvpe and fcpe.", rich_help_panel=SONG)
    ] = 0.05,
    auto_predict_f0: Annotated[
        bool,
        typer.Option("--auto-predict-f0", "-a", help="The voice's own pitch; for speech only.", rich_help_panel=SONG),
    ] = False,
    cluster_infer_ratio: Annotated[
        float,
        typer.Option(
            "--cluster-infer-ratio", "-cr", help="0 to 1: towards the speaker's own sounds.", rich_help_panel=SONG
        ),
    ] = 0.0,
    feature_retrieval: Annotated[
        bool,
        typer.Option(
            "--feature-retrieval", "-fr", help="-cr by a feature index in place of k-means.", rich_help_panel=SONG
        ),
    ] = False,
    noise_scale: Annotated[
        float, typer.Option("--noise-scale", "--noice-scale", "-ns", help="Of the latent.", rich_help_panel=SONG)
    ] = 0.4,
    slice_db: Annotated[
        float, typer.Option("--slice-db", "-sd", help="What is quieter is a pause.", rich_help_panel=SONG)
    ] = -40.0,
    clip: Annotated[
        float, typer.Option("--clip", "-cl", help="Longest piece in seconds; 0: pause to pause.", rich_help_panel=SONG)
    ] = 0.0,
    linear_gradient: Annotated[
        float, typer.Option("--linear-gradient", "-lg", help="Overlap of clips in seconds.", rich_help_panel=SONG)
    ] = 0.0,
    linear_gradient_retain: Annotated[
        float,
        typer.Option("--linear-gradient-retain", "-lgr", help="Cross-faded share of it.", rich_help_panel=SONG),
    ] = 0.75,
    pad_seconds: Annotated[
        float, typer.Option("--pad-seconds", "-p", help="Silence around every piece.", rich_help_panel=SONG)
    ] = 0.5,
    loudness_envelope_adjustment: Annotated[
        float,
        typer.Option(
            "--loudness-envelope-adjustment",
            "-lea",
            help="1: loudness as it comes, 0: as the recording's.",
            rich_help_panel=SONG,
        ),
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same sound.", rich_help_panel=SONG)] = 0,
    # Diffusion and enhancer.
    shallow_diffusion: Annotated[
        bool,
        typer.Option("--shallow-diffusion", "-shd", help="Diffusion after the voice.", rich_help_panel=DIFFUSION),
    ] = False,
    only_diffusion: Annotated[
        bool,
        typer.Option("--only-diffusion", "-od", help="Diffusion in place of the voice.", rich_help_panel=DIFFUSION),
    ] = False,
    k_step: Annotated[
        int, typer.Option("--k-step", "-ks", help="Steps of shallow diffusion.", rich_help_panel=DIFFUSION)
    ] = 100,
    second_encoding: Annotated[
        bool,
        typer.Option("--second-encoding", "-se", help="Encode the voice's audio again.", rich_help_panel=DIFFUSION),
    ] = False,
    sampler: Annotated[
        str | None,
        typer.Option(help="\\[default: as its config says]", show_default=False, rich_help_panel=DIFFUSION),
    ] = None,
    speedup: Annotated[
        int | None,
        typer.Option(
            help="Steps taken at once. \\[default: as its config says]", show_default=False, rich_help_panel=DIFFUSION
        ),
    ] = None,
    enhance: Annotated[
        bool,
        typer.Option("--enhance", "-eh", help="NSF-HiFiGAN after the voice.", rich_help_panel=DIFFUSION),
    ] = False,
    enhancer_adaptive_key: Annotated[
        float, typer.Option("--enhancer-adaptive-key", "-eak", help="Semitones.", rich_help_panel=DIFFUSION)
    ] = 0.0,
    # What runs it.
    backend: Annotated[
        str, typer.Option(help="torch, auto, or a backend of `trt-svc doctor`.", rich_help_panel=RUN)
    ] = "torch",
    device: Annotated[
        str | None,
        typer.Option(
            "--device", "-d", help="cpu, cuda or cuda:N. \\[default: auto]", show_default=False, rich_help_panel=RUN
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(help="fp32; on an engine also fp16, mixed (bfloat16 on CPUs that have it).", rich_help_panel=RUN),
    ] = "fp32",
    compat: Annotated[
        str | None,
        typer.Option(
            help="so-vits-svc-4.1: every sample as upstream makes it.", show_default=False, rich_help_panel=RUN
        ),
    ] = None,
) -> None:
    """Convert singing into another voice with a so-vits-svc 4.1 model. Takes inference_main.py's options."""
    with reported(as_json):
        from trt_svc.cli import convert_report, convert_run
        from trt_svc.cli.convert_idle import idle_options
        from trt_svc.svc.conversion import Conversion
        from trt_svc.svc.pipeline import SVCPipeline

        kind: Literal["shallow", "only"] | None = "only" if only_diffusion else "shallow" if shallow_diffusion else None
        options = Conversion(
            speaker_mix=convert_run.mix_of(use_spk_mix, mix),
            f0=f0_predictor,
            f0_threshold=f0_filter_threshold,
            auto_f0=auto_predict_f0,
            cluster_ratio=cluster_infer_ratio,
            retrieval=feature_retrieval,
            noise_scale=noise_scale,
            slice_db=slice_db,
            clip_s=clip,
            overlap_s=linear_gradient,
            fade_share=linear_gradient_retain,
            padding_s=pad_seconds,
            loudness_share=loudness_envelope_adjustment,
            diffusion=kind,
            k_step=k_step,
            second_encoding=second_encoding and kind == "shallow",
            sampler=sampler,
            speedup=speedup,
            enhance=enhance and kind is None,
            enhancer_key=enhancer_adaptive_key,
            seed=seed,
        )
        given = [name for name in ctx.params if _was_given(ctx, name)]
        for told in idle_options(given, options, compat is not None):
            warnings.warn(told, UserWarning, stacklevel=1)
        wanted = convert_run.Wanted(
            names=clean_names or [],
            batch_dir=batch_dir,
            transpositions=trans or [0.0],
            speakers=spk_list or [],
            options=options,
            output_dir=output_dir,
            kind=wav_format,
            resume=resume,
            how={"backend": backend, "precision": precision, "compat": compat, "trt_svc": __version__},
        )
        done = []
        with shown_stages(quiet=as_json) as progress:
            pipe = SVCPipeline.from_pretrained(
                convert_run.one_model(model, model_path),
                config=config_path,
                clusters=cluster_model_path,
                diffusion=diffusion_model_path,
                diffusion_config=diffusion_config_path,
                compat=compat,
                backend=backend,
                device=device or "auto",
                precision=precision,
                progress=progress,
            )
            for outcome in convert_run.outcomes(pipe, wanted, progress):
                done.append(outcome)
                if not as_json:
                    convert_report.tell(outcome)
        if as_json:
            print_json(convert_report.as_object(done))
        else:
            convert_report.show(done)
        if any(outcome.status == "failed" for outcome in done):
            raise typer.Exit(USER_ERROR)


def _was_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
