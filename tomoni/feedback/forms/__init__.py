"""Forms in which other tools keep what people say: read into `Said`, written from live judgements. No torch."""
