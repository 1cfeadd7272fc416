"""What doctor and backup print for people."""

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from flows.show import terminal


def checks(content: dict[str, Any]) -> None:
    table = Table("check", "found", "remedy", box=box.SIMPLE_HEAD)
    for check in content["checks"]:
        name = Text(f"{'ok ' if check['ok'] else 'NOT'} {check['name']}", style="green" if check["ok"] else "red")
        table.add_row(name, Text(check["found"]), Text(check["remedy"]))
    terminal().print(table)


def kept(content: dict[str, Any]) -> None:
    size, new = (f"{content[name] / 1e6:,.1f} MB" for name in ("bytes", "new_bytes"))
    print(f"{content['folder']}: {content['files']} files, {size}, of which {new} are new")
