from __future__ import annotations

from rich.table import Table

from trt_svc.cli.console import JsonFlag, escape, out, print_json, reported


def command(as_json: JsonFlag = False) -> None:
    """Show versions, GPUs, and for every backend whether it can run here, or why not and the command that fixes it."""
    with reported(as_json):
        from trt_svc.doctor import Finding, examine_machine

        report = examine_machine()
        if as_json:
            print_json(report.as_dict())
            return
        out.print(
            f"trt-svc {report.trt_svc}, Python {report.python}, {report.system}, {report.cpu_threads} CPU threads"
        )
        out.print("GPU: " + escape("; ".join(report.gpus) or f"none ({report.gpu_note})"), highlight=False)

        def table(title: str, findings: list[Finding]) -> Table:
            grid = Table(title, "", "found", "what helps")
            for finding in findings:
                mark = (
                    "[green]usable[/]" if finding.usable else "[cyan]builds[/]" if finding.builds else "[yellow]no[/]"
                )
                grid.add_row(finding.name, mark, escape(finding.found), escape(finding.advice))
            return grid

        out.print(table("backend", report.backends))
        out.print(table("f0 method", report.f0))
        versions = Table("package", "version")
        for package, version in report.packages.items():
            versions.add_row(package, version)
        out.print(versions)
