"""Any two lmms-eval runs, paired by item."""
