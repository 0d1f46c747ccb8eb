"""The comparison of verifiers: its variants, its table from finished runs, and what it refuses before any model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from noisesmith.pipeline.bench import VERIFIERS, base_config, choose_verifiers, make_design, write_comparison
from noisesmith.pipeline.bench.design import Design, unfinished
from noisesmith.pipeline.bench.kinds import Variant
from noisesmith.pipeline.config import RunConfig, validated
from noisesmith.pipeline.errors import UserError
from tests import tiny_families
from tests.bench.conftest import PROVENANCE, T, command, result, writing
from tests.runs import write_config
from tests.test_bad_inputs import no_model  # noqa: F401

FOUR = ["yes", "questions", "contrastive", "caption"]
PANELS = ["mean", "min", "rank", "questions_mean"]
PROMPTS = ["a cat above a dog", "a dog", "a red bowl under a cat", "a cat and a car"]
FIRST = {"yes": [0.1, 0.4, 0.2, 0.8], "questions": [0.5, 0.5, 0.5, 0.9]}  # by variant: scores of the first images
JUDGED = [0.0, 1.0, 0.2, 0.5]  # of the first images
KEPT = {"yes": [0.0, 1.0, 0.0, 1.0], "questions": [1.0, 1.0, 0.0, 1.0]}
Finished = Callable[..., Design]


@pytest.fixture
def config_path(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> Path:
    """A config with one scorer and the built-in detector as the judge."""
    path = write_config(
        tmp_path, tiny_sd, tiny_llava, generators={"steps": T, "num_cpus": 0.5}, scorers={"num_cpus": 0.25},
        judges=[{"name": "eye", "model": "embedded/judge"}],
    )  # fmt: skip
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    return path


@pytest.fixture
def panel_path(config_path: Path, tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> Path:
    """The same with a panel, one of whose members answers no questions."""
    clip = tiny_families.clip(tmp_path / "clip")
    scorers = [
        {"name": "llava", "model": str(tiny_llava), "num_cpus": 0.25, "calibration": {"temperature": 2.0}},
        {"name": "clip", "model": str(clip), "shares": "llava", "weight": 2.0},
    ]
    config = write_config(tmp_path, tiny_sd, tiny_llava, generators={"steps": T, "num_cpus": 0.5}, scorers=scorers)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    return config


def variants(path: Path, *overrides: str) -> dict[str, Variant]:
    base = base_config(path, overrides, VERIFIERS)
    return {variant.label: variant for variant in choose_verifiers(base, None, None)}


def config_of(path: Path, variant: Variant) -> RunConfig:
    plain = base_config(path, [], VERIFIERS).model_dump(mode="json")
    return validated(plain | variant.changes(5, T), variant.label)


def design_of(path: Path, labels: Sequence[str], seeds: int = 1, own: Path | None = None) -> Design:
    base = base_config(path, [], VERIFIERS)
    chosen = choose_verifiers(base, ",".join(labels), own)
    return make_design(base, chosen, path.parent / "OUT", prompts=None, rounds=1, seeds=seeds, kind=VERIFIERS)


@pytest.fixture
def finished(config_path: Path) -> Finished:
    """``finished(labels)`` makes a comparison of one round and writes its runs, each with its own scorer's name."""

    def make(labels: Sequence[str] = ("yes", "questions"), **changes: Any) -> Design:
        design = design_of(config_path, labels)
        for trial in design.trials:
            label = trial.variant.label
            provenance = replace(PROVENANCE, **changes.get(label, {}))
            with writing(design, trial, provenance) as writer:
                for row in design.corpus.rows():
                    first = FIRST[label][row.index]
                    judges = {"eye": (JUDGED[row.index], KEPT[label][row.index])}
                    writer.put(result(trial, row, [first, first + 0.1], judges))
        return design

    return make


def test_one_scorer_is_asked_in_four_ways_by_the_configs_method(config_path: Path) -> None:
    found = variants(config_path)
    assert list(found) == FOUR
    configs = {label: config_of(config_path, variant) for label, variant in found.items()}
    base = base_config(config_path, [], VERIFIERS)
    assert configs["yes"].scorers == base.scorers
    asked = {label: (config.panel[0].asks, config.panel[0].readout) for label, config in configs.items()}
    assert asked["questions"] == ("questions", "yes")
    assert (asked["contrastive"][1], asked["caption"][1]) == ("contrastive", "caption")
    for config in configs.values():
        assert config.optimizer == base.optimizer.model_copy(update={"rounds": 5})
        assert config.accept is None


def test_a_list_adds_every_other_scorer_and_the_panels(panel_path: Path) -> None:
    found = variants(panel_path)
    assert list(found) == [*FOUR, "clip", *PANELS]
    configs = {label: config_of(panel_path, variant) for label, variant in found.items()}
    base = base_config(panel_path, [], VERIFIERS)
    assert [member.model for member in configs["clip"].panel] == [base.panel[1].model]
    assert configs["clip"].panel[0].num_cpus == 0.25  # the place of the actors that it shares
    for combine in ("mean", "min", "rank"):
        assert (configs[combine].scorers, configs[combine].combine) == (base.scorers, combine)
    assert [member.asks for member in configs["questions_mean"].panel] == ["questions", None]
    assert [len(group) for group in configs["questions_mean"].groups] == [2]


def test_no_scorer_alone_is_compared_twice(panel_path: Path) -> None:
    """The first one is a variant of its own only where none of the four asks it as the config does."""
    asked_otherwise = variants(panel_path, "scorers.0.readout=reference")
    assert list(asked_otherwise) == [*FOUR, "llava", "clip", *PANELS]
    assert list(variants(panel_path, "scorers.0.asks=questions")) == [*FOUR, "clip", *PANELS]


def test_a_calibration_holds_for_the_way_of_asking_that_it_was_fitted_to(panel_path: Path) -> None:
    for label, variant in variants(panel_path).items():
        first = config_of(panel_path, variant).panel[0]
        as_fitted = label in ("yes", "mean", "min", "rank")
        assert (first.calibration is not None) == as_fitted, label


def test_the_table_has_every_verifier(finished: Finished) -> None:
    write_comparison(design := finished())
    text = (design.out / "verifiers.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("|")]
    heads = [head.strip() for head in table[0].split("|")[1:-1]]
    cells = {line.split("|")[1].strip(" `"): dict(zip(heads, line.split("|")[1:-1], strict=True)) for line in table[2:]}
    assert list(cells) == ["yes", "questions"]
    assert cells["yes"]["score"].strip() == "0.375 → 0.475"
    assert cells["yes"]["judge eye"].strip() == "0.500"
    assert cells["questions"]["Δ eye"].strip().startswith("+0.250")
    assert cells["yes"]["AUC eye"].strip().startswith("1.000")
    assert cells["questions"]["AUC eye"].strip().startswith("0.750")  # 0.5 against 0.5, 0.5 and 0.9 against them
    assert cells["yes"]["VLM passes"].strip() == "1.0"
    assert float(cells["questions"]["VLM passes"]) > 1
    assert "First images: judge eye 0.425" in text
    assert "first images, which no verifier has selected" in text
    assert "noise_diffusion" in text


def test_the_json_has_everything_at_full_precision(finished: Finished) -> None:
    write_comparison(design := finished())
    whole = json.loads((design.out / "verifiers.json").read_text())
    assert (whole["reference"], whole["prompts"], whole["rows"]) == ("yes", 4, 4)
    assert (whole["optimizer"]["method"], whole["optimizer"]["rounds"]) == ("noise_diffusion", 1)
    ours = whole["variants"]["questions"]
    assert (ours["scorers"]["asks"], ours["combine"]) == ("questions", None)
    assert ours["difference"]["eye"]["mean"] == pytest.approx(0.25)
    assert ours["separation"]["eye"]["auc"]["mean"] == 0.75
    assert (ours["separation"]["eye"]["images"], ours["separation"]["eye"]["right"]) == (4, 2)
    assert ours["models"] == {"scorer": PROVENANCE.scorer, "scorer_revision": PROVENANCE.scorer_revision}
    assert whole["variants"]["yes"]["difference"] is None
    assert ours["unet_evaluations"] == 2 * T
    assert "readout" not in whole["conditions"]


@pytest.mark.usefixtures("no_model")
def test_finished_runs_are_compared_without_ray(
    finished: Finished, config_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    design = finished()
    options = ("--rounds", 1, "--seeds", 1, "--only", "yes,questions", "--out", design.out)
    assert command(monkeypatch, "verifiers", config_path, *options) == 0
    assert "2 done, 0 to make" in capsys.readouterr().out
    assert sorted(path.name for path in design.out.iterdir()) == ["runs", "verifiers.json", "verifiers.md"]


def test_more_variants_and_seeds_join_runs_that_are_there(finished: Finished, config_path: Path) -> None:
    finished()
    left = unfinished(design_of(config_path, ["yes", "questions", "caption"], seeds=2))
    assert [trial.name for trial in left] == ["caption-seed0", "yes-seed1", "questions-seed1", "caption-seed1"]


def test_own_variants_are_scorers_and_combine(config_path: Path, tmp_path: Path, tiny_llava: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(f"strict: {{scorers: {{model: {tiny_llava}, readout: yes_no, num_cpus: 0.25}}}}\n")
    design = design_of(config_path, ["yes", "strict"], own=own)
    assert design.trials[1].config.panel[0].readout == "yes_no"
    assert design.trials[1].config.optimizer == design.trials[0].config.optimizer


@pytest.mark.parametrize(
    ("questions", "refused"),
    [
        ({"scorer_revision": "ef56"}, True),  # the model of `yes`, in another revision
        ({"generator_revision": "ef56"}, True),
        ({}, False),
    ],
)
def test_runs_of_other_weights_are_not_compared(finished: Finished, questions: dict[str, str], refused: bool) -> None:
    design = finished(questions=questions)
    if refused:
        with pytest.raises(UserError, match="other models"):
            write_comparison(design)
    else:
        write_comparison(design)


def test_verifiers_of_other_models_are_compared(
    finished: Finished, config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("other: {scorers: {model: embedded, num_cpus: 0.25}}\n")
    finished()
    design = design_of(config_path, ["yes", "other"], own=own)
    with writing(design, design.trials[1], replace(PROVENANCE, scorer="embedded", scorer_revision="ef56")) as writer:
        for row in design.corpus.rows():
            writer.put(result(design.trials[1], row, [0.5, 0.5], {"eye": (JUDGED[row.index], 1.0)}))
    write_comparison(design)
    assert "(embedded@ef56)" in (design.out / "verifiers.md").read_text()


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--only", "yes,magic"], "--only: no variant 'magic'; choose among yes, questions, contrastive, caption"),
        (["--only", "questions"], "--only: lacks yes"),
        (["--rounds", 0], "--rounds"),
        (["optimizer.rounds=3"], "override optimizer.rounds"),
        (["combine=min"], "override combine"),
        (["optimizer.target_score=0.9"], "optimizer.target_score: ends a row by the score of its verifier"),
        (["optimizer.patience=3"], "optimizer.patience"),
        (["scorers.num_cpus=4096"], "variant yes: generators.num_cpus, scorers.num_cpus"),
        (["--variants", "nowhere.yaml"], "nowhere.yaml"),
        (["--variants", "OWN"], "OWN: bare has model, but a verifier is scorers and combine"),
        (["--variants", "EMPTY"], "EMPTY: nothing has no scorers"),
        (["--variants", "WRONG"], "variant wrong: scorers.readout"),
        (["--variants", "JUDGE", "judges.0.model={llava}"], "variant other: judge eye takes question, readout"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str], named: str, config_path: Path, tmp_path: Path, tiny_llava: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "OWN").write_text("bare: {model: embedded}\n")
    (tmp_path / "EMPTY").write_text("nothing: {combine: min}\n")
    (tmp_path / "WRONG").write_text("wrong: {scorers: {model: embedded, readout: no}}\n")
    (tmp_path / "JUDGE").write_text("other: {scorers: {model: embedded, question: 'Is it {prompt}?'}}\n")
    monkeypatch.chdir(tmp_path)
    given = [str(argument).replace("{llava}", str(tiny_llava)) for argument in arguments]
    assert command(monkeypatch, "verifiers", config_path, *given) == 2
    message = capsys.readouterr().err
    assert named in message
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert not list(tmp_path.glob("**/*manifest*"))


def test_a_scorer_with_the_label_of_a_variant_is_refused(panel_path: Path) -> None:
    with pytest.raises(UserError, match=r"^scorers: the name mean is the label of a built-in variant"):
        variants(panel_path, "scorers.1.name=mean")


def test_a_scorer_that_answers_no_questions_is_named_with_its_variant(panel_path: Path) -> None:
    base = base_config(panel_path, ["scorers.1.shares=null"], VERIFIERS)
    own = choose_verifiers(base.model_copy(update={"scorers": (base.panel[1],)}), "yes,questions", None)
    with pytest.raises(UserError, match=r"^variant questions: scorers\.asks: "):
        make_design(base, own, panel_path.parent / "OUT", prompts=None, rounds=1, seeds=1, kind=VERIFIERS)


def test_a_corpus_with_a_column_of_a_variants_rows_is_refused(config_path: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("prompt,Atoms\na cat above a dog,3\n")
    base = base_config(config_path, [f"corpus.0.source={table}"], VERIFIERS)
    chosen = choose_verifiers(base, "yes,questions", None)
    with pytest.raises(UserError, match=r"^variant questions: the corpus has a column 'Atoms'"):
        make_design(base, chosen, tmp_path / "OUT", prompts=None, rounds=1, seeds=1, kind=VERIFIERS)


def test_actors_that_only_a_panel_needs_are_refused_with_its_name(panel_path: Path) -> None:
    base = base_config(panel_path, ["scorers.1.shares=null", "scorers.1.num_cpus=0.75"], VERIFIERS)
    chosen = choose_verifiers(base, "yes,mean", None)
    out = panel_path.parent / "OUT"
    design = make_design(base, chosen, out, prompts=None, rounds=1, seeds=1, kind=VERIFIERS)
    design.check_resources({"CPU": 2, "GPU": 0}, "the cluster")
    with pytest.raises(UserError, match=r"^variant mean: .*scorers\.clip\.num_cpus.* the cluster has 1"):
        design.check_resources({"CPU": 1, "GPU": 0}, "the cluster")
