"""Options of `trt-svc convert` that change nothing beside the others: said, not passed over."""

from __future__ import annotations

from collections.abc import Collection

from trt_svc.svc.conversion import AUTO_F0, ONLY, Conversion

THRESHOLD_METHODS = (AUTO_F0, "crepe", "rmvpe", "fcpe")


def idle_options(given: Collection[str], options: Conversion, compat: bool = False) -> list[str]:
    """What to tell about options (names of the command's parameters) that were given in vain."""
    kind, mixed = options.diffusion, options.speaker_mix is not None
    rules = (
        ("shallow_diffusion", kind == ONLY, "-shd: -od replaces it"),
        ("k_step", kind == ONLY, "-ks: -od starts from noise, at the noisiest step"),
        ("second_encoding", kind == ONLY, "-se: with -od there is no voice audio to encode"),
        ("noise_scale", kind == ONLY, "-ns: with -od the voice model is left out"),
        ("k_step", kind is None, "-ks: there is no diffusion without -shd"),
        ("second_encoding", kind is None, "-se: there is no diffusion without -shd"),
        ("diffusion_model_path", kind is None, "-dm: there is no diffusion without -shd or -od"),
        ("diffusion_config_path", kind is None, "-dc: there is no diffusion without -shd or -od"),
        ("sampler", kind is None, "--sampler: there is no diffusion without -shd or -od"),
        ("speedup", kind is None, "--speedup: there is no diffusion without -shd or -od"),
        ("enhance", kind is not None, "-eh: it is switched off, as the vocoder after the diffusion does the same"),
        ("enhancer_adaptive_key", not options.enhance, "-eak: there is no enhancer without -eh"),
        ("linear_gradient", not options.clip_s, "-lg: pieces only overlap where clips are cut (-cl)"),
        ("linear_gradient_retain", not options.overlap_s, "-lgr: there is no overlap without -lg"),
        ("feature_retrieval", not options.cluster_ratio, "-fr: the ratio (-cr) is 0"),
        ("cluster_model_path", not options.cluster_ratio, "-cm: the ratio (-cr) is 0"),
        ("f0_filter_threshold", options.f0 not in THRESHOLD_METHODS, f"-ft: {options.f0} has no threshold"),
        ("seed", compat, "--seed: with --compat every piece begins with upstream's own"),
        ("spk_list", mixed, "-s: the speakers are those of the mix"),
    )
    return [f"{told}, so it has no effect." for name, idle, told in rules if idle and name in given]
