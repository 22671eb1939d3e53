"""The networks: text encoder, interest model, ID table and rankers."""
