"""Targets of several segments: visual tokens of the image or of a crop between texts, in one teacher-forced pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lare import LareError
from lare.model import LareForConditionalGeneration, LareOutput
from lare.model.latent_maker import LatentMaker
from lare.model.loop import run_decoder

from .conftest import ModelOf
from .test_loop import assert_gradients, gradients
from .tiny import END, GRID, IMAGE, Sample, collate, make_samples, pad, tiny_model

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
CELLS = GRID**2
PLANS: list[tuple[list[int], list[int], list[int]]] = [
    ([11, 12], [5, 6, 9], [13, 14]),
    ([15], [0], [16, 17, 18]),
    ([], [2, 3, 7, 15], [19]),
]
"""Of each row: text, fine cells of its image, text."""


def targets(rows: list[int], crops: bool = False, slots: int = 0) -> dict[str, Tensor]:
    """The targets of some of `PLANS`, each row with an image of its own; a crop's tokens follow where asked for."""
    ids, visual = [], []
    for number, row in enumerate(rows):
        before, cells, after = PLANS[row]
        own = [number * CELLS + cell for cell in cells]
        own += [len(rows) * CELLS + number * slots + at for at in range(slots)] if crops else []
        ids.append([*before, *[IMAGE] * len(own), *after])
        visual.append([*[-1] * len(before), *own, *[-1] * len(after)])
    made = dict(zip(("target_ids", "target_mask"), pad(ids, left=False), strict=True))
    width = made["target_ids"].shape[1]
    made["target_visual"] = torch.tensor([row + [-1] * (width - len(row)) for row in visual])
    made["label_mask"] = made["target_mask"] * (made["target_visual"] < 0)
    return made


def run(model: LareForConditionalGeneration, samples: list[Sample], rows: list[int], **options: Any) -> LareOutput:
    batch = collate([samples[row] for row in rows], targets=False, prefixes=False)
    output: LareOutput = model(**batch, **targets(rows), **options)
    return output


@pytest.mark.parametrize(("iterations", "delimiters"), [(0, False), (0, True), (2, True)])
@pytest.mark.parametrize("source", ["lm", "fine"])
def test_batch_equals_single(model_of: ModelOf, kind: str, source: str, iterations: int, delimiters: bool) -> None:
    model = model_of(kind, refocus_source=source)
    samples = make_samples(model.config, lengths=(1, 7, 4), seed=5, start=delimiters)
    options = {"iterations": iterations, "delimiters": delimiters}
    together = run(model, samples, [0, 1, 2], **options)
    alone = [run(model, samples, [row], **options) for row in range(3)]
    for row, single in enumerate(alone):
        size = single.target_hidden.shape[1]
        torch.testing.assert_close(together.target_hidden[row, :size], single.target_hidden[0], **CLOSE)
    torch.testing.assert_close(together.target_visual, torch.cat([one.target_visual for one in alone]), **CLOSE)
    torch.testing.assert_close(together.logits, torch.cat([one.logits for one in alone]), **CLOSE)
    assert int(together.lm_loss[1]) == sum(len(before) + len(after) for before, _, after in PLANS)
    expected = torch.stack([one.lm_loss[0] for one in alone]).sum()
    assert_gradients(gradients(model, together.lm_loss[0]), gradients(model, expected))


@pytest.mark.parametrize("row", range(3))
def test_cached_equals_recomputed(model_of: ModelOf, kind: str, row: int) -> None:
    """One pass over prompt, empty delimiters and target without a cache, each embedding put in its place by hand."""
    model = model_of(kind, refocus_source="fine")
    sample = make_samples(model.config, lengths=(3, 3, 3), seed=2)[row]
    samples = {row: sample}
    found = run(model, samples, [row], iterations=0)  # type: ignore[arg-type]
    visual = model.encode_features(sample.features[None])
    before, cells, after = PLANS[row]
    ids = torch.tensor([[*sample.prompt, END, *before, *[IMAGE] * len(cells), *after]])
    embeds = model.embed(ids)[0]
    slots = (ids[0] == IMAGE).nonzero().squeeze(1)
    embeds = embeds.index_copy(0, slots, torch.cat((visual.lm[0], visual.refocus[0, cells])))
    hidden = run_decoder(model, embeds[None], None, torch.arange(ids.shape[1])[None], None)[0]
    expected = hidden[len(sample.prompt) : -1]
    torch.testing.assert_close(found.target_hidden[0], expected, **CLOSE)


def test_questions_of_an_image_share_its_fine_tokens(model_of: ModelOf) -> None:
    model = model_of("qwen2", refocus_source="fine")
    first, second = make_samples(model.config, lengths=(2, 5), seed=3)
    second.features = first.features
    alone = [run(model, [one, one, one], [row], iterations=0) for row, one in enumerate((first, second))]
    batch: dict[str, Any] = targets([0, 1])
    batch["target_visual"] = torch.where(
        batch["target_visual"] >= CELLS, batch["target_visual"] % CELLS, batch["target_visual"]
    )
    batch["input_ids"], batch["attention_mask"] = pad([first.after, second.after], left=True)
    batch |= {"shared_ids": torch.tensor([first.shared]), "visual_features": first.features[None]}
    output = model(**batch, questions_per_image=2, iterations=0)
    torch.testing.assert_close(output.logits, torch.cat([one.logits for one in alone]), **CLOSE)


def test_crops_are_encoded_as_pictures_of_their_own(model_of: ModelOf, kind: str) -> None:
    model = model_of(kind, refocus_source="fine")
    samples = make_samples(model.config, lengths=(2, 4), seed=4)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    slots = model.config.lm_grid**2

    def crop_run(rows: list[int]) -> LareOutput:
        batch = collate([samples[row] for row in rows], targets=False, prefixes=False)
        output: LareOutput = model(**batch, **targets(rows, True, slots), crop_values=pixels[rows], iterations=0)
        return output

    together, alone = crop_run([0, 1]), [crop_run([0]), crop_run([1])]
    torch.testing.assert_close(together.logits, torch.cat([one.logits for one in alone]), **CLOSE)
    seen = together.target_visual[len(PLANS[0][1]) :][:slots]
    torch.testing.assert_close(seen, model.encode_images(pixels[:1]).lm[0], **CLOSE)
    other = model(
        **collate(samples, targets=False, prefixes=False), **targets([0, 1], True, slots), crop_values=pixels.flip(0),
        iterations=0,
    )  # fmt: skip
    assert not torch.allclose(other.logits, together.logits, atol=1e-3)


def test_unknown_arguments_are_refused(model_of: ModelOf) -> None:
    model = model_of("llama")
    with pytest.raises(LareError, match="forward got unknown arguments: iteration, labels;"):
        model(**collate(make_samples(model.config, lengths=(2,))), labels=None, iteration=2)


def test_visual_tokens_are_never_answered(model_of: ModelOf) -> None:
    model = model_of("llama")
    batch = collate(make_samples(model.config, lengths=(2,)), targets=False, prefixes=False) | targets([0])
    del batch["label_mask"]
    with pytest.raises(LareError, match="target_visual needs label_mask"):
        model(**batch, iterations=0)


class Mixer(LatentMaker):
    """The last hidden state and the mean visual token through one layer."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        width = int(config.text_config.hidden_size)
        self.mix = torch.nn.Linear(2 * width, width)

    def remember(self, visual: Any) -> Tensor:
        mean: Tensor = visual.refocus.mean(1)
        return mean

    def forward(self, state: Any, memory: Tensor, mask: Tensor | None) -> Tensor:
        seen = memory.repeat_interleave(state.questions_per_image, 0)
        made: Tensor = self.mix(torch.cat((state.last_hidden, seen), -1)).unsqueeze(1)
        return made


@pytest.fixture
def mixing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = type("Method", (), {"latent_maker": Mixer})
    monkeypatch.setattr("lare.model.latent_maker.method_class", lambda name: found)


def test_a_methods_own_latents(mixing: None, kind: str, tmp_path: Any) -> None:
    """Made by its module, batched as alone, with gradient; the module lies in the checkpoint."""
    model = tiny_model(kind, latent_maker="mixer", use_window=False, refocus_source="fine")
    assert model.extractor is None
    samples = make_samples(model.config, lengths=(1, 6), seed=8)
    together = model(**collate(samples))
    alone = [model(**collate([sample])) for sample in samples]
    torch.testing.assert_close(together.thoughts.latents, torch.cat([one.thoughts.latents for one in alone]), **CLOSE)
    torch.testing.assert_close(together.logits, torch.cat([one.logits for one in alone]), **CLOSE)
    found = gradients(model, together.lm_loss[0])
    assert found["latent_maker.mix.weight"].abs().sum() > 0
    model.save_pretrained(tmp_path)
    again = LareForConditionalGeneration.from_pretrained(tmp_path)
    assert again.config.latent_maker == "mixer"
    torch.testing.assert_close(again(**collate(samples)).logits, together.logits)
    with torch.no_grad():
        again.latent_maker.mix.weight.zero_()
    assert not torch.allclose(again(**collate(samples)).logits, together.logits, atol=1e-3)
