"""Files become records, records become tokens, tokens become batches."""
