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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

INSIDE = ("task", "client")  # given by the run, no settings


class WrongCall(ValueError):
    """A call that cannot mean anything: the command ends with 2."""


@dataclass(frozen=True)
class AtLeast:
    """Check of a number: not below a limit, or only above it.

    Attributes
    ----------
    limit : float
    above : bool
        The limit itself is refused, too.
    """

    limit: float
    above: bool = False

    def __call__(self, value: float) -> None:
        """Raise a ValueError unless the number is large enough, and finite."""
        if not self.limit <= value < float("inf") or (self.above and value == self.limit):
            least = "above" if self.above else "not below"
            raise ValueError(f"give a number {least} {self.limit:g}")


@dataclass(frozen=True)
class Exactly:
    """Check of a list: so many numbers, each of which may have a check of its own.

    Attributes
    ----------
    n : int
    words : str
        "numbers, of the fast and of the slow camera".
    each : callable, optional
    """

    n: int
    words: str
    each: Callable[[Any], None] | None = None

    def __call__(self, values: Sequence[Any]) -> None:
        """Raise a ValueError unless there are so many, and each is right."""
        right = len(values) == self.n
        if right and self.each is not None:
            try:
                for value in values:
                    self.each(value)
            except ValueError:
                right = False
        if not right:
            raise ValueError(f"give {self.n} {self.words}")


def there(path: Path) -> None:
    """Raise a FileNotFoundError unless the file of a setting exists."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: check the name and the folder")


positive = AtLeast(0, above=True)
Positive = Annotated[float, positive]
NotNegative = Annotated[float, AtLeast(0)]
Count = Annotated[int, AtLeast(1)]
File = Annotated[Path, there]


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
    checks : tuple of callable
        Each raises a ValueError that says what to give, or an OSError.
    """

    name: str
    kind: type
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    many: bool = False
    checks: tuple[Callable[[Any], None], ...] = ()

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


NOTHING = inspect.Parameter.empty
COMMON = (  # of every job
    Setting("files", Path, NOTHING, "", many=True),
    Setting("out", Path, NOTHING, "Folder of the results; each file gets a folder of its name."),
    Setting("resume", bool, True, "Take what is done, and go on where a stopped call was."),
    Setting(
        "workers",
        int,
        0,
        "Processes that work side by side, on {} of a file; 0 is this one alone.",
        checks=(AtLeast(0),),
    ),
    Setting(
        "scheduler",
        str,
        None,
        "Address of a Dask scheduler whose workers do the work; they must see files and out.",
    ),
    Setting("device", str, None, "cpu, cuda or mps; left out, the best one."),
)


class Job:
    """A function from a file to files, with what its signature and docstring say.

    Parameters
    ----------
    function : callable
        ``function(task, *, **settings)``: all annotated, with a numpydoc section Parameters, in
        which `task` tells of the file. It gives an `Outcome`. A function that also takes `client`
        spreads the chunks of its file itself; of the others, files are done side by side.
    judge : callable, optional
        ``judge(path, settings)`` gives what one input says of the settings: "field", its name, and
        "found", a sentence or None. Or an empty dict, where there is nothing to be judged.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        judge: Callable[[Path, Mapping[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self.function, self.judge = function, judge
        self.name = function.__name__.strip("_").replace("_", "-")
        doc = inspect.getdoc(function) or ""
        self.summary = doc.splitlines()[0]
        helps = _parameters(doc)
        self.by_chunks = "client" in inspect.signature(function).parameters
        common = {setting.name: setting for setting in COMMON}
        common["files"] = replace(common["files"], help=helps["task"])
        told = common["workers"].help
        told = told.format("chunks") if self.by_chunks else told.replace(", on {} of a file", "")
        common["workers"] = replace(common["workers"], help=told)
        self.common = tuple(common)
        first = [common.pop("files"), common.pop("out")]
        self.settings = (*first, *_settings(function, helps), *common.values())

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

    def verify(self, settings: Mapping[str, Any]) -> None:
        """Check values that have the right type, before any work.

        Parameters
        ----------
        settings : mapping
            As `check` gives them.

        Raises
        ------
        WrongCall
            A value that cannot be used.
        OSError
            A file that is not there.
        """
        for setting in self.settings:
            value = settings[setting.name]
            if value is None:
                continue
            for check in setting.checks:
                try:
                    check(value)
                except ValueError as error:
                    raise WrongCall(f"{setting.name} is {value}: {error}") from error

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

    def add_to(self, parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
        """Add the options of the job to the parser of a command; gives the group of all jobs.

        Parameters
        ----------
        parser : argparse.ArgumentParser
        """
        files = parser.add_argument_group("files")
        own = parser.add_argument_group(f"options of {self.name}")
        common = parser.add_argument_group("options of every job")
        for setting in self.settings:
            text = setting.help.replace("%", "%%")
            options: dict[str, Any] = {"help": text}
            flag = f"--{setting.name.replace('_', '-')}"
            group = common if setting.name in self.common else own
            if setting.name == "files":
                files.add_argument("files", nargs="+", type=Path, metavar="FILE", **options)
                continue
            if setting.kind is bool:
                options |= {"action": argparse.BooleanOptionalAction, "default": setting.default}
                group.add_argument(
                    flag, **options
                ).help = f"{text} (default: {'yes' if setting.default else 'no'})"
                continue
            if not setting.needed and setting.default not in (None, [], ()):
                options["help"] += f" (default: {setting.default})"
            options |= {"required": setting.needed, "type": setting.kind}
            options["metavar"] = setting.kind.__name__.upper()
            if setting.choices:
                options |= {"choices": setting.choices, "metavar": None}
            if setting.many:
                options["nargs"] = "+"
            group.add_argument(flag, default=argparse.SUPPRESS, **options)
        return common


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


def _settings(function: Callable[..., Any], helps: Mapping[str, str]) -> tuple[Setting, ...]:
    hints = typing.get_type_hints(function, localns={"Client": object}, include_extras=True)
    settings = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in INSIDE:
            settings.append(
                Setting(name, default=parameter.default, help=helps[name], **_kind(hints[name]))
            )
    return tuple(settings)


def _kind(hint: Any) -> dict[str, Any]:
    """Type, choices, checks and "a list of them" of an annotation."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        inner, *checks = typing.get_args(hint)
        return _kind(inner) | {"checks": tuple(checks)}
    if origin in (typing.Union, types.UnionType):
        (inner,) = (h for h in typing.get_args(hint) if h is not types.NoneType)
        return _kind(inner)
    if origin is typing.Literal:
        return {"kind": str, "choices": typing.get_args(hint)}
    if origin is list:
        return _kind(typing.get_args(hint)[0]) | {"many": True}
    return {"kind": hint}


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
