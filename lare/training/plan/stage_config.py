"""One entry of a run's plan and its data: the part of the configuration that names stages, parts and losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lare.errors import LareError, require
from lare.losses.base import weighted_names
from lare.registry import DATA_FORMATS
from lare.training.plan.mixture import LEGACY, Entry, from_shares, read_mixture, typical_layout
from lare.window_modes import check_window_mode

__all__ = ["PARTS", "STAGE_NAMES", "DataConfig", "StageConfig"]

STAGE_NAMES = ("I", "II", "III", "IV")
PARTS = ("projector", "refocus_projector", "extractor", "language_model", "alignment", "unet")
"""What can be trained; the vision encoder and the image tokenizer never are."""
_OF_LATENTS = ("extractor", "refocus_projector", "alignment", "unet")
"""Parts that only batches with latents train; stage II has no others."""


@dataclass(frozen=True)
class DataConfig:
    """One source of a stage's data: a file. Formats of `lare.registry.DATA_FORMATS` have subclasses of their own.

    Attributes:
        format: A format of `lare.data.FORMATS`, or ``auto``; in a run file also a name of
            `lare.registry.DATA_FORMATS`, whose settings stand beside it.
        path: The data file.
        images: Folder or archive of its images; None looks beside the file.
        limit: Most samples taken from it; None takes all.
        on_bad: ``skip`` counts, lists and leaves out bad rows, and replaces a row whose image turns out unreadable
            later by another; ``refuse`` stops at the first.
        check_images: How far images are looked at before training: ``none``, ``exist`` (one look at each file), or
            ``decode`` (each is opened, which takes as long as an epoch's images).
        turns: ``all`` makes one sample of a conversation: latents before its first answer, every answer supervised;
            ``last`` answers only its last question, after the earlier turns; ``each`` makes a sample of every turn.
        split: ``train``, ``validation`` or ``test``, told by the image's name (`lare.data.splits`); ``all`` takes each.
        take: Share of each question family's samples, for formats that have families (`lare.data.source.FAMILIES`);
            those that are not named are left out, and all are taken if it is empty.
        times: How often each sample comes in an epoch.
        boxes: Whether its samples tell where each reasoning step has to look; None where only the data tell.
    """

    boxes: ClassVar[bool | None] = None

    format: str = "auto"
    path: str | None = None
    images: str | None = None
    limit: int | None = None
    on_bad: str = "skip"
    check_images: str = "exist"
    turns: str = "all"
    split: str = "all"
    take: Mapping[str, float] = field(default_factory=dict, hash=False)
    times: int = 1

    @property
    def unit(self) -> int:
        """Rows that a forward pass takes together, such as the questions about one image."""
        return 1

    def __post_init__(self) -> None:
        self.check_source()
        require(self.on_bad in ("skip", "refuse"), f"data on_bad is {self.on_bad!r}; give skip or refuse")
        require(
            self.check_images in ("none", "exist", "decode"),
            f"data check_images is {self.check_images!r}; give none, exist or decode",
        )
        require(self.turns in ("all", "last", "each"), f"data turns is {self.turns!r}; give all, last or each")
        require(
            self.split in ("all", "train", "validation", "test"),
            f"data split is {self.split!r}; give all, train, validation or test",
        )
        require(self.times >= 1, f"data times is {self.times}; give at least 1")
        require(self.limit is None or self.limit >= 1, f"data limit is {self.limit}; give at least 1, or leave it out")

    def check_source(self) -> None:
        """Refuse a source that names no file of a known format.

        Raises:
            LareError: If format or path is impossible.
        """
        if self.format != "auto":
            from lare.data import FORMATS  # only now: it brings the readers of all formats

            if self.format not in FORMATS and self.format in DATA_FORMATS:
                own = DATA_FORMATS.get(self.format).settings
                raise LareError(f"data of format {self.format!r} are described by {own.__module__}.{own.__name__}")
            known = ", ".join(("auto", *FORMATS, *DATA_FORMATS.names()))
            require(self.format in FORMATS, f"the data format {self.format!r} is unknown; choose one of {known}")
        if self.take:
            from lare.data.source import check_take

            check_take(self.take, self.format)
        require(self.path is not None, f"data of format {self.format!r} needs a path")


@dataclass(frozen=True)
class StageConfig:
    """One entry of a run's plan.

    Attributes:
        stage: I, II, III or IV (the paper's Appendix A); decides what trains and which losses weigh in.
        data: Its sources; samples are mixed in proportion to their numbers.
        name: Its folder; by default the stage.
        samples: Samples to train on; None is one epoch.
        batch: Samples an update, over all processes and micro-batches.
        micro_batch: Samples a forward pass of one process; None is all of the process's share.
        per_image: Samples about one image that stay together; their prompts' common beginning is read once. An image
            with fewer gives some of them twice.
        alike: Batches among which samples of like length are put together: less padding, and batches less mixed.
        learning_rate: Peak, for weights that were trained before.
        new_learning_rate: Peak, for modules that start from nothing.
        floor: Learning rate at its end, as a share of the peak; None takes the optimiser's.
        iterations: K; None takes the model's in stages II-IV. Stage I has none.
        window: ``saliency``; ``soft:T``, a mixture of windows that lets a gradient reach the attention that chooses
            them (beyond the paper; answers take the arg-max); or the controls ``random`` and ``full``.
        replaced: Rationale tokens that the text leaves out because the latents stand for them; None is the model's
            `text_prefix` (the paper's reading), 0 none.
        methods: The methods that it trains, each with its share of the updates, or with share and options; see
            `lare.training.plan.mixture`. The last is the main one, which is validated. Empty: ``cot`` in stage I, else
            ``lare``.
        text_share: Deprecated, like all ``_share`` keys, for ``methods``: ``cot`` after empty delimiters.
        direct_share: ``llava``.
        fetch_share: ``fetch``.
        full_share: ``cot`` after empty delimiters, with all fine tokens in the decoder's context.
        lm_grid: Side of the decoder's visual grid in this stage instead of the model's.
        train: Parts to train instead of the stage's own.
        from_start: Begin with the weights that the run began with (its `start`), not with those of the entry before; so
            one run makes two checkpoints that know nothing of each other.
        losses: Weights instead of the run's, by name.
    """

    stage: str
    data: tuple[DataConfig, ...]
    name: str = ""
    samples: int | None = None
    batch: int = 128
    micro_batch: int | None = None
    per_image: int = 1
    alike: int = 64
    learning_rate: float = 2e-5
    new_learning_rate: float = 1e-4
    floor: float | None = None
    iterations: int | None = None
    window: str = "saliency"
    replaced: int | None = None
    methods: Mapping[str, Any] = field(default_factory=dict)
    text_share: float = 0.0
    direct_share: float = 0.0
    fetch_share: float = 0.0
    full_share: float = 0.0
    lm_grid: int | None = None
    train: tuple[str, ...] = ()
    from_start: bool = False
    losses: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        label = f"stage {self.name or self.stage}"
        require(self.stage in STAGE_NAMES, f"stage {self.stage!r} is unknown; give one of {', '.join(STAGE_NAMES)}")
        if not self.name:
            object.__setattr__(self, "name", self.stage)
        require(
            self.name.replace("_", "").replace("-", "").isalnum(),
            f"{label}: the name {self.name!r} names a folder; use letters, digits, - and _",
        )
        require(bool(self.data), f"{label} has no data; add a source under data")
        self._check_sizes(label)
        self._check_steps(label)
        unknown = [part for part in self.train if part not in PARTS]
        require(not unknown, f"{label}: unknown parts to train {unknown}; choose from {', '.join(PARTS)}")
        self._read_methods(label)
        self._check_latents(label)
        wrong = [name for name in self.losses if name not in weighted_names()]
        require(not wrong, f"{label}: unknown losses {wrong}; choose from {', '.join(weighted_names())}")
        require(
            all(weight >= 0 for weight in self.losses.values()), f"{label}: a loss weight is negative; give 0 or more"
        )

    @property
    def mixture(self) -> tuple[Entry, ...]:
        """The methods that it trains."""
        return read_mixture(self.methods, self.stage, f"stage {self.name or self.stage}")

    def _check_sizes(self, label: str) -> None:
        micro = self.micro_batch
        require(self.batch >= 1, f"{label}: batch is {self.batch}; give at least 1")
        require(
            micro is None or (micro >= 1 and self.batch % micro == 0),
            f"{label}: micro_batch {micro} does not divide batch {self.batch}; give a divisor",
        )
        require(
            self.per_image >= 1 and self.batch % self.per_image == 0,
            f"{label}: per_image {self.per_image} does not divide batch {self.batch}; give a divisor",
        )
        require(self.alike >= 1, f"{label}: alike is {self.alike}; give at least 1")
        for name in ("learning_rate", "new_learning_rate"):
            require(getattr(self, name) > 0, f"{label}: {name} is {getattr(self, name)}; give a number above 0")
        require(
            self.floor is None or 0 <= self.floor <= 1,
            f"{label}: floor is {self.floor}; give a share of the peak up to 1",
        )
        require(self.samples is None or self.samples >= 1, f"{label}: samples is {self.samples}; give at least 1")

    def _check_steps(self, label: str) -> None:
        require(
            self.iterations is None or self.iterations >= 0, f"{label}: iterations is {self.iterations}; give 0 or more"
        )
        require(
            self.stage == "I" or self.iterations != 0 or not self._semantic_losses(),
            f"{label}: losses {', '.join(self._semantic_losses())} need latents; set iterations above 0 or them to 0",
        )
        require(
            self.stage != "I" or not self.iterations,
            f"{label} makes no latents; leave iterations out, or use stage II, III or IV",
        )
        require(
            self.lm_grid is None or self.lm_grid >= 1,
            f"{label}: lm_grid is {self.lm_grid}; give at least 1, or leave it out",
        )
        try:
            check_window_mode(self.window)
        except LareError as error:
            raise LareError(f"{label}: {error}") from None
        require(self.replaced is None or self.replaced >= 0, f"{label}: replaced is {self.replaced}; give 0 or more")

    def _read_methods(self, label: str) -> None:
        """Make the mixture; keys of earlier versions become one."""
        shares = {name: getattr(self, name) for name in LEGACY}
        if any(shares.values()):
            given = ", ".join(name for name, share in shares.items() if share)
            require(not self.methods, f"{label}: {given} and methods are both given; leave {given} out")
            object.__setattr__(self, "methods", from_shares(shares, self.stage, label))
            for name in LEGACY:
                object.__setattr__(self, name, 0.0)
        for entry in self.mixture:
            require(
                not entry.training.boxes or all(one.boxes is not False for one in self.data),
                f"{label}: the method {entry.label!r} needs the boxes of each reasoning step, which its data do not "
                "have; leave it out",
            )

    def _check_latents(self, label: str) -> None:
        """Refuse a method whose batches would reach no part that trains."""
        parts = self.train or (_OF_LATENTS if self.stage == "II" else ())
        if not parts or not set(parts) <= set(_OF_LATENTS):
            return
        plain = self.stage == "I" or self.iterations == 0
        require(not plain, f"{label} makes no latents, and {', '.join(parts)} train on nothing else; change train")
        for entry in self.mixture:
            layout = typical_layout(entry, self)
            reached = layout.iterations and (not layout.fetch or "refocus_projector" in parts)
            require(
                bool(reached),
                f"{label}: the method {entry.label!r} makes batches on which {', '.join(parts)} can't train; leave it "
                "out, or name more parts under train",
            )

    def _semantic_losses(self) -> list[str]:
        return [name for name, weight in self.losses.items() if weight]
