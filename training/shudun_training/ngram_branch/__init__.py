"""A linear model over token n-grams that runs beside the encoder, in the same graph."""
