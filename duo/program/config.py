"""Settings come from flags, then environment variables, then a YAML file, then defaults.

The flags are the only list of settings. `--ctx-size` of the lead is `DUO_LEAD_CTX_SIZE` in the environment, and
`ctx-size` in the file that `--config` names. An unknown key in the file is an error that names the nearest flag. All
long names of a flag work in all three places.
"""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Mapping, Sequence
from typing import IO, Any, NoReturn

import configargparse
import yaml

from duo.errors import why_unread

_SETS_NOTHING = ("help", "version", "list_devices", "config")
"""The `dest` of flags that make no sense in a file."""


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default only if it says something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, "", argparse.SUPPRESS) or isinstance(action.default, bool):
            return action.help
        if action.help and "(default: " in action.help:
            return action.help  # it explains what the value 0 means
        return super()._get_help_string(action)


class Parser(configargparse.ArgumentParser):  # type: ignore[misc]
    """A parser whose environment variables begin with DUO_ and the name of the program."""

    def __init__(self, prog: str, description: str | None) -> None:
        self._prefix = f"DUO_{prog.upper()}_"
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=Help,
            epilog=f"Every flag is also a variable (--ctx-size: {self._prefix}CTX_SIZE) and a key of "
            "the YAML file that --config names (ctx-size). A flag overrides a variable, and a variable the file. "
            "Keep secrets in the file or in a variable: other users of the machine can read a command line.",
            allow_abbrev=False,  # an abbreviated flag would not override its variable
            auto_env_var_prefix=self._prefix,
            config_file_parser_class=_File(self),
            config_file_open_func=_open,
            add_config_file_help=False,
            add_env_var_help=False,
        )
        self.add_argument(
            "--config", metavar="FILE", is_config_file_arg=True, env_var=f"{self._prefix}CONFIG",
            help="YAML file with any of these flags, such as ctx-size: 4096",
        )  # fmt: skip

    def get_possible_config_keys(self, action: argparse.Action) -> list[str]:
        if action.dest in _SETS_NOTHING:
            return []
        keys = [key for key in super().get_possible_config_keys(action) if not key.startswith("-")]
        # A file says `slots: false`. For `no-slots: true` the library would use only the value, true.
        return keys[:1] if isinstance(action, argparse.BooleanOptionalAction) else keys

    def convert_item_to_command_line_arg(self, action: argparse.Action, key: str, value: str | list[str]) -> list[str]:
        if action.nargs == 0 and isinstance(value, list):
            self.error(f"{key} is a list: it must be true or false")
        args: list[str] = super().convert_item_to_command_line_arg(action, key, value)
        return args

    @property
    def keys(self) -> list[str]:
        """All keys that a file may have."""
        return [key for action in self._actions for key in self.get_possible_config_keys(action)]

    def parse_known_args(
        self,
        args: Sequence[str] | None = None,
        namespace: argparse.Namespace | None = None,
        config_file_contents: str | None = None,
        env_vars: Mapping[str, str] = os.environ,
        ignore_help_args: bool = False,
    ) -> tuple[argparse.Namespace, list[str]]:
        parsed: tuple[argparse.Namespace, list[str]] = super().parse_known_args(
            args, namespace, config_file_contents, self._by_first_names(env_vars), ignore_help_args
        )
        return parsed

    def _by_first_names(self, variables: Mapping[str, str]) -> dict[str, str]:
        """Rename variables to the first long name of their flag, the only one that the library looks for."""
        found = dict(variables)
        for action in self._actions:
            names = [self._prefix + key.replace("-", "_").upper() for key in self.get_possible_config_keys(action)]
            given = {name: variables[name] for name in names if name in variables}
            if len(set(given.values())) > 1:
                self.error(f"{' and '.join(given)} are the same setting with different values: keep one of them")
            if given:
                found[names[0]] = next(iter(given.values()))
        return found

    def parse_args(self, *args: Any, **settings: Any) -> argparse.Namespace:
        parsed, rest = self.parse_known_args(*args, **settings)
        if rest:
            self.error(self._unknown(rest))
        namespace: argparse.Namespace = parsed
        return namespace

    def given(self, words: Sequence[str]) -> dict[str, Any]:
        """The settings that these words name, and no others: no defaults, no variables, no file."""
        defaults = {action.dest: action.default for action in self._actions}
        for action in self._actions:
            action.default = argparse.SUPPRESS
        try:
            return vars(self.parse_args(list(words), env_vars={}))
        finally:
            for action in self._actions:
                action.default = defaults[action.dest]

    def _unknown(self, rest: list[str]) -> str:
        """The error message for words that no flag takes."""
        words = f"unrecognized arguments: {' '.join(rest)}"
        flag = next((word.partition("=")[0] for word in rest if word.startswith("-")), None)
        if flag is None:
            return words
        known = [name for name in self._option_string_actions if name.startswith("--") and "_" not in name]
        near = difflib.get_close_matches(flag, known, 1, 0.7)
        return f"there is no flag {flag}{f', did you mean {near[0]}?' if near else ''} ({words})"

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        """The flags that an unknown word may mean. `-t2` means `-t 2`, but `-ctk` does not mean `-c tk`.

        Nor does `-f` mean `-fa`.
        """
        if option_string[:2] != "--" and (len(option_string) == 2 or option_string[2:3].isalpha()):
            return []
        found: list[Any] = super()._get_option_tuples(option_string)
        return found

    def error(self, message: str) -> NoReturn:
        """Print one line. The usage text, with its many flags, would hide it."""
        self.exit(2, f"{self.prog}: error: {message} (--help lists every flag)\n")
        raise AssertionError("a program that has ended goes on")


class _File(configargparse.ConfigFileParser):  # type: ignore[misc]
    """Reads a flat YAML mapping with the keys of the parser. Raises ConfigFileParserException."""

    def __init__(self, parser: Parser) -> None:
        self._parser = parser

    def parse(self, stream: IO[str]) -> Mapping[str, Any]:
        name = stream.name
        settings: dict[str, Any] = {}
        known = self._parser.keys
        for key, value in _mapping(stream).items():
            plain = str(key).removeprefix("--").replace("_", "-")
            plain = plain if plain in known else str(key)
            if plain not in known:
                near = difflib.get_close_matches(plain, known, 1, 0.5)
                hint = f"did you mean {near[0]}?" if near else "its keys are the long flags without their dashes"
                raise configargparse.ConfigFileParserException(f"{name}: there is no setting {key!r}: {hint}")
            if isinstance(value, dict):
                raise configargparse.ConfigFileParserException(f"{name}: {key} holds settings of its own: it has none")
            if value is not None:
                settings[plain] = [str(one) for one in value] if isinstance(value, list) else str(value)
        return settings


class _AsWritten(yaml.SafeLoader):
    """Resolves only null and merged mappings. All other values stay text, because the flag decides what `on` means."""


_AsWritten.yaml_implicit_resolvers = {
    first: [(tag, words) for tag, words in resolvers if tag.rpartition(":")[2] in ("null", "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def why_no_yaml(error: Exception) -> str:
    """One line with the line of the file. The library's own words name streams and marks."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}: " if mark is not None else ""
    return where + " ".join(str(problem or error).split())


def _mapping(stream: IO[str]) -> Mapping[str, Any]:
    """The mapping in a YAML file, with values as text. Raises ConfigFileParserException."""
    try:
        items = yaml.load(stream, _AsWritten)
    except UnicodeDecodeError as error:
        raise configargparse.ConfigFileParserException(f"{stream.name}: {why_unread(error)}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise configargparse.ConfigFileParserException(f"{stream.name}: {why_no_yaml(error)}") from None
    if items is None:
        return {}
    if not isinstance(items, dict):
        raise configargparse.ConfigFileParserException(
            f"{stream.name}: it must hold lines such as ctx-size: 4096, a YAML mapping"
        )
    return items


def _open(path: str) -> IO[str]:
    return open(path, encoding="utf-8")  # noqa: PTH123 - errors name the path as it was given
