"""Running a model: engines behind one Protocol, sampling policies, the generation loop, the Python API."""
