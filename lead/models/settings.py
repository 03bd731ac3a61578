"""The file that --models names: models by name, with llama-swap's keys where they fit."""

from __future__ import annotations

import argparse
import difflib
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from duo.errors import why_unread
from duo.program.config import Parser, why_no_yaml

LOAD_SECONDS = 600.0
"""A load that takes longer is given up, unless the file says otherwise."""

_TOP = ("models", "max_loaded", "globalTTL", "healthCheckTimeout", "hooks")
_MODEL = ("flags", "aliases", "ttl", "name", "description", "unlisted", "env")
LLAMA_SWAPS = {
    "cmd": "give the flags of `python -m lead` under flags, without the program and without ports",
    "groups": "max_loaded says how many models are loaded at once",
    "matrix": "max_loaded says how many models are loaded at once",
    "apiKeys": "a lead has --api-key and --api-key-file",
    "macros": "YAML's anchors and merges do as much",
    "sendLoadingState": "streams always say that a model is loading, in comments",
    "concurrencyLimit": "flags may hold --queue",
    "proxy": "the lead starts each model itself, on a port of its own",
    "logLevel": "a lead has --verbose",
}  # fmt: skip
"""Keys of llama-swap that a lead has not, and what it has instead."""

OF_THE_LEAD = frozenset(
    (
        *("models", "config", "alias", "metrics", "print_mode", "host", "port", "back_port", "announce"),
        *("cors_origin", "allowed_host", "api_key", "api_key_file", "token", "token_file", "insecure"),
        *("new_secrets", "tls_cert", "tls_key", "tls_ca", "head_timeout", "body_timeout", "keep_alive", "max_body"),
        *("max_connections", "max_connections_per_address", "max_backs", "max_message", "max_guesses"),
    )
)
"""Settings of the lead as a whole, which a model cannot have."""
OF_ONE_MODEL = ("model", "hf_repo", "hf_file", "alias", "trace")
"""Settings that cannot be meant for all models."""
_ENDING = ("-h", "--help", "--version", "--list-devices")


class SettingsError(ValueError):
    """A line of the file that makes no sense. The message names file, model and key."""


@dataclass(frozen=True)
class ModelSettings:
    """One model. `ttl`: seconds without a request after which it is put away; 0: never.

    args: all settings of its own lead, but for the network. title, description: for people, in lists.
    """

    name: str
    args: argparse.Namespace
    aliases: Sequence[str] = ()
    ttl: float = 0.0
    title: str = ""
    description: str = ""
    unlisted: bool = False
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """max_loaded: most models in memory at once. load_seconds: a longer load is given up. preload: loaded at start."""

    models: Sequence[ModelSettings]
    max_loaded: int = 1
    load_seconds: float = LOAD_SECONDS
    preload: Sequence[str] = ()

    def find(self, name: str) -> ModelSettings | None:
        """The model with this name or alias."""
        return next((model for model in self.models if name == model.name or name in model.aliases), None)


def read(path: str, args: argparse.Namespace, parser: Parser, model_parser: Parser) -> Settings:
    """The settings in the file. `args`: the lead's own flags, which hold for all models where they can.

    Ends the program with one line, as for a wrong flag, if something is wrong with file or flags.
    """
    for dest in OF_ONE_MODEL:
        if getattr(args, dest):
            flag = dest.replace("_", "-")
            parser.error(f"--{flag} is of one model: with --models, give it in that model's flags or leave it away")
    try:
        content = _content(path)
        return _settings(content, args, model_parser, path)
    except SettingsError as error:
        parser.error(f"--models {path}: {error}")


def _content(path: str) -> Mapping[str, Any]:
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), _Unique)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(why_unread(error)) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise SettingsError(why_no_yaml(error)) from None
    return _mapping(content, "it", "models: with a name and flags for each")


class _Unique(yaml.SafeLoader):
    """Takes no key twice: one of two models of the same name would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen and not key.tag.endswith(":merge"):
                    raise SettingsError(f"line {key.start_mark.line + 1}: {key.value} is there already")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _settings(content: Mapping[str, Any], args: argparse.Namespace, parser: Parser, path: str) -> Settings:
    _check_keys(content, _TOP, "")
    default_ttl = _seconds(content, "globalTTL", 0.0, "")
    given = _mapping(content.get("models"), "models", "a name and flags for each")
    if not given:
        raise SettingsError("models is empty: name at least one")
    models = []
    for key, value in given.items():
        name = _text(key, "the name of a model")
        where = f"models: {name}: "
        fields = _mapping({} if value is None else value, f"models: {name}", "flags: -m MODEL")
        _check_keys(fields, _MODEL, where)
        ttl = _seconds(fields, "ttl", default_ttl, where, unset=-1)
        models.append(
            ModelSettings(
                name=name,
                args=_args(fields.get("flags"), args, parser, f"--models {path}: {where}flags"),
                aliases=_texts(fields.get("aliases"), f"{where}aliases"),
                ttl=ttl,
                title=_text(fields.get("name", ""), f"{where}name", empty=True),
                description=_text(fields.get("description", ""), f"{where}description", empty=True),
                unlisted=_switch(fields, "unlisted", where),
                env=dict(_variables(fields.get("env"), f"{where}env")),
            )
        )
    _check_names(models)
    most = content.get("max_loaded", 1)
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise SettingsError(f"max_loaded is {most!r}: a whole number of at least 1 is needed")
    for model in models:
        model.args.memory_shares = min(most, len(models))
    settings = Settings(models, most, _seconds(content, "healthCheckTimeout", LOAD_SECONDS, "") or math.inf)
    preload = _preload(content.get("hooks"), settings)
    return Settings(models, most, settings.load_seconds, preload)


def _preload(hooks: object, settings: Settings) -> Sequence[str]:
    """llama-swap's place for models that are loaded at the start."""
    if hooks is None:
        return ()
    hooks = _mapping(hooks, "hooks", "on_startup:")
    _check_keys(hooks, ("on_startup",), "hooks: ")
    starting = _mapping(hooks.get("on_startup", {}), "hooks: on_startup", "preload:")
    _check_keys(starting, ("preload",), "hooks: on_startup: ")
    where = "hooks: on_startup: preload"
    names = []
    for name in _texts(starting.get("preload"), where):
        model = settings.find(name)
        if model is None:
            raise SettingsError(f"{where} names {name}, which is not under models")
        names.append(model.name)
    if len(set(names)) > settings.max_loaded:
        raise SettingsError(f"{where} names {len(set(names))} models, and max_loaded is {settings.max_loaded}")
    return tuple(dict.fromkeys(names))


def _args(given: object, args: argparse.Namespace, parser: Parser, where: str) -> argparse.Namespace:
    """The settings of a model's own lead: the flags in the file, and where it has none those of this lead."""
    try:
        words = shlex.split(given, comments=True) if isinstance(given, str) else _texts(given, where)
    except ValueError as error:
        _end(parser, where, f"{str(error).lower()}")
    if ending := [word for word in words if word in _ENDING]:
        _end(parser, where, f"{ending[0]} is for the command line")
    parser.prog = where
    # Only what the words say: defaults, variables and the file of --config are in `args` already.
    said = parser.given(words)
    for dest in said:
        if dest in OF_THE_LEAD:
            hint = "the name in the file is the alias" if dest == "alias" else "give it on the command line"
            _end(parser, where, f"--{dest.replace('_', '-')} is of the lead as a whole: {hint}")
    return argparse.Namespace(**{**vars(args), **said})


def _end(parser: Parser, where: str, what: str) -> NoReturn:
    parser.prog = where
    parser.error(what)


def _check_names(models: Sequence[ModelSettings]) -> None:
    taken = {model.name: model.name for model in models}
    for model in models:
        for alias in model.aliases:
            if alias in taken:
                raise SettingsError(
                    f"models: {model.name}: aliases: {alias} is a name of {taken[alias]} already: choose another"
                )
            taken[alias] = model.name


def _check_keys(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in given:
        if key in known:
            continue
        if key in LLAMA_SWAPS:
            raise SettingsError(f"{where}{key} is a key of llama-swap that a lead has not: {LLAMA_SWAPS[key]}")
        near = difflib.get_close_matches(str(key), known, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else f"its keys are {', '.join(known)}"
        raise SettingsError(f"{where}there is no key {key!r}: {hint}")


def _mapping(value: object, what: str, example: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        found = "is empty" if value is None else f"is {_short(value)}"
        raise SettingsError(f"{what} {found}: it must hold keys, such as {example}")
    return value


def _seconds(given: Mapping[str, Any], key: str, default: float, where: str, unset: float | None = None) -> float:
    value = given.get(key, default)
    if value == unset and unset is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise SettingsError(f"{where}{key} is {_short(value)}: a number of seconds is needed, and 0 means never")
    return float(value)


def _switch(given: Mapping[str, Any], key: str, where: str) -> bool:
    value = given.get(key, False)
    if not isinstance(value, bool):
        raise SettingsError(f"{where}{key} is {_short(value)}: true or false is needed")
    return value


def _text(value: object, what: str, empty: bool = False) -> str:
    text = str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    if text is None or not (text.strip() or empty):
        raise SettingsError(f"{what} is {_short(value)}: a text is needed")
    return text


def _texts(value: object, what: str) -> Sequence[str]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise SettingsError(f"{what} is {_short(value)}: a list is needed, such as [one, two]")
    return tuple(_text(one, what) for one in value)


def _variables(value: object, what: str) -> Iterator[tuple[str, str]]:
    for line in _texts(value, what):
        name, equals, content = line.partition("=")
        if not (equals and name.strip()):
            raise SettingsError(f"{what} has {_short(line)}: a line is NAME=value")
        yield name.strip(), content


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
