"""A job, read from the signature and the docstring of its function."""

from __future__ import annotations

import argparse
import difflib
import inspect
import json
import re
import textwrap
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMON = ("files", "out", "resume", "device")  # every job has them
INSIDE = ("progress", "report")  # of the command, not of the work


class WrongCall(ValueError):
    """A call that cannot mean anything: the command ends with 2."""


@dataclass(frozen=True)
class Setting:
    """One argument of a job.

    Attributes
    ----------
    name : str
    kind : type
        str, int, float, bool or Path.
    default : Any
        `inspect.Parameter.empty` where it must be given.
    help : str
    choices : tuple of str
    many : bool
        A list of such values.
    """

    name: str
    kind: type
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    many: bool = False

    @property
    def needed(self) -> bool:
        """True if there is no default."""
        return self.default is inspect.Parameter.empty

    def parsed(self, value: Any) -> Any:
        """A value of a TOML file or of the command, as the function takes it."""
        if self.many:
            if not isinstance(value, list | tuple):
                raise WrongCall(f"{self.name} is {value!r}: give a list")
            return [self._one(v) for v in value]
        return None if value is None else self._one(value)

    def _one(self, value: Any) -> Any:
        right = isinstance(value, self.kind) and not (
            isinstance(value, bool) and self.kind is not bool
        )
        if self.kind is Path and isinstance(value, str):
            return Path(value)
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not right:
            raise WrongCall(f"{self.name} is {value!r}: give a value of type {self.kind.__name__}")
        if self.choices and value not in self.choices:
            raise WrongCall(f"{self.name} is {value!r}: use {', '.join(self.choices)}")
        return value


class Job:
    """A function from files to files with what its signature and docstring say.

    Parameters
    ----------
    function : callable
        ``function(files, out, *, resume, device, progress, report, **settings)``: all annotated,
        with a numpydoc section Parameters. It reports one dict a result and gives the number of
        inputs that failed.
    """

    def __init__(self, function: Callable[..., int]) -> None:
        self.function = function
        self.name = function.__name__.strip("_").replace("_", "-")
        doc = inspect.getdoc(function) or ""
        self.summary = doc.splitlines()[0]
        self.settings = _settings(function, _parameters(doc))

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Check names and types of the settings; gives all of them, defaults included.

        Parameters
        ----------
        given : mapping
            As from a TOML file.

        Raises
        ------
        WrongCall
            An unknown name, with the nearest known one; a wrong type; one that is missing.
        """
        known = {setting.name: setting for setting in self.settings}
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1, 0.5)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                raise WrongCall(f"{self.name} has no setting {name!r}: {hint}")
        missing = [s.name for s in self.settings if s.needed and given.get(s.name) in (None, [])]
        if missing:
            raise WrongCall(f"{self.name} needs {', '.join(missing)}")
        return {
            name: setting.parsed(given[name]) if name in given else setting.default
            for name, setting in known.items()
        }

    def read(self, path: Path) -> dict[str, Any]:
        """Read and check the settings of a TOML file; its relative paths start at its folder.

        Parameters
        ----------
        path : Path

        Raises
        ------
        WrongCall
            No TOML, or see `check`.
        """
        given = read_toml(path)
        given.pop("job", None)
        settings = self.check(given)
        for setting in self.settings:
            value = settings[setting.name]
            if setting.kind is Path and value is not None:
                values = [path.parent / v for v in (value if setting.many else [value])]
                settings[setting.name] = values if setting.many else values[0]
        return settings

    def toml(self, settings: Mapping[str, Any] | None = None) -> str:
        """Settings as a commented TOML file; the defaults if left out.

        Parameters
        ----------
        settings : mapping, optional
        """
        lines = [f"# {self.summary}", f"job = {json.dumps(self.name)}"]
        for setting in self.settings:
            text = f"{setting.help} Must be set." if setting.needed else setting.help
            lines += ["", *(f"# {line}" for line in textwrap.wrap(text, 77))]
            if setting.choices:
                lines.append(f"# One of {', '.join(setting.choices)}.")
            value = setting.default if settings is None else settings[setting.name]
            if value is inspect.Parameter.empty:
                examples: dict[type, Any] = {Path: "FILE", str: "..."}
                example = examples.get(setting.kind, 0)
                value = [example] if setting.many else example
            start = "# " if value is None else ""
            if start:
                empty: dict[type, Any] = {float: 0.0, int: 0}
                value = [] if setting.many else empty.get(setting.kind, "")
            lines.append(f"{start}{setting.name} = {_toml(value)}")
        return "\n".join(lines) + "\n"

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of the job to the parser of a command.

        Parameters
        ----------
        parser : argparse.ArgumentParser
        """
        for setting in self.settings:
            text = setting.help.replace("%", "%%")
            options: dict[str, Any] = {"help": text}
            flag = f"--{setting.name.replace('_', '-')}"
            if setting.name == "files":
                parser.add_argument("files", nargs="+", type=Path, metavar="FILE", **options)
                continue
            if setting.kind is bool:
                options |= {"action": argparse.BooleanOptionalAction, "default": setting.default}
                parser.add_argument(flag, **options)
                continue
            if not setting.needed and setting.default not in (None, [], ()):
                options["help"] += f" (default: {setting.default})"
            options |= {"required": setting.needed, "type": setting.kind}
            options["metavar"] = setting.kind.__name__.upper()
            if setting.choices:
                options |= {"choices": setting.choices, "metavar": None}
            if setting.many:
                options["nargs"] = "+"
            parser.add_argument(flag, default=argparse.SUPPRESS, **options)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file, or raise a `WrongCall`.

    Parameters
    ----------
    path : Path
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WrongCall(f"{path} cannot be read ({error.strerror}): check the name") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WrongCall(f"{path} is no TOML: {error}") from error


def _settings(function: Callable[..., int], helps: Mapping[str, str]) -> tuple[Setting, ...]:
    hints = typing.get_type_hints(function)
    settings = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in INSIDE:
            continue
        kind, choices, many = _kind(hints[name])
        settings.append(Setting(name, kind, parameter.default, helps[name], choices, many))
    return tuple(settings)


def _kind(hint: Any) -> tuple[type, tuple[str, ...], bool]:
    """Type, choices and "a list of them" of an annotation."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        (inner,) = (h for h in typing.get_args(hint) if h is not types.NoneType)
        return _kind(inner)
    if origin is typing.Literal:
        return str, typing.get_args(hint), False
    if origin is list:
        return typing.get_args(hint)[0], (), True
    return hint, (), False


def _parameters(doc: str) -> dict[str, str]:
    """Text of each parameter in the section of a numpydoc docstring."""
    section = re.search(r"Parameters\n-+\n(.*?)(\n\n\w+\n-+\n|\Z)", doc, re.S)
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section[1].splitlines() if section else []:
        head = re.match(r"([\w, ]+) : ", line)
        if head:
            names = head[1].split(", ")
            found |= dict.fromkeys(names, "")
        else:
            for name in names:
                found[name] = f"{found[name]} {line.strip()}".replace("`", "").strip()
    return found


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
