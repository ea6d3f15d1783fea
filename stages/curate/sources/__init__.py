"""Where rows come from: one module per kind, each with `images`, `pairs` or `prompts` as far as it offers them."""
