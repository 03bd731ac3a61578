"""`python -m bench curve`: what forward passes take here, in the form that `bench plan` and `lead match` read."""

from __future__ import annotations

import argparse

from duo.program import flags
from lead.match import measured
from lead.simulation import curves


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("model", metavar="MODEL", help="named as for -m, or shipped")
    p.add_argument("--as", dest="which", choices=("target", "draft"), default="draft", help="how it is measured")
    flags.add_runtime_flags(p.add_argument_group("running"))
    flags.add_hub_access_flags(p.add_argument_group("hub"))


def main(args: argparse.Namespace) -> int:
    print(curves.typed(measured.curve(args, args.model, args.which)))
    return 0
