"""Names of folders and files that a path may hold, and that no shell, pattern, URL or text may read as its own."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

ODD = (
    "it's", 'a "b"', "'quoted'", "a #b", "#5", "a: b", "a:b", "{x: y}", "{1..3}", "[1]", "a[b", "a]b", "a?b", "a*b",
    "**", "a::b", "back\\slash", "tab\there", "new\nline", "\x1b[31mred", "$HOME", "${ABSENT}", "$(touch pwned)", "`x`",
    "100%", "%41", "%s", "naïve", "no\xa0break", "\u202eabc", "😀", "-lead", "--out", " lead", "trail ", "a,b", "a;b&c",
    "!x", "&x", "*x", "yes", "null", "1e3", "2001-01-01", "~", "~x", "x~", "json", "parquet", "s3:", ".hidden", "...",
    "x.csv", "train", "x" * 200, "<b>", "[bold]", "=cmd()", "a@b", "a=b",
)  # fmt: skip


def odd_path(random: Random) -> str:
    """A relative path of one or two odd names; a leading ``~`` is most often that of a folder's own name."""
    parts = random.sample(ODD, random.choice((1, 1, 2)))
    path = "/".join(parts)
    return f"./{path}" if random.random() < 0.5 else path


def move_corpus(random: Random, source: str) -> str:
    """Move a corpus into a folder with an odd name; returns its path as a config names it."""
    folder = Path(odd_path(random))  # a Path knows no ~ but the folder's own
    folder.mkdir(parents=True, exist_ok=True)
    Path(source).rename(folder / source)
    return f"./{folder / source}"


def set_output(random: Random, config: dict[str, Any], arguments: list[str]) -> None:
    """Name the run directory by an odd path: in the config, by an override or by the option."""
    path = odd_path(random)
    match random.randrange(3):
        case 0:
            config["output"] = config["output"] | {"dir": path}
        case 1:
            arguments.append(f"output.dir={path}")
        case 2:
            arguments.extend(("--out", path))
