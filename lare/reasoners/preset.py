"""What a preset says of a project's model, and the rules that it has to keep."""

from __future__ import annotations

from dataclasses import dataclass, field

from lare.errors import require

__all__ = ["Block", "Marks", "Preset", "Prompt", "Slots", "Source"]

KINDS = ("feedback", "slots")
BY = ("model", "prompt")
STOPS = ("fixed", "end_mark", "distance")
FEEDS = ("state", "projected", "state_and_patches")
DISTANCES = ("mse", "mae", "cosine")


def _choice(what: str, value: str, known: tuple[str, ...]) -> None:
    require(value in known, f"{what} is {value!r}; choose from {', '.join(known)}")


@dataclass(frozen=True)
class Prompt:
    """How a question is put.

    Attributes:
        system: Text of a system turn; None adds none.
        question: The user's turn; ``{question}`` stands for what was asked.
        template: The whole prompt in place of the checkpoint's chat template, with ``{question}``; None takes the chat
            template.
        assistant: What follows the user's turn in place of the chat template's own generation prompt.
        image_side: Both sides in pixels to which the picture is resized first; None leaves it.
        positions: "model" counts positions as the model does (M-RoPE where it has it); "sequential" gives every token
            the next whole number, visual ones too.
    """

    system: str | None = None
    question: str = "{question}"
    template: str | None = None
    assistant: str | None = None
    image_side: int | None = None
    positions: str = "model"

    def __post_init__(self) -> None:
        _choice("positions", self.positions, ("model", "sequential"))
        for name in ("question", "template"):
            text = getattr(self, name)
            require(text is None or "{question}" in text, f"{name} holds no {{question}}; say where the question goes")
        require(self.image_side is None or self.image_side > 0, f"image_side is {self.image_side}; give pixels")


@dataclass(frozen=True)
class Marks:
    """Special tokens; each must be one token of the checkpoint's tokenizer.

    Attributes:
        start: Opens a block of latents.
        latent: Stands for a latent in training; its embedding is a dummy latent.
        end: Closes a block.
    """

    start: str | None = None
    latent: str | None = None
    end: str | None = None

    def tokens(self) -> tuple[str, ...]:
        """Those that there are."""
        return tuple(one for one in (self.start, self.latent, self.end) if one is not None)


@dataclass(frozen=True)
class Block:
    """A block of states that are fed back.

    Attributes:
        opened_by: "model": a block begins where the model writes the start mark, each time it does; "prompt": one block
            opens the reply.
        closed_by: What follows the last latent: "prompt" feeds the end mark (nothing where there is none), "model" lets
            the model write on.
        count: Latents of a block; with a stop rule the most that it may have.
        stop: "fixed"; "end_mark": the block ends where the model would write the end mark; "distance": after a latent
            that is near a learnt embedding.
        threshold: Distance below which a block ends. It and `end_embedding` may stand beside another rule, for those
            who ask with ``stop=distance``.
        distance: "mse" and "mae" (means over the width), or "cosine" (1 - cosine similarity).
        end_embedding: Name of the learnt embedding among the checkpoint's weights.
        feeds: "state": the last state as the decoder gives it, after its final norm; "projected": that state through a
            head of the checkpoint; "state_and_patches": visual embeddings that the last position attends to most, then
            the state.
        head: Prefix of that head's weights.
        patches: Visual embeddings a latent, none of them twice.
        start_read: Whether the start mark is read as a token; else the state that wrote it takes its place, and counts
            as the block's first latent.
    """

    opened_by: str = "model"
    closed_by: str = "prompt"
    count: int = 1
    stop: str = "fixed"
    threshold: float | None = None
    distance: str = "mse"
    end_embedding: str | None = None
    feeds: str = "state"
    head: str | None = None
    patches: int = 0
    start_read: bool = True

    def __post_init__(self) -> None:
        _choice("opened_by", self.opened_by, BY)
        _choice("closed_by", self.closed_by, BY)
        _choice("stop", self.stop, STOPS)
        _choice("distance", self.distance, DISTANCES)
        _choice("feeds", self.feeds, FEEDS)
        require(self.count >= 1, f"count is {self.count}; a block needs at least 1 latent")
        for name in ("threshold", "end_embedding"):
            require(
                self.stop != "distance" or getattr(self, name) is not None, f"stop: distance needs {name}; give it too"
            )
        require((self.head is not None) == (self.feeds == "projected"), "head goes with feeds: projected")
        require((self.patches > 0) == (self.feeds == "state_and_patches"), "patches go with feeds: state_and_patches")
        require(
            self.feeds != "state_and_patches" or (self.opened_by == "prompt" and self.stop == "fixed"),
            "feeds: state_and_patches needs opened_by: prompt and stop: fixed",
        )
        require(self.start_read or self.opened_by == "model", "start_read: false needs opened_by: model")


@dataclass(frozen=True)
class Slots:
    """Learnt tokens whose states are read by what follows.

    Attributes:
        tokens: The slots, in their order.
        repeat: How often the whole row of tokens stands.
        opened_by: "prompt": they open the reply; "model": the model writes them itself, as ordinary tokens.
        before: Text between the prompt and the slots.
        after: Text after them.
    """

    tokens: tuple[str, ...] = ()
    repeat: int = 1
    opened_by: str = "prompt"
    before: str = ""
    after: str = ""

    def __post_init__(self) -> None:
        _choice("opened_by", self.opened_by, BY)
        require(bool(self.tokens), "slots name no tokens")
        require(self.repeat >= 1, f"repeat is {self.repeat}; give at least 1")
        require(
            self.opened_by == "prompt" or not (self.before or self.after or self.repeat > 1),
            "slots that the model writes itself have no before, after and repeat",
        )


@dataclass(frozen=True)
class Source:
    """Where a preset was read.

    Attributes:
        repository: owner/name on GitHub.
        commit: Commit at which it was read.
        file: Path in it.
        lines: Numbers of the lines, such as "3286-3421".
        says: What these lines say.
    """

    repository: str
    commit: str
    file: str
    lines: str
    says: str


@dataclass(frozen=True)
class Preset:
    """How a project's model thinks.

    Attributes:
        name: Name of the preset.
        title: The project's.
        paper: Address of its paper.
        kind: "feedback" or "slots".
        backbones: transformers' ``model_type`` of the models it was published on; others may follow it too.
        prompt: How a question is put.
        marks: Its special tokens.
        block: Its block of latents; only of kind "feedback".
        slots: Its slots; only of kind "slots".
        sources: Where in the project's code each of these was read.
        differs: Where this preset does not do what that code does, and why.
    """

    name: str
    title: str
    paper: str
    kind: str
    backbones: tuple[str, ...] = ()
    prompt: Prompt = field(default_factory=Prompt)
    marks: Marks = field(default_factory=Marks)
    block: Block | None = None
    slots: Slots | None = None
    sources: tuple[Source, ...] = ()
    differs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _choice("kind", self.kind, KINDS)
        require((self.block is not None) == (self.kind == "feedback"), "kind: feedback has a block, and it alone")
        require((self.slots is not None) == (self.kind == "slots"), "kind: slots has slots, and it alone")
        block = self.block
        if block is not None:
            require(block.opened_by == "prompt" or self.marks.start is not None, "opened_by: model needs marks.start")
            require(block.stop != "end_mark" or self.marks.end is not None, "stop: end_mark needs marks.end")

    def tokens(self) -> tuple[str, ...]:
        """Tokens that a checkpoint's tokenizer must have."""
        slots = self.slots.tokens if self.slots is not None and self.slots.opened_by == "prompt" else ()
        return tuple(dict.fromkeys((*self.marks.tokens(), *slots)))
