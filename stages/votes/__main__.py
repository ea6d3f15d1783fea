"""A user study: a form in which people compare images blindly, and what their votes say.

Not part of the workflow: people vote between the two commands.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from stages.runtime import require_apart, run_and_leave, whole_file

if TYPE_CHECKING:
    from stages.votes.analysis import Outcome

QUESTION = "Which side do you prefer?"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.votes", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    form = commands.add_parser("form", help="write the form and its key")
    form.add_argument("--samples", type=Path, required=True, help="folder of sample: RUN.parquet and base.parquet")
    form.add_argument(
        "--sides", nargs="+", required=True, help="what is compared: NAME=RUN/STRATEGY/SETTING, two or more"
    )
    form.add_argument("--prompts", type=int, default=20, help="prompts, evenly spread over the suite (20)")
    form.add_argument("--images", type=int, default=4, help="images per side (4)")
    form.add_argument("--questions", nargs="+", default=[QUESTION], help=f"asked of every comparison ({QUESTION!r})")
    form.add_argument("--repeats", type=int, default=0, help="comparisons shown once more, sides swapped (0)")
    form.add_argument("--seed", type=int, default=0, help="of sides and order (0)")
    form.add_argument("--title", default="Comparing images", help="heading of the form")
    form.add_argument("--form", type=Path, required=True, help="written: the form (HTML), to be given to voters")
    form.add_argument("--key", type=Path, required=True, help="written: which side is which (JSON), to be kept")
    form.set_defaults(run=_form)
    analyse = commands.add_parser("analyse", help="analyse the files that voters send back")
    analyse.add_argument("--key", type=Path, required=True, help="the key of the form (JSON)")
    analyse.add_argument("--votes", type=Path, nargs="+", required=True, help="files that the form exported")
    analyse.add_argument("--out", type=Path, required=True, help="written: rates, intervals and agreement (JSON)")
    analyse.set_defaults(run=_analyse)
    args = parser.parse_args()
    args.run(args)


def _form(args: argparse.Namespace) -> None:
    from stages.votes import form
    from stages.votes.sheets import Side, make

    require_apart([], [args.form, args.key])
    sides = [Side.parse(text) for text in args.sides]
    study = make(args.samples, sides, args.prompts, args.images, args.questions, args.seed, args.repeats)
    form.write(study, args.form, args.title, args.seed)
    with whole_file(args.key) as partial:
        partial.write_text(json.dumps(study.key(), indent=1) + "\n", encoding="utf-8")
    print(f"{args.form}: {len(study.items)} comparisons, study {study.id}")


def _analyse(args: argparse.Namespace) -> None:
    from stages.votes.analysis import analyse, read_key, read_votes, to_json, with_shown

    require_apart([args.key, *args.votes], [args.out])
    study, questions, items = read_key(args.key)
    outcome = analyse(study, questions, items, read_votes(args.votes, study, len(questions), items))
    outcome = with_shown(outcome, args.key)
    with whole_file(args.out) as partial:
        partial.write_text(to_json(outcome), encoding="utf-8")
    print(table(outcome))


def table(outcome: Outcome) -> str:
    """The outcome for people."""
    lines = [f"{outcome.voters} voters, {outcome.votes} votes"]
    for rate in outcome.rates:
        reach = "" if rate.low is None else f" [{rate.low:.1%}, {rate.high:.1%}]"
        counts = f"{rate.wins} won, {rate.ties} even, {rate.losses} lost"
        lines.append(f"{rate.question} {rate.first} over {rate.second}: {rate.rate:.1%}{reach} ({counts})")
    lines += [
        f"{question} agreement (Krippendorff's alpha): {'none to tell' if found is None else f'{found:.2f}'}"
        for question, found in outcome.agreement.items()
    ]
    if outcome.consistency is not None:
        lines.append(f"answered alike when shown again: {outcome.consistency:.0%}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_and_leave(main)
