"""The part of a lock that some packages need, every file still by its sha256.

Run     python3 docker/part_of_lock.py requirements.lock prefect mlflow > part.lock
        python3 docker/part_of_lock.py requirements.lock --project pyproject.toml > part.lock     # all but `dev`

A lock says below each package what asked for it (`# via`); that, read from the other end, says what a package needs.
"""

import re
import sys
import tomllib
from pathlib import Path

NAME = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==")
PARENT = re.compile(r"^ +# +(?:via +)?([A-Za-z0-9._-]+)")


def part(lock: str, roots: set[str]) -> str:
    """Raises ValueError if one of `roots` is not in the lock."""
    texts, needs = _read(lock)
    if missing := sorted(roots - texts.keys()):
        raise ValueError(f"{', '.join(missing)}: not in the lock; add it to pyproject.toml and say `make lock`")
    wanted, due = set[str](), list(roots)
    while due:
        if (name := due.pop()) not in wanted:
            wanted.add(name)
            due += needs.get(name, ())
    return "".join(text for name, text in texts.items() if name in wanted)


def _read(lock: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The text of each package, in the order of the lock, and what each one needs."""
    texts, needs, name = dict[str, str](), dict[str, list[str]](), ""
    for line in lock.splitlines(keepends=True):
        if found := NAME.match(line):
            name = _plain(found[1])
            texts[name] = ""
        if name:
            texts[name] += line
            if (parent := PARENT.match(line)) and parent[1] != "via":
                needs.setdefault(_plain(parent[1]), []).append(name)
    return texts, needs


def _of_project(file: Path) -> set[str]:
    dependencies = tomllib.loads(file.read_text())["project"]["dependencies"]
    return {_plain(re.split(r"[^A-Za-z0-9._-]", each, maxsplit=1)[0]) for each in dependencies}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    lock, *names = sys.argv[1:]
    if "--project" in names:
        at = names.index("--project")
        names[at : at + 2] = sorted(_of_project(Path(names[at + 1])))
    try:
        sys.stdout.write(part(Path(lock).read_text(), {_plain(name) for name in names}))
    except ValueError as error:
        sys.exit(f"{lock}: {error}")


if __name__ == "__main__":
    main()
