"""What `medseg audit` and `medseg signers` print for people."""

from typing import Any

from rich import box
from rich.table import Table

from flows.show import terminal


def verified(found: dict[str, Any]) -> None:
    statements = ", ".join(f"{name} {count}" for name, count in found["statements"].items()) or "none"
    if found["ok"]:
        print(f"All is as it was written and signed: {found['lines']} lines, {found['heads']} signed heads of them")
        print(f"Statements: {statements}")
    else:
        print(f"BROKEN: {found['first_broken']}")


def events(lines: list[dict[str, Any]]) -> None:
    """A line an event: long ones are whole in files and pipes."""
    for line in lines:
        told = ", ".join(f"{name} {_short(value)}" for name, value in line["facts"].items())
        print(f"{line['number']:>7}  {line['time'][:19]}  {line['event']:<14} {told}")


def people(found: list[dict[str, Any]]) -> None:
    table = Table("name", "role", "key", "in force", box=box.SIMPLE_HEAD)
    for each in found:
        state = "revoked" if each["revoked"] else "yes" if each["in_force"] else "not signed yet"
        table.add_row("\n".join(each["names"]), ", ".join(each["roles"]), each["fingerprint"], state)
    terminal().print(table)


def _short(value: Any) -> str:
    """A digest by its first characters."""
    if isinstance(value, list):
        return " ".join(_short(each) for each in value)
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else str(value)
