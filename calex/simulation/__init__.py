"""A cascade over stored predictions: which image leaves where, what is answered, what it costs, as operating points."""
