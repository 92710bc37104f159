"""Whether stop rules adapt, or only stop early (Table 4, Fig. 5)."""
