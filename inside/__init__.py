"""Questions people ask of a language model, one in each file; lens.py lists them."""
