"""The model that is served, explained: what the routes under /explain answer with."""
