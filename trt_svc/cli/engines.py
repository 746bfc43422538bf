from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from trt_svc.cli.console import JsonFlag, escape, out, print_json, reported

app = typer.Typer(no_args_is_help=True, help="List, verify, share and prune the engines in the cache.")
KeyArgument = Annotated[str, typer.Argument(help="The key, or its first letters.", show_default=False)]


@app.command("ls")
def list_engines(as_json: JsonFlag = False) -> None:
    """List the engines, the most recently used first."""
    with reported(as_json):
        from trt_svc.cache import EngineCache, Rejected, folder_bytes, read_manifest

        cache = EngineCache()
        rows: list[dict[str, Any]] = []
        for key in cache.keys():  # noqa: SIM118
            folder = cache.folder(key)
            row: dict[str, Any] = {"key": key, "bytes": folder_bytes(folder), "problem": ""}
            try:
                manifest = read_manifest(folder)
            except Rejected as reason:
                rows.append({**row, "problem": str(reason)})
                continue
            stated = manifest["key"]
            rows.append(
                {
                    **row,
                    "family": manifest["metadata"].get("family", "unknown"),
                    "backend": stated["backend"],
                    "precision": stated["precision"].get("name", "unknown"),
                    "profiles": stated["profiles"],
                    "snr_db": _snr_of(manifest["notes"]),
                    "created": manifest["created"],
                }
            )
        if as_json:
            print_json({"folder": str(cache.root), "engines": rows})
            return
        grid = Table("key", "family", "engine", "frames and batch", "SNR dB", "MB")
        for row in rows:
            if row["problem"]:
                grid.add_row(row["key"][:12], f"[yellow]not usable: {escape(row['problem'])}[/]")
                continue
            shapes = "\n".join(text.removeprefix("frames ").replace(", batch ", " x ") for text in row["profiles"])
            words = [row["key"][:12], row["family"], f"{row['backend']} {row['precision']}", shapes]
            grid.add_row(
                *(escape(word) for word in words),
                "?" if row["snr_db"] is None else f"{row['snr_db']:.1f}",
                f"{row['bytes'] / 1e6:.1f}",
            )
        out.print(grid)
        total = sum(row["bytes"] for row in rows)
        out.print(f"{len(rows)} engines, {total / 1e6:.1f} MB in {escape(cache.root)}", highlight=False, soft_wrap=True)


def _snr_of(notes: dict[str, Any]) -> float | None:
    quality = notes.get("quality")
    found = quality.get("snr_db") if isinstance(quality, dict) else None
    return found if isinstance(found, (int, float)) else None


@app.command("show")
def show_engine(key: KeyArgument, as_json: JsonFlag = False) -> None:
    """Print an engine's manifest: what it was built from, for what, and how good it is."""
    with reported(as_json):
        from trt_svc.cache import EngineCache, require_entry, verified_manifest

        cache = EngineCache()
        print_json(verified_manifest(cache, require_entry(cache, key)))


@app.command("verify")
def verify_engines(
    keys: Annotated[list[str] | None, typer.Argument(help="Keys; all where none is given.", show_default=False)] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check every byte of the engines against their manifests."""
    with reported(as_json):
        from trt_svc.cache import EngineCache, Rejected, read_entry, require_entry

        cache = EngineCache()
        wanted = [require_entry(cache, key) for key in keys or ()] or cache.keys()
        found: dict[str, str] = {}
        for key in wanted:
            try:
                read_entry(cache.folder(key))
                found[key] = "sound"
            except Rejected as reason:
                found[key] = str(reason)
        bad = [key for key, state in found.items() if state != "sound"]
        if as_json:
            print_json({"engines": found, "bad": len(bad)})
        else:
            for key, state in found.items():
                colour = "green" if state == "sound" else "red"
                out.print(f"{key[:12]}… [{colour}]{escape(state)}[/]", highlight=False)
            out.print(f"{len(found) - len(bad)} of {len(found)} engines are sound", highlight=False)
        if bad:
            raise typer.Exit(2)


@app.command("prune")
def prune_engines(
    limit: Annotated[str, typer.Option(help="Keep the most recently used engines up to this size.")] = "20GiB",
    everything: Annotated[bool, typer.Option("--all", help="Delete all engines.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Delete the least recently used engines, and what killed builds left behind."""
    with reported(as_json):
        from trt_svc.build_config import parse_bytes
        from trt_svc.cache import EngineCache

        cache = EngineCache()
        gone = cache.prune(0 if everything else parse_bytes(limit))
        if everything:
            cache.forget_requests()
        kept = cache.keys()
        if as_json:
            print_json({"deleted": gone, "kept": kept})
        else:
            out.print(f"deleted {len(gone)} engines, kept {len(kept)}", highlight=False)


@app.command("export")
def export_engine(
    key: KeyArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The archive (.zip) to write.", show_default=False)],
    as_json: JsonFlag = False,
) -> None:
    """Write an engine with its manifest into one file, for `import` on another machine."""
    with reported(as_json):
        from trt_svc.cache import EngineCache, require_entry, verified_entry
        from trt_svc.engine_archive import write_archive

        cache = EngineCache()
        entry = verified_entry(cache, require_entry(cache, key))
        write_archive(entry, output)
        if as_json:
            print_json({"key": entry.key, "output": str(output), "bytes": output.stat().st_size})
        else:
            out.print(f"wrote {escape(output)} ({output.stat().st_size / 1e6:.1f} MB)", highlight=False)


@app.command("import")
def import_engine(
    archive: Annotated[Path, typer.Argument(help="An archive that `export` wrote.", show_default=False)],
    as_json: JsonFlag = False,
) -> None:
    """Take an exported engine into this cache, after checking every byte."""
    with reported(as_json):
        from trt_svc.cache import EngineCache
        from trt_svc.engine_archive import import_archive

        entry = import_archive(archive, EngineCache())
        if as_json:
            print_json({"key": entry.key, "folder": str(entry.folder)})
        else:
            out.print(f"imported {entry.key[:12]}… into {escape(entry.folder)}", highlight=False)
