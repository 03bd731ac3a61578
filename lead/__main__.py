"""`python -m lead`: serve the target model over HTTP, and take guesses from backs over gRPC."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from duo import installing
from duo.program import run
from lead.security import certs


def main(argv: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if argv is None else list(argv)
    if given[:1] == ["certs"]:
        return certs.main(given[1:])
    try:
        if given[:1] == ["match"]:
            from lead.match import program

            return program.main(given[1:])
        from lead.flags import parser
        from lead.program import serve
    except ModuleNotFoundError as error:
        print(f"error: a lead needs {error.name}: {installing.command('lead')}", file=sys.stderr)
        return 1
    lead_parser = parser()
    args = lead_parser.parse_args(given)
    if not args.models:
        return run.run(lambda: serve(args), args.verbose)
    try:
        from lead.models import settings
        from lead.models.program import serve_several
    except ModuleNotFoundError as error:
        print(f"error: --models needs {error.name}: {installing.command('lead')}", file=sys.stderr)
        return 1
    models = settings.read(args.models, args, lead_parser, parser())
    return run.run(lambda: serve_several(args, models), args.verbose)


if __name__ == "__main__":
    sys.exit(main())
