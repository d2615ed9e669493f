"""Quality of models: evaluation, hallucination, cards, the seed's table."""
