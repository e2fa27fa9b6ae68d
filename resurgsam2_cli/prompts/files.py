"""Prompt files: a CSV table, a JSON object, or the expressions of a data set."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.text import TooLargeError, composed, one_line, parse_json, read_text, shown
from resurgsam2_cli.prompts.expressions import expressions_in, is_expressions
from resurgsam2_cli.prompts.prompt import Prompt

_HINT = 'expected CSV with the columns video,text,label, or JSON {"video": ["left grasper", "kidney"]}'
_DELIMITERS = ",;\t"


@dataclass
class PromptFile:
    """Prompts by the name of their video, and which of the names were asked for."""

    path: Path
    rows: list[tuple[str, Prompt]]
    """In the order of the file."""
    _used: set[str] = field(default_factory=set)

    def prompts_of(self, names: Iterable[str]) -> tuple[Prompt, ...]:
        """The prompts of a video that goes by any of ``names``, in the order of the file, each once."""
        keys = {_key(x) for x in names}
        found = dict.fromkeys(prompt for name, prompt in self.rows if _key(name) in keys)
        self._used |= keys
        return tuple(found)

    def unmatched(self) -> list[str]:
        """Names that no video had so far, in the order of the file."""
        return list(dict.fromkeys(name for name, _ in self.rows if _key(name) not in self._used))


def _key(name: str) -> str:
    """A name, normalised where people write it in different ways."""
    return composed(str(PurePosixPath(one_line(name).replace("\\", "/"))))


def read_prompts(path: Path) -> PromptFile:
    """Read a prompt file. A text is taken as it stands, even with ``=`` in it. Raises :class:`InputError`."""
    try:
        text = read_text(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})", "check the path") from error
    except UnicodeError as error:
        raise InputError(
            f"{path}: is not a text in UTF-8 or UTF-16", "save it as UTF-8; Excel calls that 'CSV UTF-8'"
        ) from error
    except TooLargeError as error:
        raise InputError(f"{path}: is too large ({error})", "check the path") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}", _HINT) from error
    if path.suffix.lower() == ".json" or (path.suffix.lower() != ".csv" and text.lstrip()[:1] in "{["):
        rows = _json_rows(path, text)
    else:
        rows = _csv_rows(path, text)
    if not rows:
        raise InputError(f"{path}: has no prompts", _HINT)
    return PromptFile(path, rows)


def _json_rows(path: Path, text: str) -> list[tuple[str, Prompt]]:
    try:
        content = parse_json(text, unique_names=True)  # otherwise the prompts of a repeated name would be lost
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON ({error})", _HINT) from error
    if is_expressions(content):
        table = expressions_in(path, content)
        return [(name, Prompt(x.text, x.text)) for name, expressions in table.items() for x in expressions]
    if not isinstance(content, dict):
        raise InputError(f"{path}: is not an object of prompts by video", _HINT)
    rows = []
    for name, texts in content.items():
        if not isinstance(texts, list) or not all(isinstance(x, str) and one_line(x) for x in texts):
            raise InputError(f"{path}: {shown(name)} does not have a list of texts", _HINT)
        rows += [(one_line(name), Prompt(one_line(x), one_line(x))) for x in texts]
    return rows


def _csv_rows(path: Path, text: str) -> list[tuple[str, Prompt]]:
    lines = text.splitlines()
    first = next((x for x in lines if x.strip(_DELIMITERS + " ")), "")
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: dict[str, int] = {}
    width = 0
    rows = []
    try:
        for cells in reader:
            cells = [one_line(x) for x in cells]
            if not any(cells):
                continue
            if (not columns and cells[0].lower() == "sep=") or cells[0].lower() in {f"sep={x}" for x in _DELIMITERS}:
                continue  # this tells Excel the delimiter
            if not columns:
                names = [x.lower() for x in cells]
                columns = {x: i for i, x in enumerate(names)}
                if not {"video", "text"} <= columns.keys():
                    raise InputError(
                        f"{path}: has no columns video and text",
                        "the first line must name the columns: video,text,label",
                    )
                if twice := [x for x in ("video", "text", "label") if names.count(x) > 1]:
                    raise InputError(f"{path}: has two columns {twice[0]}", "take one of them out")
                width = len(cells)
                continue
            if any(cells[width:]):
                raise InputError(
                    f"{path}, line {reader.line_num}: has {len(cells)} cells where the first line has {width}",
                    'a text with a comma in it stands in quotes: op1,"blunt, curved scissors",scissors',
                )
            video, wanted, label = (
                cells[columns[x]] if x in columns and columns[x] < len(cells) else ""
                for x in ("video", "text", "label")
            )
            if not video or not wanted:
                raise InputError(
                    f"{path}, line {reader.line_num}: has no video or no text", "fill it in, or take the line out"
                )
            rows.append((video, Prompt(wanted, label or wanted)))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: is not CSV ({error})", _HINT) from error
    return rows
