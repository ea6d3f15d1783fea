"""Say what this machine has and what a study needs; exit code 1 when something is missing. Changes nothing."""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow.doctor import machine, study


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m workflow.doctor", description=__doc__)
    parser.add_argument("study", nargs="?", type=Path, default=Path("params.yaml"), help="study file")
    args = parser.parse_args()
    missing = 0
    for title, findings in (("this machine", machine.look()), (f"study {args.study}", study.look(args.study))):
        print(title)
        for finding in findings:
            print(finding, flush=True)
            missing += finding.mark == "missing"
    if missing:
        print(f"{missing} missing: the study cannot run as it is")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
