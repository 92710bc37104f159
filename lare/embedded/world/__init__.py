"""The embedded world: scenes, pictures, questions and the tasks made from them."""
