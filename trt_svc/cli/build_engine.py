from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from trt_svc.cli.console import ConfigOption, FamilyOption, JsonFlag, SourceOption, escape, out, print_json, reported

if TYPE_CHECKING:
    from trt_svc.build_config import BuildConfig
    from trt_svc.prebuilt import Engine


def command(
    checkpoint: Annotated[str, typer.Argument(help="Weights file, folder, or alias (demo).", show_default=False)],
    config: ConfigOption = None,
    family: FamilyOption = None,
    source: SourceOption = None,
    backend: Annotated[
        str | None, typer.Option(help="auto (the fastest here), or one that `doctor` lists. \\[default: auto]")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16, mixed, bf16. \\[default: fp16 for GPUs, fp32 for CPUs]")
    ] = None,
    allow_bf16: Annotated[bool, typer.Option("--allow-bf16", help="Accept bf16's noise (near 40 dB).")] = False,
    protect: Annotated[
        list[str] | None, typer.Option(help="Layers kept in float32 (shell pattern; repeatable).", show_default=False)
    ] = None,
    frames: Annotated[
        str | None, typer.Option(help="MIN:OPT:MAX mel frames, several with commas. \\[default: by family]")
    ] = None,
    batch: Annotated[str | None, typer.Option(help="MIN:OPT:MAX. \\[default: by family]")] = None,
    gpu: Annotated[
        str | None, typer.Option(help="Targets to compile ahead for with tensorrt-rtx, such as sm86,sm89,sm120.")
    ] = None,
    workspace: Annotated[
        str | None, typer.Option(help="Limit of scratch memory, such as 1GiB.", show_default=False)
    ] = None,
    rewrites: Annotated[
        str | None,
        typer.Option(
            help="Graph forms, with commas; none for upstream's. \\[default: the backend's usual; auto measures]"
        ),
    ] = None,
    min_snr: Annotated[
        float | None, typer.Option(help="Quality gate in dB. \\[default: fp32 100, fp16 45, bf16 35]")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="YAML file with these settings; options win over it.", show_default=False)
    ] = None,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="tensorrt: run on other GPUs from Ampere on too.")
    ] = False,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="tensorrt: run on later versions too.")
    ] = False,
    strip_weights: Annotated[
        bool, typer.Option("--strip-weights", help="tensorrt: leave the weights out of the plan.")
    ] = False,
    streaming: Annotated[
        bool, typer.Option("--streaming", help="Build the stages too, for streams that compute little twice.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the engine to this file.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build again even if the cache has it.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Compile a vocoder into an engine, check its quality against torch float32, and put it into the cache."""
    with reported(as_json):
        options: dict[str, Any] = {
            "backend": backend,
            "precision": precision,
            "protected": protect or None,
            "allow_bf16": allow_bf16 or None,
            "frames": frames,
            "batch": batch,
            "gpu": gpu,
            "workspace": workspace,
            "rewrites": None if rewrites is None else [n for n in rewrites.split(",") if n and n != "none"],
            "min_snr_db": min_snr,
            "hardware_compatible": hardware_compatible or None,
            "version_compatible": version_compatible or None,
            "strip_weights": strip_weights or None,
            "streaming": streaming or None,
        }
        settings = _settings(recipe, {name: value for name, value in options.items() if value is not None})
        engine = _engine(checkpoint, settings, (config, family, source), force, as_json)
        if output is not None:
            from trt_svc.engine_archive import write_engine_file

            write_engine_file(engine.entry, output)
        if as_json:
            print_json({**engine.as_dict(), "output": None if output is None else str(output)})
        else:
            _print(engine, output)


def _settings(recipe: Path | None, options: dict[str, Any]) -> BuildConfig:
    from trt_svc.build_config import config_from_recipe, read_recipe

    stated = read_recipe(recipe) if recipe is not None else {}
    return config_from_recipe({**stated, **options}, "recipe" if recipe is not None else "options")


def _engine(
    checkpoint: str,
    settings: BuildConfig,
    where: tuple[str | None, str | None, str | None],
    force: bool,
    quiet: bool,
) -> Engine:
    from trt_svc.cache import EngineCache
    from trt_svc.prebuilt import find_built, request_for

    config, family, source = where
    cache = EngineCache()
    if not force:
        # A hit must not wait for torch to be imported.
        found = find_built(cache, request_for(checkpoint, settings, config, family, source))
        if found is not None:
            return found
    from trt_svc.build import build_engine
    from trt_svc.cli.stages import shown_stages

    with shown_stages(quiet) as progress:
        return build_engine(
            checkpoint,
            settings,
            config=config,
            family=family,
            source=source,
            cache=cache,
            force=force,
            progress=progress,
        )


def _print(engine: Engine, output: Path | None) -> None:
    said = engine.as_dict()
    quality = engine.quality
    rows = {
        "engine": f"{engine.key[:12]}… ({'from the cache' if engine.cache_hit else 'built now'})",
        "family": engine.family,
        "backend": f"{engine.backend}, {', '.join(f'{k} {v}' for k, v in said['identity'].items())}",
        "precision": said["precision"]["name"]
        + "".join(f", float32: {pattern}" for pattern in said["precision"]["protected"]),
        "shapes": "; ".join(said["profiles"]),
        "forms": ", ".join(said["rewrites"]) or "upstream's",
        "size": f"{engine.bytes / 1e6:.1f} MB",
        "built in": f"{said['build_s']:.1f} s",
        "quality of": said["quality_of"],
        "against torch float32": f"SNR {quality['snr_db']:.1f} dB, MSE {quality['mse']:.3g}, "
        f"MAE {quality['mae']:.3g}, max {quality['max']:.3g} (gate {said['gate_db']:g} dB)",
        "folder": said["folder"],
    }
    if "fused_kernels" in said:
        rows["fused kernels"] = str(said["fused_kernels"])
    if said["measured"]:
        seconds = sorted(said["measured"]["seconds"].items(), key=lambda item: item[1])
        rows[f"measured, {said['measured']['frames']} frames"] = "\n".join(
            f"{value * 1000:8.1f} ms  {label}" for label, value in seconds
        )
    if output is not None:
        rows["written"] = str(output)
    grid = Table(show_header=False)
    grid.add_column()
    grid.add_column(overflow="fold")
    for name, value in rows.items():
        grid.add_row(name, escape(value))
    out.print(grid)
