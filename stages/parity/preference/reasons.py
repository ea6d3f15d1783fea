"""Why entries of a set of preference numbers are not compared."""

from __future__ import annotations

REASONS = {
    "inpo.notes": "words, not numbers",
    "kto.sampling_weights": "images are drawn pair by pair here, the preferred one with probability `likes`",
    "hps_v1.prefix": "words before a caption; no method here trains on changed captions yet",
    "softrepa": "trains tokens of the text, which no kind of trainable part has",
    "inversion_dpo": "not a method here: its loss is even in the difference from the reference, see docs/methods.md",
}
"""By the beginning of an entry's name."""
UNUSED = {
    "ncp": ("use_middle_states",), "inpo": ("api",), "smpo": ("api",),
    "adaptive": (
        "ipo_beta", "label_smoothing", "margin_type", "weight_type", "use_margin", "use_logits_normalization",
        "use_ema", "step", "rewight_temparature", "logits_rho", "ema_warmup_steps", "weight_normalization",
        "use_weight_std_standarization", "rewight_intercept", "flip_un_label",
    ),
}  # fmt: skip
"""Settings, by group, that an item may have without using them."""


def reason(name: str) -> str:
    """The reason for the entry `name`, such as `items.chats.a_prompt.loss`; empty where none is known."""
    scalar, name = name.startswith("items."), name.removeprefix("items.")
    group, key = name.split(".")[0], name.split(".")[-1]
    if scalar and key in UNUSED.get(group, ()):
        return "a setting that the item does not use"
    return next((text for start, text in REASONS.items() if name.startswith(start)), "")
