"""The paper's claims, in its order, and what each is held against.

Figures in a claim's text are the paper's own words. Arms are names in the grids under ``lare/configs/experiments``; an
arm that no grid declares yet is named all the same, so that its rows count as soon as they are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.claims.reports import Read
from analysis.claims.rows import Compared
from lare.experiments.plan import Plan

__all__ = ["CLAIMS", "Claimed", "Untested", "primaries"]


@dataclass(frozen=True)
class Untested:
    """What nothing here measures.

    Attributes:
        part: What is compared, in words.
        missing: What is missing.
        command: Would make it; empty where nothing in this repository can.
        checkpoint: Whether the claim is about what a checkpoint does, not about trained systems.
    """

    part: str
    missing: str
    command: str = ""
    checkpoint: bool = False


@dataclass(frozen=True)
class Claimed:
    """A claim of the paper.

    Attributes:
        id: Its anchor.
        text: What the paper says.
        where: Where it says so.
        parts: What it is held against; it holds where all parts do, and fails where one does.
    """

    id: str
    text: str
    where: str
    parts: tuple[Compared | Read | Untested, ...]

    @property
    def of_checkpoint(self) -> bool:
        """Whether it is about what one checkpoint does."""
        return any(isinstance(one, Read) or (isinstance(one, Untested) and one.checkpoint) for one in self.parts)


def _asks_about(plan: Plan, arm: str, ask: str) -> tuple[str, str]:
    """What a contrast against an arm bears on, and where the paper says it."""
    if plan.grid.arms[arm].asks[ask].get("window_mode") == "random":
        return "Refocusing on what is relevant is what helps", "Section 3.1"
    if arm in RIVALS:
        return f"LaRe is more accurate than {RIVALS[arm]}", "Table 1"
    return "Latents help beyond training on the same data", "Section 3.1"


def primaries(plans: Sequence[Plan]) -> list[Claimed]:
    """An entry for each contrast that a grid declared beforehand."""
    found = []
    for plan in plans:
        one = plan.grid.primary
        if one is None:
            continue
        text, where = _asks_about(plan, *plan.grid.row_of(one.minus))
        titles = [plan.grid.arms[plan.grid.row_of(name)[0]].title or name for name in (one.arm, one.minus)]
        counted = "questions of two hops or more" if one.least_hops else "all questions"
        left = ", ".join([*one.exclude_families, *one.exclude_tasks])
        part = f"'{titles[0]}' minus '{titles[1]}', {counted}{f', without {left}' if left else ''}"
        found.append(
            Claimed(
                f"primary-{plan.grid.name}",
                f"{text} (declared primary contrast)",
                f"{where}; {plan.grid.name}.yaml",
                (Compared(one.arm, one.minus, part=part, grid=plan.grid.name, primary=True),),
            )
        )
    return found


RIVALS = {
    "cot": "Standard CoT", "mmcot": "MM-CoT", "ccot": "CCoT", "icot": "ICoT", "cof": "CoF", "mcout": "MCOUT",
    "lvr": "LVR",
}  # fmt: skip
"""Arms of Table 1 and their names there."""

_GRID = "declare arms of it in a grid with at least four independent starts, then lare experiments run GRID --test"


def _rivals(measure: str, says: str) -> tuple[Compared, ...]:
    # Of the main size alone: another grid's rows may be of more starts, and are of another decoder or length.
    return tuple(
        Compared("lare", arm, says, measure, f"LaRe minus {name}", grid="comparison") for arm, name in RIVALS.items()
    )


_REMOVED = (
    ("extractor", "the Extractor", "lare", "norefocus", "-7.7", "+42.3", "less"),
    ("window", "the sliding window", "lare", "full", "-4.0", "+11.1", "less"),
    ("alignment", "symmetric alignment", "alignment", "lare", "-3.2", "+7.7", "less"),
    ("image", "image reconstruction", "image", "lare", "-2.5", "+4.8", "less"),
    ("prefix", "text prefix reconstruction", "lare", "no_text", "-1.8", "-5.6", "more"),
)
"""Rows of Table 3: what is removed, the arm with it and the one without, the paper's changes, whether the first has
fewer or more tokens. In the comparison LaRe is trained without eqs. 6 and 7, so there their arms have them."""


def _ablations() -> tuple[Claimed, ...]:
    found = []
    for name, what, having, lacking, points, tokens, fewer in _REMOVED:
        part = f"LaRe minus the same without {what}"
        where = "Table 3"
        text = f"Without {what} accuracy falls ({points} points)"
        found.append(Claimed(f"{name}-accuracy", text, where, (Compared(having, lacking, part=part),)))
        text = f"Without {what} answers grow {'longer' if fewer == 'less' else 'shorter'} ({tokens} tokens)"
        found.append(Claimed(f"{name}-tokens", text, where, (Compared(having, lacking, fewer, "tokens", part),)))
    return tuple(found)


def _probe(modality: str, by: str) -> Read:
    return Read("probe", "gap", {"model": "embedded", "modality": modality, "by": by}, "gap", "interval", "more",
                f"{modality}, {by}: with Extractor minus without", n_table="seeds",
                n_match={"model": "embedded", "module": "with Extractor", "probe": "matching", "modality": modality,
                         "by": by})  # fmt: skip


def _level(modality: str, by: str) -> Read:
    return Read("probe", "table-6", {"model": "embedded", "module": "with Extractor", "probe": "matching", "by": by},
                modality, f"{modality}_i", "more", f"{modality}, {by}: right, against the lowest of Table 6", "%",
                null_column=f"{modality}_paper")  # fmt: skip


def _control(name: str, part: str) -> Read:
    return Read("controls", "controls", {"control": name}, "gap", "gap_interval", "less", part, n_table="tasks",
                n_match={"control": name})  # fmt: skip


_TASKS: Mapping[str, Any] = {"n_table": "fixed-tasks", "n_match": {"task": "all tasks"}}
_KEPT: Mapping[str, Any] = {"n_table": "fixed-tasks", "n_match": {"task": "all without mini pope"}}


def _rule(name: str) -> Read:
    match = {"rule": name, "aim": "4 steps on average"}
    return Read("adaptive", "rules-all", match, "gap", "gap_interval", "less", f"{name} minus 4 fixed steps", **_TASKS)


def _asked(steps: int, says: str) -> Read:
    part = f"asked {steps} minus 4 steps"
    return Read("adaptive", "fixed", {"step": steps}, "gap", "gap_interval", says, part, **_KEPT)


def _shorter(quantity: str, part: str) -> Read:
    match = {"other": "text", "counting": "both right", "quantity": quantity}
    return Read("tokens", "costs", match, "gap", "interval", "less", part, "tokens", n="n_judged")


def _masked(map_: str, against: str) -> Read:
    match = {"setting": "K4", "map": map_, "against": against}
    part = f"most attended patches covered, against {against}"
    return Read("attention", "masking", match, "gap", "interval", "more", part, "nats")


def _table5(statistic: str) -> Read:
    match = {"row": "of the first token", "statistic": statistic}
    counted = {"measure": "visual", "row": "of the first token", "test": "paired t"}
    part = f"{statistic}: in latent steps minus at once"
    return Read("attention", "table5", match, "gap", "interval", "more", part, n_table="tests", n_match=counted)


def _found(step: int, column: str, than: str) -> Read:
    match = {"step": f"step {step}"}
    part = f"step {step}: attention on needed things, minus {than}"
    return Read("heatmaps", "steps", match, column, f"{column}_interval", "more", part)


CLAIMS: tuple[Claimed, ...] = (
    Claimed("rivals-accuracy", "LaRe is more accurate than all seven rivals", "Table 1, Section 4.3",
            _rivals("accuracy", "more")),
    Claimed("rivals-tokens", "LaRe's right answers have fewer tokens than its rivals' (-16.5 % on average)",
            "Table 1, Section 4.3", _rivals("tokens", "less")),
    Claimed("two-sizes", "LaRe is above its rivals on two backbone sizes", "Table 1",
            tuple(Compared("lare", arm, part=f"LaRe minus {name}, smaller decoder", grid="comparison_small")
                  for arm, name in RIVALS.items())),
    # The grid's second contrast, declared once validation questions had told why the first was undecided.
    Claimed("rival-as-trained", "LaRe is more accurate than Standard CoT, asked with the windows it was trained with",
            "Table 1; longer_small.yaml",
            (Compared("lare/K4-soft", "cot", part="LaRe with soft windows minus Standard CoT, questions of two hops or "
                      "more, smaller decoder, twice the samples", grid="longer_small", least_hops=2),)),
    Claimed("scale", "At 7B LaRe surpasses larger models and comes near GPT-4V", "Section 4.3, 7B table",
            (Untested("LaRe-7B against published models", "the embedded world has no such model"),)),
    Claimed("argmax", "Attention chooses windows that help (the arg-max window of the paper)", "Section 3.1",
            (Compared("paper", "random", part="LaRe with arg-max windows minus random windows"),)),
    Claimed("finds", "Each iteration focuses on the visual information that reasoning needs", "Section 3.1",
            (Compared("lare", measure="hits", part="windows that hold what is needed, minus chance; LaRe"),)),
    Claimed("finds-argmax", "The same with the arg-max window of the paper", "Section 3.1",
            (Compared("paper", measure="hits", part="windows that hold what is needed, minus chance; arg-max"),)),
    *_ablations(),
    Claimed("window-small", "Windows that are too small or too large lose accuracy", "Table 8",
            (Compared("lare", "window2", part="windows of 4 x 4 minus 2 x 2 of 8 x 8 cells"),
             Compared("lare", "window6", part="windows of 4 x 4 minus 6 x 6 of 8 x 8 cells"))),
    Claimed("steps", "More steps raise accuracy", "Fig. 5",
            (Compared("lare", "K1", part="trained with 4 steps minus with 1"),
             Compared("lare", "K2", part="trained with 4 steps minus with 2"),
             Compared("dial", "dial/K1", part="4 steps minus 1, the same weights (K drawn while training)"),
             Compared("dial", "dial/K2", part="4 steps minus 2, the same weights (K drawn while training)"))),
    Claimed("steps-tokens", "More steps shorten the text", "Fig. 5",
            (Compared("dial", "dial/K2", "less", "text_tokens",
                      "4 steps minus 2, the same weights (K drawn while training)"),)),
    Claimed("steps-asked", "More steps raise accuracy (one checkpoint, asked other numbers of steps)", "Fig. 5",
            (_asked(0, "less"), _asked(1, "less"), _asked(2, "less"))),
    Claimed("steps-plateau", "Past a threshold more steps change nothing", "Fig. 5",
            tuple(_asked(steps, "same") for steps in (5, 6, 7, 8))),
    Claimed("prefix", "A prefix of 32 tokens is best; 2 to 8 are too few, more add nothing", "Fig. 6",
            (Untested("LaRe minus the same with other prefix lengths", "no grid trains other prefix lengths", _GRID),)),
    Claimed("adaptive", "Stopping by convergence costs accuracy", "Table 4",
            tuple(_rule(name) for name in ("Cosine", "L1", "L2"))),
    Claimed("convergence", "Distances between steps fall monotonically", "Section 4.5",
            (Read("adaptive", "movement", {"rule": "L2: distance to the step before"}, "all", "", "more",
                  "questions whose L2 distance falls at every step", "%", **_TASKS),)),
    Claimed("table5", "The first token gives the image more attention in LaRe (x 2.4)", "Table 5",
            (_table5("mean"), _table5("50 % (median)"))),
    Claimed("evidence", "That attention lies on the evidence of the answer", "Section 4.6",
            tuple(_masked("first token's own row", than) for than in ("random", "least attended"))),
    Claimed("probe-vision", "The Extractor raises matching of latents with the image (from about 60 % to 95 %)",
            "Table 6", (_probe("vision", "SVM"), _probe("vision", "MLP"))),
    Claimed("probe-text", "The Extractor raises matching of latents with the rationale (from about 60 % to 95 %)",
            "Table 6", (_probe("text", "SVM"), _probe("text", "MLP"))),
    Claimed("probe-level", "Latents are matched with image and rationale in about 95 %", "Table 6",
            tuple(_level(modality, by) for modality in ("vision", "text") for by in ("SVM", "MLP"))),
    Claimed("heatmaps", "Each step's attention lies on what the question needs", "Fig. 3, Section 4.4",
            tuple(_found(step, "even", "an even spread in the window") for step in (1, 2, 3, 4))
            + tuple(_found(step, "random", "the same in random windows") for step in (1, 2, 3, 4))),
    Claimed("pace", "Attention and reasoning text move at the same pace, from coarse to fine", "Fig. 3, Section 4.4",
            (Untested("map and text, step by step", "no report measures it", checkpoint=True),)),
    Claimed("reconstruct", "Latents keep what was looked at", "Section 3.2, Fig. 4",
            (Read("reconstruct", "conditions", {"condition": "Another picture's latents"}, "gap", "gap_interval",
                  "more", "PSNR, own latents minus another picture's", "dB"),)),
    Claimed("scenes", "A U-Net recovers clear scenes from the latents", "Fig. 4",
            (Read("reconstruct", "conditions", {"condition": "Own latents"}, "found", "found_interval", "more",
                  "own crop told from others, against the nearest training crop", "%",
                  null_match={"condition": "Bound: the training crop nearest to the window's crop"}),)),
    Claimed("carry", "Latents carry what the answer needs", "Sections 1 and 3.1",
            (_control("No latents (K = 0), same delimiters", "no latents minus as they are"),
             _control("Another question's latents (same task, another scene)",
                      "another question's latents minus as they are"))),
    Claimed("look", "Where a step looks matters when answering", "Section 3.1",
            (_control("Windows at random places", "windows at random places minus as they are"),)),
    Claimed("shorter", "Latent steps shorten answers, against reasoning as text", "Section 4.3",
            (_shorter("text tokens", "text tokens, both right"),
             _shorter("text + latent", "text tokens and latent steps, both right"))),
)  # fmt: skip
