from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import typer

from trt_svc import __version__
from trt_svc.cli import convert_options as options
from trt_svc.cli.console import USER_ERROR, JsonFlag, print_json, reported
from trt_svc.cli.convert_words import UpstreamWords
from trt_svc.cli.stages import shown_stages

SETTINGS = {"cls": UpstreamWords}


def command(
    ctx: typer.Context,
    model: options.Model = None,
    clean_names: options.CleanNames = None,
    batch_dir: options.BatchDir = None,
    output_dir: options.OutputDir = Path("results"),
    wav_format: options.WavFormat = "flac",
    resume: options.Resume = False,
    as_json: JsonFlag = False,
    model_path: options.ModelPath = None,
    config_path: options.ConfigPath = None,
    cluster_model_path: options.ClusterModelPath = None,
    diffusion_model_path: options.DiffusionModelPath = None,
    diffusion_config_path: options.DiffusionConfigPath = None,
    spk_list: options.SpkList = None,
    use_spk_mix: options.UseSpkMix = False,
    mix: options.MixFile = None,
    trans: options.Trans = None,
    f0_predictor: options.F0Predictor = "auto",
    f0_filter_threshold: options.F0FilterThreshold = 0.05,
    auto_predict_f0: options.AutoPredictF0 = False,
    cluster_infer_ratio: options.ClusterInferRatio = 0.0,
    feature_retrieval: options.FeatureRetrieval = False,
    noise_scale: options.NoiseScale = 0.4,
    slice_db: options.SliceDb = -40.0,
    clip: options.Clip = 0.0,
    linear_gradient: options.LinearGradient = 0.0,
    linear_gradient_retain: options.LinearGradientRetain = 0.75,
    pad_seconds: options.PadSeconds = 0.5,
    loudness_envelope_adjustment: options.LoudnessEnvelopeAdjustment = 1.0,
    seed: options.Seed = 0,
    shallow_diffusion: options.ShallowDiffusion = False,
    only_diffusion: options.OnlyDiffusion = False,
    k_step: options.KStep = 100,
    second_encoding: options.SecondEncoding = False,
    sampler: options.Sampler = None,
    speedup: options.Speedup = None,
    enhance: options.Enhance = False,
    enhancer_adaptive_key: options.EnhancerAdaptiveKey = 0.0,
    backend: options.Backend = "torch",
    device: options.Device = None,
    precision: options.Precision = "fp32",
    compat: options.Compat = None,
) -> None:
    """Convert singing into another voice with a so-vits-svc 4.1 model. Takes inference_main.py's options."""
    with reported(as_json):
        from trt_svc.cli import convert_report, convert_run
        from trt_svc.cli.convert_idle import idle_options
        from trt_svc.svc.conversion import Conversion
        from trt_svc.svc.pipeline import SVCPipeline

        kind: Literal["shallow", "only"] | None = "only" if only_diffusion else "shallow" if shallow_diffusion else None
        asked = Conversion(
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
        for told in idle_options(given, asked, compat is not None):
            warnings.warn(told, UserWarning, stacklevel=1)
        wanted = convert_run.Wanted(
            names=clean_names or [],
            batch_dir=batch_dir,
            transpositions=trans or [0.0],
            speakers=spk_list or [],
            options=asked,
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
