"""One script a question, each over the traces of answers that `lare_eval` wrote.

An analysis reads traces from disk (``lare.trace``) and never hooks the model, so what it shows is what the evaluated
run did. The reports that the scripts write go to ``reports/``.
"""
