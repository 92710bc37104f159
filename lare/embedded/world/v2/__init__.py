"""Version 2 of the embedded world: scenes and questions in which looking several times matters."""
