"""Model folders: the released layout in and out, the atomic store, runs, and what a user's name for a model means.

``store`` saves and finds checkpoints, ``weights`` reads them into a model (and imports torch), ``resolve`` finds the
folder, ``released_config`` reads its shape.
"""
