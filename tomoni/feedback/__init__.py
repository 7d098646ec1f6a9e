"""What people say: the store of their judgements, what these resolve to, who can be trusted, what to ask next. No torch."""
