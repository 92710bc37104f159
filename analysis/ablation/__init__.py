"""Arms of a comparison over seeds, losers included, with what each costs (Tables 3 and 8, Figs. 5 and 6)."""
