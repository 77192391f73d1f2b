"""The routes, a file for each family; each has ``router(serving) -> APIRouter``."""
