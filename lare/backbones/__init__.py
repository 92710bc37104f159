"""Backbones: what the latents run on, one file a family behind one small protocol (`lare.model.backbone.Backbone`).

LaRe's own assembly of encoder, projector and causal decoder (`assembly`, put together by `assemble`) is one of them.
The others are vision-language models of transformers, taken as they are: `adopt` loads one by its folder or hub id.

    from lare.backbones.adopt import adopt
    from lare.model.loop import extend, prefill

    model, processor = adopt("Qwen/Qwen2.5-VL-3B-Instruct", {"iterations": 4})
    inputs = dict(processor(images=[image], text=processor.build_prompts(["What is behind the tree?"])))
    answer = model.generate(**inputs, max_new_tokens=64)  # latents, then text; iterations=0, delimiters=False: plain

The same model serves a loop of another kind (other people's latent reasoners), a step at a time over one cache. These
calls hide what differs between families; after the prefill nothing differs:

    ids, mask, pixels = (inputs.pop(name) for name in ("input_ids", "attention_mask", "pixel_values"))
    visual = model.visual_tokens(pixels, None, image_inputs=inputs)  # tokens, and their grid (rows, columns)
    state = prefill(model, ids, mask, visual, room=64)  # positions and deepstack inputs are the backbone's
    hidden, state = extend(model, state, state.last_hidden[:, None], capture=True)  # a state fed back, unscaled
    hidden, state = extend(model, state, model.embed(ids[:, -1:]))  # a token, or any embeddings (B, T, d)
    logits = model.lm_head(hidden[:, -1])

- `LoopState.last_hidden` (B, d) is after the final norm, `layer_hidden` (B, L, d) holds every layer's output at the
  last captured position, `saliency` (B, n) its attention to the image by cells of the grid, and `visual_slots` (B, N)
  the columns of the image tokens; `next_position` (B,) is where the next token stands, the image's offset included.
- `model.read(ids, mask, visual)` gives the prompt as the prefill reads it: embeddings, positions ((B, S), or (3, B, S)
  for M-RoPE), and the decoder's further arguments. Change its `embeds` to put something else into a slot.
- Prompts are text with one ``<image>``; `processor.render(messages)` writes them by the model's own chat template.
- `lare.model.thinking.think` with ``use_extractor``, ``use_window`` and ``rms_scale`` all False feeds the last hidden
  state back as it is; `latent_override` feeds zeros, noise or a tensor in its place.
- Marks of another project: set `model.config.latent_start_id` and `latent_end_id` to the ids of its tokens.

A new family is one file with one subclass of `lare.model.backbone.VisionLanguage`, named in `lare.registry.BACKBONES`
or, from another package, by an entry point of the group ``lare.backbones``; see docs/extend/backbone.md.
"""
