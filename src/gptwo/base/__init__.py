"""What every room stands on: errors, devices, notation."""
