"""Hostile configs: shipped ones, changed in structure, in YAML's own constructs, and byte by byte."""

from __future__ import annotations

import copy
from pathlib import Path
from random import Random
from typing import Any

import yaml

from noisesmith.pipeline.config import METHODS, RunConfig, dump_config

SHIPPED = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
# Paths stay below the folder of the case, or where not even root can write.
TEXTS = (
    "", " ", "\0", "a\0b", "\n", "two\nlines", "\x1b[31mred", "\u202eabc", "é", "猫", "😀", "\ufeff", "\u2028",
    "x" * 5000,
    "[/bold]", "[bold]", "[link=x]", ":smile:", "{prompt}", "{", "{prompt.__class__}", "{0}", "%s", "%(x)s", "$HOME",
    "yes", "no", "null", "~", "auto", "embedded", "embedded/judge", "embedded/simple", "embedded/complex", "embedded/",
    "../..", ".", "/", "/proc/self/mem", "/proc/none/run", "/dev/null", "/dev/zero", "~nobody-here/x", "a/b", "a/b/c",
    "x.safetensors", "x.ckpt", "p.txt", "p.jsonl", "p.csv", "p.parquet", "config.yaml", "folder", "name:tag", "con",
    "http://", "http://[", "http://127.0.0.1:1/v1", "https://user:key@127.0.0.1:1/v1", "file:///etc/passwd",
    "prompt", "score", "train", "fp16", "PATH", "sk-1234", "1e3", "0x10", "12_3", "2001-01-01", "1:2:3", "!!int x",
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 3, 7, 8, 16, 64, 100, 999, 1000, 4096, 4097, 100_000, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 10**30,
    -(2**63), 0.0, -0.0, 0.5, 1.0, -0.5, 1.5, 1e-300, 1e300, 1e308, float("inf"), float("-inf"), float("nan"),
)  # fmt: skip
RAW = (
    "!!python/object/apply:os.system ['touch pwned']", "!!python/name:os.system", "!!python/tuple [1, 2]", "!x y",
    "!!binary aGFsbG8=", "!!set {a, b}", "!!omap [a: 1]", "!!timestamp 2001-01-01", "2001-01-01", "2001-12-14t21:59:43",
    "2001-13-45", "9999-99-99", "1:59:59:59", "190:20:30.15", "0x" + "f" * 6000, "1" + "0" * 5000, "-0b1", "0o7",
    "1e999", ".nan", "-.inf", "&a [*a]", "&a {a: *a}", "*nowhere", "&b [&c [x, x], *c]", "!!str 3", "!!int '3'",
    "!!null x", "!!float nan", "{? [a, b] : c}", "{? {a: b} : c}", "{1: 2}", "{null: 1}", "{.nan: 1}", '"\\ud800"',
    '"\\0"', '"\\e[31m"',
    "'", '"', "[", "{", "|", ">-", "%", "@", "`", "- - -", "? :", "---", "...", "<<: 3", "{<<: [1]}", "!!merge x",
    "[" * 60 + "]" * 60, "[" * 2000 + "]" * 2000, "{a: " * 400 + "1" + "}" * 400, "\t", "#", "a: b: c", "\x07", "\x85",
    "{a: &l1 [x, x, x, x, x, x, x, x, x, x], b: &l2 [*l1, *l1, *l1, *l1, *l1, *l1, *l1, *l1, *l1, *l1], "
    "c: &l3 [*l2, *l2, *l2, *l2, *l2, *l2, *l2, *l2, *l2, *l2], d: &l4 [*l3, *l3, *l3, *l3, *l3, *l3, *l3, *l3, *l3], "
    "e: &l5 [*l4, *l4, *l4, *l4, *l4, *l4, *l4, *l4, *l4], f: &l6 [*l5, *l5, *l5, *l5, *l5, *l5, *l5, *l5, *l5], "
    "g: [*l6, *l6, *l6, *l6, *l6, *l6, *l6, *l6, *l6, *l6, *l6, *l6, *l6, *l6, *l6, *l6, *l6, *l6, *l6, *l6]}",
)  # fmt: skip
BYTES = (
    b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\r", b"\r\n", b"\n", b"\n\n", b"\t", b" ", b"\x1b[31m", b"\x7f",
    b"'", b'"', b'""', b",", b":", b"{", b"}", b"[", b"]", b"&a ", b"*a", b"!!", b"\xc3", b"\xed\xa0\x80",
    b"\xe2\x80\xa8", b"\xc2\x85", b"\\", b"\\u0000", b"\\ud800", b"NaN", b"-", b"1e999", b"null", b"PAR1",
    b"ARROW1", b"0" * 400,
)  # fmt: skip


def plain_config(random: Random, local: bool) -> dict[str, Any]:
    """A shipped config, as it is or with every field written out; with ``local``, on models that are here."""
    config: dict[str, Any] = yaml.safe_load(random.choice(SHIPPED).read_text())
    config["output"] = {"dir": "run", "rows_per_shard": random.choice((1, 8, 1000))}
    if local:
        config["generators"] = {"model": "embedded", "num_cpus": 0.5, "steps": 4}
        config["scorers"] = {"model": "embedded", "num_cpus": 0.5}
        config["optimizer"] = {"method": random.choice(METHODS)}
    corpus = config["corpus"] if isinstance(config["corpus"], list) else [config["corpus"]]
    for section in corpus:
        section["size"] = min(section["size"], 20)
    if random.random() < 0.5:
        config = yaml.safe_load(dump_config(RunConfig.model_validate(config)))
    return config


def mutated_config(random: Random, config: dict[str, Any]) -> bytes:
    """The YAML text of a config with one to four changes of structure, and now and then some of its bytes."""
    config = copy.deepcopy(config)
    raws: dict[str, str] = {}
    for _ in range(random.choice((1, 1, 1, 1, 2, 4))):
        if not config:
            break
        owner, key = random.choice(list(places(config)))
        match random.randrange(12):
            case 0:
                del owner[key]
            case 1:
                owner[key] = value(random)
            case 2 | 3:
                mark = f"@{len(raws)}@"
                raws[mark], owner[key] = random.choice(RAW), mark
            case 4:
                other, place = random.choice(list(places(config)))
                owner[key] = copy.deepcopy(other[place])
            case 5:
                owner[key] = random.choice(([owner[key]], {"a": owner[key]}, [owner[key]] * 3, str(owner[key])))
            case 6 if isinstance(owner, dict):
                owner[random.choice((f"{key}s", str(key)[1:], str(key).upper(), *TEXTS))] = owner[key]
            case _:
                owner[key] = alike(random, owner[key])
    text = yaml.safe_dump(config, allow_unicode=random.random() < 0.5, default_flow_style=random.random() < 0.2)
    for mark, raw in raws.items():
        text = text.replace(f"'{mark}'", raw)
    if random.random() < 0.05:
        text += random.choice(text.splitlines() or [""]) + "\n"  # a key twice
    content = text.encode("utf-8", "surrogatepass")
    return mutated_bytes(random, content) if random.random() < 0.1 else content


def places(tree: Any) -> Any:
    """Every (owner, key) of a tree of dicts and lists."""
    for key, item in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(item, dict | list):
            yield from places(item)


def alike(random: Random, old: Any) -> Any:
    """A value of the same type."""
    if isinstance(old, bool):
        return not old
    if isinstance(old, int):
        return random.choice((old + 1, old * 8, -old, *(number for number in NUMBERS if isinstance(number, int))))
    if isinstance(old, float):
        return random.choice((old / 2, old * 3, -old, *NUMBERS))
    return random.choice((f"{old}x", old[1:], old.upper(), *TEXTS)) if isinstance(old, str) else value(random)


def value(random: Random, depth: int = 0) -> Any:
    """Any value at all, most often an extreme one."""
    match random.randrange(8 if depth < 3 else 6):
        case 0 | 1:
            return random.choice(TEXTS)
        case 2 | 3:
            return random.choice(NUMBERS)
        case 4:
            return random.choice((None, True, False))
        case 5:
            return random.choice((random.choice(METHODS), "ddim", "float16", "parquet", random.randint(-5, 200)))
        case 6:
            return [value(random, depth + 1) for _ in range(random.randint(0, 3))]
    return {random.choice(TEXTS): value(random, depth + 1) for _ in range(random.randint(0, 3))}


def mutated_bytes(random: Random, content: bytes) -> bytes:
    """A file's content with up to six changes of its bytes."""
    data = bytearray(content)
    for _ in range(random.randint(1, 6)):
        start = random.randrange(len(data) + 1)
        stop = min(len(data), start + random.choice((1, 1, 4, 40, 1000)))
        match random.randrange(6):
            case 0:
                data[start:start] = random.choice(BYTES)
            case 1:
                del data[start:stop]
            case 2:
                data[start:stop] = random.randbytes(stop - start)
            case 3:
                data[start:start] = data[start:stop]
            case 4 if start < len(data):
                data[start] ^= 1 << random.randrange(8)
            case 5 if random.random() < 0.3:
                del data[start:]
    return bytes(data)


def override(random: Random) -> str:
    """A ``key=value`` argument."""
    keys = (
        "seed", "corpus.0.source", "corpus.size", "generators.steps", "output.dir", "optimizer.preview.steps", "a..b",
        "corpus.x.size", "corpus.9.size", "judges.0", "name", "", ".", "scorers.question", "ray.address", "é.x",
    )  # fmt: skip
    text = random.choice((str(value(random)), random.choice(RAW), yaml.safe_dump(value(random)).strip()))
    return f"{random.choice(keys)}={text}".replace("\0", "")
