"""What the machine allows, what a model takes of it, what it would take elsewhere: measured, predicted, reported."""
