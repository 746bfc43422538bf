"""What was run, where, how and by which rules, in words."""

from __future__ import annotations

from trt_svc.bench.report import Cell, Network, Report, Row
from trt_svc.bench.words import clean, duration, measured, median_s, moment, percent, short, three

STOPPED = "The run was stopped: what is missing was not reached."


def facts_of(report: Report) -> tuple[tuple[str, str], ...]:
    """(name, words) of the machine and of the run."""
    origin = report.provenance
    facts = (
        ("Machine", _machine(report)),
        ("GPU", ", ".join(origin.gpus)),
        ("System", origin.system),
        ("Versions", ", ".join(f"{n} {v}" for n, v in _versions(report).items())),
        ("Commit", _commit(report)),
        ("Date", f"{moment(origin.created)}, took {duration(report.took_s)}"),
        ("Measured peaks", _peaks(report)),
        ("Load before", ", ".join(short(load) for load in origin.load)),
        ("Busy cores", busy_words(report)),
    )
    return tuple((name, clean(words)) for name, words in facts if words)


def busy_words(report: Report) -> str:
    """What a race beside busy cores says, and what it does not."""
    count = report.provenance.busy_cores
    if not count:
        return ""
    turned = "another process" if count == 1 else f"{count} other processes"
    return (
        f"{turned} kept {count} of {report.provenance.cores} cores busy while contenders raced, on purpose: these "
        "times compare contenders on a loaded machine and are no speeds of it; peaks were measured without that load"
    )


def _machine(report: Report) -> str:
    origin = report.provenance
    memory = "" if origin.memory_bytes is None else f", {short(origin.memory_bytes / 1e9)} GB"
    used = f"{len(origin.affinity)} of {origin.cores} cores" if origin.affinity else f"{origin.cores} cores"
    return f"{origin.cpu}, {used}, {origin.threads} threads{memory}"


def _versions(report: Report) -> dict[str, str]:
    origin = report.provenance
    return {"trt_svc": origin.trt_svc, "Python": origin.python, **origin.packages}


def _commit(report: Report) -> str:
    origin = report.provenance
    if origin.commit is None:
        return ""
    return f"{origin.commit[:12]}{' with changes beyond it' if origin.dirty else ''}"


def _peaks(report: Report) -> str:
    peaks = report.peaks
    parts = [f"{three(speed)} GFLOP/s {name}" for name, speed in peaks.gflops.items()]
    if peaks.conv_gflops is not None:
        parts.append(f"convolution {three(peaks.conv_gflops)} GFLOP/s")
    seen = ", ".join(map(three, peaks.gflops_seen))
    probes = f"; probes between the cells: {seen} GFLOP/s" if seen else ""
    return f"{peaks.device}: {', '.join(parts)}; copying {three(peaks.copy_gb_per_s)} GB/s{probes}"


def facts_of_network(network: Network) -> tuple[tuple[str, str], ...]:
    """(name, words)."""
    weights = "trained" if network.trained else "drawn at random: times are the same, but its sound is noise"
    facts = (
        ("Family", f"{network.family} {network.variant}"),
        ("Origin", network.origin),
        ("Weights", f"{weights}; {three(network.parameters / 1e6)} M parameters"),
        ("SHA-256", network.weights_sha256),
        ("Audio", f"{network.sample_rate} Hz, {network.hop} samples per frame"),
        ("Work", f"{three(network.gflop_per_audio_s)} GFLOP per second of audio"),
        ("Listened to", network.listened_to),
    )
    return tuple((name, clean(words)) for name, words in facts if words)


def how_measured(report: Report) -> str:
    """One sentence for below the tables."""
    counts = sorted({row.latency.rounds for c in report.cells for row in measured(c) if row.latency is not None})
    rounds = "no" if not counts else str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return (
        f"Measured interleaved: {rounds} rounds per shape, every contender once in each, in random order; "
        "intervals are 95 % bootstrap intervals over paired rounds; upstream is torch eager float32; the "
        f"fastest other of a row is {_fastest_other(report)}; "
        "quality is the worst round against torch float32 with the same input and noise; similarity is 1 − MAE; "
        "a harmonic source and its noise are rendered before, the same for all, and are in none of the times."
    )


def _fastest_other(report: Report) -> str:
    """As these rows have it: reports of earlier versions compare with other forms of the same contender too."""
    pairs = [(cell, row) for cell in report.cells for row in measured(cell) if row.over_fastest_other is not None]
    if all(_against_another(cell, row) for cell, row in pairs):
        return (
            "the fastest row of another contender in its shape, or of its own where there is no other: the row names it"
        )
    return "the one that the row names"


def _against_another(cell: Cell, row: Row) -> bool:
    others = [other for other in measured(cell) if other.label != row.label]
    rivals = [other for other in others if other.contender != row.contender] or others
    found = min(rivals, key=median_s, default=None)
    return found is not None and row.over_fastest_other is not None and row.over_fastest_other.against == found.label


def rules_of(report: Report) -> tuple[str, ...]:
    """When a row is refused, a sentence each."""
    rules = report.rules
    gates = ", ".join(f"{short(limit)} dB ({clean(name)})" for name, limit in rules.gate_db.items())
    return (
        f"its SNR against torch float32 is below {gates or 'no limit'};",
        f"half of the 95 % interval of its median exceeds {percent(rules.max_spread)} of it;",
        f"the operations per second that its time implies exceed the measured peak by {percent(rules.peak_slack)}.",
    )


def left_out_of(report: Report) -> tuple[tuple[str, str, str], ...]:
    """(contender, networks, reason)."""
    return tuple(
        (
            clean(f"{out.contender} {out.precision or ''}"),
            clean(out.network) if out.network else "all networks",
            clean(out.reason),
        )
        for out in report.left_out
    )
