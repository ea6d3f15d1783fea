"""The figures of the report, one module each; `stages/report/figure.py` says what a module holds."""
