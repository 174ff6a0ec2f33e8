"""Log-likelihoods of texts, and what is chosen by them."""

from unmask.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "Filling": "lengths",
        "Likelihood": "likelihood",
        "Text": "texts",
        "bound_likelihood": "likelihood",
        "encode_pair": "texts",
        "exact_likelihood": "likelihood",
        "infill_lengths": "lengths",
    },
)
