"""Metrics, one module each, named by its file.

A module says what it is a metric of and defines one function `metric`:

- `SCOPE = "image"`: `metric(images: ScoredImages) -> Mapping[str, np.ndarray]`, one value per image of a batch;
- `SCOPE = "prompt"`: `metric(images: ScoredImages) -> Mapping[str, float]`, of one prompt's images in one setting;
- `SCOPE = "set"`: `metric(features, reference) -> Callable[[rows], float]`, from the features [n, D] of all images of
  one setting and those of real images. It computes the statistics once; the function it returns gives the value for
  any choice of rows, which is how the interval leaves prompts out. The metric is named like the file;
  `RANGE`, if given, is the pair of values between which it lies.

A metric of a prompt that compares the first embedding of the study says so with `SPACE = "first"`, for its id.

The keys of the mappings are the names of the metrics; an empty mapping means that the metric does not apply.
An installed package adds its own under the entry point group `imagerefl.metrics`.
"""
