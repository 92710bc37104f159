"""Pre-trained parts: how a decoder, a vision encoder and a tokenizer are loaded and put together into a LaRe model."""
