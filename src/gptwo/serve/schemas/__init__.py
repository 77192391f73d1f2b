"""What each route accepts and answers, as pydantic models: the checks, and the OpenAPI, are made from them."""
