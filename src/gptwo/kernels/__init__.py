"""Native CPU kernels, and the layout of the matrices that they read."""
