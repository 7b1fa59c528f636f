"""
The commands of `trl-score`, a module each. The docstring of a module is what `--help` says first.

Each has `add_arguments(parser)`, which adds its options (or `make_parser(prog, description)`, where configurations are
its options), and `run(arguments)`, which returns the exit code. What takes long to import is imported inside these, so
that `trl-score --help` is answered at once.
"""
