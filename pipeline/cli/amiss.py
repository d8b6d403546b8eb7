"""A command line that can't be understood, as typer tells it, in the program's own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.base.errors import UserError

# Types of pydantic's errors, by which typer reads values -> what is allowed, with the limits that the error states.
_ALLOWED = {
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "bool_parsing": "true or false",
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
}
_CHOICE = " is not one of "


def told(error: Any) -> UserError:
    """`error`: typer's of the command line. What came, what is allowed, and which `--help` says more."""
    context = error.ctx
    see = f"`{context.command_path if context else 'cnncodes'} --help`"
    for problem in _problems(error):
        option, (came, allowed) = error.param.get_error_hint().strip("'"), _came(problem)
        return UserError(f"{option}: {came}", allowed=allowed, see=see)
    commands = list(getattr(context.command, "commands", {})) if context else []
    if error.message.startswith("No such command") and commands:
        return UserError(error.message.rstrip("."), allowed=commands, see=see)
    if getattr(error, "possibilities", None):
        return UserError(error.message, allowed=sorted(error.possibilities), see=see)
    return UserError(error.format_message().rstrip("."), see=see)


def _problems(error: Any) -> list[Mapping[str, Any]]:
    """What pydantic found wrong with a value, where that is the reason."""
    found = getattr(error.__cause__, "errors", None)
    return found()[:1] if callable(found) and getattr(error, "param", None) is not None else []


def _came(problem: Mapping[str, Any]) -> tuple[str, str]:
    """What came, and what is allowed."""
    if (allowed := _ALLOWED.get(problem["type"])) is not None:
        return f"{problem['input']!r}", allowed.format(**problem.get("ctx", {}))
    came, _, choices = problem["msg"].removeprefix("Value error, ").rstrip(".").partition(_CHOICE)
    return came, choices
