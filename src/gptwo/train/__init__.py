"""Training: the loop, its optimizer and schedule, evaluation, and the run folder that it fills."""
