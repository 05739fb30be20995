"""One file a dataset source: `load(resources, **options)` gives images, labels, class names and the fixed split."""
