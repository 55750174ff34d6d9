"""Scene-keyed reuse of submodels (MOCHA, arXiv 2505.00745): the device takes, of all submodels that the fleet ever
trained, the one whose scene key is nearest; a new one is trained only if none fits."""
