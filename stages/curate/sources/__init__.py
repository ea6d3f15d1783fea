"""Where rows come from: one module a kind, each with `images`, `pairs` or `prompts` as far as it offers them."""
