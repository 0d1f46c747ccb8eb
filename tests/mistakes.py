"""Mistakes that a user can make in a config, a corpus, a model or on the command line, by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Break = Callable[[Path, dict[str, Any]], "list[str] | None"]


def _corpus(name: str, data: bytes | str, **options: object) -> Break:
    """The corpus is a file of the given content."""

    def apply(folder: Path, config: dict[str, Any]) -> None:
        path = folder / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        config["corpus"] = [{"source": str(path), **options}]

    return apply


def _set(section: str, **values: object) -> Break:
    """Fields of a section take other values."""

    def apply(folder: Path, config: dict[str, Any]) -> None:
        config[section] = config.get(section, {}) | values

    return apply


def _top(**values: object) -> Break:
    """Top-level keys take other values."""
    return lambda folder, config: config.update(values)


def _both(first: Break, second: Break) -> Break:
    return lambda folder, config: [*(first(folder, config) or []), *(second(folder, config) or [])]


def _arguments(*arguments: str) -> Break:
    """The command line has more on it."""
    return lambda folder, config: list(arguments)


def _model(section: str, change: Callable[[Path], object]) -> Break:
    """The section's model is a copy that was damaged."""

    def apply(folder: Path, config: dict[str, Any]) -> None:
        copy = folder / f"{section}-copy"
        shutil.copytree(config[section]["model"], copy)
        change(copy)
        config[section]["model"] = str(copy)

    return apply


def _index(filename: str, **values: object) -> Callable[[Path], object]:
    def change(copy: Path) -> None:
        content = json.loads((copy / filename).read_text()) | values
        (copy / filename).write_text(json.dumps(content))

    return change


def _occupied(folder: Path, config: dict[str, Any]) -> None:
    (folder / "occupied").mkdir()
    (folder / "occupied" / "thesis.txt").write_text("mine")
    config["output"]["dir"] = str(folder / "occupied")


def _under_a_file(folder: Path, config: dict[str, Any]) -> None:
    (folder / "file").write_text("")
    config["output"]["dir"] = str(folder / "file" / "run")


def _without_corpus(folder: Path, config: dict[str, Any]) -> None:
    del config["corpus"]


def _swap_models(folder: Path, config: dict[str, Any]) -> None:
    config["generators"]["model"], config["scorers"]["model"] = (
        config["scorers"]["model"],
        config["generators"]["model"],
    )


CASES: dict[str, tuple[Break, str]] = {
    "a threshold above 1": (_set("accept", score=2), "accept.score: must be less than or equal to 1"),
    "a threshold for a judge that is not there": (
        _set("accept", judges={"gone": 0.5}), "accept.judges.gone: the run has no judge of this name",
    ),
    "a threshold for first images": (_set("accept", judges={"j_initial": 0.5}), "accept.judges.j_initial"),
    # corpus
    "missing corpus file": (_top(corpus=[{"source": "nowhere/prompts.txt"}]), "nowhere/prompts.txt"),
    "empty corpus": (_corpus("p.txt", ""), "p.txt"),
    "blank line": (_corpus("p.txt", "a cat\n   \na dog\n"), "line 2"),
    "empty prompt in JSONL": (_corpus("p.jsonl", '{"prompt": "a cat"}\n{"prompt": ""}\n'), "line 2"),
    "prompt of 10,000 characters": (_corpus("p.txt", "a cat\n" + "x" * 10_000), "10000 characters"),
    "non-UTF-8 bytes": (_corpus("p.txt", b"a cat\na \xff dog\n"), "UTF-8"),
    "NUL in a prompt": (_corpus("p.txt", b"a cat\na\x00dog\n"), "line 2"),
    "bad JSON line": (_corpus("p.jsonl", '{"prompt": "a cat"}\n{"prompt": \n'), "line 2"),
    "JSON line that is no object": (_corpus("p.jsonl", '["a cat"]\n'), "line 1"),
    "column that is not there": (_corpus("p.csv", "text,n\na cat,1\n"), "text"),
    "prompt that is a number": (_corpus("p.jsonl", '{"prompt": 3}\n'), "prompt"),
    "ragged CSV": (_corpus("p.csv", "prompt,n\na cat,1\na dog,2,3\n"), "p.csv"),
    "column that would clash": (_corpus("p.jsonl", '{"prompt": "a cat", "score": 1}\n'), "score"),
    "corrupt Parquet": (_corpus("p.parquet", b"PAR1 not really"), "p.parquet"),
    "unknown extension": (_corpus("p.docx", "a cat"), "p.docx"),
    "unknown grammar": (_top(corpus=[{"source": "embedded/sonnets", "size": 3}]), "embedded/sonnets"),
    "grammar without size": (_top(corpus=[{"source": "embedded/simple"}]), "size"),
    "no corpus": (_top(corpus=[]), "corpus: is required"),
    "no corpus section": (_without_corpus, "corpus: is required"),
    "size beyond any run": (_top(corpus=[{"source": "embedded/simple", "size": 2**70}]), "corpus.0: size"),
    "size that takes days to read": (_top(corpus=[{"source": "embedded/simple", "size": 10**12}]), "corpus.0.size"),
    "size beyond the file": (_corpus("p.txt", "a cat\n", size=5), "5"),
    # fields
    "rounds −1": (_set("optimizer", rounds=-1), "optimizer.rounds"),
    "0 actors": (_set("generators", count=0), "generators.count"),
    "GPUs in parts beyond one": (_set("scorers", num_gpus=1.5), "scorers.num_gpus: 1.5 GPUs"),
    "more GPUs than exist": (_set("scorers", num_gpus=64), "scorers.num_gpus"),
    "more cores than exist": (_set("generators", num_cpus=4096), "generators.num_cpus"),
    "unknown key": (_set("generators", step=5), "'steps'"),
    "unknown section": (_top(generator={}), "'generators'"),
    "wrong type": (_set("generators", steps="many"), "generators.steps"),
    "unknown method": (_set("optimizer", method="gradient_descent"), "optimizer.method"),
    "unknown sampler": (_set("generators", scheduler="euler_a"), "generators.scheduler"),
    "sampler that does not fit": (_set("generators", scheduler="flow_euler"), "generators.scheduler"),
    "preview as long as the search": (_set("optimizer", preview={"steps": 2}), "optimizer.preview.steps"),
    "probe of no step": (_set("optimizer", probe={"at": 0.1}), "optimizer.probe.at: 0.1 of 2 steps is none of them"),
    "probe of all steps": (_set("optimizer", probe={"at": 0.9}), "optimizer.probe.at: 0.9 of 2 steps is all of them"),
    "probe of previews": (
        _set("optimizer", preview={"steps": 1}, probe={"at": 0.5}),
        "optimizer.probe: rounds are previews already",
    ),
    "probe of latents that are moved": (
        _top(optimizer={"method": "attend_and_excite", "probe": {"at": 0.5}}),
        "optimizer.probe: attend_and_excite moves the latents",
    ),
    "probe of guidance that counts steps": (
        lambda _, config: config.update(
            generators=config["generators"] | {"skip_layer_guidance": {"layers": [1]}},
            optimizer=config["optimizer"] | {"probe": {"at": 0.5}},
        ),
        "optimizer.probe: skip_layer_guidance counts the sampler steps",
    ),
    "budget below one image": (_set("optimizer", unet_evaluations=1), "optimizer.unet_evaluations"),
    "budget below a rerendered preview": (
        lambda _, config: config.update(
            generators=config["generators"] | {"steps": 4},
            optimizer=config["optimizer"] | {"preview": {"steps": 2, "keep": 2}, "unet_evaluations": 11},
        ),
        "optimizer.unet_evaluations: 11",
    ),
    "rounds for a method without": (_top(optimizer={"method": "none", "rounds": 3}), "optimizer.rounds"),
    "another method's key": (
        _top(optimizer={"method": "random_sampling", "candidates": 3}),
        "optimizer.candidates: method random_sampling has no such key; remove it",
    ),
    "subjects column that is not there": (_corpus("p.jsonl", '{"prompt": "a cat"}\n', subjects="nouns"), "'nouns'"),
    "subjects that are numbers": (_corpus("p.jsonl", '{"prompt": "a cat", "n": 1}\n', subjects="n"), "corpus.subjects"),
    "questions column that is not there": (_corpus("p.jsonl", '{"prompt": "a cat"}\n', questions="vqa"), "'vqa'"),
    "question without an answer": (
        _corpus("p.jsonl", '{"prompt": "a cat", "n": [{"question": "Is there a cat?"}]}\n', questions="n"),
        "line 1: corpus.questions: column 'n': the answer of question 1 is missing",
    ),
    "threshold past the last step": (
        _top(optimizer={"method": "attend_and_excite", "thresholds": {0.0: 0.5, 20: 0.8}}),
        "optimizer.thresholds: 20 is no share of the sampler steps",
    ),
    "threshold of no attention": (
        _top(optimizer={"method": "attend_and_excite", "thresholds": {0.2: 0}}),
        "optimizer.thresholds: 0 at 0.2 is no attention",
    ),
    "compiled U-Net whose attention is read": (
        _both(_set("generators", compile=True), _top(optimizer={"method": "initno"})), "generators.compile: initno",
    ),
    "subject that its prompt does not name": (
        _both(
            _top(optimizer={"method": "attend_and_excite"}),
            _corpus("p.jsonl", '{"prompt": "a cat", "n": "cat, dog"}\n', subjects="n"),
        ),
        "line 1: corpus.subjects: 'dog' does not occur",
    ),
    "target score above 1": (_set("optimizer", target_score=1.5), "optimizer.target_score"),
    "question without a place": (_set("scorers", question="Is it good?"), "scorers.question"),
    "guidance not finite": (_set("generators", guidance_scale=float("nan")), "generators.guidance_scale"),
    "seed below 0": (_top(seed=-1), "seed"),
    "half a surrogate pair": (_set("generators", negative_prompt="\ud800"), "generators: negative_prompt"),
    "integer beyond 64 bits": (_set("generators", height=2**64), "generators: height"),
    "height off the grid": (_set("generators", height=30), "generators.height"),
    "no format": (_set("output", formats=[]), "output.formats"),
    "judge with the name of a column of first images": (
        _top(judges=[{"name": "j_initial", "model": "embedded/judge"}]), "judges.0.name",
    ),
    "judges of one name": (_top(judges=[{"name": "j", "model": "embedded/judge"}] * 2), "judges"),
    # models
    "model of a name too long": (_set("generators", model="x" * 5000), "generators.model"),
    "Hub id too long": (_set("scorers", model="a/" + "x" * 5000), "scorers.model"),
    "LoRA of a name too long": (_set("generators", lora=[{"path": f"{'x' * 5000}.safetensors"}]), "generators.lora.0"),
    "home of nobody": (_set("generators", model="~nobody-here/sd"), "~nobody-here/sd"),
    "LoRA in the home of nobody": (
        _set("generators", lora=[{"path": "~nobody-here/x.safetensors"}]), "generators.lora.0.path",
    ),
    "judge in the home of nobody": (_top(judges=[{"name": "j", "model": "~nobody-here"}]), "judges.j.model"),
    "unknown model folder": (_set("generators", model="/no/such/model"), "/no/such/model"),
    "model that is a file": (_set("scorers", model=__file__), "scorers.model"),
    "generator that is not here": (_set("generators", model="some/sd"), "hf download some/sd"),
    "scorer that is not here": (_set("scorers", model="some/vlm", revision="v2"), "hf download some/vlm --revision v2"),
    "pickled scorer": (
        _model("scorers", lambda copy: (copy / "model.safetensors").rename(copy / "pytorch_model.bin")),
        "scorers.allow_pickle",
    ),
    "models swapped": (_swap_models, "generators.model"),
    "wrong pipeline class": (
        _model("generators", _index("model_index.json", _class_name="AudioLDMPipeline")), "AudioLDMPipeline",
    ),
    "classes that are no list": (_model("scorers", _index("config.json", architectures=3)), "config.json"),
    "VAE without blocks": (_model("generators", _index("vae/config.json", block_out_channels=0)), "block_out_channels"),
    "image of no size": (_model("generators", _index("unet/config.json", sample_size=0)), "generators.height"),
    "more layers than any model": (
        _model("scorers", _index("config.json", vision_config={"num_hidden_layers": 2**31})),
        "asks for 2147483648 num_hidden_layers",
    ),
    "JSON nested without end": (
        _model("scorers", lambda copy: (copy / "config.json").write_text('{"a": ' + "[" * 100_000)),
        "config.json of",
    ),
    "wrong scorer class": (_model("scorers", _index("config.json", architectures=["BertModel"])), "BertModel"),
    "index that is no JSON": (
        _model("generators", lambda copy: (copy / "model_index.json").write_text("{")), "model_index.json",
    ),
    "no unet config": (_model("generators", lambda copy: (copy / "unet" / "config.json").unlink()), "unet/config.json"),
    "unknown judge": (_top(judges=[{"name": "j", "model": "/no/judge"}]), "judges.j.model"),
    # output
    "directory that is not ours": (_occupied, "occupied"),
    "directory under a file": (_under_a_file, "output.dir"),
    "names that would steer a terminal": (
        _top(corpus=[{"source": "no\nsuch\x1b[31m\u202efile.txt"}]), r"no\nsuch\x1b[31m\u202efile.txt",
    ),
    # command line
    "override without a value": (_arguments("optimizer.rounds"), "optimizer.rounds"),
    "override of nothing": (_arguments("optimizer.rounds.deep=1"), "optimizer.rounds"),
    "override that is no YAML": (_arguments("seed=[1"), "seed"),
    "override of the wrong type": (_arguments("seed=abc"), "seed"),
}  # fmt: skip
